"""A part of the train split: how many, nested, and the same for whoever draws it."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mkgformer_kedro.training.parameters import TrainSubset
from mkgformer_kedro.training.subset import draw_subset
from mkgformer_kedro.training.tasks.registry import TASKS

GROUPS = st.lists(st.sets(st.integers(0, 4), min_size=1, max_size=3), min_size=1, max_size=40)


@given(groups=GROUPS, seed=st.integers(0, 9))
def test_shots_are_that_many_of_each_group_and_nested(groups, seed):
    subsets = [draw_subset(groups, TrainSubset(shots=shots), seed) for shots in range(1, 6)]

    for smaller, larger in pairwise(subsets):
        assert not (smaller & ~larger).any()
    for shots, chosen in enumerate(subsets, start=1):
        for group in set().union(*groups):
            having = np.array([group in of_item for of_item in groups])
            assert (having & chosen).sum() >= min(shots, having.sum())


def test_items_of_one_group_each_are_drawn_to_the_number():
    groups = [[number % 3] for number in range(30)]

    chosen = draw_subset(groups, TrainSubset(shots=4), seed=0)

    assert [sum(chosen[group::3]) for group in range(3)] == [4, 4, 4]
    assert (chosen != draw_subset(groups, TrainSubset(shots=4), seed=1)).any()


def test_shares_are_nested():
    groups = [[0]] * 30
    subsets = [draw_subset(groups, TrainSubset(share=share), 0) for share in (0.01, 0.1, 0.5, 1)]

    assert [chosen.sum() for chosen in subsets] == [1, 3, 15, 30]
    for smaller, larger in pairwise(subsets):
        assert not (smaller & ~larger).any()


@pytest.mark.parametrize("values", [{}, {"shots": 1, "share": 0.5}, {"shots": 0}, {"share": 1.1}])
def test_a_subset_says_one_thing(values):
    with pytest.raises(ValidationError):
        TrainSubset(**values)


def test_queries_and_triples_of_link_prediction_are_restricted_alike(tables):
    task = TASKS["link_prediction"]
    given = {name: tables[name] for name in ("queries", "triples")}

    restricted = task.restrict_train(given, TrainSubset(shots=3), seed=7)

    triples, queries = restricted["triples"], restricted["queries"]
    train = triples[triples["split"] == "train"]
    assert train["relation"].value_counts().to_dict() == {0: 3, 1: 3}
    expected = {tuple(row) for row in train[["head", "relation", "tail"]].to_numpy().tolist()}
    for direction in ("tail", "head"):
        found = set()
        chosen = queries[(queries["split"] == "train") & (queries["direction"] == direction)]
        for query in chosen.itertuples():
            for answer in query.answers:
                pair = (query.entity, answer) if direction == "tail" else (answer, query.entity)
                found.add((pair[0], query.relation, pair[1]))
        assert found == expected
    for name, table in restricted.items():
        others, before = (each[each["split"] != "train"] for each in (table, given[name]))
        assert others.equals(before)
    kept = tables["queries"].loc[queries.index]
    assert [list(known) for known in queries["known"]] == [list(known) for known in kept["known"]]


@pytest.mark.parametrize("task", ["relation_extraction", "entity_recognition"])
def test_posts_keep_their_numbers(posts, task):
    restricted = TASKS[task].restrict_train({"posts": posts[task]}, TrainSubset(shots=1), seed=0)

    kept = restricted["posts"]
    assert kept.equals(posts[task].loc[kept.index])
    of_split = kept["split"].value_counts()
    assert of_split["dev"] == of_split["test"] == 6
    # Each of the three relations once; every post of the other task names both types.
    assert of_split["train"] == {"relation_extraction": 3, "entity_recognition": 1}[task]
