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
from mkgformer_kedro.evaluation.verdicts import Verdict, baseline_verdict, images_verdict

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
    """The model beside itself without images and beside the popularity baseline.

    Attributes:
        model: The model.
        without_images: The same model, without images.
        popularity: The popularity baseline.
        raw: Metrics of the model's raw ranks, by PyKEEN's key.
        against_popularity: MRR of the model minus that of the popularity baseline.
        against_no_images: MRR of the model minus its MRR without images.
        leak_share: Share of test triples whose reverse pair is in train.
        groups: Tables of ``breakdown.drill_down`` for the model.
    """

    model: Assessment
    without_images: Assessment
    popularity: Assessment
    raw: Mapping[str, float]
    against_popularity: Difference
    against_no_images: Difference
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
    def images_verdict(self) -> Verdict:
        """Whether images help the model."""
        return images_verdict(
            "MRR",
            "test triples",
            (self.model.scores.metrics[MRR], self.without_images.scores.metrics[MRR]),
            self.against_no_images,
        )


def evaluate_link_prediction(
    model: pd.DataFrame,
    without_images: pd.DataFrame,
    popularity: pd.DataFrame,
    train: pd.DataFrame,
    *,
    leak: np.ndarray,
    has_images: np.ndarray,
    seed: int,
    resamples: int = RESAMPLES,
) -> LinkPredictionEvaluation:
    """Score three predictions tables of the same triples and compare them.

    Args:
        model: Predictions of the model.
        without_images: Predictions of the same model without images.
        popularity: Predictions of the popularity baseline.
        train: Training triples: integer columns ``head``, ``relation``, ``tail``.
        leak: Whether train holds the reverse of a test triple, ``(triples,)``.
        has_images: Whether an entity has images, ``(entities,)``.
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
        without_images=assess(without_images),
        popularity=assess(popularity),
        raw=ranking_metrics(raw_view(model)),
        against_popularity=mrr_difference(model, popularity, seed=seed, resamples=resamples),
        against_no_images=mrr_difference(model, without_images, seed=seed, resamples=resamples),
        leak_share=float(leak.mean()),
        groups=drill_down(
            model, train, leak=leak, has_images=has_images, seed=seed, resamples=resamples
        ),
    )
