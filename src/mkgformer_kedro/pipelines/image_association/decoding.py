"""One image file: what it is, and whether it can be used."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from mkgformer_kedro.files import require_file
from mkgformer_kedro.modeling.images import BEGINNING, FORMATS, known_as


class Status(StrEnum):
    """What became of an image."""

    OK = "ok"
    UNUSED = "unused"
    DUPLICATE = "duplicate"
    EMPTY = "empty file"
    UNREADABLE = "unreadable file"
    NOT_AN_IMAGE = "not an image"
    TOO_SMALL = "too small"
    TOO_LARGE = "too large"
    DAMAGED = "truncated or damaged"
    NO_WHITE = "damaged, or of grey levels in no known range"
    HEIC = "format not read: HEIC"
    ICO = "format not read: ICO"
    JPEG_2000 = "format not read: JPEG 2000"
    JPEG_XL = "format not read: JPEG XL"
    PDF = "format not read: PDF or PostScript"
    SVG = "format not read: SVG"
    HTML = "not an image: a page of HTML"
    LFS = "not an image: a pointer of Git LFS, whose file was not fetched"


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

    @property
    def undecodable(self) -> Status:
        """What is wrong where the header is whole, and nothing can be decoded."""
        return Status.NO_WHITE if (self.mode or "")[:1] in ("F", "I") else Status.DAMAGED


def inspect_image(path: Path, min_side: int, max_pixels: int) -> Header:
    """Hash a file and read its header, decoding nothing.

    Args:
        path: The file.
        min_side: An image with a shorter side, in pixels, is too small to show anything.
        max_pixels: An image of more pixels is too large to be decoded safely.
    """
    from PIL import Image

    try:
        require_file(path)
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
                file.seek(0)
                known = known_as(file.read(BEGINNING))
                return Header(Status(known) if known else Status.NOT_AN_IMAGE, sha256)
    except OSError:
        return Header(Status.UNREADABLE)
    status = Status.OK
    if width * height > max_pixels:
        status = Status.TOO_LARGE
    elif min(width, height) < min_side:
        status = Status.TOO_SMALL
    return Header(status, sha256, width, height, mode)
