"""The pixels of an image, as the model sees it: for the visual store and for the processor."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Formats that are opened. Others are refused: some of Pillow's readers start other programs."""

_BEGINNINGS = {
    "format not read: HEIC": rb".{4}ftyp(hei|hev|mif1|msf1)",
    "format not read: ICO": rb"\x00\x00\x01\x00",
    "format not read: JPEG 2000": rb"\x00{3}\x0cjP  |\xff\x4f\xff\x51",
    "format not read: JPEG XL": rb"\x00{3}\x0cJXL |\xff\x0a",
    "format not read: PDF or PostScript": rb"%PDF|%!PS",
    "format not read: SVG": rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?(<!doctype svg[^>]*>\s*)?<svg",
    "not an image: a page of HTML": rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<(!doctype )?html",
    "not an image: a pointer of Git LFS, whose file was not fetched": (
        rb"version https://git-lfs\.github\.com/"
    ),
}
"""How files begin that people take for images and that are not read."""
BEGINNING = 2000
"""Bytes that tell what a file is."""

MIN_SIDE, MAX_PIXELS = 8, 50_000_000
"""What images are as ``image_association`` takes them by default: least side, most pixels."""

Box = tuple[int, int, int, int]
"""Part of an upright image in pixels: left, top, right, bottom; right and bottom lie outside."""


def decode_image(path: Path, size: int) -> NDArray[np.uint8] | None:
    """Decode an image as the model sees it: upright, RGB, the centre square, bicubic.

    Of an animation the first frame is taken; transparent parts become white.

    Args:
        path: An image file.
        size: Side of the result in pixels.

    Returns:
        uint8 ``(3, size, size)``, or None where :func:`read_image` gives None.
    """
    image = read_image(path, 2 * size)
    return None if image is None else fit_square(image, size)


def read_image(path: Path, at_least: int | None = None) -> Image.Image | None:
    """Read an image upright and in RGB.

    Args:
        path: An image file.
        at_least: JPEG is decoded at a half, quarter or eighth while its sides have this many
            pixels; None: always in full.

    Returns:
        The image, or None where the file turns out to be damaged, or it is not known
        what is white.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as image:
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            image.load()
            return upright_rgb(image)
    except Exception:  # damaged content makes Pillow's decoders raise almost anything
        return None


def size_of(image: Image.Image | str | Path) -> tuple[int, int] | None:
    """Width and height in pixels as stored; None where no reader knows the file."""
    from PIL import Image

    if isinstance(image, Image.Image):
        return image.size
    try:
        with Image.open(image, formats=FORMATS) as opened:
            return opened.size
    except Exception:  # a hostile header makes Pillow's readers raise almost anything
        return None


def known_as(beginning: bytes) -> str | None:
    """What a file is that no reader opens, by its first ``BEGINNING`` bytes; None: anything."""
    content = beginning.removeprefix(b"\xef\xbb\xbf")
    for what, pattern in _BEGINNINGS.items():
        if re.match(pattern, content, re.DOTALL | re.IGNORECASE):
            return what
    return None


def fit_square(image: Image.Image, size: int, box: Box | None = None) -> NDArray[np.uint8]:
    """The centre square of an image, or of a part of it, uint8 ``(3, size, size)``."""
    from PIL import Image, ImageOps

    part = image.crop(box) if box else image
    square = ImageOps.fit(part, (size, size), method=Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def upright_rgb(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF data say, and make it RGB; transparent parts become white.

    Grey levels of more than 8 bits are scaled, which Pillow would clip: white is 65,535 for whole
    numbers, 1 for floats of which none is larger, else 255.

    Raises:
        ValueError: Such grey levels are negative, above white, or no numbers.
    """
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        grey = np.asarray(image)
        most = 65_535 if image.mode.startswith("I") else 1 if grey.max(initial=0) <= 1 else 255
        if not ((grey >= 0) & (grey <= most)).all():  # false of what is no number, too
            raise ValueError(
                f"The image has grey levels that are not all from 0 to {most:,}: it is not known "
                "what is white."
            )
        scaled = grey // 256 if most > 255 else np.rint(grey * (255 / most))
        return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("RGB")
    return image.convert("RGB")
