from __future__ import annotations

import pytest

from mkgformer_kedro.datasets.graph_folder import GraphFolderDataset
from mkgformer_kedro.pipelines.ingestion.parameters import IngestionParameters

_PARAMETERS = {
    "on_bad_lines": "stop",
    "candidates": "entities",
    "entity_texts": "name_and_description",
    "expected_counts": {},
    "on_unexpected_counts": "stop",
    "max_inverse_leak": None,
}


@pytest.fixture
def parameters():
    """Make parameters; those given by name replace the defaults."""

    def parameters(**changes):
        return IngestionParameters(**{**_PARAMETERS, **changes})

    return parameters


@pytest.fixture
def raw_graph(write_graph, graph_files):
    """Write a graph with some files replaced, and read it."""

    def raw_graph(files=None, **roles):
        names = {**graph_files, **roles}
        return GraphFolderDataset(filepath=str(write_graph(files)), files=names).load()

    return raw_graph
