"""All that is said about a link prediction model, from three predictions tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.breakdown import drill_down
from mkgformer_kedro.evaluation.intervals import (
    RESAMPLES,
    Difference,
    Scores,
    mrr_difference,
    score,
)
from mkgformer_kedro.evaluation.metrics import ranking_metrics
from mkgformer_kedro.evaluation.predictions import raw_view
from mkgformer_kedro.evaluation.verdicts import Verdict, baseline_verdict, pictures_verdict

MRR = "both.realistic.inverse_harmonic_mean_rank"


@dataclass(frozen=True)
class Assessment:
    """One predictions table and its scores.

    Attributes:
        predictions: The table.
        scores: Scores of all test triples.
        without_leaks: Scores of the triples whose reverse pair is not in train; None where no
            triple leaks or every one does.
    """

    predictions: pd.DataFrame
    scores: Scores
    without_leaks: Scores | None


@dataclass(frozen=True)
class LinkPredictionEvaluation:
    """The model beside itself without pictures and beside the popularity baseline.

    Attributes:
        model: The model.
        without_pictures: The same model, pictures withheld.
        popularity: The popularity baseline.
        raw: Metrics of the model's raw ranks, by PyKEEN's key.
        against_popularity: MRR of the model minus that of the popularity baseline.
        against_no_pictures: MRR of the model minus its MRR with pictures withheld.
        leak_share: Share of test triples whose reverse pair is in train.
        groups: Tables of ``breakdown.drill_down`` for the model.
    """

    model: Assessment
    without_pictures: Assessment
    popularity: Assessment
    raw: Mapping[str, float]
    against_popularity: Difference
    against_no_pictures: Difference
    leak_share: float
    groups: Mapping[str, pd.DataFrame]

    @property
    def popularity_verdict(self) -> Verdict:
        """Whether the model beats the popularity baseline on MRR."""
        return baseline_verdict(
            "MRR",
            "the popularity baseline",
            (self.model.scores.metrics[MRR], self.popularity.scores.metrics[MRR]),
            self.against_popularity,
        )

    @property
    def pictures_verdict(self) -> Verdict:
        """Whether pictures help the model."""
        return pictures_verdict(
            "MRR",
            "test triples",
            (self.model.scores.metrics[MRR], self.without_pictures.scores.metrics[MRR]),
            self.against_no_pictures,
        )


def evaluate_link_prediction(
    model: pd.DataFrame,
    without_pictures: pd.DataFrame,
    popularity: pd.DataFrame,
    train: pd.DataFrame,
    *,
    leak: np.ndarray,
    has_pictures: np.ndarray,
    seed: int,
    resamples: int = RESAMPLES,
) -> LinkPredictionEvaluation:
    """Score three predictions tables of the same triples and compare them.

    Args:
        model: Predictions of the model.
        without_pictures: Predictions of the same model with pictures withheld.
        popularity: Predictions of the popularity baseline.
        train: Training triples: integer columns ``head``, ``relation``, ``tail``.
        leak: Whether train holds the reverse of a test triple, ``(triples,)``.
        has_pictures: Whether an entity has pictures, ``(entities,)``.
        seed: Seed of every resampling.
        resamples: Number of bootstrap samples.

    Returns:
        Scores, comparisons and groups.

    Raises:
        ValueError: If the tables are empty or cover different triples.
    """

    def assess(predictions: pd.DataFrame) -> Assessment:
        scores = score(predictions, seed=seed, resamples=resamples)
        if not 0 < leak.mean() < 1:
            return Assessment(predictions, scores, None)
        kept = predictions[~leak[predictions["triple"].to_numpy()]]
        return Assessment(predictions, scores, score(kept, seed=seed, resamples=resamples))

    return LinkPredictionEvaluation(
        model=assess(model),
        without_pictures=assess(without_pictures),
        popularity=assess(popularity),
        raw=ranking_metrics(raw_view(model)),
        against_popularity=mrr_difference(model, popularity, seed=seed, resamples=resamples),
        against_no_pictures=mrr_difference(model, without_pictures, seed=seed, resamples=resamples),
        leak_share=float(leak.mean()),
        groups=drill_down(
            model, train, leak=leak, has_pictures=has_pictures, seed=seed, resamples=resamples
        ),
    )
