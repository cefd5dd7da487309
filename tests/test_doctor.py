"""What lies under data/, and what is the matter with it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from kedro.io import DataCatalog, MemoryDataset

from mkgformer_kedro.datasets.folder import FolderDataset, WorkFolderDataset
from mkgformer_kedro.datasets.lineage import Origin
from mkgformer_kedro.datasets.tables import JSONDataset, ParquetDataset
from mkgformer_kedro.doctor import examine

NAMES = ("task.entities", "task.store", "task.report", "task.store_work", "task.never")


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch) -> DataCatalog:
    """Entities, a store made from them, a report, and a place to work in."""
    monkeypatch.chdir(tmp_path)
    tables = tmp_path / "data/02_intermediate/mine/task"
    features = tmp_path / "data/04_feature/mine/task"
    reports = tmp_path / "data/08_reporting/mine/task"
    made = DataCatalog(
        {
            "task.entities": ParquetDataset(filepath=(tables / "entities.parquet").as_posix()),
            "task.never": ParquetDataset(filepath=(tables / "never.parquet").as_posix()),
            "task.store": FolderDataset(filepath=str(features / "store")),
            "task.report": JSONDataset(filepath=(reports / "report.json").as_posix()),
            "task.store_work": WorkFolderDataset(filepath=str(features / ".work/store")),
        }
    )
    made["task.entities"].origin = Origin("task.ingestion", {})
    made["task.entities"].save(pd.DataFrame({"entity": ["a", "b"]}))
    store = made["task.store_work"].load() / "made"
    store.mkdir()
    (store / "pixels").write_text("ab")
    identity = made["task.entities"].lineage().identity
    made["task.store"].origin = Origin(
        "task.image_association", {"task.entities": identity}, {"preset": "corrected"}
    )
    made["task.store"].save(store)
    made["task.report"].save({"fine": True})
    made["parameters"] = MemoryDataset({"preset": "corrected"})
    return made


def states(catalog: DataCatalog) -> dict[str, str]:
    found = examine(catalog, NAMES, "", "mine")
    return {finding.place.rpartition("/")[2]: finding.state for finding in found}


FINE = {"entities.parquet": "fine", "never.parquet": "missing", "report.json": "fine"}


def test_all_is_well(catalog: DataCatalog) -> None:
    assert states(catalog) == {**FINE, "store": "fine"}


def test_a_folder_of_two_datasets_is_named_once(catalog: DataCatalog) -> None:
    catalog["task.store_again"] = catalog["task.store"]
    found = examine(catalog, (*NAMES, "task.store_again"), "", "mine")
    assert found == examine(catalog, NAMES, "", "mine")


def test_what_was_made_from_something_else_is_stale(catalog: DataCatalog) -> None:
    catalog["task.entities"].save(pd.DataFrame({"entity": ["b", "a"]}))
    assert states(catalog)["store"] == "stale"
    (finding,) = [f for f in examine(catalog, NAMES, "mine_too", "mine") if f.state == "stale"]
    assert "--namespaces task.image_association --env mine_too" in finding.what


def test_what_was_made_with_other_settings_is_stale(catalog: DataCatalog) -> None:
    catalog["parameters"] = MemoryDataset({"preset": "faithful"})
    (finding,) = [f for f in examine(catalog, NAMES, "", "mine") if f.state == "stale"]
    assert 'other settings: preset was "corrected" and is "faithful"' in finding.what


@pytest.mark.parametrize(
    ("name", "damage", "state"),
    [
        ("entities.parquet", lambda path: path.write_bytes(path.read_bytes()[:-9]), "damaged"),
        ("store", lambda path: (path / "pixels").write_text("ba"), "damaged"),
        ("store", lambda path: (path / "pixels").unlink(), "damaged"),
        ("store", lambda path: (path / "adapter_config.json").touch(), "damaged"),
        ("store", lambda path: (path / ".DS_Store").touch(), "fine"),
        ("store", lambda path: (path / "lineage.json").unlink(), "unknown origin"),
        ("report.json", lambda path: path.write_text("{"), "damaged"),
    ],
)
def test_damage_is_found(catalog: DataCatalog, name: str, damage, state: str) -> None:
    (place,) = [p for p in Path("data").rglob(name) if ".work" not in p.parts]
    damage(place)
    assert states(catalog)[name] == state


def test_what_nobody_owns_is_orphaned(catalog: DataCatalog) -> None:
    Path("data/04_feature/mine/task/.store.1234.old").mkdir()
    Path("data/06_models/mine/other").mkdir(parents=True)
    Path("data/06_models/another/task").mkdir(parents=True)  # of another data set
    found = states(catalog)
    assert {name for name, state in found.items() if state == "orphaned"} == {
        ".store.1234.old",
        "other",
    }


def test_interrupted_work_is_said(catalog: DataCatalog) -> None:
    (Path("data/04_feature/mine/task/.work/store") / "journal").touch()
    found = examine(catalog, NAMES, "", "mine")
    assert [f.place for f in found if f.state == "work"] == [
        "data/04_feature/mine/task/.work/store"
    ]
