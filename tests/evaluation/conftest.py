"""A small random graph whose every part the evaluation tests can look up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor


@dataclass(frozen=True)
class Graph:
    """Triples of all splits, the test queries and a score for every entity of each query."""

    num_entities: int
    train: pd.DataFrame
    test: pd.DataFrame
    queries: pd.DataFrame
    scores: Tensor


def queries_of(test: pd.DataFrame, everything: pd.DataFrame) -> pd.DataFrame:
    """The ``queries`` table of a test split, written independently of the ingestion."""
    rows = []
    for direction, given, asked in (("tail", "head", "tail"), ("head", "tail", "head")):
        for (entity, relation), answers in test.groupby([given, "relation"])[asked]:
            same = (everything[given] == entity) & (everything["relation"] == relation)
            rows.append(
                {
                    "direction": direction,
                    "entity": entity,
                    "relation": relation,
                    "answers": sorted(answers),
                    "known": sorted(set(everything.loc[same, asked])),
                }
            )
    return pd.DataFrame(rows)


def _random_graph(seed: int, *, levels: int, num_entities: int = 23) -> Graph:
    """A graph with dense relations, so that filtering and ties matter.

    ``levels`` is the number of different score values: few levels, many ties.
    """
    generator = np.random.default_rng(seed)
    triples = pd.DataFrame(
        {
            "head": generator.integers(num_entities, size=260),
            "relation": generator.integers(3, size=260),
            "tail": generator.integers(num_entities, size=260),
        }
    ).drop_duplicates(ignore_index=True)
    test = triples.iloc[:60].reset_index(drop=True)
    queries = queries_of(test, triples)
    scores = generator.integers(levels, size=(len(queries), num_entities)).astype(np.float32)
    train = triples.iloc[60:].reset_index(drop=True)
    return Graph(num_entities, train, test, queries, torch.from_numpy(scores))


@pytest.fixture(params=[2, 6, 10_000], ids=["many ties", "some ties", "hardly any ties"])
def graph(request: pytest.FixtureRequest) -> Graph:
    return _random_graph(seed=7, levels=request.param)


@pytest.fixture(scope="session")
def one_graph() -> Graph:
    """The same graph for all tests that only read what was made from it."""
    return _random_graph(seed=3, levels=50)
