from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mkgformer_kedro.datasets.graph_split import SplitParameters, split_triples

ROWS = st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 2), st.integers(0, 7)), min_size=1, max_size=60
)


def frame(rows):
    return pd.DataFrame(rows, columns=["head", "relation", "tail"]).astype("str")


@given(
    rows=ROWS,
    dev=st.floats(0.05, 0.4),
    test=st.floats(0.05, 0.4),
    seed=st.integers(0, 3),
)
def test_nothing_leaks_and_nothing_is_unheard_of(rows, dev, test, seed):
    triples = frame(rows)
    split = split_triples(triples, SplitParameters(dev=dev, test=test, seed=seed))
    parts = {name: triples[split == name].to_numpy().tolist() for name in ("train", "dev", "test")}
    assert sum(map(len, parts.values())) == len(rows)
    pairs = {name: {frozenset((h, t)) for h, _, t in part} for name, part in parts.items()}
    assert not pairs["train"] & pairs["dev"]
    assert not pairs["train"] & pairs["test"]
    assert not pairs["dev"] & pairs["test"]
    seen = {end for h, _, t in parts["train"] for end in (h, t)}
    relations = {r for _, r, _ in parts["train"]}
    for h, r, t in parts["dev"] + parts["test"]:
        assert {h, t} <= seen
        assert r in relations


@given(rows=ROWS, seed=st.integers(0, 3))
def test_one_seed_is_one_split(rows, seed):
    parameters = SplitParameters(dev=0.1, test=0.1, seed=seed)
    first = split_triples(frame(rows), parameters)
    pd.testing.assert_series_equal(first, split_triples(frame(rows), parameters))


@given(ROWS)
def test_what_can_be_drawn_is(rows):
    """Dev and test are both there where two pairs of entities could be taken one by one."""
    triples = frame(rows).drop_duplicates(ignore_index=True)
    pairs = triples.apply(lambda row: frozenset((row["head"], row["tail"])), axis=1)
    sizes = pairs.value_counts()
    assume((sizes == 1).all())
    split = split_triples(triples, SplitParameters(dev=0.2, test=0.2, seed=0))
    left = triples[split == "train"]
    ends = pd.concat([left["head"], left["tail"]]).value_counts()
    relations = left["relation"].value_counts()
    more = [
        row
        for row in left.itertuples()
        if row.head != row.tail and min(ends[row.head], ends[row.tail], relations[row.relation]) > 1
    ]
    wanted = max(1, round(0.2 * len(triples)))
    for name in ("dev", "test"):
        assert (split == name).sum() == wanted or not more


def test_shares_are_met_on_a_graph_that_allows_it():
    rows = [(h, 0, t) for h in range(30) for t in range(h)]
    split = split_triples(frame(rows), SplitParameters(dev=0.1, test=0.2, seed=1))
    counts = split.value_counts()
    assert (counts["dev"], counts["test"]) == (44, 87)
    other = split_triples(frame(rows), SplitParameters(dev=0.1, test=0.2, seed=2))
    assert (split != other).any()


def test_a_graph_of_single_links_stays_in_train():
    split = split_triples(
        frame([(0, 0, 1), (2, 0, 3), (4, 0, 5)]), SplitParameters(dev=0.3, test=0.3, seed=0)
    )
    assert split.tolist() == ["train"] * 3


@pytest.mark.parametrize("share", [0, 0.5, -1, float("nan")])
def test_shares_are_shares(share):
    with pytest.raises(ValueError, match="dev"):
        SplitParameters(dev=share, test=0.1, seed=0)
