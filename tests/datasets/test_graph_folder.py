from __future__ import annotations

import hashlib

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kedro.io import DatasetError

from mkgformer_kedro.datasets.graph_folder import GraphFolderDataset
from mkgformer_kedro.errors import DataError


@pytest.fixture
def load(write_graph, graph_files):
    """Write a graph with some files replaced and read it."""

    def load(files=None, *, roles=None, checksums=None):
        folder = write_graph(files)
        names = {**graph_files, **(roles or {})}
        return GraphFolderDataset(filepath=str(folder), files=names, checksums=checksums).load()

    return load


@pytest.fixture
def problems_of(load):
    """The problems of the one error that loading raises."""

    def problems_of(*args, **options):
        with pytest.raises(DatasetError) as raised:
            load(*args, **options)
        assert isinstance(raised.value.__cause__, DataError)
        assert str(raised.value.__cause__) in str(raised.value)
        return raised.value.__cause__.problems

    return problems_of


def test_every_row_knows_where_it_stands(load):
    raw = load()
    assert raw.problems == ()
    assert raw.triples.to_dict("records")[-1] == {
        "head": "04",
        "relation": "likes",
        "tail": "02",
        "file": "test.tsv",
        "line": 2,
        "split": "test",
    }
    assert raw.triples["split"].tolist() == ["train"] * 4 + ["dev"] + ["test"] * 2
    assert raw.entity_long_texts is None
    assert set(raw.files) == {
        *("train", "dev", "test", "entities", "relations", "entity_texts", "relation_texts")
    }


def test_ids_stay_strings_and_quotes_stay_quotes(load):
    raw = load()
    assert raw.entities["entity"].tolist() == ["007", "02", "03", "04"]
    assert raw.entity_texts["text"][1] == 'M, head of "MI6"'


@pytest.mark.parametrize(
    "content",
    [
        b"a\tr\tb\nb\tr\tc\n",
        b"a\tr\tb\nb\tr\tc",
        b"a\tr\tb\r\nb\tr\tc\r\n",
        b"\xef\xbb\xbfa\tr\tb\nb\tr\tc\n",
        b"a\tr\tb\nb\tr\tc\n\n\r\n  \n \r\n",
    ],
    ids=["plain", "no final newline", "crlf", "byte order mark", "blank lines"],
)
def test_line_ends_and_byte_order_marks_make_no_difference(load, content):
    raw = load({"train.tsv": content})
    train = raw.triples[raw.triples["split"] == "train"]
    assert train[["head", "relation", "tail", "line"]].to_numpy().tolist() == [
        ["a", "r", "b", 1],
        ["b", "r", "c", 2],
    ]
    assert raw.problems == ()


_FIELD = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\t\n\r\ufeff"), min_size=1
).filter(lambda text: text == text.strip())


@given(
    triples=st.lists(st.tuples(_FIELD, _FIELD, _FIELD), min_size=1),
    line_end=st.sampled_from(["\n", "\r\n"]),
    final_newline=st.booleans(),
)
def test_what_is_written_is_read(tmp_path_factory, triples, line_end, final_newline):
    folder = tmp_path_factory.mktemp("graph")
    content = line_end.join("\t".join(triple) for triple in triples)
    (folder / "triples.tsv").write_bytes((content + line_end * final_newline).encode())
    (folder / "texts.txt").write_text("x\ty")
    splits = dict.fromkeys(["train", "dev", "test"], "triples.tsv")
    texts = {"entity_texts": "texts.txt", "relation_texts": "texts.txt"}
    raw = GraphFolderDataset(filepath=str(folder), files=splits | texts).load()
    train = raw.triples[raw.triples["split"] == "train"]
    expected = pd.DataFrame(triples, columns=["head", "relation", "tail"], dtype="str")
    pd.testing.assert_frame_equal(train[["head", "relation", "tail"]], expected)
    assert raw.entities is None
    assert raw.relations is None


@pytest.mark.parametrize(
    ("name", "content", "line", "what", "remedy"),
    [
        (
            "train.tsv",
            b"a\tr\tb\na\tr\n",
            2,
            "2 columns instead of 3",
            "Write head <tab> relation <tab> tail.",
        ),
        (
            "dev.tsv",
            b"a r b\n",
            1,
            "1 columns instead of 3",
            "Write head <tab> relation <tab> tail.",
        ),
        ("entity2text.txt", b"a\tb\tc", 1, "3 columns instead of 2", "Write entity <tab> text."),
        (
            "test.tsv",
            b"a\tr\tb\n\na\tr\tcaf\xe9\n",
            3,
            "not UTF-8 (byte 0xe9 at column 8)",
            "Save the file as UTF-8.",
        ),
        (
            "entity2text.txt",
            b"a\tx\nb\t \n",
            2,
            "empty text",
            "Fill in the text or drop the line.",
        ),
        ("train.tsv", b"a\t\tb\n", 1, "empty relation", "Fill in the relation or drop the line."),
    ],
)
def test_bad_line_is_reported_and_left_out(load, name, content, line, what, remedy):
    raw = load({name: content})
    (problem,) = raw.problems
    assert (problem.where, problem.line) == (str(raw.folder / name), line)
    assert (problem.what, problem.remedy) == (what, remedy)
    tables = [raw.triples, raw.entity_texts]
    assert not any(((table["file"] == name) & (table["line"] == line)).any() for table in tables)


def test_missing_folder(tmp_path, graph_files):
    dataset = GraphFolderDataset(filepath=str(tmp_path / "nowhere"), files=graph_files)
    with pytest.raises(DatasetError, match=r"nowhere: no such folder\. docs/data\.md says"):
        dataset.load()
    assert not dataset.exists()


def test_all_missing_empty_and_differing_files_are_in_one_error(problems_of):
    found = hashlib.sha256(b"likes\n").hexdigest()
    problems = problems_of(
        {"train.tsv": None, "entities.txt": None, "dev.tsv": "\n", "relations.txt": "likes\n"},
        checksums={"relations.txt": "0" * 64, "entity2text.txt": None},
    )
    by_name = {problem.where.rpartition("/")[2]: problem for problem in problems}
    assert sorted(by_name) == ["dev.tsv", "entities.txt", "relations.txt", "train.tsv"]
    assert by_name["train.tsv"].what == by_name["entities.txt"].what == "no such file"
    assert by_name["dev.tsv"].what == "the file is empty"
    assert by_name["relations.txt"].what == (
        f"differs from the published file (SHA-256 {found} instead of {'0' * 64})"
    )
    assert "set its checksum to null" in by_name["relations.txt"].remedy
    assert all("docs/data.md" in problem.remedy for problem in problems)


def test_folder_in_the_place_of_a_file(problems_of, tmp_path):
    (tmp_path / "graph" / "dev.tsv").mkdir(parents=True)
    (problem,) = problems_of({"dev.tsv": None})
    assert problem.what == "cannot be read (Is a directory)"


def test_known_files_are_verified(load):
    digest = load().digests["train.tsv"]
    assert load(checksums={"train.tsv": digest}).verified == ("train.tsv",)


def test_first_long_texts_that_are_there_are_read(load):
    names = {"entity_long_texts": ["long.txt", "substitute.txt"]}
    assert load({"substitute.txt": "02\tThe substitute."}, roles=names).files[
        "entity_long_texts"
    ] == ("substitute.txt")
    raw = load({"long.txt": "02\tThe real one."}, roles=names)
    assert raw.entity_long_texts["text"].tolist() == ["The real one."]
    assert raw.files["entity_long_texts"] == "long.txt"


def test_no_long_texts_though_some_are_named(problems_of):
    (problem,) = problems_of(roles={"entity_long_texts": ["long.txt", "substitute.txt"]})
    assert problem.where.endswith("long.txt")
    assert problem.what == "no such file, nor substitute.txt"
    assert "set entity_long_texts to []" in problem.remedy


def test_misspelt_role_names_the_near_miss(graph_files, tmp_path):
    with pytest.raises(ValueError, match="unknown parameter 'relation_text'; did you mean"):
        GraphFolderDataset(filepath=str(tmp_path), files={**graph_files, "relation_text": "x"})


def test_raw_files_are_never_written(graph_files, tmp_path):
    with pytest.raises(DatasetError, match="never written"):
        GraphFolderDataset(filepath=str(tmp_path), files=graph_files).save("anything")
