from __future__ import annotations

import errno
import json

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
from kedro.io import DatasetError

from mkgformer_kedro.datasets.figures import MatplotlibDataset
from mkgformer_kedro.datasets.tables import CSVDataset, JSONDataset, ParquetDataset, TextDataset
from mkgformer_kedro.errors import DataError


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "entity": pd.Series(["007", "02"], dtype="str"),
            "index": np.array([0, 1], dtype=np.int32),
            "answers": [np.array([1, 2], dtype=np.int32), np.array([3], dtype=np.int32)],
        }
    )


def test_table_survives_a_round_trip(tmp_path, table):
    dataset = ParquetDataset(filepath=tmp_path / "deep" / "table.parquet")
    assert not dataset.exists()
    dataset.save(table)
    loaded = dataset.load()
    pd.testing.assert_frame_equal(loaded, table)
    assert loaded["answers"][0].dtype == np.int32
    assert dataset.exists()
    assert dataset.preview(1)["columns"] == ["entity", "index", "answers"]


@pytest.mark.parametrize(
    ("kind", "name", "data"),
    [
        (CSVDataset, "table.csv", pd.DataFrame({"file": ["a"], "line": [3]})),
        (JSONDataset, "report.json", {"counts": {"train": 3}}),
        (TextDataset, "index.html", "<p>é</p>"),
    ],
)
def test_plain_files_survive_a_round_trip(tmp_path, kind, name, data):
    dataset = kind(filepath=tmp_path / name)
    dataset.save(data)
    loaded = dataset.load()
    assert loaded.equals(data) if isinstance(data, pd.DataFrame) else loaded == data
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_figure_is_saved_whole(tmp_path):
    from matplotlib.figure import Figure

    dataset = MatplotlibDataset(filepath=tmp_path / "plot.png")
    dataset.save(Figure())
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert [file.name for file in tmp_path.iterdir()] == ["plot.png"]
    assert dataset.preview()
    assert dataset.load().format == "PNG"
    (tmp_path / "plot.png").write_bytes(b"no image")
    with pytest.raises(DatasetError, match="cannot identify image file"):
        dataset.load()


def test_disk_full_leaves_the_old_file(tmp_path, table, monkeypatch):
    dataset = ParquetDataset(filepath=tmp_path / "table.parquet")
    dataset.save(table)

    def write_a_little(_table, path, **_options):
        path.write_bytes(b"PAR1")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet, "write_table", write_a_little)
    with pytest.raises(DatasetError, match="the disk is full") as raised:
        dataset.save(table.head(1))
    (problem,) = raised.value.__cause__.problems
    assert isinstance(raised.value.__cause__, DataError)
    assert problem.where == str(tmp_path / "table.parquet")
    assert "run the same command again" in problem.remedy
    pd.testing.assert_frame_equal(dataset.load(), table)
    assert [file.name for file in tmp_path.iterdir()] == ["table.parquet"]


def test_failure_halfway_leaves_the_old_file(tmp_path):
    dataset = JSONDataset(filepath=tmp_path / "report.json")
    dataset.save({"fine": 1})
    with pytest.raises(DatasetError, match="not JSON serializable"):
        dataset.save({"first": 1, "then": object()})
    assert json.loads((tmp_path / "report.json").read_text()) == {"fine": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]
