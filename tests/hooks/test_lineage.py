"""Inputs that do not belong together are refused before a node works."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from kedro.framework.hooks.manager import _create_hook_manager, _register_hooks
from kedro.io import AbstractDataset, DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner

from mkgformer_kedro.datasets import lineage
from mkgformer_kedro.datasets.folder import FolderDataset
from mkgformer_kedro.datasets.lineage import RawData
from mkgformer_kedro.datasets.tables import ParquetDataset
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.files import sha256_of
from mkgformer_kedro.hooks import lineage as hook
from mkgformer_kedro.hooks.lineage import LineageHooks
from mkgformer_kedro.parameters import Parameters

NODES = {
    "read": "ingestion.read",
    "store": "association.store",
    "answer": "answer",
    "again": "again",
}


class Images(Parameters):
    """What the store is made with."""

    no_result_depends_on = frozenset({"workers"})
    size: int
    workers: int


def rows_of(rows):
    return SimpleNamespace(rows=rows, digests={"file": " ".join(rows)})


class Rows(RawData, AbstractDataset):
    """Rows that somebody put there, None where they are gone; and how they are read."""

    def __init__(self, rows: list[str] | None, **reading: Any) -> None:
        self.rows, self._reading = rows, reading

    @property
    def reading(self) -> dict[str, Any]:
        return self._reading

    def identity(self, *, hashed_up_to: float = 0) -> str | None:
        return None if self.rows is None else lineage.raw_identity(rows_of(self.rows))

    def load(self) -> SimpleNamespace:
        return rows_of(self.rows)

    def save(self, data: None) -> None:
        raise NotImplementedError

    def _describe(self) -> dict[str, Any]:
        return {}


def read(raw):
    table = pd.DataFrame({"name": raw.rows})
    return table, table.iloc[::-1]


@pytest.fixture
def world(tmp_path: Path):
    """A function that runs nodes of a small chain on raw rows."""

    def store(names: pd.DataFrame, images: Images) -> Path:
        folder = tmp_path / "work"
        folder.mkdir()
        (folder / "pixels").write_text(" ".join(names["name"]))
        return folder

    def answer(names: pd.DataFrame, turned: pd.DataFrame, folder: Path, *_) -> pd.DataFrame:
        return pd.DataFrame({"answer": (folder / "pixels").read_text().split()})

    def again(answers: pd.DataFrame, folder: Path) -> pd.DataFrame:
        return answers

    chain = Pipeline(
        [
            Node(read, "raw", ["names", "turned"], name="read", namespace="ingestion"),
            Node(
                store,
                ["names", "params:association"],
                "store",
                name="store",
                namespace="association",
            ),
            Node(answer, ["names", "turned", "store", "params:seed"], "answers", name="answer"),
            Node(again, ["answers", "store"], "the_same", name="again"),
        ]
    )
    catalog = DataCatalog(
        {
            "names": ParquetDataset(filepath=(tmp_path / "names.parquet").as_posix()),
            "turned": ParquetDataset(filepath=(tmp_path / "turned.parquet").as_posix()),
            "store": FolderDataset(filepath=str(tmp_path / "store")),
            "answers": ParquetDataset(filepath=(tmp_path / "answers.parquet").as_posix()),
        }
    )

    known = SimpleNamespace(config_loader={"globals": {"hashed_gigabytes": 4e-9}})

    def run(
        rows: list[str],
        *nodes: str,
        seed: Any = 1,
        raw: AbstractDataset | None = None,
        **images: Any,
    ) -> None:
        values = {"seed": seed, "association": Images(**{"size": 8, "workers": 1} | images)}
        catalog["parameters"] = MemoryDataset(values)
        for name, value in values.items():
            catalog[f"params:{name}"] = MemoryDataset(value)
        catalog["raw"] = MemoryDataset(rows_of(rows), copy_mode="assign") if raw is None else raw
        hooks = _create_hook_manager()
        _register_hooks(hooks, (LineageHooks(),))
        hooks.hook.after_context_created(context=known)
        part = chain.only_nodes(*(NODES[node] for node in nodes))
        hooks.hook.before_pipeline_run(run_params={"env": "mine"}, pipeline=part, catalog=catalog)
        SequentialRunner().run(part, catalog, hook_manager=hooks)

    return SimpleNamespace(run=run, folder=tmp_path)


def test_what_belongs_together_is_used(world) -> None:
    world.run(["a", "b"], "read", "store", "answer")
    world.run(["a", "b"], "answer")
    world.run(["a", "b"], "read")  # the same bytes again
    world.run(["a", "b"], "answer")


def test_a_stage_left_out_is_named(world) -> None:
    world.run(["a", "b"], "read", "store", "answer")
    world.run(["b", "a"], "read")
    with pytest.raises(DataError) as raised:
        world.run(["b", "a"], "answer")
    (problem,) = raised.value.problems
    assert problem.where.endswith("store")
    assert "made from another" in problem.what
    assert "names.parquet than the one that lies there" in problem.what
    assert "kedro run --pipelines association --namespaces association --env mine" in str(problem)
    world.run(["b", "a"], "store", "answer")


def test_other_settings_than_those_of_now_are_refused_with_their_stage(world) -> None:
    world.run(["a", "b"], "read", "store")
    with pytest.raises(DataError) as raised:
        world.run(["a", "b"], "answer", size=9)
    (problem,) = raised.value.problems
    assert problem.where.endswith("store")
    assert "association.size was 8 and is 9" in problem.what
    assert "Set that back, or run association again" in str(problem)
    world.run(["a", "b"], "store", "answer", size=9)


def test_settings_of_stages_further_up_count_too(world) -> None:
    world.run(["a", "b"], "read", "store", "answer")
    with pytest.raises(DataError, match=r"association\.size was 8 and is 9"):
        world.run(["a", "b"], "again", size=9)


def test_a_group_may_say_null_of_what_is_not_set_or_nothing(world) -> None:
    world.run(["a", "b"], "read", "store", "answer", seed={"share": 0.05})
    world.run(["a", "b"], "again", seed={"share": 0.05, "shots": None})
    with pytest.raises(DataError, match="seed was"):
        world.run(["a", "b"], "again", seed={"share": None, "shots": 8})


def test_settings_further_down_and_those_that_decide_nothing_are_free(world) -> None:
    world.run(["a", "b"], "read", "store")
    world.run(["a", "b"], "answer", seed=2, workers=4)


def test_raw_data_that_are_read_in_another_way_make_stale_what_is_made_of_them(world) -> None:
    rows = ["a", "b"]
    world.run(rows, "read", "store", raw=Rows(rows, split=Images(size=1, workers=1), layout="tsv"))
    world.run(rows, "answer", raw=Rows(rows, split=Images(size=1, workers=2), layout="tsv"))
    with pytest.raises(DataError) as raised:
        world.run(rows, "answer", raw=Rows(rows, split=Images(size=2, workers=1), layout="tsv"))
    assert {problem.where.rpartition("/")[2] for problem in raised.value.problems} == {
        *("names.parquet", "turned.parquet"),
    }
    for problem in raised.value.problems:
        assert "globals:raw.split.size was 1 and is 2" in problem.what
        assert "or run ingestion again" in problem.remedy
    with pytest.raises(DataError, match=r"globals:raw\.split\.size was 1 and is null"):
        world.run(rows, "answer", raw=Rows(rows, split=None, layout="tsv"))


def test_other_raw_data_than_were_read_make_stale_what_is_made_of_them(world) -> None:
    world.run(["a", "b"], "read", "store", raw=Rows(["a", "b"]))
    with pytest.raises(
        DataError, match=r"names\.parquet: it was made from other raw data than raw"
    ):
        world.run(["a", "b"], "answer", raw=Rows(["a", "c"]))
    world.run(["a", "b"], "answer", raw=Rows(None))  # nothing is known of what is gone


def test_another_version_is_only_said(world, monkeypatch, caplog) -> None:
    caplog.set_level("INFO", "mkgformer_kedro")
    world.run(["a", "b"], "read", "store")
    assert "version" not in caplog.text
    monkeypatch.setattr(hook, "__version__", "9.9")
    world.run(["a", "b"], "answer", "again")
    said = [message for message in caplog.messages if "store was made by version" in message]
    assert len(said) == 1
    assert "(9.9 now)" in said[0]


def test_outputs_of_two_runs_are_not_mixed(world, monkeypatch) -> None:
    world.run(["a", "b"], "read", "store", "answer")
    with monkeypatch.context() as patch:  # killed between the two outputs of the first node
        patch.setattr(ParquetDataset, "save", fail_at("turned", ParquetDataset.save))
        with pytest.raises(KeyboardInterrupt):
            world.run(["a", "c"], "read")
    with pytest.raises(DataError, match="were not made from the same raw"):
        world.run(["a", "c"], "store", "answer")


def test_a_table_edited_by_hand_is_noticed(world) -> None:
    world.run(["a", "b"], "read", "store", "answer")
    pd.DataFrame({"name": ["a", "x"]}).to_parquet(world.folder / "names.parquet")
    with pytest.raises(DataError, match=r"store: it was made from another .*names\.parquet"):
        world.run(["a", "b"], "answer")


def test_artefacts_without_lineage_are_taken_as_they_are_and_told(world, caplog) -> None:
    world.run(["a", "b"], "read", "store", "answer")
    for name in ("names", "turned"):
        path = world.folder / f"{name}.parquet"
        pd.read_parquet(path).to_parquet(path)
    (world.folder / "store" / "lineage.json").unlink()
    world.run(["a", "b"], "answer")
    told = [m for m in caplog.messages if m.endswith("not made by a stage, and is taken as it is")]
    assert [message.split()[0] for message in told] == ["names", "turned"]


def test_a_damaged_input_is_named_before_the_node_works(world) -> None:
    world.run(["a", "b"], "read", "store", "answer")
    (world.folder / "store" / "pixels").write_text("short")
    with pytest.raises(DataError, match="the file has 5 bytes, and had 3"):
        world.run(["a", "b"], "answer")


def test_other_bytes_of_the_same_number_are_seen(world) -> None:
    world.run(["a", "b"], "read", "store", "answer")
    (world.folder / "store" / "pixels").write_text("b a")
    with pytest.raises(DataError, match="pixels: the file is not what was written"):
        world.run(["a", "b"], "answer")


def test_of_files_that_are_too_large_the_size_tells(world) -> None:
    world.run(["a", "bcd"], "read", "store", "answer")
    (world.folder / "store" / "pixels").write_text("a dcb")
    world.run(["a", "bcd"], "answer")


def test_a_file_is_read_once_in_a_run(world, monkeypatch) -> None:
    world.run(["a", "b"], "read", "store", "answer")
    read = []
    monkeypatch.setattr(
        lineage, "sha256_of", lambda path: read.append(path.name) or sha256_of(path)
    )
    world.run(["a", "b"], "answer", "again")
    assert read == ["pixels"]


def fail_at(name: str, save):
    def saved(self, data):
        if name in str(self._filepath):
            raise KeyboardInterrupt
        save(self, data)

    return saved
