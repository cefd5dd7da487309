from __future__ import annotations

from pathlib import Path

from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node

from mkgformer_kedro.datasets.folder import WorkFolderDataset
from mkgformer_kedro.hooks.work import WorkHooks


def test_work_is_cleared_when_all_that_came_of_it_is_saved_and_not_before(tmp_path: Path):
    for name in ("learning", "asking"):
        (tmp_path / name / "checkpoint").mkdir(parents=True)
    catalog = DataCatalog(
        {
            "learning": WorkFolderDataset(filepath=str(tmp_path / "learning"), clear=True),
            "asking": WorkFolderDataset(filepath=str(tmp_path / "asking")),
            "table": MemoryDataset(),
        }
    )
    node = Node(lambda *_: None, ["learning", "asking", "table"], ["models", "curve"], name="fit")
    hooks = WorkHooks()
    hooks.before_pipeline_run(catalog)
    hooks.after_dataset_saved("models", node)
    assert (tmp_path / "learning/checkpoint").is_dir()
    hooks.after_dataset_saved("curve", node)
    assert not (tmp_path / "learning").exists()
    assert (tmp_path / "asking/checkpoint").is_dir()
