"""Entities that stand for all others in the loss of link prediction.

A softmax over a million entities needs all of their scores in every step. A sampled one scores the
answers of the batch and a few entities that are drawn, each of which stands for as many as its
probability to be drawn says.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np


@dataclass(frozen=True)
class Negatives:
    """Entities drawn for a batch, the same for all of its questions.

    What is drawn is a function of the seed and of the batch's items, so that a resumed run, workers
    that load batches and processes that train together need to agree on nothing.

    Attributes:
        probabilities: ``(N,)`` probability of each entity in a single draw, none of them zero.
        draws: Number of draws, with replacement; from ``N`` on, every entity is taken once.
        seed: Seed of the draws.
    """

    probabilities: np.ndarray
    draws: int
    seed: int

    @cached_property
    def _cumulative(self) -> np.ndarray:
        return np.cumsum(self.probabilities)

    @classmethod
    def by_popularity(
        cls, answers: np.ndarray, num_entities: int, *, draws: int, uniform: float, seed: int
    ) -> Self:
        """Draw an entity as often as it is an answer, or any.

        Args:
            answers: ``(k,)`` all answers of train, each as often as it is one.
            num_entities: Number of entities.
            draws: Number of draws.
            uniform: Share of the draws in which all entities are alike, above 0.
            seed: Seed of the draws.
        """
        popularity = np.bincount(answers, minlength=num_entities) / max(len(answers), 1)
        return cls((1 - uniform) * popularity + uniform / num_entities, draws, seed)

    def candidates(self, labels: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Candidates of a batch, as the model's inputs.

        Args:
            labels: ``(B, A)`` answers of each question, padded with -100.
            rows: ``(B,)`` numbers of the batch's items.

        Returns:
            ``candidates`` ``(S,)``: the answers and what was drawn, each once; ``log_counts``
            ``(S,)``: 0 for answers, which are there for sure, and minus the logarithm of its
            probability to be drawn for what is none; ``labels`` ``(B, A)``: the answers' places
            among the candidates.
        """
        is_answer = labels >= 0
        answers, places = np.unique(labels[is_answer], return_inverse=True)
        drawn = self._draw(np.random.default_rng([self.seed, *rows.tolist()]))
        others = drawn[~np.isin(drawn, answers, assume_unique=True)]
        log_counts = np.zeros(len(answers) + len(others), dtype=np.float32)
        if self.draws < len(self.probabilities):
            never = self.draws * np.log1p(-self.probabilities[others])
            log_counts[len(answers) :] = -np.log(-np.expm1(never))
        found = np.full_like(labels, -100)
        found[is_answer] = places
        return {
            "labels": found,
            "candidates": np.concatenate([answers, others]),
            "log_counts": log_counts,
        }

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        if self.draws >= len(self.probabilities):
            return np.arange(len(self.probabilities))
        whole = self._cumulative[-1]
        found = np.searchsorted(self._cumulative, rng.random(self.draws) * whole, side="right")
        return np.unique(found.clip(max=len(self.probabilities) - 1))
