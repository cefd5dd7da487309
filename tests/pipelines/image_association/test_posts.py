"""The stage for posts: whole images, crops from files, and crops that a detector finds."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mkgformer_kedro.datasets.post_images import PostImagesDataset
from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.modeling.images import fit_square, read_image
from mkgformer_kedro.pipelines.image_association import posts as stage
from mkgformer_kedro.pipelines.image_association import schemas
from mkgformer_kedro.pipelines.image_association.crops import phrases_of
from mkgformer_kedro.pipelines.image_association.parameters import PostImageAssociationParameters
from mkgformer_kedro.training import detection
from tiny_world import LAUNCH

POSTS = pd.DataFrame(
    {
        "post": ["train-0", "train-1", "dev-0", "test-0"],
        "split": ["train", "train", "dev", "test"],
        "words": [
            ["Ann", "and", "the", "Red", "Cats"],
            ["hm"],
            ["the", "RT", "@you", "Oslo", "2", "http://t.co", "#snow"],
            ["and", "Paris"],
        ],
        "image": ["a.png", None, "b.png", "gone.png"],
    }
)
FULL = {"train": "full", "dev": "full", "test": "full"}


def parameters(crops="none", grounding=2, detection=1, model="nowhere", threshold=0.1, min_side=4):
    return PostImageAssociationParameters(
        slots={
            "full": {"size": 16, "count": 1},
            "grounding": {"size": 8, "count": grounding},
            "detection": {"size": 8, "count": detection},
        },
        crops=crops,
        detector={
            "model": model,
            "threshold": threshold,
            "objects": ["person", "logo"],
            "max_phrases": 3,
            "batch_size": 1,
        },
        min_side=min_side,
        max_pixels=10_000,
        workers=1,
    )


@pytest.fixture
def folder(tmp_path):
    """Images of two posts, and three crops of the first one's."""
    rng = np.random.default_rng(0)
    for name in ("full/a.png", "full/b.png", "crops/0.png", "crops/1.png", "crops/2.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / name)
    torch.save({0: ["1.png", "0.png", "2.png"]}, tmp_path / "images/by_number.pth")
    torch.save({"a": ["crops/2.png"], "c": ["crops/no.png"]}, tmp_path / "images/by_name.pth")
    return tmp_path / "images"


@pytest.fixture
def listing(folder):
    def files(name, below):
        return {split: {"map": name, "folder": below} for split in FULL}

    return PostImagesDataset(
        filepath=str(folder),
        full=FULL,
        grounding={**files("by_number.pth", "crops"), "dev": {"map": "by_name.pth", "folder": "."}},
        detection=files("by_name.pth", "."),
    ).load()


def run(listing, work, settings, posts=POSTS):
    """The stage's tables and its store."""
    crops = stage.locate_crops(posts, listing, work / "crops", settings, LAUNCH)
    schemas.crops.validate(crops)
    (work / "store").mkdir(parents=True, exist_ok=True)
    images, store = stage.store_images(listing, posts, crops, work / "store", settings, LAUNCH)
    schemas.images.validate(images)
    return crops, images, VisualStore(store)


def test_whole_images_alone(listing, tmp_path):
    crops, images, store = run(listing, tmp_path / "work", parameters())
    assert crops.empty
    assert images[["owner", "path", "role"]].to_numpy().tolist() == [
        ["train-0", "full/a.png", "full"],
        ["dev-0", "full/b.png", "full"],
    ]
    assert store.has_images.tolist() == [True, False, True, False]


def test_crops_from_files_fill_their_roles(listing, tmp_path):
    settings = parameters("files")
    crops, images, store = run(listing, tmp_path / "work", settings)
    rows = images[images["owner"] == "train-0"]
    assert rows[["path", "role", "status"]].to_numpy().tolist() == [
        ["full/a.png", "full", "ok"],
        ["crops/1.png", "grounding", "ok"],
        ["crops/0.png", "grounding", "ok"],
        ["crops/2.png", "grounding", "unused"],
        ["crops/2.png", "detection", "ok"],
    ]
    assert store.read([0])["image_mask"].all()
    report = stage.report_coverage(listing, POSTS, crops, images, store.folder)
    assert report["posts"]["train"] == {
        "all": 2,
        "naming_an_image": 1,
        "image_not_found": 0,
        "with_images": 1,
        "with_full": 1,
        "with_grounding": 1,
        "with_detection": 1,
    }
    assert report["posts"]["test"]["naming_an_image"] == 1
    assert report["posts"]["test"]["image_not_found"] == 1
    assert report["posts"]["test"]["with_full"] == 0
    stage.draw_contact_sheet(images, store.folder, POSTS)


def test_images_that_no_post_names_are_said(listing, tmp_path, caplog):
    posts = POSTS.assign(image=["x.png", None, None, None])
    crops, images, store = run(listing, tmp_path / "work", parameters("none"), posts)
    stage.report_coverage(listing, posts, crops, images, store.folder)
    assert "No post names any of the" in caplog.text
    assert "the first that names one names x.png." in caplog.text


def test_crops_that_are_not_there_are_counted(listing, tmp_path):
    posts = POSTS.assign(image=["a.png", "c.png", None, None])
    crops, images, store = run(listing, tmp_path / "work", parameters("files"), posts)
    report = stage.report_coverage(listing, posts, crops, images, store.folder)
    # Both posts of the splits' first number have three crops by it.
    assert report["crops"] == {
        "grounding": {"listed": 6, "not_found": 0},
        "detection": {"listed": 2, "not_found": 1},
    }
    assert report["missing_folders"] == report["quarantined"] == []


def test_crops_without_map_or_folder_are_one_clear_error(folder, tmp_path):
    where = {split: {"map": "by_number.pth", "folder": "elsewhere"} for split in FULL}
    bare = PostImagesDataset(filepath=str(folder), full=FULL).load()
    with pytest.raises(DataError, match="none are named for grounding"):
        run(bare, tmp_path / "work", parameters("files"))
    lost = PostImagesDataset(filepath=str(folder), full=FULL, grounding=where).load()
    with pytest.raises(DataError, match=r"elsewhere: there is no such folder of grounding crops"):
        run(lost, tmp_path / "work", parameters("files"))


def test_maps_that_name_none_of_the_posts_are_one_clear_error(folder, tmp_path):
    torch.save({"0": ["1.png"], 10**6: ["1.png"]}, folder / "others.pth")
    where = {split: {"map": "others.pth", "folder": "crops"} for split in FULL}
    lost = PostImagesDataset(filepath=str(folder), full=FULL, grounding=where).load()
    with pytest.raises(DataError, match=r"others\.pth: the maps of grounding crops name none"):
        run(lost, tmp_path / "work", parameters("files", detection=0))


def test_crops_need_slots():
    with pytest.raises(ValueError, match="slots gives neither grounding nor detection a count"):
        parameters("detect", grounding=0, detection=0)


def test_no_images_at_all(tmp_path):
    nothing = PostImagesDataset(filepath=None, full=FULL).load()
    for crops in ("none", "files", "detect"):
        _, images, store = run(nothing, tmp_path / crops, parameters(crops))
        assert images.empty
        assert not store.has_images.any()


@pytest.mark.parametrize(
    ("words", "phrases"),
    [
        ("Ann and the Red Cats of New York", ["Ann", "Red Cats", "New York"]),
        ("RT @you : #Oslo , snow !", ["RT", "Oslo", "snow"]),
        ("http://t.co 2018 the of", []),
        ("cats and cats", ["cats"]),
    ],
)
def test_phrases_are_runs_between_words_that_name_nothing(words, phrases):
    assert phrases_of(words.split(), [], 10) == phrases


def test_mentions_come_first():
    assert phrases_of(["Ann", "loves", "the", "Red", "Cats"], [["Red", "Cats"], ["Ann"]], 2) == [
        "Red Cats",
        "Ann",
    ]


class FakeDetector:
    """Finds everything but one query, each in a box of its own, and dies when it is told to."""

    asked: list
    dies_after = None

    def __init__(self, model, threshold, min_side):
        assert (model, threshold) == ("nowhere", 0.1)
        self.min_side = min_side

    def detect(self, images, queries):
        found = []
        for image, asked in zip(images, queries, strict=True):
            assert image.size == (40, 30)
            self.asked.append(asked)
            if self.dies_after is not None and len(self.asked) > self.dies_after:
                raise KeyboardInterrupt
            widths = {query: 2 if query == "logo" else 9 for query in asked if query != "Ann"}
            found.append(
                [
                    (query, (number, 0, number + widths[query], 9), 0.5 + number / 9)
                    for number, query in enumerate(asked)
                    if widths.get(query, 0) >= self.min_side
                ]
            )
        return found


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(detection, "ZeroShotDetector", FakeDetector)
    FakeDetector.asked = []
    yield FakeDetector
    FakeDetector.dies_after = None


def test_detected_crops_are_cut_best_first_and_recorded(listing, tmp_path, fake):
    crops, images, _ = run(listing, tmp_path / "work", parameters("detect", grounding=1))
    objects = ["person", "logo"]
    assert fake.asked == [["Ann", "Red Cats", *objects], ["RT", "Oslo", "snow", *objects]]
    assert crops[["post", "role", "phrase"]].to_numpy().tolist() == [
        ["train-0", "grounding", "Red Cats"],
        ["train-0", "detection", "person"],  # the logo's box is too small
        ["dev-0", "grounding", "snow"],
        ["dev-0", "detection", "person"],
    ]
    row = images.query("owner == 'dev-0' and role == 'grounding'").iloc[0]
    assert [row.box_x0, row.box_y0, row.box_x1, row.box_y1] == [2, 0, 11, 9]
    assert row.score == pytest.approx(0.5 + 2 / 9)


def test_phrases_seen_in_the_same_box_are_one_crop(listing, tmp_path, monkeypatch):
    class OneBox(FakeDetector):
        def detect(self, images, queries):
            scores = (0.5, 0.9, 0.7)
            return [
                [(query, (0, 0, 9, 9), score) for query, score in zip(asked, scores, strict=False)]
                for asked in queries
            ]

    monkeypatch.setattr(detection, "ZeroShotDetector", OneBox)
    crops, _, _ = run(listing, tmp_path / "work", parameters("detect", detection=0))
    assert crops[["post", "phrase"]].to_numpy().tolist() == [
        ["train-0", "Red Cats"],
        ["dev-0", "Oslo"],
    ]


def test_an_interrupted_search_goes_on(listing, tmp_path, fake):
    whole, _, _ = run(listing, tmp_path / "whole", parameters("detect"))
    fake.asked, fake.dies_after = [], 1
    with pytest.raises(KeyboardInterrupt):
        run(listing, tmp_path / "work", parameters("detect"))
    journal = tmp_path / "work/crops/detected.jsonl"
    with journal.open("a") as file:
        file.write('["dev-0", {"grounding"')  # torn by the kill
    fake.asked, fake.dies_after = [], None
    again, _, _ = run(listing, tmp_path / "work", parameters("detect"))
    pd.testing.assert_frame_equal(again, whole)
    assert fake.asked == [["RT", "Oslo", "snow", "person", "logo"]]
    fake.asked = []
    run(listing, tmp_path / "work", parameters("detect", min_side=5))
    assert len(fake.asked) == 2, "other settings start anew"


@pytest.mark.parametrize("kind", ["owlv2", "grounding_dino"])
def test_a_real_detector_makes_crops(listing, tmp_path, tiny_detector, kind):
    settings = parameters("detect", model=str(tiny_detector(kind)), threshold=0.0001, min_side=1)
    posts = POSTS.assign(head_start=0, head_end=1, tail_start=3, tail_end=5)
    crops, images, store = run(listing, tmp_path / "work", settings, posts)
    assert set(crops["post"]) <= {"train-0", "dev-0"}
    assert len(crops)
    assert crops["score"].between(0.0001, 1).all()
    stored = images[(images["role"] == "grounding") & (images["slot"] >= 0)]
    assert len(stored)
    row = stored.iloc[0]
    box = [int(row[edge]) for edge in ("box_x0", "box_y0", "box_x1", "box_y1")]
    expected = fit_square(read_image(listing.root / row.path), 8, tuple(box))
    owner = int((posts["post"] == row.owner).argmax())
    slot = int(row.slot) - 1  # behind the whole image
    np.testing.assert_array_equal(store.read([owner])["grounding_pixel_values"][0, slot], expected)
