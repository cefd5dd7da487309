from __future__ import annotations

import pytest
from kedro.io import DatasetError

from mkgformer_kedro.datasets.folder import FolderDataset, WorkFolderDataset


def test_finished_folder_moves_into_place(tmp_path):
    dataset = FolderDataset(filepath=str(tmp_path / "models" / "entity_modeling"))
    assert not dataset.exists()
    for content in ("old", "new"):
        work = tmp_path / "work"
        work.mkdir()
        (work / "config.json").write_text(content)
        dataset.save(work)
        assert not work.exists()
    assert dataset.exists()
    assert (dataset.load() / "config.json").read_text() == "new"
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["entity_modeling"]


def test_missing_folder(tmp_path):
    with pytest.raises(DatasetError, match=r"nothing: no such folder\. Run the stage"):
        FolderDataset(filepath=str(tmp_path / "nothing")).load()


def test_work_goes_on_in_the_same_folder(tmp_path):
    dataset = WorkFolderDataset(filepath=str(tmp_path / "store" / "work"))
    (dataset.load() / "journal").write_text("half-way")
    assert (dataset.load() / "journal").read_text() == "half-way"
    assert dataset.exists()
    with pytest.raises(DatasetError, match="nothing is saved to it"):
        dataset.save(tmp_path)
