"""One image file: what it is, whether it can be used, and its pixels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
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


class Status(StrEnum):
    """What became of an image."""

    OK = "ok"
    UNUSED = "unused"
    DUPLICATE = "duplicate"
    EMPTY = "empty file"
    UNREADABLE = "unreadable file"
    NOT_A_IMAGE = "not an image"
    TOO_SMALL = "too small"
    TOO_LARGE = "too large"
    DAMAGED = "truncated or damaged"


BROKEN = frozenset(Status) - {Status.OK, Status.UNUSED, Status.DUPLICATE}
"""What keeps a file from ever being used: it is quarantined, by name."""


@dataclass(frozen=True)
class Header:
    """What is known of an image before it is decoded.

    Attributes:
        status: ``OK``, or why the image cannot be used.
        sha256: Hash of the file's bytes, None where they cannot be read.
        width: Width in pixels as stored, before any EXIF rotation; 0 where unknown.
        height: Height in pixels as stored; 0 where unknown.
        mode: Pillow's name of the pixel format, None where unknown.
    """

    status: Status
    sha256: str | None = None
    width: int = 0
    height: int = 0
    mode: str | None = None

    @property
    def pixels(self) -> int:
        """Pixels in all."""
        return self.width * self.height


def inspect_image(path: Path, min_side: int, max_pixels: int) -> Header:
    """Hash a file and read its header, decoding nothing.

    Args:
        path: The file.
        min_side: An image with a shorter side, in pixels, is too small to show anything.
        max_pixels: An image of more pixels is too large to be decoded safely.
    """
    from PIL import Image

    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            if not file.tell():
                return Header(Status.EMPTY, sha256)
            file.seek(0)
            try:
                with Image.open(file, formats=FORMATS) as image:
                    width, height = image.size
                    mode = image.mode
            except Image.DecompressionBombError:
                return Header(Status.TOO_LARGE, sha256)
            except Exception:  # a hostile header makes Pillow's readers raise almost anything
                return Header(Status.NOT_A_IMAGE, sha256)
    except OSError:
        return Header(Status.UNREADABLE)
    status = Status.OK
    if width * height > max_pixels:
        status = Status.TOO_LARGE
    elif min(width, height) < min_side:
        status = Status.TOO_SMALL
    return Header(status, sha256, width, height, mode)


def decode_image(path: Path, size: int) -> NDArray[np.uint8] | None:
    """Decode an image as CLIP sees it: upright, RGB, the centre square, bicubic.

    Of an animation the first frame is taken; transparent parts become white.

    Args:
        path: A file that :func:`inspect_image` found usable.
        size: Side of the result in pixels.

    Returns:
        uint8 ``(3, size, size)``, or None where the file turns out to be damaged.
    """
    image = read_image(path, 2 * size)
    return None if image is None else fit_square(image, size)


def read_image(path: Path, at_least: int | None = None) -> Image.Image | None:
    """Read an image upright and in RGB.

    Args:
        path: A file that :func:`inspect_image` found usable.
        at_least: JPEG is decoded at a half, quarter or eighth while its sides have this many
            pixels; None: always in full.

    Returns:
        The image, or None where the file turns out to be damaged.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=FORMATS) as image:
            if at_least is not None:
                image.draft(None, (at_least, at_least))
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except Exception:  # damaged content makes Pillow's decoders raise almost anything
        return None


def fit_square(image: Image.Image, size: int, box: Box | None = None) -> NDArray[np.uint8]:
    """The centre square of an image, or of a part of it, uint8 ``(3, size, size)``."""
    from PIL import Image, ImageOps

    part = image.crop(box) if box else image
    square = ImageOps.fit(part, (size, size), method=Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _rgb(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip, not scale
        grey = np.asarray(image).clip(0, 65_535) // 256
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("RGB")
    return image.convert("RGB")
