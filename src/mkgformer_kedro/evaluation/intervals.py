"""95 % percentile bootstrap intervals (Efron, 1979), over triples or posts.

What is resampled is the test triple or the test post, with all that was answered about it: both
directions of a triple are two readings of one fact, and the answers of several seeds are answers to
one question, so that treating them as independent would make intervals too narrow. Intervals say
how much another test set would change a score, not how much another seed would.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

CONFIDENCE = 0.95
RESAMPLES = 1000
_CELLS_PER_CHUNK = 4_000_000


class Interval(NamedTuple):
    """Ends of a confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """Scores of an expert with one or several seeds.

    Attributes:
        metrics: Mean of each metric over the seeds.
        intervals: 95 % intervals of some of these means, over triples or posts.
        by_seed: The metrics (columns) of each seed (the index).
    """

    metrics: dict[str, float]
    intervals: dict[str, Interval]
    by_seed: pd.DataFrame

    @property
    def deviations(self) -> dict[str, float]:
        """Sample standard deviation of each metric over seeds; empty where there is one seed."""
        if len(self.by_seed) < 2:
            return {}
        return {str(name): float(value) for name, value in self.by_seed.std(ddof=1).items()}


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
