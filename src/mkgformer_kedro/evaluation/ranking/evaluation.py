"""All that is said about experts for link prediction, from one predictions table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.experts import (
    BASELINE,
    REFERENCE,
    Evaluation,
    Metric,
    View,
    added_by_mixture,
    by_expert,
    groups_of_all,
    look_at,
)
from mkgformer_kedro.evaluation.intervals import RESAMPLES, Difference, Scores
from mkgformer_kedro.evaluation.ranking.breakdown import break_down_ranks
from mkgformer_kedro.evaluation.ranking.graph import reverse_in_train
from mkgformer_kedro.evaluation.ranking.metrics import (
    HEADLINE,
    HEADLINE_MRR,
    on_side,
    ranking_metrics,
    raw_view,
)
from mkgformer_kedro.evaluation.ranking.scores import mrr_difference, score_ranks

MRR = Metric(HEADLINE_MRR, "MRR")
NAMES = {BASELINE: "popularity baseline"}


@dataclass(frozen=True)
class RankingEvaluation(Evaluation):
    """What is known of link prediction beyond :class:`Evaluation`.

    Views are ``tail`` and ``head`` (one direction alone), ``without_leaks`` (the triples whose
    reverse pair is not in train) and ``unseen_entities`` (those with an entity that train lacks),
    the last two only where they are a part of the test triples and not all of them.

    Attributes:
        raw: Metrics of the reference's raw ranks, by PyKEEN's key, means over seeds.
        leak_share: Share of test triples whose reverse pair is in train.
        unseen_share: Share of test triples with an entity that train lacks.
    """

    raw: Mapping[str, float]
    leak_share: float
    unseen_share: float

    @property
    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds, with raw ranks and the views."""
        views = {
            f"test_{name}": self.headline(view.scores[self.reference].metrics)
            for name, view in self.views.items()
        }
        by_view = {
            name: {expert: self.headline(view.scores[expert].metrics) for expert in self.experts}
            for name, view in self.views.items()
        }
        return (
            super().metrics
            | {"test_raw": self.headline(self.raw)}
            | views
            | {"test_by_view": by_view}
        )

    def headline(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """The metrics of both directions and realistic ranks."""
        return {key: value for key, value in metrics.items() if key.startswith(HEADLINE)}


def evaluate(
    predictions: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    *,
    has_images: np.ndarray,
    seed: int,
    resamples: int = RESAMPLES,
    reference: str = REFERENCE,
    names: Mapping[str, str] = NAMES,
) -> RankingEvaluation:
    """Score any number of experts on the same test triples and compare them.

    Args:
        predictions: A predictions table with the answers of all experts (see ``predictions``).
        tables: The tables ``triples`` (``head``, ``relation``, ``tail``, ``split``) and
            ``relations``.
        has_images: Whether an entity has images, ``(entities,)``.
        seed: Seed of every resampling.
        resamples: Number of bootstrap samples.
        reference: The expert with which the others are compared.
        names: What experts are called, where their names with blanks for underscores do not do.

    Returns:
        Scores, comparisons, views and groups.

    Raises:
        ValueError: If the reference has no predictions, or experts cover different triples.
    """
    chance = {"seed": seed, "resamples": resamples}
    triples = tables["triples"]
    train, test = (triples[triples["split"] == split] for split in ("train", "test"))
    leak = reverse_in_train(train, test)
    seen = np.unique(train[["head", "tail"]].to_numpy())
    unseen = ~(test["head"].isin(seen) & test["tail"].isin(seen)).to_numpy()

    def score(table: pd.DataFrame) -> Scores:
        return score_ranks(table, **chance)

    def compare(first: pd.DataFrame, second: pd.DataFrame) -> Difference:
        return mrr_difference(first, second, **chance)

    def break_down(expert: str) -> dict[str, pd.DataFrame]:
        return break_down_ranks(
            answers[expert], train, tables["relations"], leak=leak, has_images=has_images, **chance
        )

    def view(name: str, kept: np.ndarray, side: str = "both") -> View:
        parts = {
            expert: on_side(table[kept[table["triple"].to_numpy()]], side)
            for expert, table in answers.items()
        }
        return look_at(name, parts, int(kept.sum()), score, compare)

    answers = by_expert(predictions, reference)
    everything = np.ones(len(test), dtype=bool)
    sides = {
        "tail": view("asked for the tail", everything, "tail"),
        "head": view("asked for the head", everything, "head"),
    }
    parts = {
        "without_leaks": ("without leaking triples", ~leak),
        "unseen_entities": ("with an entity that train lacks", unseen),
    }
    return RankingEvaluation(
        reference=reference,
        names=names,
        metric=MRR,
        units="test triples",
        has_images=bool(has_images[test[["head", "tail"]].to_numpy()].any()),
        predictions=predictions,
        whole=view("all test triples", everything),
        added=added_by_mixture(answers, compare),
        views=sides
        | {key: view(name, kept) for key, (name, kept) in parts.items() if 0 < kept.mean() < 1},
        groups=groups_of_all(answers, break_down),
        raw=_mean_metrics(raw_view(answers[reference])),
        leak_share=float(leak.mean()),
        unseen_share=float(unseen.mean()),
    )


def _mean_metrics(predictions: pd.DataFrame) -> dict[str, float]:
    by_seed = pd.DataFrame([ranking_metrics(table) for _, table in predictions.groupby("seed")])
    return {str(key): float(value) for key, value in by_seed.mean().items()}
