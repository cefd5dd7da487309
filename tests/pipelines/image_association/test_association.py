"""Which images an owner gets, and the store built from them, interrupted or not."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mkgformer_kedro import progress
from mkgformer_kedro.datasets.image_folder import ImageFolder, ImageFolderDataset
from mkgformer_kedro.datasets.visual_store import VisualStore, VisualStoreWriter, slot_roles
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.modeling.images import fit_square, read_image
from mkgformer_kedro.pipelines.image_association import association
from mkgformer_kedro.pipelines.image_association.association import (
    Candidate,
    ImageRow,
    Loan,
    associate_owner,
    borrow,
    find_donors,
    loan_rows,
    store_images,
)
from mkgformer_kedro.pipelines.image_association.link_prediction import match_owners
from mkgformer_kedro.pipelines.image_association.parameters import (
    Borrowing,
    ImageAssociationParameters,
)

SETTINGS = {
    "slots": {"full": {"size": 16, "count": 1}, "detection": {"size": 8, "count": 2}},
    "order": "resolution",
    "owner_pattern": r"n(\d+)",
    "owner_replacement": r"\1",
    "borrow": None,
    "min_side": 8,
    "max_pixels": 1_000_000,
    "workers": 2,
}
ENTITIES = ["3", "1", "9", "2"]


def parameters(**changes: object) -> ImageAssociationParameters:
    return ImageAssociationParameters(**SETTINGS | changes)


def save(path: Path, seed: int, side: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three owners with several images each, some shared, some broken, and a stranger."""
    root = tmp_path / "images"
    for owner in (1, 2, 3):
        for number in range(4):
            save(root / f"n{owner}" / f"{number}.png", seed=10 * owner + number, side=20 + number)
    save(root / "n2" / "00.png", seed=13, side=23)  # n1/3.png again
    os.truncate(root / "n3" / "3.png", 300)
    (root / "n3" / "page.jpg").write_bytes(b"<html>")
    save(root / "n77" / "stranger.png", seed=0)
    return root


def listing_of(root: Path) -> ImageFolder:
    return ImageFolderDataset(filepath=str(root)).load()


def stored(
    listing: ImageFolder, work: Path, **changes: object
) -> tuple[VisualStoreWriter, list[ImageRow]]:
    settings = parameters(**changes)
    owners = match_owners(listing, ENTITIES, settings)
    candidates = listing.images.assign(owner=owners)[owners >= 0]
    largest_first = settings.order == "resolution"
    return store_images(listing.root, candidates, ENTITIES, settings, work, largest_first)


def build(root: Path, work: Path, **changes: object) -> tuple[dict[str, bytes], list]:
    work.mkdir(exist_ok=True)
    writer, rows = stored(listing_of(root), work, **changes)
    folder = writer.finish()
    return {path.name: path.read_bytes() for path in folder.iterdir()}, rows


def outcome(rows: list) -> dict[str, tuple]:
    return {Path(row.path).name: (row.role, row.slot, str(row.status)) for row in rows}


def associate(root: Path, **changes: object) -> association.OwnerImages:
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    settings = parameters(**changes)
    candidates = [Candidate(path) for path in paths]
    return associate_owner(root, "1", candidates, settings, settings.order == "resolution")


def test_largest_first_ties_by_name(tmp_path: Path):
    for seed, (name, side) in enumerate({"c": 20, "b": 30, "d": 20, "a": 10}.items()):
        save(tmp_path / f"n1/{name}.png", seed, side)
    found = associate(tmp_path)
    assert outcome(found.rows) == {
        "b.png": ("full", 0, "ok"),
        "c.png": ("detection", 1, "ok"),
        "d.png": ("detection", 2, "ok"),
        "a.png": (None, -1, "unused"),
    }
    assert {slot: pixels.shape for slot, (_, pixels) in found.slots.items()} == {
        0: (3, 16, 16),
        1: (3, 8, 8),
        2: (3, 8, 8),
    }
    named = outcome(associate(tmp_path, order="name").rows)
    assert [named[f"{name}.png"][1] for name in "abcd"] == [0, 1, 2, -1]


def test_the_same_content_is_used_once(tmp_path: Path):
    for name in ("a", "b"):
        save(tmp_path / f"n1/{name}.png", seed=1)
    save(tmp_path / "n1/c.png", seed=2)
    assert outcome(associate(tmp_path).rows) == {
        "a.png": ("full", 0, "ok"),
        "b.png": (None, -1, "duplicate"),
        "c.png": ("detection", 1, "ok"),
    }


def test_the_next_takes_the_place_of_a_truncated_one(tmp_path: Path):
    save(tmp_path / "n1/large.png", seed=1, side=60)
    os.truncate(tmp_path / "n1/large.png", 5_000)
    save(tmp_path / "n1/small.png", seed=2)
    assert outcome(associate(tmp_path).rows) == {
        "large.png": (None, -1, "truncated or damaged"),
        "small.png": ("full", 0, "ok"),
    }


IMAGE_KINDS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["fine", "damaged", "tiny"])), max_size=7
)


@given(
    kinds=IMAGE_KINDS,
    counts=st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(1, 2)),
    order=st.sampled_from(["resolution", "name"]),
)
@settings(deadline=None, max_examples=40)
def test_slots_fill_from_the_first_without_gaps_or_repetition(
    tmp_path_factory, kinds, counts, order
):
    root = tmp_path_factory.mktemp("images")
    for number, (seed, kind) in enumerate(kinds):
        path = root / f"n1/{number}.png"
        save(path, seed, side=4 if kind == "tiny" else 12 + seed)
        if kind == "damaged":
            os.truncate(path, 120)
    sizes = (16, 12, 8)
    roles = ("full", "grounding", "detection")
    slots = {
        role: {"size": size, "count": count}
        for role, size, count in zip(roles, sizes, counts, strict=True)
    }
    found = associate(root, slots=slots, order=order)
    expected_roles = slot_roles(dict(zip(roles, counts, strict=True)))
    usable = {seed for seed, kind in kinds if kind == "fine"}
    filled = sorted((row for row in found.rows if row.slot >= 0), key=lambda row: row.slot)
    assert [row.slot for row in filled] == list(range(min(len(usable), sum(counts))))
    assert [row.role for row in filled] == expected_roles[: len(filled)]
    assert len({row.sha256 for row in filled}) == len(filled)
    assert {row.slot: row.sha256 for row in filled} == {
        slot: content for slot, (content, _) in found.slots.items()
    }
    assert len(found.rows) == len(kinds)
    areas = [row.width * row.height for row in filled]
    assert order == "name" or areas == sorted(areas, reverse=True)


def test_store_holds_each_owner_at_its_entity_index(images: Path, tmp_path: Path):
    _, rows = build(images, tmp_path / "work")
    store = VisualStore(tmp_path / "work" / "store")
    np.testing.assert_array_equal(store.has_images, [True, True, False, True])
    assert {row.owner for row in rows} == {"1", "2", "3"}
    for row in rows:
        if row.slot >= 0:
            inputs = store.read([ENTITIES.index(row.owner)])
            name = {"full": "pixel_values", "detection": "detection_pixel_values"}[row.role]
            pixels = inputs[name][0, row.slot - (row.role == "detection")]
            size = pixels.shape[-1]
            np.testing.assert_array_equal(pixels, association.decode_image(images / row.path, size))
    assert (
        outcome([row for row in rows if row.owner == "3"])["page.jpg"][2]
        == "not an image: a page of HTML"
    )


def test_roles_are_fixed_where_a_candidate_names_one(tmp_path: Path):
    for seed, name in enumerate("abc"):
        save(tmp_path / f"{name}.png", seed)
    box = (2, 4, 12, 14)
    candidates = [
        Candidate("a.png", "full"),
        Candidate("b.png", "full"),
        Candidate("a.png", "detection", "a cat", box, 0.5),
        Candidate("a.png", "detection", "a cat again", box, 0.4),
        Candidate("a.png", "detection"),
        Candidate("c.png", "detection"),
    ]
    found = associate_owner(tmp_path, "1", candidates, parameters(order="name"))
    assert [(row.role, row.slot, str(row.status)) for row in found.rows] == [
        ("full", 0, "ok"),
        ("full", -1, "unused"),
        ("detection", 1, "ok"),
        ("detection", -1, "duplicate"),
        ("detection", 2, "ok"),
        ("detection", -1, "unused"),
    ]
    row = found.rows[2]
    assert (row.phrase, row.score) == ("a cat", 0.5)
    assert (row.box_x0, row.box_y0, row.box_x1, row.box_y1) == box
    assert len({content for content, _ in found.slots.values()}) == 2, "a crop is other content"


def test_a_crop_is_the_part_of_the_upright_image(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    lying = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying: to be turned by a quarter
    lying.save(tmp_path / "a.png", exif=exif)
    upright = np.asarray(lying.rotate(-90, expand=True))
    pixels = fit_square(read_image(tmp_path / "a.png"), 8, (3, 5, 11, 13))
    np.testing.assert_array_equal(pixels.transpose(1, 2, 0), upright[5:13, 3:11])


def test_content_shared_by_owners_is_stored_once(images: Path, tmp_path: Path):
    build(images, tmp_path / "work")
    store = VisualStore(tmp_path / "work" / "store")
    assert store.roles["full"].rows == 2
    assert store.slots[ENTITIES.index("1"), 0] == store.slots[ENTITIES.index("2"), 0]


def test_the_number_of_threads_changes_no_byte(images: Path, tmp_path: Path):
    one, rows = build(images, tmp_path / "one", workers=1)
    assert build(images, tmp_path / "many", workers=8) == (one, rows)


def test_no_file_is_decoded_twice(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    decoded = []
    decode = association.decode_image
    monkeypatch.setattr(
        association, "decode_image", lambda path, *how: decoded.append(path) or decode(path, *how)
    )
    _, rows = build(images, tmp_path / "work")
    used = sum(row.slot >= 0 for row in rows)
    damaged = sum(row.status == "truncated or damaged" for row in rows)
    assert len(decoded) == len(set(decoded)) == used + damaged
    build(images, tmp_path / "work")
    assert len(decoded) == used + damaged, "a finished work folder is decoded again"


def test_changed_settings_or_images_are_not_mixed_with_what_was_stored(
    images: Path, tmp_path: Path
):
    build(images, tmp_path / "work")
    named, rows = build(images, tmp_path / "work", order="name")
    assert build(images, tmp_path / "fresh", order="name") == (named, rows)
    save(images / "n1" / "new.png", seed=99, side=50)
    assert build(images, tmp_path / "work") == build(images, tmp_path / "fresh")


KILLED = """
import json, os, signal, sys
from pathlib import Path
from mkgformer_kedro.datasets import visual_store
from mkgformer_kedro.datasets.image_folder import ImageFolderDataset
from mkgformer_kedro.pipelines.image_association.association import store_images
from mkgformer_kedro.modeling.images import fit_square, read_image
from mkgformer_kedro.pipelines.image_association.link_prediction import match_owners
from mkgformer_kedro.pipelines.image_association.parameters import ImageAssociationParameters

images, work, fatal_write, entities, settings = sys.argv[1:]
append, calls = visual_store._append, []

def append_and_die(path, chunks):
    calls.append(path)
    if len(calls) == int(fatal_write):
        content = b"".join(chunks)
        append(path, [content[: len(content) // 2]])
        os.kill(os.getpid(), signal.SIGKILL)
    append(path, chunks)

visual_store._append = append_and_die
visual_store.VisualStoreWriter.owners_per_commit = 1
listing = ImageFolderDataset(filepath=images).load()
parameters = ImageAssociationParameters(**json.loads(settings))
entities = json.loads(entities)
owners = match_owners(listing, entities, parameters)
candidates = listing.images.assign(owner=owners)[owners >= 0]
store_images(listing.root, candidates, entities, parameters, Path(work), largest_first=True)
"""


# The journal's first line is one write; then each owner is three: full, detection, journal.
@pytest.mark.parametrize(("fatal_write", "stored"), [(1, 0), (6, 1), (7, 1)])
def test_killed_run_goes_on_and_ends_with_the_same_bytes(
    images: Path, tmp_path: Path, fatal_write: int, stored: int
):
    whole = build(images, tmp_path / "whole")
    work = tmp_path / "work"
    arguments = [images, work, fatal_write, json.dumps(ENTITIES), json.dumps(SETTINGS)]
    killed = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (work / "store" / "store.json").exists()
    journal = (work / "journal.jsonl").read_bytes()
    assert journal.count(b"\n") == stored + bool(stored)
    assert not journal.endswith(b"\n") or fatal_write == 6
    assert build(images, work) == whole


def test_folders_find_their_entities():
    images = pd.DataFrame({"folder": ["m.0_jm", "m.0_jm", "m.x", "n01"], "path": list("abcd")})
    freebase = parameters(owner_pattern=r"m\.(.+)", owner_replacement=r"/m/\1")
    owners = match_owners(ImageFolder(Path(), images), ["/m/1", "/m/0_jm"], freebase)
    assert owners.tolist() == [1, 1, -1, -1]
    assert freebase.owner_of("am.0_jm") is None


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"owner_pattern": "n("}, "owner_pattern and owner_replacement: missing"),
        ({"owner_replacement": r"\2"}, "invalid group reference 2"),
        ({"slots": {"full": {"size": 8, "count": 0}}}, "every count is 0"),
        ({"slots": {"ful": {"size": 8, "count": 1}}}, "full"),
        ({"slots": {"full": {"size": 0, "count": 1}}}, "greater than 0"),
        ({"max_pixel": 5}, "did you mean 'max_pixels'"),
    ],
)
def test_wrong_parameters_are_named(changes: dict, what: str):
    with pytest.raises(ValueError, match=what):
        parameters(**changes)


TRIPLES = pd.DataFrame(
    [(1, 0, 0, "train"), (3, 0, 0, "train"), (2, 0, 0, "test"), (2, 1, 0, "train")],
    columns=["head", "relation", "tail", "split"],
)
RELATIONS = ["_hypernym", "_part_of"]


def test_only_training_triples_of_the_relation_link_donors():
    hyponyms = Borrowing(relation="_hypernym", images_of="head")
    assert find_donors(TRIPLES, RELATIONS, hyponyms) == {0: [1, 3]}
    hypernyms = Borrowing(relation="_hypernym", images_of="tail")
    assert find_donors(TRIPLES, RELATIONS, hypernyms) == {1: [0], 3: [0]}


def test_unknown_relation_to_borrow_along_names_the_near_miss():
    with pytest.raises(DataError, match="Did you mean '_hypernym'"):
        find_donors(TRIPLES, RELATIONS, Borrowing(relation="hypernym", images_of="head"))


def test_donors_take_turns_and_roles_are_kept_apart():
    roles = ["full", "detection", "detection", "detection"]
    slots = np.array(
        [[-1, -1, -1, -1], [0, 5, 6, -1], [1, 5, 7, 8], [-1, -1, -1, -1]], dtype=np.int32
    )
    loans = borrow(slots, {0: [1, 2, 3], 3: [0], 1: [2]}, roles)
    assert slots.tolist() == [[0, 5, 6, 7], [0, 5, 6, -1], [1, 5, 7, 8], [-1, -1, -1, -1]]
    assert loans == [Loan(0, 0, 1, 0), Loan(0, 1, 1, 1), Loan(0, 2, 1, 2), Loan(0, 3, 2, 2)]


@given(
    table=st.lists(st.lists(st.integers(-1, 4), min_size=3, max_size=3), min_size=1, max_size=6),
    data=st.data(),
)
def test_borrowing_gives_only_what_donors_own_and_takes_nothing_away(table, data):
    roles = ["full", "full", "detection"]
    before = np.array(table, dtype=np.int32)
    owners = st.integers(0, len(table) - 1)
    donors = data.draw(st.dictionaries(owners, st.lists(owners, unique=True).map(sorted)))
    slots = before.copy()
    loans = borrow(slots, donors, roles)
    has_own = (before >= 0).any(axis=1)
    np.testing.assert_array_equal(slots[has_own], before[has_own])
    for loan in loans:
        assert not has_own[loan.borrower]
        assert loan.donor in donors[loan.borrower]
        assert roles[loan.slot] == roles[loan.donor_slot]
        assert slots[loan.borrower, loan.slot] == before[loan.donor, loan.donor_slot] >= 0
    assert len(loans) == (slots >= 0).sum() - (before >= 0).sum()
    for row in slots[~has_own]:
        lent = row[:2][row[:2] >= 0]
        assert len(set(lent)) == len(lent)


def test_borrowed_rows_name_borrower_and_donor(images: Path, tmp_path: Path):
    work = tmp_path / "work"
    work.mkdir()
    writer, rows = stored(listing_of(images), work)
    loans = borrow(writer.slots, {2: [0, 1]}, parameters().slot_roles)
    borrowed = loan_rows(loans, rows, ENTITIES)
    assert {row.owner for row in borrowed} == {"9"}
    assert [row.borrowed_from for row in borrowed] == ["3", "3", "1"]
    store = VisualStore(writer.finish())
    assert store.has_images.all()
    own = {(row.owner, row.slot): row.path for row in rows}
    assert [row.path for row in borrowed] == [
        own[ENTITIES[loan.donor], loan.donor_slot] for loan in loans
    ]


def test_no_images_at_all(tmp_path: Path):
    listing = ImageFolderDataset(filepath=None).load()
    writer, rows = stored(listing, tmp_path)
    assert rows == []
    assert not VisualStore(writer.finish()).has_images.any()


def test_progress_is_logged_where_there_is_no_terminal(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0)
    with caplog.at_level("INFO"):
        build(images, tmp_path / "work")
    assert "14 of 14 images" in caplog.text
    assert "images/s, 0 s left" in caplog.text


def test_journal_holds_no_pixels(images: Path, tmp_path: Path):
    build(images, tmp_path / "work")
    header, *lines = (tmp_path / "work" / "journal.jsonl").read_text().splitlines()
    assert set(json.loads(header)) == {"version", "fingerprint"}
    assert len(lines) == 3
    assert max(map(len, lines)) < 2_000
