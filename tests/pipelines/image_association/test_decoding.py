"""One image file at a time: every kind that people have, and every way to be broken."""

import io
import os
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from mkgformer_kedro.configuration import read_yaml
from mkgformer_kedro.modeling.images import MAX_PIXELS, MIN_SIDE, decode_image, upright_rgb
from mkgformer_kedro.pipelines.image_association.decoding import (
    Header,
    Status,
    inspect_image,
)

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)
SIZE = 32
CONF = Path(__file__).parents[3] / "conf"


def scene(width: int = 60, height: int = 40) -> Image.Image:
    """Red above, blue below."""
    image = Image.new("RGB", (width, height), RED)
    ImageDraw.Draw(image).rectangle((0, height // 2, width, height), fill=BLUE)
    return image


def inspect(path: Path) -> Header:
    return inspect_image(path, min_side=8, max_pixels=50_000_000)


def top_and_bottom(path: Path, size: int = SIZE) -> list[tuple[int, ...]]:
    """Mean colour of the upper and of the lower rows of the decoded image."""
    assert inspect(path).status is Status.OK
    pixels = decode_image(path, size)
    assert pixels is not None
    assert pixels.shape == (3, size, size)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    third = size // 3
    return [
        tuple(int(value) for value in rows.mean(axis=(1, 2)).round())
        for rows in (pixels[:, :third], pixels[:, -third:])
    ]


def near(found: list[tuple[int, ...]], *expected: tuple[int, ...], within: int = 3) -> bool:
    return bool(np.abs(np.subtract(found, expected)).max() <= within)


@pytest.mark.parametrize("suffix", ["avif", "png", "jpg", "gif", "bmp", "webp", "tiff"])
def test_formats(tmp_path: Path, suffix: str):
    path = tmp_path / f"scene.{suffix}"
    scene().save(path)
    assert near(top_and_bottom(path), RED, BLUE, within=8 if suffix == "avif" else 3)
    header = inspect(path)
    assert (header.width, header.height, len(header.sha256)) == (60, 40, 64)


def test_the_name_does_not_decide_the_format(tmp_path: Path):
    path = tmp_path / "really_a_png.jpg"
    scene().save(path, format="PNG")
    assert near(top_and_bottom(path), RED, BLUE)


@pytest.mark.parametrize("mode", ["L", "1", "I;16"])
def test_grey(tmp_path: Path, mode: str):
    path = tmp_path / "grey.png"
    values = np.repeat([[0], [65_535 if mode == "I;16" else 255]], 20, axis=0).repeat(60, axis=1)
    image = Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.uint8))
    (image if mode == "I;16" else image.convert(mode)).save(path)
    assert inspect(path).mode == mode
    assert near(top_and_bottom(path), (0, 0, 0), WHITE)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((20, 20), 256 * 100, dtype=np.uint16)).save(path)
    assert near(top_and_bottom(path), (100,) * 3, (100,) * 3, within=0)


@pytest.mark.parametrize("white", [1, 255])
def test_floats_are_shares_of_white_or_grey_levels(tmp_path: Path, white: int):
    path = tmp_path / "float.tiff"
    values = np.repeat([[0], [white]], 20, axis=0).repeat(60, axis=1).astype(np.float32)
    Image.fromarray(values).save(path)
    assert inspect(path).mode == "F"
    assert near(top_and_bottom(path), (0, 0, 0), WHITE)


@pytest.mark.parametrize(
    "grey",
    [np.float32(np.nan), np.float32(-1), np.float32(256), np.int32(-1), np.int32(65_536)],
)
def test_grey_levels_in_no_known_range_are_not_guessed(tmp_path: Path, grey: np.number):
    path = tmp_path / "grey.tiff"
    Image.fromarray(np.full((20, 20), grey)).save(path)
    assert inspect(path).undecodable is Status.NO_WHITE
    assert decode_image(path, SIZE) is None
    with Image.open(path) as image, pytest.raises(ValueError, match="not known what is white"):
        upright_rgb(image)


def test_cmyk(tmp_path: Path):
    path = tmp_path / "print.jpg"
    scene().convert("CMYK").save(path, quality=95)
    assert inspect(path).mode == "CMYK"
    assert near(top_and_bottom(path), RED, BLUE, within=8)


def test_palette(tmp_path: Path):
    path = tmp_path / "palette.png"
    scene().quantize(4).save(path)
    assert inspect(path).mode == "P"
    assert near(top_and_bottom(path), RED, BLUE)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_become_white(tmp_path: Path, mode: str):
    path = tmp_path / "transparent.png"
    if mode == "P":
        image = scene().quantize(2)
        red = image.getpixel((0, 0))
        image.save(path, transparency=red)
    else:
        image = scene().convert(mode)
        image.putalpha(Image.new("L", image.size, 255))
        image.paste((0,) * len(mode), (0, 0, 60, 20))
        image.save(path)
    blue = image.convert("RGB").getpixel((0, 39))
    assert near(top_and_bottom(path), WHITE, blue)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_of_an_animation_the_first_frame(tmp_path: Path, suffix: str):
    path = tmp_path / f"moving.{suffix}"
    later = [Image.new("RGB", (60, 40), color) for color in ("green", "black")]
    scene().save(path, save_all=True, append_images=later, duration=100, lossless=True)
    with Image.open(path) as image:
        assert image.n_frames == 3
    assert near(top_and_bottom(path), RED, BLUE)


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90)],
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, turned):
    path = tmp_path / "phone.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    scene().transpose(turned).save(path, exif=exif, quality=95)
    assert near(top_and_bottom(path), RED, BLUE)


@pytest.mark.parametrize(("width", "height"), [(300, 200), (50, 81), (224, 224), (1200, 40)])
def test_shorter_side_is_scaled_and_the_centre_cropped(tmp_path: Path, width: int, height: int):
    """The same as resizing the shorter side first and cropping then, as CLIP does."""
    path = tmp_path / "smooth.png"
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(rows / 15), 127 + 120 * np.cos(columns / 11), rows % 256]
    image = Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))
    image.save(path)
    scale = SIZE / min(width, height)
    whole = image.resize(
        (max(SIZE, round(width * scale)), max(SIZE, round(height * scale))),
        Image.Resampling.BICUBIC,
    )
    left, top = (whole.width - SIZE) // 2, (whole.height - SIZE) // 2
    expected = np.asarray(whole.crop((left, top, left + SIZE, top + SIZE))).transpose(2, 0, 1)
    difference = np.abs(decode_image(path, SIZE).astype(int) - expected)
    assert difference.mean() < 4


def test_large_jpegs_are_decoded_small_and_look_the_same(tmp_path: Path):
    path = tmp_path / "photo.jpg"
    scene(1600, 1200).save(path, quality=95)
    assert near(top_and_bottom(path), RED, BLUE)


def test_zero_bytes(tmp_path: Path):
    path = tmp_path / "empty.jpg"
    path.touch()
    header = inspect(path)
    assert header.status is Status.EMPTY
    assert (header.width, header.height, header.mode) == (0, 0, None)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"<!DOCTYPE html><html>404</html>", Status.HTML),
        (b'\xef\xbb\xbf<?xml version="1.0"?>\n<html><svg/></html>', Status.HTML),
        (b"\x89PNG\r\n\x1a\n", Status.NOT_AN_IMAGE),
        (b"\xff\xd8\xff", Status.NOT_AN_IMAGE),
        (b"GIF89a", Status.NOT_AN_IMAGE),
        # PostScript is an image to Pillow, which hands it to another program.
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n%%EOF\n",
            Status.PDF,
        ),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", Status.HEIC),
        (b"\xff\x0a\xfa\x7f", Status.JPEG_XL),
        (b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="x"/>', Status.SVG),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", Status.LFS),
    ],
)
def test_no_image(tmp_path: Path, content: bytes, status: Status):
    path = tmp_path / "page.jpg"
    path.write_bytes(content)
    assert inspect(path).status is status


@pytest.mark.parametrize(
    ("suffix", "status"),
    [("ico", Status.ICO), ("jp2", Status.JPEG_2000), ("j2k", Status.JPEG_2000)],
)
def test_formats_that_are_not_read_are_named(tmp_path: Path, suffix: str, status: Status):
    path = tmp_path / f"scene.{suffix}"
    scene().save(path)
    assert inspect(path).status is status


def test_the_limits_are_those_of_the_parameters():
    base = read_yaml(CONF / "base/parameters_link_prediction.yml")["link_prediction"]
    association = base["image_association"]
    assert (association["min_side"], association["max_pixels"]) == (MIN_SIDE, MAX_PIXELS)


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 500)])
def test_too_small(tmp_path: Path, width: int, height: int):
    path = tmp_path / "pixel.png"
    scene(width, height).save(path)
    header = inspect(path)
    assert header.status is Status.TOO_SMALL
    assert (header.width, header.height) == (width, height)


def empty_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a few bytes: a decompression bomb in small."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content).to_bytes(4)
        return len(content).to_bytes(4) + kind + content + check

    header = width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\x00\x00\x00"
    data = zlib.compress(bytes(100))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_hundred_megapixels_and_more_are_never_decoded(tmp_path: Path, side: int):
    path = tmp_path / "huge.png"
    path.write_bytes(empty_png(side, side))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        header = inspect(path)
    assert header.status is Status.TOO_LARGE
    assert len(header.sha256) == 64


def test_a_real_hundred_megapixel_jpeg(tmp_path: Path):
    path = tmp_path / "huge.jpg"
    Image.new("L", (10_000, 10_000), 200).save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        assert inspect(path).status is Status.TOO_LARGE


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "locked.png"
    scene().save(path)

    def refuse(self: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    assert inspect(path) == Header(Status.UNREADABLE)
    assert inspect(tmp_path / "gone.png").status is Status.UNREADABLE


@pytest.mark.parametrize(
    "put", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"]
)
def test_what_is_no_file_is_not_opened(tmp_path: Path, put: Callable[[Path], None]):
    put(tmp_path / "image.png")
    assert inspect(tmp_path / "image.png") == Header(Status.UNREADABLE)


@pytest.mark.parametrize("suffix", ["avif", "jpg", "png", "gif", "webp", "tiff", "bmp"])
def test_truncated(tmp_path: Path, suffix: str):
    path = tmp_path / f"cut.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    os.truncate(path, path.stat().st_size * 2 // 3)
    usable = inspect(path).status is Status.OK
    assert not usable or decode_image(path, SIZE) is None


@given(position=st.floats(0, 1), value=st.binary(min_size=1, max_size=4), data=st.data())
@settings(deadline=None, max_examples=150)
def test_damage_never_raises(tmp_path_factory, position: float, value: bytes, data):
    buffer = io.BytesIO()
    scene().save(
        buffer, format=data.draw(st.sampled_from(["AVIF", "PNG", "JPEG", "GIF", "WEBP", "TIFF"]))
    )
    content = bytearray(buffer.getvalue())
    start = int(position * (len(content) - 1))
    content[start : start + len(value)] = value
    path = tmp_path_factory.mktemp("damaged") / "image"
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if inspect_image(path, 8, 1_000_000).status is Status.OK:
            pixels = decode_image(path, SIZE)
            assert pixels is None or pixels.shape == (3, SIZE, SIZE)
