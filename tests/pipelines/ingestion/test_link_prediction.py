from __future__ import annotations

import json
import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mkgformer_kedro.errors import DataError
from mkgformer_kedro.pipelines.ingestion import schemas
from mkgformer_kedro.pipelines.ingestion.link_prediction import (
    group_queries,
    index_graph,
    report_ingestion,
)

LIKES, KNOWS = 0, 1


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
