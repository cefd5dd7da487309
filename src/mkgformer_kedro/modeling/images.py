"""The pixels of an image, as the model sees it: for the visual store and for the processor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
"""Formats that are opened. Others are refused: some of Pillow's readers start other programs."""


Box = tuple[int, int, int, int]
"""Part of an upright image in pixels: left, top, right, bottom; right and bottom lie outside."""


def decode_image(path: Path, size: int) -> NDArray[np.uint8] | None:
    """Decode an image as the model sees it: upright, RGB, the centre square, bicubic.

    Of an animation the first frame is taken; transparent parts become white.

    Args:
        path: An image file.
        size: Side of the result in pixels.

    Returns:
        uint8 ``(3, size, size)``, or None where the file turns out to be damaged.
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
        The image, or None where the file turns out to be damaged.
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


def fit_square(image: Image.Image, size: int, box: Box | None = None) -> NDArray[np.uint8]:
    """The centre square of an image, or of a part of it, uint8 ``(3, size, size)``."""
    from PIL import Image, ImageOps

    part = image.crop(box) if box else image
    square = ImageOps.fit(part, (size, size), method=Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def upright_rgb(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF data say, and make it RGB; transparent parts become white."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip, not scale
        grey = np.asarray(image).clip(0, 65_535) // 256
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("RGB")
    return image.convert("RGB")
