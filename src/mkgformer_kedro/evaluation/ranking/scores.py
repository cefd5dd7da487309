"""Metrics of predictions tables with their intervals, and the difference between two."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.intervals import (
    RESAMPLES,
    Difference,
    Interval,
    Scores,
    bootstrap,
)
from mkgformer_kedro.evaluation.ranking.metrics import (
    SIDES,
    mean_average_precisions,
    on_side,
    rank_contributions,
    ranking_metrics,
    ranks_of,
)

_KEY = ["triple", "direction"]


def score_ranks(predictions: pd.DataFrame, *, seed: int, resamples: int = RESAMPLES) -> Scores:
    """Metrics of one expert's predictions with their intervals.

    Args:
        predictions: A predictions table (see ``predictions``) of one expert.
        seed: Seed of the resampling.
        resamples: Number of bootstrap samples.

    Returns:
        Means over seeds by PyKEEN's key and of the mean average precision, with the intervals of
        the realistic mean reciprocal rank, hits and mean rank.

    Raises:
        ValueError: If the table is empty, or its seeds cover different triples.
    """
    tables = dict(list(predictions.groupby("seed")))
    by_seed = pd.DataFrame.from_dict(
        {
            number: ranking_metrics(table) | mean_average_precisions(table)
            for number, table in tables.items()
        },
        orient="index",
    )
    if by_seed.empty:
        raise ValueError("no predictions to score")
    _require_balance(predictions)
    intervals: dict[str, Interval] = {}
    for side in SIDES:
        rows = on_side(predictions, side)
        if rows.empty:
            continue
        values = rank_contributions(ranks_of(rows))
        found = bootstrap(values, rows["triple"].to_numpy(), seed=seed, resamples=resamples)
        intervals |= {f"{side}.realistic.{name}": found[name] for name in found}
    metrics = {str(name): float(value) for name, value in by_seed.mean().items()}
    return Scores(metrics, intervals, by_seed)


def mrr_difference(
    first: pd.DataFrame, second: pd.DataFrame, *, seed: int, resamples: int = RESAMPLES
) -> Difference:
    """Compare two predictions tables of the same triples by mean reciprocal rank.

    Args:
        first: Predictions table of one expert.
        second: That of another, which covers the same triples and directions; its seeds may differ.
        seed: Seed of the resampling.
        resamples: Number of bootstrap samples.

    Returns:
        The paired difference of the means over seeds, first minus second, of realistic ranks, both
        sides.

    Raises:
        ValueError: If the two tables do not cover the same triples and directions.
    """
    means = [_mean_reciprocal_ranks(table) for table in (first, second)]
    if not means[0].index.equals(means[1].index):
        raise ValueError("the two predictions tables do not cover the same triples and directions")
    values = pd.DataFrame({"difference": means[0].to_numpy() - means[1].to_numpy()})
    triples = means[0].index.get_level_values("triple").to_numpy()
    interval = bootstrap(values, triples, seed=seed, resamples=resamples)["difference"]
    return Difference(float(values["difference"].mean()), interval)


def _mean_reciprocal_ranks(predictions: pd.DataFrame) -> pd.Series:
    """By triple and direction, in order; means over seeds."""
    _require_balance(predictions)
    reciprocal = predictions[_KEY].assign(value=1.0 / ranks_of(predictions))
    return reciprocal.groupby(_KEY)["value"].mean()


def _require_balance(predictions: pd.DataFrame) -> None:
    seeds = predictions["seed"].nunique()
    counts = predictions.groupby(_KEY).size().to_numpy()
    if not np.all(counts == seeds):
        raise ValueError("the seeds of an expert do not cover the same triples and directions")
