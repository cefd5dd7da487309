from __future__ import annotations

import json
from collections import Counter
from itertools import product

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mkgformer_kedro.evaluation.ranking.graph_audit import (
    audit_graph,
    given_away,
    related_relations,
    relation_facts,
    shared_values,
    split_facts,
)
from mkgformer_kedro.evaluation.report.graph_audit import render_graph_audit

FACTS = st.sets(
    st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=20
)


def frame(facts, split=None):
    table = pd.DataFrame(sorted(facts), columns=["head", "relation", "tail"]).astype("int32")
    return table if split is None else table.assign(split=split)


def related_by_hand(facts, near, least):
    facts = {(h, r, t) for h, r, t in facts if h != t}
    relations = sorted({r for _, r, _ in facts})
    sizes = {r: sum(r == other for _, other, _ in facts) for r in relations}
    found = set()
    for one, other in product(relations, relations):
        if one > other or min(sizes[one], sizes[other]) < least:
            continue
        for kind, turned in (("inverse", True), ("duplicate", False)):
            if one == other and kind == "duplicate":
                continue
            common = sum(
                r == one and ((t, other, h) if turned else (h, other, t)) in facts
                for h, r, t in facts
            )
            if common and common >= near * sizes[one] and common >= near * sizes[other]:
                found.add(("symmetric" if one == other else kind, one, other, common))
    return found


@settings(max_examples=40)
@given(FACTS, st.sampled_from([0.25, 0.5, 1.0]), st.integers(1, 3))
def test_related_relations(facts, near, least):
    found = related_relations(frame(facts), near, least)
    columns = found[["kind", "one", "other", "triples"]]
    assert set(columns.itertuples(index=False, name=None)) == related_by_hand(facts, near, least)
    assert len(found) == len(related_by_hand(facts, near, least))


def test_related_relations_of_three_rows_each():
    pairs = [(0, 1), (2, 3), (4, 5)]
    facts = (
        [(h, 0, t) for h, t in pairs]
        + [(t, 1, h) for h, t in pairs]  # the inverse of 0
        + [(h, 2, t) for h, t in pairs[:2]]  # two thirds of 0
        + [(6, 3, 7), (7, 3, 6), (8, 3, 8)]  # symmetric, and a loop
    )
    found = related_relations(frame(facts), 0.6, 2)
    assert found.to_dict("records") == [
        {"kind": "inverse", "one": 0, "other": 1, "triples": 3, "of_one": 1.0, "of_other": 1.0},
        {
            "kind": "inverse", "one": 1, "other": 2, "triples": 2,
            "of_one": pytest.approx(2 / 3), "of_other": 1.0,
        },
        {"kind": "symmetric", "one": 3, "other": 3, "triples": 2, "of_one": 1.0, "of_other": 1.0},
        {
            "kind": "duplicate", "one": 0, "other": 2, "triples": 2,
            "of_one": pytest.approx(2 / 3), "of_other": 1.0,
        },
    ]  # fmt: skip


@settings(max_examples=40)
@given(train=FACTS, test=FACTS)
def test_given_away(train, test):
    related = related_relations(frame(train | test), 0.5, 1)
    expected = []
    kinds = related.itertuples()
    rules = {
        (row.kind, *ends) for row in kinds for ends in ((row.one, row.other), (row.other, row.one))
    }
    for h, r, t in sorted(test):
        expected.append(
            any(
                one == r and ((h, other, t) if kind == "duplicate" else (t, other, h)) in train
                for kind, one, other in rules
            )
        )
    assert given_away(frame(train), frame(test), related).tolist() == expected


@settings(max_examples=40)
@given(FACTS)
def test_relation_facts(facts):
    table = relation_facts(frame(facts), 0.6, 2)
    for relation, row in table.iterrows():
        own = [(h, t) for h, r, t in facts if r == relation]
        heads, tails = Counter(h for h, _ in own), Counter(t for _, t in own)
        assert row["triples"] == len(own)
        assert row["functional"] == (max(heads.values()) == 1)
        assert row["inverse_functional"] == (max(tails.values()) == 1)
        most = max([*heads.values(), *tails.values()]) / len(own)
        assert row["constant_share"] == pytest.approx(most)
        assert pd.notna(row["constant"]) == (len(own) >= 2 and most >= 0.6)
        back = sum(h != t and (t, h) in own for h, t in own)
        assert row["symmetric_share"] == pytest.approx(back / len(own))
        assert row["loops"] == sum(h == t for h, t in own)
    assert sorted(table.index) == sorted({r for _, r, _ in facts})


@settings(max_examples=40)
@given(train=FACTS, dev=FACTS, test=FACTS)
def test_split_facts(train, dev, test):
    triples = pd.concat([frame(train, "train"), frame(dev, "dev"), frame(test, "test")])
    found = split_facts(triples, "test", related_relations(triples, 0.8, 1))
    pairs = {(h, t) for h, _, t in train}
    seen = {end for pair in pairs for end in pair}
    assert found["triples"] == len(test)
    assert found["in_train"] == len(test & train)
    assert found["in_dev"] == len(test & dev)
    assert found["reverse_in_train"] == sum((t, h) in pairs for h, _, t in test)
    assert found["linked_in_train"] == sum((t, h) in pairs or (h, t) in pairs for h, _, t in test)
    assert found["unseen_entities"] == sum(not {h, t} <= seen for h, _, t in test)
    assert found["unseen_relation"] == sum(r not in {r for _, r, _ in train} for _, r, _ in test)


def test_shared_values():
    values = pd.Series(["x", "x", "y", "x", None, "z"])
    found = shared_values(values, ["a", "b", "b", "a", "c", "d"])
    assert found == {
        "owners": 3,
        "values": 3,
        "shared": 1,
        "sharing": 2,
        "examples": [{"value": "x", "count": 2, "owners": ["a", "b"]}],
    }


def audit(train, dev, test, images=None, **changes):
    triples = pd.concat(
        [frame(train, "train"), frame(dev, "dev"), frame(test, "test")], ignore_index=True
    )
    count = 1 + int(triples[["head", "tail"]].to_numpy().max())
    names = [f"e{number}" for number in range(count)]
    entities = pd.DataFrame({"entity": names, "name": names, "text": names}).assign(**changes)
    relations = pd.DataFrame({"relation": ["r0", "r1"], "text": ["<b>", "r1"]})
    duplicates = {"train": 1, "dev": 0, "test": 0}
    return audit_graph(triples, entities, relations, duplicates, images, near=0.7, least=2)


CLEAN = ([(0, 0, 1), (1, 0, 2), (2, 0, 3), (3, 0, 0)], [(0, 0, 2)], [(1, 0, 3)])


def test_a_clean_graph_is_good_news():
    found, verdicts = audit(*CLEAN)
    assert [verdict.outcome for verdict in verdicts] == ["good"] * 5 + ["open"]
    assert found["counts"] == {"entities": 4, "relations": 2, "train": 4, "dev": 1, "test": 1}
    assert found["related_relations"] == []
    assert found["images"] is None
    assert json.loads(json.dumps(found)) == found


def test_what_a_bad_graph_means_for_scores():
    train = [(0, 0, 1), (2, 0, 3), (4, 0, 5), (3, 1, 2), (5, 1, 4)]
    images = pd.DataFrame(
        {"entity": ["e0", "e1"], "sha256": ["a", "a"], "perceptual_hash": ["b", "b"]}
    )
    found, verdicts = audit(
        train, [(0, 0, 1)], [(1, 1, 0), (0, 0, 1), (0, 0, 6)], images, text="the same"
    )
    assert found["splits"]["test"] == {
        "triples": 3,
        "in_train": 1,
        "in_dev": 1,
        "reverse_in_train": 1,
        "linked_in_train": 2,
        "given_away": 1,
        "unseen_entities": 1,
        "unseen_relation": 0,
        "constant_relation": 0,
    }
    said = "\n".join(verdict.text for verdict in verdicts).replace("\u00a0", " ")
    for part in (
        "1 of 1 (100.0 %) dev triples stand in train",
        "1 of 3 (33.3 %) test triples stand in train and 1 of 3 (33.3 %) test triples stand in dev",
        "1 of 3 (33.3 %) test triples have their reverse in train",
        "1 of 3 (33.3 %) test triples have an entity that train lacks",
        "end at about 0.667",
        "7 of 7 (100.0 %) entities share their text",
        "2 of 2 (100.0 %) entities with images share one",
    ):
        assert part in said
    assert all(verdict.outcome == "bad" for verdict in verdicts if "33.3" in verdict.text)


def test_the_page_escapes_what_comes_from_the_data_and_asks_nothing_of_the_net():
    found, verdicts = audit(*CLEAN)
    page = render_graph_audit(
        found, verdicts, data_set="<script>", near=0.8, facts={"Files": {"a.tsv": "x"}}
    )
    assert "<script" not in page
    assert "&lt;b&gt;" in page
    assert "http" not in page.replace("http-equiv", "")
    for verdict in verdicts:
        assert verdict.text in page
