"""Listing of image folders."""

import os
from pathlib import Path

import pytest
from kedro.io import DatasetError

from mkgformer_kedro.datasets.image_folder import ImageFolderDataset
from mkgformer_kedro.errors import DataError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    for path, content in {
        "n2/b.png": b"12345",
        "n2/a.JPG": b"1",
        "n1/c.gif": b"",
        "n1/.DS_Store": b"x",
        "n1/Thumbs.db": b"x",
        ".git/config": b"x",
        "LICENSE": b"x",
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def load(root: Path) -> list[tuple]:
    return list(ImageFolderDataset(filepath=str(root)).load().images.itertuples(index=False))


def test_lists_the_files_of_each_owner_in_order_and_leaves_litter_out(images: Path):
    expected = [("n1", "n1/c.gif", 0), ("n2", "n2/a.JPG", 1), ("n2", "n2/b.png", 5)]
    assert load(images) == expected
    assert ImageFolderDataset(filepath=str(images)).load().root == images


def test_links_are_followed_to_files_and_what_is_no_file_is_listed_too(images: Path):
    owner = images / "n1"
    (owner / "good.png").symlink_to(images / "n2/b.png")
    (owner / "gone.png").symlink_to(images / "n2/gone.png")
    (owner / "loop.png").symlink_to("loop.png")
    (owner / "endless.png").symlink_to("/dev/zero")
    os.mkfifo(owner / "fifo.png")
    listed = {path.removeprefix("n1/"): size for _, path, size in load(images) if "n1/" in path}
    of_none = dict.fromkeys(("gone.png", "loop.png", "endless.png", "fifo.png"), 0)
    assert listed == {"c.gif": 0, "good.png": 5, **of_none}


def test_a_link_to_itself_in_the_place_of_a_folder_lies_beside(images: Path):
    expected = load(images)
    (images / "n3").symlink_to("n3")
    listing = ImageFolderDataset(filepath=str(images)).load()
    assert list(listing.images.itertuples(index=False)) == expected
    assert listing.beside == 2  # and LICENSE


def test_order_is_not_that_of_the_file_system(images: Path, monkeypatch: pytest.MonkeyPatch):
    expected = load(images)
    scandir = os.scandir

    class Reversed(list):
        __enter__ = list.__iter__

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", lambda path: Reversed(reversed(list(scandir(path)))))
    assert load(images) == expected


def test_no_folder_means_no_images():
    listing = ImageFolderDataset(filepath=None).load()
    assert listing.root is None
    assert listing.images.empty
    assert listing.images.dtypes.astype(str).to_dict() == {
        "folder": "str",
        "path": "str",
        "bytes": "int64",
    }


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda root: None, "the image folder does not exist"),
        (lambda root: root.write_bytes(b""), "this is a file, not an image folder"),
    ],
)
def test_missing_folder_is_one_clear_error(tmp_path: Path, make, what: str):
    root = tmp_path / "images"
    make(root)
    with pytest.raises(DatasetError) as raised:
        ImageFolderDataset(filepath=str(root)).load()
    assert isinstance(raised.value.__cause__, DataError)
    message = str(raised.value)
    assert f"{root}: {what}. See docs/data.md" in message
    assert "set `images` to null" in message


def test_every_unreadable_owner_folder_is_named(images: Path, monkeypatch: pytest.MonkeyPatch):
    scandir = os.scandir

    def refuse(path: os.PathLike) -> object:
        if Path(path).name in {"n1", "n2"}:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DatasetError) as raised:
        load(images)
    problems = raised.value.__cause__.problems
    assert [Path(problem.where).name for problem in problems] == ["n1", "n2"]
    assert "cannot be read (Permission denied)" in problems[0].what
    assert "permissions" in problems[0].remedy


def test_link_to_nowhere_is_listed_so_that_it_is_reported(images: Path):
    (images / "n1" / "z.png").symlink_to(images / "gone.png")
    assert ("n1", "n1/z.png", 0) in load(images)


def test_name_that_is_not_utf8_is_named(images: Path):
    (images / "n1" / os.fsdecode(b"\xe9.png")).write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"n1: the name b'\\xe9\.png' is not UTF-8\. Rename it"):
        load(images)


def test_nothing_is_saved_to_it_and_the_preview_shows_rows(images: Path):
    dataset = ImageFolderDataset(filepath=str(images))
    with pytest.raises(DatasetError, match="nothing is saved"):
        dataset.save("anything")
    assert dataset.exists()
    assert not ImageFolderDataset(filepath=str(images / "gone")).exists()
    assert dataset.preview(nrows=1)["data"] == [["n1", "n1/c.gif", 0]]
