"""What artefacts remember of what they were made from."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pandas as pd
import pytest

from mkgformer_kedro import files
from mkgformer_kedro.datasets.folder import FolderDataset
from mkgformer_kedro.datasets.lineage import (
    LINEAGE_FILE,
    Lineage,
    Origin,
    check_folder,
    folder_lineage,
    parquet_lineage,
)
from mkgformer_kedro.datasets.tables import ParquetDataset
from mkgformer_kedro.errors import DataError

TABLE = pd.DataFrame({"entity": ["a", "b"], "answers": [[1, 2], [3]]})
ORIGIN = Origin("link_prediction.ingestion", {"link_prediction.raw_graph": "1" * 64})


def saved(path: Path, table: pd.DataFrame, origin: Origin | None) -> Lineage:
    dataset = ParquetDataset(filepath=path.as_posix())
    dataset.origin = origin
    dataset.save(table)
    lineage = dataset.lineage()
    assert lineage is not None
    return lineage


def test_a_table_remembers_and_reads_as_before(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    assert saved(path, TABLE, ORIGIN).origin == ORIGIN
    read = ParquetDataset(filepath=path.as_posix()).load()
    assert read["entity"].tolist() == ["a", "b"]
    assert [row.tolist() for row in read["answers"]] == [[1, 2], [3]]


def test_the_identity_of_a_table_is_its_content(tmp_path: Path) -> None:
    first = saved(tmp_path / "a.parquet", TABLE, ORIGIN)
    assert saved(tmp_path / "b.parquet", TABLE, None) == Lineage(first.identity, None)
    TABLE.to_parquet(tmp_path / "c.parquet")  # by whomever
    assert parquet_lineage(tmp_path / "c.parquet").identity == first.identity
    turned = saved(tmp_path / "d.parquet", TABLE.iloc[::-1], ORIGIN)
    assert turned.identity != first.identity


def test_no_file_has_no_lineage(tmp_path: Path) -> None:
    assert ParquetDataset(filepath=(tmp_path / "no.parquet").as_posix()).lineage() is None
    assert FolderDataset(filepath=str(tmp_path)).lineage() is None


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"noise" * 100, b"PAR1" + b"\xff" * 50 + b"PAR1"]
)
def test_a_damaged_table_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.parquet"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"table\.parquet: the table is damaged .*Run the stage"):
        parquet_lineage(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "work" / "made"
    (made / "seed_1").mkdir(parents=True)
    (made / "seed_1" / "weights").write_bytes(b"12345")
    (made / "config.json").write_text("{}")
    dataset = FolderDataset(filepath=str(tmp_path / "models"))
    dataset.origin = ORIGIN
    dataset.save(made)
    return tmp_path / "models"


def test_a_folder_remembers(folder: Path) -> None:
    lineage = folder_lineage(folder, hashed_up_to=5)
    assert lineage is not None
    assert lineage.origin == ORIGIN
    assert sorted(json.loads((folder / LINEAGE_FILE).read_text())["files"]) == [
        "config.json",
        "seed_1/weights",
    ]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json: the file is missing"),
        (lambda f: (f / "seed_1/weights").write_bytes(b"1"), "has 1 bytes, and had 5"),
        (lambda f: (f / LINEAGE_FILE).write_text("{"), f"{LINEAGE_FILE}: the file is damaged"),
        (lambda f: (f / LINEAGE_FILE).write_text("[]"), f"{LINEAGE_FILE}: the file is damaged"),
        (lambda f: (f / LINEAGE_FILE).write_text('{"files": 3}'), "the file is damaged"),
    ],
)
def test_a_damaged_folder_is_named(folder: Path, damage, message: str) -> None:
    damage(folder)
    with pytest.raises(DataError, match=message):
        folder_lineage(folder)


def test_changed_bytes_of_the_same_number_are_seen_on_demand(folder: Path) -> None:
    (folder / "seed_1/weights").write_bytes(b"54321")
    assert folder_lineage(folder) is not None
    with pytest.raises(DataError, match="its bytes have changed"):
        folder_lineage(folder, hashed_up_to=5)


def test_a_part_of_a_folder_is_held_to_what_the_whole_says(folder: Path) -> None:
    (folder / "config.json").write_text("{ }")
    check_folder(folder / "seed_1")
    check_folder(folder.parent)  # which no stage made
    (folder / "seed_1/weights").write_bytes(b"54321")
    for part in (folder, folder / "seed_1"):
        with pytest.raises(DataError, match="weights: the file is not what was written"):
            check_folder(part)


def test_a_folder_that_cannot_be_replaced_stays(folder: Path, tmp_path: Path, monkeypatch) -> None:
    new = tmp_path / "new"
    new.mkdir()
    replace = Path.replace

    def fail_at_the_end(self: Path, target: Path) -> Path:
        if Path(target) == folder and self == new:
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fail_at_the_end)
    with pytest.raises(DataError, match="the disk is full; what stood there before is unchanged"):
        files.replace_folder(new, folder)
    assert (folder / "config.json").read_text() == "{}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models", "new", "work"]


def test_a_folder_of_another_disk_is_copied(folder: Path, tmp_path: Path, monkeypatch) -> None:
    new = tmp_path / "new"
    new.mkdir()
    (new / "file").write_text("new")
    stat = Path.stat

    def elsewhere(self: Path, **options):
        found = stat(self, **options)
        if self == new:
            values = list(found)
            values[2] += 1  # st_dev
            return type(found)(values)
        return found

    monkeypatch.setattr(Path, "stat", elsewhere)
    files.replace_folder(new, folder)
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert not new.exists()


def test_what_killed_runs_were_writing_is_removed(folder: Path, tmp_path: Path) -> None:
    left = [f".{name}.0123abcd.{kind}" for name in ("file", "models") for kind in ("tmp", "old")]
    for name in left:
        (tmp_path / name).mkdir() if "models" in name else (tmp_path / name).write_text("half")
    kept = [".file.tmp", ".file2.0123abcd.tmp", ".models.0123abcg.tmp"]
    for name in kept:
        (tmp_path / name).touch()
    with files.written_atomically(tmp_path / "file") as temporary:
        temporary.touch()
    new = tmp_path / "new"
    new.mkdir()
    files.replace_folder(new, folder)
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {*kept, "file", "models", "work"}


def test_a_read_only_disk_is_said(tmp_path: Path, monkeypatch) -> None:
    def refuse(self: Path, *args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with (
        pytest.raises(DataError, match="the disk is read-only; what stood there before"),
        files.written_atomically(tmp_path / "x" / "file"),
    ):
        pass
