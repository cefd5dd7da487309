from __future__ import annotations

import gzip
import json
import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rdflib import RDFS, Graph, Literal, Namespace

from mkgformer_kedro.datasets.graph_folder import GraphFolderDataset
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.pipelines.ingestion import schemas
from mkgformer_kedro.pipelines.ingestion.link_prediction import (
    group_queries,
    index_graph,
    report_ingestion,
)

LIKES, KNOWS = 0, 1
ROOT = Path(__file__).parents[3]
CONF, SAMPLE = ROOT / "conf", ROOT / "data/01_raw/wordnet_emoji"
_ENTITY = Namespace("http://wordnet.example/")
_RELATION = Namespace("http://wordnet.example/relation/")
_SCHEMA = Namespace("http://schema.org/")
_SAMPLE_FILES = {
    **{split: f"{split}.tsv" for split in ("train", "dev", "test")},
    "entity_texts": "entity2text.txt",
    "relation_texts": "relation2text.txt",
}


@pytest.fixture
def problem_of(raw_graph, parameters):
    """The one problem that indexing a graph raises."""

    def problem_of(files=None, *, roles=None, **changes):
        with pytest.raises(DataError) as raised:
            index_graph(raw_graph(files, **(roles or {})), parameters(**changes))
        (problem,) = raised.value.problems
        return problem

    return problem_of


def test_rows_are_numbered_in_the_order_of_their_files(raw_graph, parameters):
    entities, relations, triples, quarantine = index_graph(raw_graph(), parameters())
    assert entities["entity"].tolist() == ["007", "02", "03", "04"]
    assert relations.to_dict("list") == {
        "relation": ["likes", "knows"],
        "text": ["is fond of", "has met"],
    }
    assert triples[["head", "relation", "tail"]].to_numpy().tolist() == [
        [0, LIKES, 1],
        [1, LIKES, 2],
        [2, KNOWS, 3],
        [1, KNOWS, 0],
        [0, KNOWS, 2],
        [0, LIKES, 3],
        [3, LIKES, 1],
    ]
    assert triples["split"].tolist() == ["train"] * 4 + ["dev"] + ["test"] * 2
    assert quarantine.empty
    schemas.entities.validate(entities)
    schemas.relations.validate(relations)
    schemas.triples.validate(triples)


def test_reverse_of_a_training_triple_is_a_leak(raw_graph, parameters):
    raw = raw_graph({"test.tsv": "03\tknows\t02\n03\tknows\t007\n007\tlikes\t04"})
    _, _, triples, _ = index_graph(raw, parameters())
    assert triples["leak"].tolist() == [True, False, False, True, False, True, False, False]


def test_graph_without_lists_of_ids_has_those_of_its_triples(raw_graph, parameters):
    raw = raw_graph(entities=None, relations=None)
    entities, relations, triples, _ = index_graph(raw, parameters())
    assert entities["entity"].tolist() == ["007", "02", "03", "04"]
    assert relations["relation"].tolist() == ["likes", "knows"]
    assert triples["tail"].tolist()[:3] == [1, 2, 3]


def test_candidates_may_be_whatever_has_a_text(raw_graph, parameters):
    raw = raw_graph({"entity2text.txt": "03\tQ\n007\tBond\n99\tNobody\n02\tM\n04\tM"})
    assert len(index_graph(raw, parameters())[0]) == 4
    entities, _, triples, _ = index_graph(raw, parameters(candidates="entity_texts"))
    assert entities["entity"].tolist() == ["03", "007", "99", "02", "04"]
    assert triples.loc[0, ["head", "tail"]].tolist() == [1, 3]


def test_long_text_before_short_text_before_name(raw_graph, parameters):
    files = {"long.txt": "007\tHe drinks.\n02\tM\n", "entity2text.txt": "007\tBond, a spy\n02\tM\n"}
    raw = raw_graph({**files, "entities.txt": "007\n02\n03\n04"}, entity_long_texts=["long.txt"])
    entities, _, _, _ = index_graph(raw, parameters())
    assert entities[["name", "text", "text_source"]].to_numpy().tolist() == [
        ["Bond", "He drinks.", "long"],
        ["M", "M", "name"],  # its long text only repeats the name
        ["03", "03", "name"],  # no text at all
        ["04", "04", "name"],
    ]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("name_and_description", ["M", 'M, head of "MI6"', "short"]),
        ("name", ['M, head of "MI6"', 'M, head of "MI6"', "name"]),
    ],
)
def test_form_of_the_entity_texts(raw_graph, parameters, form, expected):
    entities, _, _, _ = index_graph(raw_graph(), parameters(entity_texts=form))
    assert entities.loc[1, ["name", "text", "text_source"]].tolist() == expected


@pytest.mark.parametrize(
    ("words", "text", "source", "file"),
    [
        ("description", 'M, head of "MI6"', "short", "entity2text.txt"),
        ("name", "M", "name", "entity2text.txt"),
        ("nothing", "entity", "none", None),
    ],
)
def test_less_may_be_read_of_an_entity(raw_graph, parameters, words, text, source, file):
    raw, setting = raw_graph(), parameters(described_by=words, max_inverse_leak=None)
    entities, *others, quarantine = index_graph(raw, setting)
    schemas.entities.validate(entities)
    assert entities.loc[1, ["name", "text", "text_source"]].tolist() == ["M", text, source]
    queries = group_queries(others[1])
    report = report_ingestion(raw, entities, *others, queries, quarantine, setting)
    assert report["entity_texts"][source]["file"] == file


def test_text_that_starts_with_a_comma_still_has_a_name(raw_graph, parameters):
    raw = raw_graph({"entity2text.txt": "007\t, nameless"})
    entities, _, _, _ = index_graph(raw, parameters())
    assert entities.loc[0, "name"] == ", nameless"


@pytest.mark.parametrize(
    ("files", "name", "line", "what", "remedy"),
    [
        (
            {"test.tsv": "007\tlikes\t04\n007\tlikes\t08"},
            "test.tsv",
            2,
            "unknown entity '08'",
            "Add it to entities.txt, or correct or drop the triple.",
        ),
        (
            {"dev.tsv": "007\tlikez\t02\n007\tlikes\t03"},
            "dev.tsv",
            1,
            "unknown relation 'likez'",
            "Add it to relations.txt, or correct or drop the triple.",
        ),
        (
            {"entities.txt": "007\n02\n03\n\n04\n02"},
            "entities.txt",
            6,
            "entity '02' is there already, on line 2",
            "Drop one of the two lines.",
        ),
        (
            {"entity2text.txt": "02\tM\n02\tM, the second"},
            "entity2text.txt",
            2,
            "entity '02' is there already, on line 1",
            "Drop one of the two lines.",
        ),
        (
            {"relation2text.txt": "likes\tx\nlikes\ty"},
            "relation2text.txt",
            2,
            "relation 'likes' is there already, on line 1",
            "Drop one of the two lines.",
        ),
        (
            {"train.tsv": "007\tlikes\t02\n02\tlikes"},
            "train.tsv",
            2,
            "2 columns instead of 3",
            "Write head <tab> relation <tab> tail.",
        ),
    ],
)
def test_bad_line_stops_the_run_or_is_quarantined(
    raw_graph, parameters, problem_of, files, name, line, what, remedy
):
    problem = problem_of(files)
    assert problem.where.endswith(f"/graph/{name}")
    assert (problem.line, problem.what, problem.remedy) == (line, what, remedy)

    raw = raw_graph(files)
    entities, relations, triples, quarantine = index_graph(
        raw, parameters(on_bad_lines="quarantine")
    )
    assert quarantine.to_dict("records") == [{"file": name, "line": line, "what": what}]
    assert entities["entity"].tolist() == ["007", "02", "03", "04"]
    assert len(relations) == 2
    assert (triples[["head", "relation", "tail"]] >= 0).all(axis=None)


def test_first_of_two_texts_counts(raw_graph, parameters):
    raw = raw_graph({"entity2text.txt": "02\tM\n02\tM, the second"})
    entities, _, _, _ = index_graph(raw, parameters(on_bad_lines="quarantine"))
    assert entities["text"][1] == "M"


def test_all_bad_lines_are_in_one_error(raw_graph, parameters):
    raw = raw_graph(
        {"train.tsv": "bad\n007\tlikes\t08\n007\tlikes\t02", "entities.txt": "007\n02\n02"}
    )
    with pytest.raises(DataError) as raised:
        index_graph(raw, parameters())
    message = str(raised.value)
    for part in ("train.tsv:1: 1 columns", "entities.txt:3:", "train.tsv:2: unknown entity '08'"):
        assert part in message


def test_split_that_quarantine_empties_stops_the_run(problem_of):
    problem = problem_of({"dev.tsv": "only one column"}, on_bad_lines="quarantine")
    assert problem.where.endswith("dev.tsv")
    assert problem.line is None
    assert problem.what == "the dev split has no triples"


def test_repeated_triples_count_once(raw_graph, parameters):
    raw = raw_graph({"dev.tsv": "007\tknows\t03\n007\tknows\t03\n"})
    _, _, triples, quarantine = index_graph(raw, parameters())
    assert (triples["split"] == "dev").sum() == 1
    assert quarantine.empty


def test_other_counts_than_the_published_ones(raw_graph, parameters, problem_of, caplog):
    problem = problem_of(expected_counts={"entities": 4, "train": 1272})
    assert problem.what == "train: 4 instead of the published 1,272"
    assert "ingestion.on_unexpected_counts" in problem.remedy
    with caplog.at_level(logging.WARNING):
        index_graph(
            raw_graph(), parameters(expected_counts={"train": 5}, on_unexpected_counts="report")
        )
    assert "train: 4 instead of the published 5" in caplog.text


def test_leak_gate(raw_graph, parameters, problem_of):
    files = {"test.tsv": "03\tknows\t02\n007\tlikes\t04"}
    problem = problem_of(files, max_inverse_leak=0.4)
    assert problem.where.endswith("test.tsv")
    assert problem.what == (
        "50.0% of the test triples have their reverse in train, more than the 40.0% that may"
    )
    index_graph(raw_graph(files), parameters(max_inverse_leak=0.5))


def test_leak_gate_says_the_line_that_opens_it(raw_graph, parameters, problem_of):
    files = {"test.tsv": "03\tknows\t02\n007\tlikes\t04\n04\tlikes\t02"}
    remedy = problem_of(files, max_inverse_leak=0.0).remedy
    assert "conf/<data set>/parameters_link_prediction.yml" in remedy
    line = re.search(r"write (link_prediction: .*\}\})", remedy)[1]
    allowed = yaml.safe_load(line)["link_prediction"]["ingestion"]
    assert allowed == {"max_inverse_leak": 0.334}
    index_graph(raw_graph(files), parameters(**allowed))


_TRAIN = "007\tlikes\t02\n02\tlikes\t03\n03\tknows\t04\n02\tknows\t007\n"


@pytest.mark.parametrize(
    ("files", "name", "what"),
    [
        ({"test.tsv": _TRAIN}, "test.tsv", "4 of the test triples (100.0%) stand in train, too"),
        ({"dev.tsv": _TRAIN}, "dev.tsv", "4 of the dev triples (100.0%) stand in train, too"),
        (
            {"test.tsv": "007\tknows\t03\n007\tlikes\t04\n"},
            "test.tsv",
            "1 of the test triples (50.0%) stand in dev, too",
        ),
    ],
)
def test_overlap_gate(raw_graph, parameters, problem_of, files, name, what):
    problem = problem_of(files, max_split_overlap=0.0)
    assert problem.where.endswith(name)
    assert problem.what == f"{what}, more than the 0.0% that may"
    line = re.search(r"write (link_prediction: .*\}\})", problem.remedy)[1]
    allowed = yaml.safe_load(line)["link_prediction"]["ingestion"]
    index_graph(raw_graph(files), parameters(**allowed))
    index_graph(raw_graph(files), parameters(max_split_overlap=None))


def test_the_gates_are_closed_as_configured():
    configured = yaml.safe_load((CONF / "base/parameters_link_prediction.yml").read_text())
    ingestion = configured["link_prediction"]["ingestion"]
    assert (ingestion["max_split_overlap"], ingestion["max_inverse_leak"]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("name", "role", "known"),
    [
        ("entity2text.txt", "entity_texts", "007"),
        ("relation2text.txt", "relation_texts", "likes"),
    ],
)
def test_texts_of_another_graph(problem_of, name, role, known):
    problem = problem_of({name: "Q1\tone\nQ2\ttwo\n"})
    assert problem.where.endswith(name)
    assert problem.what == (
        f"the texts of another graph: 0 of 2 ids are known (here: 'Q1'; in the triples: '{known}')"
    )
    assert f"as {role} in globals.yml" in problem.remedy


def test_texts_of_a_larger_graph_or_of_few_entities_are_its_own(raw_graph, parameters):
    many = "".join(f"Q{number}\tsomething\n" for number in range(1000))
    raw = raw_graph({"entity2text.txt": f"{many}007\tBond\n02\tM\n03\tQ\n04\tR\n"})
    assert index_graph(raw, parameters())[0]["name"].tolist() == ["Bond", "M", "Q", "R"]
    raw = raw_graph({"entity2text.txt": "02\tM\n"})
    assert index_graph(raw, parameters())[0]["name"].tolist() == ["007", "M", "03", "04"]


def test_ids_of_megabytes_are_not_printed_in_full(problem_of):
    problem = problem_of({"test.tsv": f"007\tlikes\t{'x' * 10_000_000}\n007\tlikes\t04\n"})
    assert problem.what.startswith("unknown entity 'xxx")
    assert problem.what.endswith("xxx'")
    assert len(str(problem)) < 1_500


def test_header_stops_the_run_or_is_quarantined(raw_graph, parameters, problem_of):
    files = {"test.tsv": "head\trelation\ttail\n007\tlikes\t04\n"}
    names = {"entities": None, "relations": None}
    assert problem_of(files, roles=names).line == 1
    made = index_graph(raw_graph(files, **names), parameters(on_bad_lines="quarantine"))
    assert "head" not in made[0]["entity"].tolist()
    assert made[3]["line"].tolist() == [1]


def test_graph_without_texts_goes_by_its_ids(raw_graph, parameters):
    raw = raw_graph(entity_texts=None, relation_texts=None)
    entities, relations, triples, quarantine = index_graph(raw, parameters())
    assert entities["name"].tolist() == ["007", "02", "03", "04"]
    assert relations["text"].tolist() == ["likes", "knows"]
    queries = group_queries(triples)
    report = report_ingestion(raw, entities, relations, triples, queries, quarantine, parameters())
    assert report["entity_texts"] == {"name": {"entities": 4, "file": None}}
    assert report["entities_without_text"] == 4


def test_candidates_of_a_graph_without_texts(raw_graph, parameters):
    raw = raw_graph({"dev.tsv": "007\tknows\t03"}, entity_texts=None)
    with pytest.raises(DataError, match=r"name it as entity_texts in globals\.yml"):
        index_graph(raw, parameters(candidates="entity_texts"))


@pytest.fixture(scope="module")
def sample():
    """The embedded sample, read from its folder."""
    return GraphFolderDataset(filepath=str(SAMPLE), files=_SAMPLE_FILES).load()


@pytest.fixture(scope="module")
def as_turtle(sample, tmp_path_factory):
    """The embedded sample as Turtle, one file a split, written by another library."""
    folder = tmp_path_factory.mktemp("turtle")
    described = sample.entity_texts["text"].str.partition(", ")
    for split in ("train", "dev", "test"):
        graph = Graph()
        graph.bind("", _ENTITY)
        rows = sample.triples[sample.triples["split"] == split]
        for head, relation, tail in rows[["head", "relation", "tail"]].to_numpy():
            graph.add((_ENTITY[head], _RELATION[relation], _ENTITY[tail]))
        if split == "train":
            for entity, name, text in zip(
                sample.entity_texts["entity"], described[0], described[2], strict=True
            ):
                graph.add((_ENTITY[entity], RDFS.label, Literal(name, lang="en")))
                graph.add((_ENTITY[entity], _SCHEMA.description, Literal(text)))
                graph.add((_ENTITY[entity], _RELATION.offset, Literal(int(entity))))
            for relation, text in sample.relation_texts[["relation", "text"]].to_numpy():
                graph.add((_RELATION[relation], RDFS.label, Literal(text)))
        packed = gzip.compress(graph.serialize(encoding="utf-8"))
        (folder / f"{split}.ttl.gz").write_bytes(packed)
    return folder


def _read_turtle(folder, **files):
    rdf = yaml.safe_load((CONF / "base/globals.yml").read_text())["link_prediction"]["rdf"]
    split = {"dev": 0.1, "test": 0.1, "seed": 0}
    return GraphFolderDataset(
        filepath=str(folder), layout="rdf", files=files, rdf=rdf, split=split
    ).load()


def _by_name(tables, strip=""):
    """Triples by id and split, with the name and text of each entity."""
    entities, relations, triples, _ = tables
    ids = entities["entity"].str.removeprefix(strip)
    kinds = relations["relation"].str.removeprefix(str(_RELATION))
    facts = {
        (split, ids[head], kinds[relation], ids[tail])
        for head, relation, tail, split in triples[["head", "relation", "tail", "split"]].to_numpy()
    }
    named = dict(zip(ids, zip(entities["name"], entities["text"], strict=True), strict=True))
    return facts, named, dict(zip(kinds, relations["text"], strict=True))


def test_turtle_of_the_sample_gives_the_sample(sample, as_turtle, parameters):
    files = {split: f"{split}.ttl.gz" for split in ("train", "dev", "test")}
    raw = _read_turtle(as_turtle, **files)
    setting = parameters(max_split_overlap=0.0, max_inverse_leak=0.0)
    tables = index_graph(raw, setting)
    schemas.entities.validate(tables[0])
    schemas.triples.validate(tables[2])
    expected_facts, expected_named, expected_relations = _by_name(index_graph(sample, setting))
    facts, named, relations = _by_name(tables, str(_ENTITY))
    assert facts == expected_facts
    assert relations == {name: expected_relations[name] for name in relations}
    for entity, (name, text) in named.items():
        assert name == expected_named[entity][0]
        # A text file repeats the name before the description; RDF keeps them apart.
        assert expected_named[entity][1].removeprefix(f"{name}, ") == text
    assert raw.facts["rdf"]["with_literals"] == len(sample.entity_texts)


def test_turtle_of_the_sample_split_here_leaks_nothing(sample, as_turtle, parameters):
    whole = as_turtle / "whole.ttl.gz"
    whole.write_bytes(
        b"".join((as_turtle / f"{split}.ttl.gz").read_bytes() for split in ("train", "dev", "test"))
    )
    raw = _read_turtle(as_turtle, graph="whole.ttl.gz")
    tables = index_graph(raw, parameters(max_split_overlap=0.0, max_inverse_leak=0.0))
    facts, _, _ = _by_name(tables, str(_ENTITY))
    expected, _, _ = _by_name(index_graph(sample, parameters()))
    assert {fact[1:] for fact in facts} == {fact[1:] for fact in expected}
    report = report_ingestion(raw, *tables[:3], group_queries(tables[2]), tables[3], parameters())
    assert report["triples_with_unseen_entities"] == {"dev": 0, "test": 0}
    assert report["inverse_leak"] == {"dev": 0.0, "test": 0.0}
    assert report["split_by_this_project"] == {"dev": 0.1, "test": 0.1, "seed": 0}
    assert report["layout"] == "rdf"
    assert json.loads(json.dumps(report)) == report


def test_a_split_made_here_does_not_count_on_lines_that_are_left_out(tmp_path, parameters):
    """Each entity of the ring has a triple with a neighbour, and more with what no list names."""
    ring = [(i, (i + step) % 40) for i in range(40) for step in (1, 2)]
    lines = [f"e{head}\tr\te{tail}" for head, tail in ring]
    lines += [f"e{i}\tr\tx{i}{j}" for i in range(40) for j in range(5)]
    (tmp_path / "graph.tsv").write_text("\n".join(lines))
    (tmp_path / "entities.txt").write_text("\n".join(f"e{i}" for i in range(40)))
    files = dict.fromkeys(("train", "dev", "test", "relations", "entity_texts"))
    files |= {"graph": "graph.tsv", "entities": "entities.txt", "relation_texts": None}
    split = {"dev": 0.3, "test": 0.3, "seed": 0}
    raw = GraphFolderDataset(filepath=str(tmp_path), files=files, split=split).load()
    _, _, triples, quarantine = index_graph(raw, parameters(on_bad_lines="quarantine"))
    assert (len(triples), len(quarantine)) == (80, 200)
    train = triples[triples["split"] == "train"]
    assert set(train["head"]) | set(train["tail"]) == set(range(40))
    assert (triples["split"] != "train").sum() > 20


def test_image_links_are_a_column_of_the_entities(tmp_path, parameters):
    (tmp_path / "graph.ttl").write_text(
        "@base <http://a.example/> .\n"
        + "".join(f"<{h}> <r> <{t}> .\n" for h in range(6) for t in range(h))
        + '<0> <http://schema.org/image> "a.png", "b.png" .\n'
    )
    raw = _read_turtle(tmp_path, graph="graph.ttl")
    entities = schemas.entities.validate(index_graph(raw, parameters())[0])
    links = dict(zip(entities["entity"], entities["image_links"], strict=True))
    assert links.pop("http://a.example/0") == ["a.png", "b.png"]
    assert set(map(tuple, links.values())) == {()}
    entities.to_parquet(tmp_path / "entities.parquet")
    schemas.entities.validate(pd.read_parquet(tmp_path / "entities.parquet"))


def test_a_star_cannot_be_split(tmp_path, parameters):
    links = "".join(f"<http://a/{end}> <http://a/r> <http://a/0> .\n" for end in range(1, 30))
    (tmp_path / "star.ttl").write_text(links)
    with pytest.raises(DataError, match=r"star.ttl: it cannot be split: .*Give files.train") as e:
        index_graph(_read_turtle(tmp_path, graph="star.ttl"), parameters())
    assert len(e.value.problems) == 1


def test_misspelt_parameter_names_the_near_miss(parameters):
    with pytest.raises(ValidationError, match="did you mean 'candidates'"):
        parameters(candidate="entities")


def test_queries_of_a_graph(raw_graph, parameters):
    _, _, triples, _ = index_graph(raw_graph(), parameters())
    queries = group_queries(triples)
    schemas.queries.validate(queries)
    rows = {
        (row.split, row.direction, row.entity, row.relation): (list(row.answers), list(row.known))
        for row in queries.itertuples()
    }
    assert rows["train", "tail", 0, LIKES] == ([1], [1, 3])
    assert rows["test", "tail", 0, LIKES] == ([3], [1, 3])
    assert rows["test", "head", 1, LIKES] == ([3], [0, 3])
    assert ("dev", "tail", 0, LIKES) not in rows
    assert queries["split"].drop_duplicates().tolist() == ["train", "dev", "test"]


_TRIPLE = st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 4))
_SPLIT = st.sets(_TRIPLE, min_size=1, max_size=20)


@settings(max_examples=30)
@given(train=_SPLIT, dev=_SPLIT, test=_SPLIT)
def test_queries_cover_every_triple_once_per_direction(train, dev, test):
    splits = {"train": train, "dev": dev, "test": test}
    triples = pd.DataFrame(
        [(*triple, split) for split, facts in splits.items() for triple in sorted(facts)],
        columns=["head", "relation", "tail", "split"],
    ).astype({"head": "int32", "relation": "int32", "tail": "int32"})
    queries = group_queries(triples)
    for direction in ("tail", "head"):
        found = {split: [] for split in splits}
        for row in queries[queries["direction"] == direction].itertuples():
            for answer in row.answers:
                pair = (row.entity, answer) if direction == "tail" else (answer, row.entity)
                found[row.split].append((pair[0], row.relation, pair[1]))
            known = {
                t if direction == "tail" else h
                for h, r, t in train | dev | test
                if (row.entity, row.relation) == (h if direction == "tail" else t, r)
            }
            assert row.known.tolist() == sorted(known)
            assert row.answers.tolist() == sorted(row.answers)
        for split, facts in splits.items():
            assert len(found[split]) == len(facts)
            assert set(found[split]) == facts


def test_report(raw_graph, parameters):
    raw = raw_graph(
        {
            "train.tsv": "007\tlikes\t02\n007\tlikes\t02\n02\tlikes\t03\nbad\n",
            "dev.tsv": "007\tlikes\t02\n02\tknows\t04\n",
            "test.tsv": "03\tknows\t02\n04\tknows\t007\n",
            "entity2text.txt": "007\tBond, a spy\n02\tM, one\n04\tM, another\n99\tNobody",
        }
    )
    setting = parameters(on_bad_lines="quarantine", expected_counts={"entities": 4})
    entities, relations, triples, quarantine = index_graph(raw, setting)
    queries = group_queries(triples)
    report = report_ingestion(raw, entities, relations, triples, queries, quarantine, setting)
    digests = report.pop("files")
    assert report == {
        "data_set": "graph",
        "counts": {"entities": 4, "relations": 2, "train": 2, "dev": 2, "test": 2},
        "published_counts": {"entities": 4},
        "unexpected_counts": {},
        "queries": {"train": 4, "dev": 4, "test": 4},
        "entity_texts": {
            "short": {"entities": 3, "file": "entity2text.txt"},
            "name": {"entities": 1, "file": "entity2text.txt"},
        },
        "entities_without_text": 1,
        "relations_without_text": 0,
        "entities_sharing_a_name": 2,
        "relations_sharing_a_text": 0,
        "duplicate_triples": {"train": 1, "dev": 0, "test": 0},
        "self_loops": {"train": 0, "dev": 0, "test": 0},
        "triples_in_two_splits": {"train_dev": 1, "train_test": 0, "dev_test": 0},
        "inverse_leak": {"dev": 0.0, "test": 0.5},
        "entities_unseen_in_train": {"dev": 1, "test": 1},
        "triples_with_unseen_entities": {"dev": 1, "test": 1},
        "quarantined_lines": 1,
    }
    assert digests["train.tsv"] == {"sha256": raw.digests["train.tsv"], "verified": False}
    assert json.loads(json.dumps(report)) == report


def test_queries_survive_parquet(tmp_path, raw_graph, parameters):
    _, _, triples, _ = index_graph(raw_graph(), parameters())
    queries = group_queries(triples)
    queries.to_parquet(tmp_path / "queries.parquet")
    loaded = pd.read_parquet(tmp_path / "queries.parquet")
    schemas.queries.validate(loaded)
    assert all(map(np.array_equal, loaded["known"], queries["known"]))
