"""The visual store: what is written is read, whatever happens in between."""

import errno
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mkgformer_kedro.datasets import visual_store
from mkgformer_kedro.datasets.visual_store import RoleLayout, VisualStore, VisualStoreWriter
from mkgformer_kedro.errors import DataError

LAYOUTS = {"full": RoleLayout(4, 2), "detection": RoleLayout(2, 1)}
SIZES = (4, 4, 2)
OWNERS = 6


def image(content: str, size: int) -> np.ndarray:
    seed = int.from_bytes(content.encode(), "little")
    return np.random.default_rng(seed).integers(0, 256, (3, size, size), dtype=np.uint8)


def fill(writer: VisualStoreWriter, contents: dict[int, dict[int, str]]) -> None:
    """Append the owners that the writer does not know yet."""
    for owner, slots in contents.items():
        if owner not in writer.notes:
            images = {slot: (each, image(each, SIZES[slot])) for slot, each in slots.items()}
            writer.append(owner, images, note=[owner, "note"])


def build(work: Path, contents: dict[int, dict[int, str]]) -> Path:
    writer = VisualStoreWriter(work, LAYOUTS, OWNERS, "print")
    fill(writer, contents)
    return writer.finish()


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# Owner -> slot -> content; few contents, so that some are shared.
CONTENTS = st.dictionaries(
    st.integers(0, OWNERS - 1),
    st.dictionaries(st.integers(0, 2), st.sampled_from("abcd"), max_size=3),
).map(lambda contents: dict(sorted(contents.items())))
SOME = {0: {0: "a", 1: "b", 2: "c"}, 2: {0: "b"}, 3: {}, 5: {0: "d", 2: "c"}}


@given(contents=CONTENTS, owners=st.lists(st.integers(0, OWNERS - 1), max_size=8))
@settings(deadline=None, max_examples=50)
def test_reads_what_was_written(tmp_path_factory, contents, owners):
    store = VisualStore(build(tmp_path_factory.mktemp("work"), contents))
    read = store.read(owners)
    assert set(read) == {"pixel_values", "detection_pixel_values", "image_mask"}
    assert read["pixel_values"].shape == (len(owners), 2, 3, 4, 4)
    assert read["detection_pixel_values"].shape == (len(owners), 1, 3, 2, 2)
    assert read["image_mask"].shape == (len(owners), 3)
    for row, owner in enumerate(owners):
        found = [*read["pixel_values"][row], *read["detection_pixel_values"][row]]
        for slot, pixels in enumerate(found):
            content = contents.get(owner, {}).get(slot)
            assert read["image_mask"][row, slot] == (content is not None)
            expected = 0 if content is None else image(content, SIZES[slot])
            np.testing.assert_array_equal(pixels, np.broadcast_to(expected, pixels.shape))
    expected = [bool(contents.get(owner)) for owner in range(OWNERS)]
    np.testing.assert_array_equal(store.has_images, expected)


def test_content_is_kept_once_per_role(tmp_path: Path):
    store = VisualStore(build(tmp_path, SOME))
    assert {role: layout.rows for role, layout in store.roles.items()} == {
        "full": 3,
        "detection": 1,
    }
    assert len(store) == OWNERS


def test_a_store_without_any_image(tmp_path: Path):
    store = VisualStore(build(tmp_path, {}))
    assert not store.has_images.any()
    assert not store.read(range(OWNERS))["pixel_values"].any()


@pytest.mark.parametrize("owner", [-1, OWNERS])
def test_owner_out_of_bounds(tmp_path: Path, owner: int):
    with pytest.raises(IndexError, match="out of bounds"):
        VisualStore(build(tmp_path, SOME)).read([0, owner])


def test_a_worker_gets_the_path_and_not_the_images(tmp_path: Path):
    store = VisualStore(build(tmp_path, SOME))
    pickled = pickle.dumps(store)
    assert len(pickled) < 500
    again = pickle.loads(pickled)  # noqa: S301
    for name, array in store.read([5, 0, 0]).items():
        np.testing.assert_array_equal(again.read([5, 0, 0])[name], array)


def test_files_are_mapped_not_read(tmp_path: Path):
    store = VisualStore(build(tmp_path, SOME))
    assert isinstance(store.slots, np.memmap)
    assert all(isinstance(each, np.memmap) for each in store._images.values())


@pytest.mark.parametrize(
    ("name", "damage", "what"),
    [
        ("full.u8", lambda path: os.truncate(path, 7), "expected 144 bytes, found 7"),
        ("detection.u8", lambda path: path.unlink(), "expected 12 bytes, found 0"),
        ("slots.npy", lambda path: path.unlink(), "the file is missing"),
        ("slots.npy", lambda path: os.truncate(path, 130), "the file cannot be read"),
        ("slots.npy", lambda path: np.save(path, np.zeros((2, 3), np.int32)), r"found int32 \(2"),
        ("store.json", lambda path: path.unlink(), "the file is missing"),
        ("store.json", lambda path: os.truncate(path, 9), "the file is no JSON"),
        ("store.json", lambda path: path.write_text("{}"), "the store is not of version 1"),
    ],
)
def test_damaged_store_is_named(tmp_path: Path, name: str, damage, what: str):
    folder = build(tmp_path, SOME)
    damage(folder / name)
    with pytest.raises(DataError, match=what) as raised:
        VisualStore(folder)
    [problem] = raised.value.problems
    assert problem.where == str(folder / name)
    assert problem.remedy == f"Delete {folder} and run the stage image_association again."


@given(commits=st.integers(1, 3), cut=st.floats(0, 1), garbage=st.binary(max_size=30))
@settings(deadline=None, max_examples=50)
def test_goes_on_from_a_journal_torn_anywhere(tmp_path_factory, commits, cut, garbage):
    whole = bytes_of(build(tmp_path_factory.mktemp("whole"), SOME))
    work = tmp_path_factory.mktemp("torn")
    writer = VisualStoreWriter(work, LAYOUTS, OWNERS, "print")
    writer.owners_per_commit = commits
    fill(writer, SOME)
    journal = work / "journal.jsonl"
    os.truncate(journal, int(cut * journal.stat().st_size))
    with (work / "store" / "full.u8").open("ab") as file:
        file.write(garbage)
    assert bytes_of(build(work, SOME)) == whole


def test_finished_owners_and_their_notes_are_known_again(tmp_path: Path, caplog):
    writer = VisualStoreWriter(tmp_path, LAYOUTS, OWNERS, "print")
    writer.owners_per_commit = 1
    fill(writer, {0: {0: "a"}, 2: {}})
    with caplog.at_level("INFO"):
        again = VisualStoreWriter(tmp_path, LAYOUTS, OWNERS, "print")
    assert again.notes == {0: [0, "note"], 2: [2, "note"]}
    np.testing.assert_array_equal(again.slots, writer.slots)
    assert "Going on where the interrupted run was: 2 owners stored." in caplog.text


def test_other_images_or_settings_start_over(tmp_path: Path, caplog):
    fill(VisualStoreWriter(tmp_path, LAYOUTS, OWNERS, "old"), {0: {0: "z"}, 1: {0: "y"}})
    with caplog.at_level("INFO"):
        folder = build(tmp_path, SOME)
    assert "starting over" in caplog.text
    assert bytes_of(folder) == bytes_of(build(tmp_path / "fresh", SOME))


def test_a_store_that_was_moved_away_is_built_anew(tmp_path: Path):
    whole = build(tmp_path / "work", SOME).rename(tmp_path / "moved")
    assert bytes_of(build(tmp_path / "work", SOME)) == bytes_of(whole)


def test_images_that_vanished_from_the_work_folder_are_named(tmp_path: Path):
    build(tmp_path, SOME)
    os.truncate(tmp_path / "store" / "full.u8", 1)
    with pytest.raises(DataError, match="the journal tells of 144 bytes, found 1") as raised:
        build(tmp_path, SOME)
    assert f"Delete {tmp_path} and run again" in str(raised.value)


@pytest.mark.parametrize("writes", range(1, 9))
def test_disk_full_is_said_and_the_next_run_goes_on(tmp_path: Path, monkeypatch, writes: int):
    """The disk runs full at each write in turn, after half of it has reached the disk."""
    whole = bytes_of(build(tmp_path / "whole", SOME))
    calls = []

    def run_full(path: Path, chunks: list[bytes]) -> None:
        calls.append(path)
        if len(calls) == writes:
            content = b"".join(chunks)
            append(path, [content[: len(content) // 2]])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(path, chunks)

    append = visual_store._append
    with monkeypatch.context() as patch:
        patch.setattr(visual_store, "_append", run_full)
        patch.setattr(VisualStoreWriter, "owners_per_commit", 2)
        with pytest.raises(DataError, match=r"the disk is full; the next run goes on"):
            build(tmp_path / "work", SOME)
    assert not (tmp_path / "work" / "store" / "store.json").exists()
    assert bytes_of(build(tmp_path / "work", SOME)) == whole


def test_other_errors_of_the_system_are_not_called_a_full_disk(tmp_path: Path, monkeypatch):
    def fail(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Invalid argument"):
        build(tmp_path, SOME)


def header_of(folder: Path) -> dict:
    return json.loads((folder / "store.json").read_text())


def test_the_header_says_what_the_store_holds(tmp_path: Path):
    header = header_of(build(tmp_path, SOME))
    assert len(header.pop("content")) == 64
    assert header == {
        "version": 1,
        "owners": OWNERS,
        "roles": {
            "full": {"size": 4, "count": 2, "rows": 3},
            "detection": {"size": 2, "count": 1, "rows": 1},
        },
    }


def test_the_content_key_follows_the_images_and_their_places(tmp_path: Path):
    variants = [SOME, {**SOME, 2: {0: "a"}}, {**SOME, 2: {0: "z"}}, {0: SOME[0]}]
    keys = [
        header_of(build(tmp_path / str(number), variant))["content"]
        for number, variant in enumerate([*variants, SOME])
    ]
    assert len(set(keys)) == len(variants)
    assert keys[0] == keys[-1]


CONTROLLED = {0: {0: "a", 2: "d"}, 2: {0: "b"}, 5: {0: "c", 1: "d"}}


def shown(store: VisualStore) -> list[list[bytes]]:
    """The images of every owner."""
    return [[each.tobytes() for each in store.images(owner)] for owner in range(OWNERS)]


def test_no_images_are_shown(tmp_path: Path):
    store = VisualStore(build(tmp_path, CONTROLLED), source="none")

    assert not store.has_images.any()
    assert not any(shown(store))


@pytest.mark.parametrize("seed", range(4))
def test_shuffled_images_are_those_of_another_owner(tmp_path: Path, seed: int):
    folder = build(tmp_path, CONTROLLED)
    own, store = VisualStore(folder), VisualStore(folder, "shuffled", seed)

    pairs = list(zip(shown(own), shown(store), strict=True))

    assert (store.has_images == own.has_images).all()
    assert all(mine != other for mine, other in pairs if mine)
    assert sorted(mine for mine, _ in pairs) == sorted(other for _, other in pairs)
    assert shown(pickle.loads(pickle.dumps(store))) == shown(store)  # noqa: S301 (our own)


def test_images_of_one_owner_cannot_be_shuffled(tmp_path: Path):
    with pytest.raises(DataError, match="1 of 6 owners have images"):
        VisualStore(build(tmp_path, {2: CONTROLLED[2]}), "shuffled")


def test_random_images_are_noise_in_the_place_of_each(tmp_path: Path):
    folder = build(tmp_path, dict(sorted({**CONTROLLED, 4: {0: "b"}}.items())))
    own, store = VisualStore(folder), VisualStore(folder, "random", 1)
    mine, noise = shown(own), shown(store)

    assert (store.has_images == own.has_images).all()
    assert [[len(each) for each in of] for of in noise] == [
        [len(each) for each in of] for of in mine
    ]
    assert not {each for of in mine for each in of} & {each for of in noise for each in of}
    # Of those who share an image each has noise of its own, which does not tell that they do.
    each = [pixels for of in noise for pixels in of]
    assert len(set(each)) == len(each) > len({pixels for of in mine for pixels in of})
    assert (
        noise == shown(VisualStore(folder, "random", 1)) != shown(VisualStore(folder, "random", 2))
    )
