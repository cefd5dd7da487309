"""95 % percentile bootstrap intervals (Efron, 1979), over triples or posts.

In link prediction what is resampled is the test triple, with both of its directions together: they
are two readings of one fact, and treating them as independent would make intervals too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.metrics import (
    SIDES,
    on_side,
    rank_contributions,
    ranking_metrics,
    ranks_of,
)

CONFIDENCE = 0.95
RESAMPLES = 1000
_CELLS_PER_CHUNK = 4_000_000


class Interval(NamedTuple):
    """Ends of a confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """Metrics of a predictions table.

    Attributes:
        metrics: Values by PyKEEN's key.
        intervals: 95 % intervals of the realistic mean reciprocal rank, hits and mean rank, under
            the same keys.
    """

    metrics: dict[str, float]
    intervals: dict[str, Interval]


@dataclass(frozen=True)
class Difference:
    """How far one set of predictions is ahead of another on the same test set.

    Attributes:
        value: First minus second.
        interval: 95 % interval of the difference, both resampled alike (paired).
    """

    value: float
    interval: Interval

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.interval.low > 0 or self.interval.high < 0


def score(predictions: pd.DataFrame, *, seed: int, resamples: int = RESAMPLES) -> Scores:
    """Metrics of a predictions table with their intervals.

    Args:
        predictions: A predictions table (see ``predictions``).
        seed: Seed of the resampling.
        resamples: Number of bootstrap samples.

    Returns:
        Metrics and intervals.
    """
    metrics = ranking_metrics(predictions)
    intervals: dict[str, Interval] = {}
    for side in SIDES:
        rows = on_side(predictions, side)
        if rows.empty:
            continue
        values = rank_contributions(ranks_of(rows))
        found = bootstrap(values, rows["triple"].to_numpy(), seed=seed, resamples=resamples)
        intervals |= {f"{side}.realistic.{name}": found[name] for name in found}
    return Scores(metrics, intervals)


def mrr_difference(
    first: pd.DataFrame, second: pd.DataFrame, *, seed: int, resamples: int = RESAMPLES
) -> Difference:
    """Compare two predictions tables of the same triples by mean reciprocal rank.

    Args:
        first: Predictions table.
        second: Predictions table that covers the same triples and directions.
        seed: Seed of the resampling.
        resamples: Number of bootstrap samples.

    Returns:
        The paired difference, first minus second, of realistic ranks, both sides.

    Raises:
        ValueError: If the two tables do not cover the same triples and directions.
    """
    ordered = [table.sort_values(["triple", "direction"]) for table in (first, second)]
    covered = [table[["triple", "direction"]].reset_index(drop=True) for table in ordered]
    if not covered[0].equals(covered[1]):
        raise ValueError("the two predictions tables do not cover the same triples and directions")
    reciprocal = [1.0 / ranks_of(table) for table in ordered]
    values = pd.DataFrame({"difference": reciprocal[0] - reciprocal[1]})
    triples = covered[0]["triple"].to_numpy()
    interval = bootstrap(values, triples, seed=seed, resamples=resamples)["difference"]
    return Difference(float(values["difference"].mean()), interval)


def bootstrap(
    values: pd.DataFrame, triples: np.ndarray, *, seed: int, resamples: int = RESAMPLES
) -> dict[str, Interval]:
    """Percentile intervals of column means, resampling whole triples.

    Args:
        values: One row per prediction, one column per quantity whose mean is wanted.
        triples: The triple of each row, ``(len(values),)``; rows of one triple stay together.
        seed: Seed of the resampling.
        resamples: Number of bootstrap samples.

    Returns:
        Interval by column.
    """
    _, cluster = np.unique(triples, return_inverse=True)
    sums = np.stack(
        [np.bincount(cluster, weights=values[name]) for name in values]
        + [np.bincount(cluster).astype(np.float64)],
        axis=1,
    )
    totals = resampled_sums(sums, seed=seed, resamples=resamples)
    means = totals[:, :-1] / totals[:, -1:]
    return {
        str(name): interval_of(column) for name, column in zip(values.columns, means.T, strict=True)
    }


def resampled_sums(values: np.ndarray, *, seed: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Column sums of bootstrap samples of the rows.

    Args:
        values: ``(rows, columns)``, one row per thing that is resampled.
        seed: Seed of the resampling; the same seed and number of rows draw the same samples.
        resamples: Number of bootstrap samples.

    Returns:
        Array ``(resamples, columns)``.
    """
    generator = np.random.default_rng(seed)
    count = len(values)
    totals = []
    chunk = max(1, _CELLS_PER_CHUNK // count)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = generator.integers(count, size=(size, count))
        drawn += np.arange(size)[:, None] * count
        times_drawn = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        totals.append(times_drawn.astype(np.float64) @ values)
    return np.concatenate(totals)


def interval_of(samples: np.ndarray) -> Interval:
    """The 95 % percentile interval of bootstrap samples ``(resamples,)`` of one quantity."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Interval(float(low), float(high))
