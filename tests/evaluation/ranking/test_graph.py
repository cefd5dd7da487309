from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from mkgformer_kedro.evaluation.ranking.graph import (
    entity_frequency,
    frequency_bins,
    relation_categories,
    reverse_in_train,
)

edges = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(0, 5)), max_size=25)


def triples(rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["head", "relation", "tail"]).astype("int32")


@given(edges, edges)
def test_a_leak_is_the_reverse_pair_by_any_relation(train, test):
    pairs = {(head, tail) for head, _, tail in train}
    expected = [(tail, head) in pairs for head, _, tail in test]
    assert reverse_in_train(triples(train), triples(test)).tolist() == expected


def test_large_indices_do_not_collide():
    train = triples([(2**31 - 1, 0, 0), (1, 0, 2**31 - 2)])
    test = triples([(0, 0, 2**31 - 1), (2**31 - 2, 0, 1), (2**31 - 1, 0, 0)])
    assert reverse_in_train(train, test).tolist() == [True, True, False]


def test_relation_categories_of_three_rows_each():
    one_to_one = [(0, 0, 1), (2, 0, 3), (4, 0, 5)]
    one_to_many = [(0, 1, 1), (0, 1, 2), (0, 1, 3)]
    many_to_one = [(1, 2, 0), (2, 2, 0), (3, 2, 0)]
    many_to_many = [(h, 3, t) for h in (0, 1) for t in (2, 3)]
    train = triples(one_to_one + one_to_many + many_to_one + many_to_many)
    assert relation_categories(train).to_dict() == {0: "1-1", 1: "1-n", 2: "n-1", 3: "n-n"}


def test_one_and_a_half_counts_as_many_and_duplicates_count_once():
    exactly = [(0, 0, 1), (0, 0, 2), (3, 0, 4)]  # 3 triples over 2 heads: 1.5 tails a head
    below = [(0, 1, 1), (0, 1, 2), (3, 1, 4), (5, 1, 6)] + [(0, 1, 1)] * 9
    assert relation_categories(triples(exactly + below)).to_dict() == {0: "1-n", 1: "1-1"}


def test_frequency_counts_both_ends():
    frequency = entity_frequency(triples([(0, 0, 1), (1, 0, 2), (3, 0, 3)]), num_entities=6)
    assert frequency.tolist() == [1, 2, 1, 2, 0, 0]


def test_frequency_bins_meet_at_their_edges():
    bins = frequency_bins(np.array([0, 1, 3, 4, 10, 11, 30, 31, 100, 101, 10**6]))
    assert list(bins) == [
        "0", "1–3", "1–3", "4–10", "4–10", "11–30", "11–30", "31–100", "31–100",
        "over 100", "over 100",
    ]  # fmt: skip
    assert bins.ordered
