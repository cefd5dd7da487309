"""Graphs in other layouts than three files of names, and files that are none."""

from __future__ import annotations

import gzip
import os

import pandas as pd
import pytest
from kedro.io import DatasetError
from pykeen.triples import TriplesFactory

from mkgformer_kedro.datasets.graph_folder import GraphFolderDataset
from mkgformer_kedro.errors import DataError

SPLIT = {"dev": 0.2, "test": 0.2, "seed": 0}
# A triple is head, tail, relation.
OPENKE = {
    "train2id.txt": "3\n0 1 0\n1 2 1\n2\t0\t0\n",
    "valid2id.txt": "1\n0 2 1\n",
    "test2id.txt": "1\n2 1 1\n",
    "entity2id.txt": "3\n/m/b 1\n/m/a 0\nNew York 2\n",
    "relation2id.txt": "2\nlikes\t0\nknows\t1\n",
}
OPENKE_FILES = {
    "train": "train2id.txt",
    "dev": "valid2id.txt",
    "test": "test2id.txt",
    "entities": "entity2id.txt",
    "relations": "relation2id.txt",
}
PYKEEN_FILES = {
    "train": "training/numeric_triples.tsv.gz",
    "dev": "validation/numeric_triples.tsv.gz",
    "test": "testing/numeric_triples.tsv.gz",
    "entities": "training/entity_to_id.tsv.gz",
    "relations": "training/relation_to_id.tsv.gz",
}


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        raw = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(raw)
    return str(folder)


def rows(raw, split=None):
    triples = raw.triples if split is None else raw.triples[raw.triples["split"] == split]
    return triples[["head", "relation", "tail"]].to_numpy().tolist()


def problems_of(dataset):
    with pytest.raises(DatasetError) as raised:
        dataset.load()
    assert isinstance(raised.value.__cause__, DataError)
    return raised.value.__cause__.problems


@pytest.fixture
def openke(tmp_path):
    """A graph in OpenKE's layout with some files replaced."""

    def openke(changes=None):
        folder = write(tmp_path / "openke", OPENKE | (changes or {}))
        return GraphFolderDataset(filepath=folder, files=OPENKE_FILES, layout="openke")

    return openke


def test_openke(openke):
    raw = openke().load()
    assert raw.problems == ()
    assert raw.entities["entity"].tolist() == ["/m/a", "/m/b", "New York"]
    assert raw.relations["relation"].tolist() == ["likes", "knows"]
    assert rows(raw, "train") == [
        ["/m/a", "likes", "/m/b"],
        ["/m/b", "knows", "New York"],
        ["New York", "likes", "/m/a"],
    ]
    assert rows(raw, "test") == [["New York", "knows", "/m/b"]]
    assert raw.triples["line"].tolist() == [2, 3, 4, 2, 2]
    assert raw.entity_texts.empty
    assert raw.facts == {"layout": "openke"}


@pytest.mark.parametrize(
    ("name", "content", "line", "what"),
    [
        ("train2id.txt", "3\n0 1 0\n", 1, "the first line says 3 lines, and 1 follow"),
        ("train2id.txt", "0 1 0\n1 2 1\n", 1, "'0 1 0' is not the number of the lines below"),
        ("train2id.txt", "2\n0 1 0\n0 1\n", 3, "2 columns instead of 3"),
        ("test2id.txt", "1\n0 1 7\n", 2, "no relation has the number 7"),
        ("test2id.txt", "1\n9 1 0\n", 2, "no entity has the number 9"),
        ("test2id.txt", "1\n0 a 0\n", 2, "'a' is not a number"),
        ("entity2id.txt", "4\na 0\nb 1\nc 2\nd 2\n", 5, "the number 2 is given twice"),
        ("entity2id.txt", "3\na 0\nb 1\nc two\n", 4, "'two' is not a number"),
        ("relation2id.txt", b"2\nlikes 0\nkn\xf6ws 1\n", 3, "not UTF-8 (byte 0xf6 at column 3)"),
        ("relation2id.txt", "2\nlikes 0\nkn\0ws 1\n", 3, "a NUL character, which no text holds"),
    ],
)
def test_openke_gone_wrong(openke, name, content, line, what):
    problems = openke({name: content}).load().problems
    assert (line, what) in [(problem.line, problem.what) for problem in problems]
    assert problems[0].where.endswith(f"openke/{name}") or name == "entity2id.txt"


def test_pykeen_wrote_it(tmp_path):
    labelled = pd.DataFrame(
        [("a", "likes", 'b "the" bee'), ("b", "knows", "c c"), ("c c", "likes", "a")]
    ).to_numpy(dtype=str)
    train = TriplesFactory.from_labeled_triples(labelled)
    same_ids = {"entity_to_id": train.entity_to_id, "relation_to_id": train.relation_to_id}
    held_out = TriplesFactory.from_labeled_triples(labelled[:1, [2, 1, 0]], **same_ids)
    folder = tmp_path / "pykeen"
    for name, factory in {"training": train, "validation": held_out, "testing": held_out}.items():
        factory.to_path_binary(folder / name)
    raw = GraphFolderDataset(filepath=str(folder), files=PYKEEN_FILES, layout="pykeen").load()
    assert raw.problems == ()
    assert raw.entities["entity"].tolist() == list(train.entity_to_id)
    assert sorted(rows(raw, "train")) == sorted(labelled.tolist())
    assert rows(raw, "test") == [['b "the" bee', "likes", "a"]]
    (folder / "training/base.pth").unlink()  # a pickle that is not needed
    assert (
        len(
            GraphFolderDataset(filepath=str(folder), files=PYKEEN_FILES, layout="pykeen")
            .load()
            .triples
        )
        == 5
    )


@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        ("0\t0\t1\n", 1, "the first line is no header of the columns head, relation, tail"),
        ("head\trelation\ttail\n0\t0\n", 2, "2 columns instead of 3"),
        ("head\trelation\ttail\n0\t5\t0\n", 2, "no relation has the number 5"),
        ("head\trelation\ttail\n0\t0\t1.0\n", 2, "'1.0' is not a number"),
    ],
)
def test_pykeen_gone_wrong(tmp_path, content, line, what):
    ids = gzip.compress(b"id\tlabel\n0\ta\n1\tb\n")
    files = dict.fromkeys(PYKEEN_FILES.values(), ids)
    files["testing/numeric_triples.tsv.gz"] = gzip.compress(content.encode())
    for name in ("training", "validation"):
        files[f"{name}/numeric_triples.tsv.gz"] = gzip.compress(b"head\trelation\ttail\n0\t0\t1\n")
    folder = write(tmp_path / "pykeen", files)
    raw = GraphFolderDataset(filepath=folder, files=PYKEEN_FILES, layout="pykeen").load()
    (problem,) = raw.problems
    assert (problem.line, problem.what) == (line, what)


@pytest.mark.parametrize("name", ["graph.tsv", "graph.tsv.gz"])
def test_a_graph_in_one_file_is_split_here(tmp_path, name):
    lines = [f"e{h}\tr{(h + t) % 2}\te{t}" for h in range(8) for t in range(h)]
    content = "\n".join(lines).encode()
    folder = write(tmp_path, {name: gzip.compress(content) if name.endswith("gz") else content})
    raw = GraphFolderDataset(
        filepath=folder, files={"graph": name, "train": "not there"}, split=SPLIT
    ).load()
    assert sorted("\t".join(row) for row in rows(raw)) == sorted(lines)
    assert raw.triples["split"].value_counts().to_dict() == {"train": 16, "dev": 6, "test": 6}
    assert raw.triples["split"].unique().tolist() == ["train", "dev", "test"]
    assert raw.files == dict.fromkeys(("train", "dev", "test"), name)
    assert raw.facts == {"split_by_this_project": SPLIT}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"files": {"train": "a", "test": "b"}}, "no file for dev"),
        ({"files": {"graph": "a"}}, "say how in 'split'"),
        ({"files": {"graph": "a"}, "split": {"dev": 0.1}}, "test"),
        ({"files": {"graph": "a"}, "split": SPLIT, "layout": "xml"}, "layout is 'xml'; known: tsv"),
        ({"files": {"graph": "a"}, "split": SPLIT, "layout": "rdf"}, "what to read of it in 'rdf'"),
        ({"files": {"graph": "a"}, "split": SPLIT, "layout": "openke"}, "needs files.entities"),
        ({"files": {"graf": "a"}}, "did you mean 'graph'"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        GraphFolderDataset(filepath=str(tmp_path), **settings)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (
            gzip.compress(b"a\tr\tb\n" * 50, mtime=0)[:-9],
            "cannot be unpacked (Compressed file ended",
        ),
        (b"a\tr\tb\n", "cannot be unpacked (Not a gzipped file (b'a\\t'))"),
        (
            gzip.compress(b"a\tr\tb\n", mtime=0)[:-8] + b"12345678",
            "cannot be unpacked (CRC check failed",
        ),
        (gzip.compress(b"\n \n", mtime=0), "the file is empty"),
        (gzip.compress(b"a" * 10_000_000, mtime=0), "unpacks to more than 200 times its size"),
    ],
    ids=["truncated", "not packed", "damaged", "empty", "bomb"],
)
def test_bad_archives(write_graph, graph_files, content, what):
    folder = write_graph({"train.tsv.gz": content})
    files = graph_files | {"train": "train.tsv.gz"}
    (problem,) = problems_of(GraphFolderDataset(filepath=str(folder), files=files))
    assert problem.where.endswith("train.tsv.gz")
    assert problem.what.startswith(what)


@pytest.fixture
def in_place_of_test(write_graph, graph_files):
    """A graph whose test split is whatever ``put`` puts there."""

    def in_place_of_test(put):
        folder = write_graph({"test.tsv": None})
        put(folder / "test.tsv")
        return GraphFolderDataset(filepath=str(folder), files=graph_files)

    return in_place_of_test


@pytest.mark.parametrize(
    "put", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"]
)
def test_what_is_no_regular_file_is_not_read(in_place_of_test, put):
    (problem,) = problems_of(in_place_of_test(put))
    assert problem.what == "cannot be read (a pipe or device, not a file)"


def test_a_link_to_a_file_is_read(in_place_of_test, tmp_path):
    (tmp_path / "elsewhere").write_text("007\tlikes\t04\n")
    raw = in_place_of_test(lambda path: path.symlink_to(tmp_path / "elsewhere")).load()
    assert rows(raw, "test") == [["007", "likes", "04"]]


def test_checksum_of_a_file_that_is_none(write_graph, graph_files):
    checksums = {"trian.tsv": "0" * 64, "nothing.txt": None}
    dataset = GraphFolderDataset(
        filepath=str(write_graph()), files=graph_files, checksums=checksums
    )
    (problem,) = problems_of(dataset)
    assert problem.what == "checksums names this file, but nothing is read from it"
    assert problem.remedy == "Correct the name: did you mean 'train.tsv'?"


def test_a_nul_is_no_character_of_a_text(write_graph, graph_files):
    folder = write_graph({"dev.tsv": "007\tkn\0ws\t03\n", "entity2text.txt": "007\tB\0nd\n"})
    raw = GraphFolderDataset(filepath=str(folder), files=graph_files).load()
    assert [problem.what for problem in raw.problems] == [
        "a NUL character, which no text holds",
        "a NUL character, which no text holds",
    ]


@pytest.mark.parametrize("header", ["head\trelation\ttail", "#Subject\tPredicate\tObject"])
def test_a_header_is_no_triple(write_graph, graph_files, header):
    files = {"train.tsv": f"{header}\n007\tlikes\t02\n", "entity2text.txt": "id\ttext\n02\tM\n"}
    names = graph_files | {"entities": None, "relations": None}
    raw = GraphFolderDataset(filepath=str(write_graph(files)), files=names).load()
    assert [(problem.where.rpartition("/")[2], problem.line) for problem in raw.problems] == [
        ("train.tsv", 1),
        ("entity2text.txt", 1),
    ]
    words = header.replace("\t", ", ")
    assert raw.problems[0].what == f"a header ({words}) where the first triple stands"
    assert rows(raw, "train") == [["007", "likes", "02"]]
    assert raw.entity_texts["entity"].tolist() == ["02"]


def test_a_graph_may_be_about_heads_and_tails(write_graph, graph_files):
    """What other triples know is no header."""
    files = {"train.tsv": "head\tr\ttail\ntail\tr\thead\n"}
    names = graph_files | {"entities": None, "relations": None}
    raw = GraphFolderDataset(filepath=str(write_graph(files)), files=names).load()
    assert raw.problems == ()
    assert len(rows(raw, "train")) == 2


def test_a_graph_without_texts(write_graph, graph_files):
    names = graph_files | {"entity_texts": None, "relation_texts": None}
    raw = GraphFolderDataset(filepath=str(write_graph()), files=names).load()
    assert raw.entity_texts.columns.tolist() == ["entity", "text", "file", "line"]
    assert raw.entity_texts.empty
    assert raw.relation_texts.empty
