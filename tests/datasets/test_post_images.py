"""Images of posts are found by name, and maps of crops are read without running anything."""

import json
import os
import zipfile

import pandas as pd
import pytest
import torch
from kedro.io import DatasetError

from mkgformer_kedro.datasets import post_images
from mkgformer_kedro.datasets.post_images import PostImagesDataset, read_crop_map
from mkgformer_kedro.errors import DataError

FULL = {"train": "images/train", "dev": "images/val", "test": "images/test"}


@pytest.fixture
def folder(tmp_path):
    """Two images of train, one of test, none of dev."""
    for path in ("train/a.avif", "train/b.c.png", "val/.hidden", "test/a.png"):
        (tmp_path / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / path).write_bytes(b"image")
    return tmp_path


def found(images, *asked):
    splits, names = zip(*asked, strict=True)
    return images.find(pd.Series(splits), pd.Series(names, dtype="str")).fillna("").tolist()


def test_images_are_listed_and_found_with_or_without_extension(folder):
    images = PostImagesDataset(filepath=str(folder), full=FULL).load()
    listed = ["images/test/a.png", "images/train/a.avif", "images/train/b.c.png"]
    assert images.images["path"].tolist() == listed
    assert found(
        images,
        ("train", "a.avif"),
        ("train", "a"),
        ("train", "a.png"),
        ("train", "b.c"),
        ("train", "b"),
        ("test", "a"),
        ("dev", "a"),
        ("train", None),
        ("train", "../test/a.png"),
    ) == [
        "images/train/a.avif",
        "images/train/a.avif",
        "images/train/a.avif",
        "images/train/b.c.png",
        "",
        "images/test/a.png",
        "",
        "",
        "",
    ]
    assert images.size_of("images/test/a.png") == 5
    assert images.size_of("images/test/none.png") is None


def test_splits_may_share_a_folder(folder):
    shared = dict.fromkeys(FULL, "images/train/")
    images = PostImagesDataset(filepath=str(folder), full=shared).load()
    assert len(images.images) == 2
    assert found(images, ("dev", "a")) == ["images/train/a.avif"]


def test_a_missing_folder_is_told_and_all_missing_are_an_error(folder, caplog):
    images = PostImagesDataset(filepath=str(folder), full=FULL | {"dev": "images/no"}).load()
    assert images.missing_folders == ("images/no",)
    assert "There is no folder images/no" in caplog.text
    with pytest.raises(DatasetError, match="set `images` to null") as raised:
        PostImagesDataset(filepath=str(folder / "elsewhere"), full=FULL).load()
    assert len(raised.value.__cause__.problems) == 3


def test_no_images_at_all():
    images = PostImagesDataset(filepath=None, full=FULL).load()
    assert images.images.empty
    assert found(images, ("train", "a")) == [""]


def test_a_map_knows_posts_by_number_name_and_stem(tmp_path):
    path = tmp_path / "map.pth"
    torch.save({3: ["three.png"], "a.jpg": ["sub/a0.jpg", "sub/a1.jpg"], "b": ["b.jpg"]}, path)
    crops = read_crop_map(path)
    assert crops.of(3, "a.jpg") == ("three.png",)
    assert crops.of(0, "a.jpg") == crops.of(0, "a") == ("sub/a0.jpg", "sub/a1.jpg")
    assert crops.of(0, "b.png") == ("b.jpg",)
    assert crops.of(0, "c") == crops.of(0, None) == ()


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_in_a_map_is_run(tmp_path):
    path = tmp_path / "map.pth"
    torch.save({0: [Hostile(str(tmp_path / "run"))]}, path)
    with pytest.raises(DataError, match="nothing in it was run"):
        read_crop_map(path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (["a.jpg"], "it holds a list"),
        ({1.5: ["a.jpg"]}, "the key is neither"),
        ({True: ["a.jpg"]}, "the key is neither"),
        ({0: "a.jpg"}, "the value is no list"),
        ({0: [7]}, "the value is no list"),
        ({0: ["../a.jpg"]}, "is no file name below the image folder"),
        ({0: ["/etc/passwd"]}, "is no file name below the image folder"),
        ({0: [""]}, "is no file name below the image folder"),
        ({0: ["c\udcff.png"]}, "is no file name below the image folder"),
    ],
    ids=str,
)
def test_a_wrong_map_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "map.pth")
    with pytest.raises(DataError, match=message):
        read_crop_map(tmp_path / "map.pth")


def test_a_missing_damaged_or_huge_map_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "map.pth"
    with pytest.raises(DataError, match="there is no such map of crops"):
        read_crop_map(path)
    path.write_bytes(json.dumps({"0": ["a.jpg"]}).encode())
    with pytest.raises(DataError, match="cannot be read as plain data"):
        read_crop_map(path)
    monkeypatch.setattr(post_images, "MAX_MAP", 1000)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\0" * 100_000)
    with pytest.raises(DataError, match=r"a map of 100,000 bytes, more than the 1,000"):
        read_crop_map(path)


def test_a_map_that_is_no_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "map.pth")
    with pytest.raises(DataError, match="the map is no file"):
        read_crop_map(tmp_path / "map.pth")


@pytest.mark.benchmark_files
def test_maps_of_mnre(benchmarks):
    crops = read_crop_map(benchmarks / "MRE/data/txt/mre_train_dict.pth")
    names = [crops.of(number, None) for number in range(12_247)]
    assert all(1 <= len(each) <= 4 for each in names)
