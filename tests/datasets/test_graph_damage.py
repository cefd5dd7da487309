"""Whatever lies in a graph's files, reading them ends with a graph or with one clear error."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kedro.io import DatasetError

from mkgformer_kedro.datasets.graph_folder import GraphFolderDataset, RawGraph
from mkgformer_kedro.errors import DataError

CONF = Path(__file__).parents[2] / "conf/base/globals.yml"
RDF = yaml.safe_load(CONF.read_text())["link_prediction"]["rdf"]
SPLIT = {"dev": 0.1, "test": 0.1, "seed": 0}
LISTS = {"entities": "entities", "relations": "relations"}

# Pieces that the formats are made of, so that damage reaches behind the first byte.
PIECES = st.sampled_from(
    [
        b"<http://a/1> ", b"<http://a/r> ", b"_:b ", b'"text"', b"@en ", b".", b"\n", b"\t", b" ",
        b"@prefix p: <http://p/> .", b"p:x ", b"[", b"]", b"(", b")", b";", b",", b"<<(", b")>>",
        b"1", b"0", b"-1", b"99999999999", b"id\tlabel\n", b"head\trelation\ttail\n", b"a", b"\0",
        b"\xff", b"\xef\xbb\xbf", b"\r\n", b'"', b"\\u0000", b"\\", b"{", b"}", b"#",
    ]
)  # fmt: skip
CONTENT = st.one_of(st.binary(max_size=60), st.lists(PIECES, max_size=25).map(b"".join))


@pytest.mark.parametrize(
    ("layout", "name", "lists"),
    [
        ("tsv", "graph.tsv", {}),
        ("tsv", "graph.tsv", {"entity_texts": "entities", "relation_texts": "relations"}),
        ("openke", "graph.txt", LISTS),
        ("pykeen", "graph.tsv", LISTS),
        *(("rdf", f"graph.{form}", {}) for form in ("nt", "nq", "ttl", "trig")),
    ],
)
@settings(max_examples=60)
@given(
    graph=CONTENT,
    entities=CONTENT,
    relations=CONTENT,
    packed=st.sampled_from([None, 1.0, 0.6]),
)
def test_a_graph_or_one_clear_error(
    tmp_path_factory, layout, name, lists, graph, entities, relations, packed
):
    folder = tmp_path_factory.mktemp("graph")
    if packed is not None:
        name, graph = f"{name}.gz", gzip.compress(graph)
        graph = graph[: int(packed * len(graph))]
    (folder / name).write_bytes(graph)
    (folder / "entities").write_bytes(entities)
    (folder / "relations").write_bytes(relations)
    dataset = GraphFolderDataset(
        filepath=str(folder), layout=layout, files={"graph": name, **lists}, rdf=RDF, split=SPLIT
    )
    raw = _load(dataset)
    if not isinstance(raw, DataError):
        assert not raw.triples[["head", "relation", "tail"]].isin(["", None]).any(axis=None)


def _load(dataset: GraphFolderDataset) -> RawGraph | DataError:
    try:
        return dataset.load()
    except DatasetError as error:
        if not isinstance(error.__cause__, DataError):
            raise
        return error.__cause__
