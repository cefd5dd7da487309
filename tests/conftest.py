"""Fixtures for every room."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# No test depends on how fast the machine is.
settings.register_profile("mkgformer_kedro", deadline=None)
settings.load_profile("mkgformer_kedro")

GRAPH_FILES = {
    "train": "train.tsv",
    "dev": "dev.tsv",
    "test": "test.tsv",
    "entities": "entities.txt",
    "relations": "relations.txt",
    "entity_texts": "entity2text.txt",
    "relation_texts": "relation2text.txt",
}

_GRAPH = {
    "train.tsv": "007\tlikes\t02\n02\tlikes\t03\n03\tknows\t04\n02\tknows\t007\n",
    "dev.tsv": "007\tknows\t03\n",
    "test.tsv": "007\tlikes\t04\n04\tlikes\t02\n",
    "entities.txt": "007\n02\n03\n04\n",
    "relations.txt": "likes\nknows\n",
    "entity2text.txt": '007\tBond, a spy\n02\tM, head of "MI6"\n03\tQ\n04\tM, another one\n',
    "relation2text.txt": "likes\tis fond of\nknows\thas met\n",
}


@pytest.fixture
def graph_files() -> dict[str, str]:
    """File names of the graph that ``write_graph`` writes, by role."""
    return dict(GRAPH_FILES)


@pytest.fixture
def write_graph(tmp_path: Path) -> Callable[..., Path]:
    """Write a graph of four entities; files given by name replace its own, None leaves one out."""

    def write(files: dict[str, str | bytes | None] | None = None) -> Path:
        folder = tmp_path / "graph"
        folder.mkdir(exist_ok=True)
        for name, content in {**_GRAPH, **(files or {})}.items():
            if content is not None:
                raw = content.encode() if isinstance(content, str) else content
                (folder / name).write_bytes(raw)
        return folder

    return write


@pytest.fixture(scope="session")
def benchmarks() -> Path:
    """Folder of the real benchmark files, in the layout of the authors' download."""
    folder = os.environ.get("MKGFORMER_BENCHMARKS")
    if not folder:
        pytest.skip("MKGFORMER_BENCHMARKS does not name the folder of the benchmark files")
    return Path(folder)
