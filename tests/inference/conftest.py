from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mkgformer_kedro.inference.parameters import MixtureParameters


@dataclass
class TableExpert:
    """An expert that looks its scores up: ``(2, entities, relations, entities)``."""

    name: str
    table: np.ndarray
    silent: frozenset[int] = frozenset()
    seed: int = 0
    folder: Path | None = None
    learned: np.ndarray | None = None
    asked: list[int] = field(default_factory=list)

    def scores(
        self, queries: pd.DataFrame, *, batch_size: int
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        direction = (queries["direction"] == "head").to_numpy().astype(int)
        whole = self.table[direction, queries["entity"], queries["relation"]]
        # Backwards: an expert answers in whatever order suits it.
        for start in reversed(range(0, len(queries), batch_size)):
            rows = np.arange(start, min(start + batch_size, len(queries)))
            self.asked.append(len(rows))
            yield rows, torch.from_numpy(whole[rows]).float()

    def answers(self, queries: pd.DataFrame) -> np.ndarray:
        return ~queries["entity"].isin(self.silent).to_numpy()


@dataclass
class World:
    """A graph drawn from known distributions, and what experts may know of them."""

    logits: np.ndarray
    queries: pd.DataFrame

    def expert(self, name: str, noise: float = 0.0, factor: float = 1.0, seed: int = 0, **more):
        rng = np.random.default_rng(seed)
        noisy = self.logits + noise * rng.standard_normal(self.logits.shape)
        return TableExpert(name, factor * noisy, **more)


def make_world(entities: int = 30, relations: int = 4, seed: int = 0, each: int = 1500) -> World:
    """Queries with one answer each, drawn from softmax distributions; a query may come again."""
    rng = np.random.default_rng(seed)
    logits = 2.5 * rng.standard_normal((2, entities, relations, entities))
    rows = []
    for split in ("dev", "test"):
        for _ in range(each):
            direction, entity = rng.integers(2), rng.integers(entities)
            relation = min(rng.geometric(0.6) - 1, relations - 1)
            weights = np.exp(logits[direction, entity, relation])
            answer = rng.choice(entities, p=weights / weights.sum())
            rows.append((split, ("tail", "head")[direction], entity, relation, [answer], [answer]))
    columns = ["split", "direction", "entity", "relation", "answers", "known"]
    queries = pd.DataFrame(rows, columns=columns)
    for name in ("answers", "known"):
        queries[name] = [np.array(values, dtype=np.int32) for values in queries[name]]
    return World(logits, queries)


@pytest.fixture(scope="session")
def table_expert() -> type[TableExpert]:
    return TableExpert


@pytest.fixture(scope="session")
def world() -> World:
    return make_world()


@pytest.fixture(scope="session")
def parameters() -> MixtureParameters:
    return MixtureParameters(
        experts=None,
        fit_queries=None,
        test_queries=None,
        standardization=None,
        shrinkage=None,
        least_answers=10,
        top=8,
        sampled=8,
        proposals=10,
        answer_sets={"level": 0.9, "least_answers": 50, "abstain_above": 10},
        batch_size=64,
    )
