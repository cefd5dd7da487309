"""What the scores of relation extraction and entity recognition share.

Both are micro precision, recall and F1 of what a post holds: its relation, or its entities. They
are computed from a *counts* table, one row per answer of one expert:

=============  =====  =====================================================================
``seed``       int    seed of the expert
``post``       str    the post
``correct``    int    how much of what was predicted is right
``predicted``  int    how much was predicted
``gold``       int    how much there is to find
``right``      bool   optional: whether the answer as a whole is right; gives the accuracy
``answer``     any    optional: the answer, to compare it with another expert's
=============  =====  =====================================================================

Scores are means over seeds. Intervals resample the posts, each with the answers of all seeds.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.extraction.counts import METRICS, micro_scores
from mkgformer_kedro.evaluation.intervals import (
    RESAMPLES,
    Difference,
    Interval,
    Scores,
    interval_of,
    resampled_sums,
)

_COUNTS = ["correct", "predicted", "gold"]


def score_counts(counts: pd.DataFrame, *, seed: int, resamples: int = RESAMPLES) -> Scores:
    """Scores of a counts table with their intervals.

    Args:
        counts: A counts table. Several rows of one seed and post are added up.
        seed: Seed of the resampling.
        resamples: Number of bootstrap samples.

    Returns:
        ``precision``, ``recall``, ``f1`` and, where the counts say which answers are right,
        ``accuracy``: means over seeds with their intervals.

    Raises:
        ValueError: If the table is empty.
    """
    names = [*METRICS, *(["accuracy"] if "right" in counts else [])]
    seeds, _, summed = _by_post(counts)
    by_seed = pd.DataFrame(_measures(summed.sum(axis=0)), index=seeds, columns=names)
    samples = _resampled(summed, seed, resamples)
    return Scores(
        metrics={name: float(by_seed[name].mean()) for name in names},
        intervals={name: interval_of(samples[:, i]) for i, name in enumerate(names)},
        by_seed=by_seed,
    )


def f1_difference(
    first: pd.DataFrame, second: pd.DataFrame, *, seed: int, resamples: int = RESAMPLES
) -> Difference:
    """Compare two counts tables of the same posts by F1.

    Args:
        first: Counts table.
        second: Counts table that covers the same posts; its seeds may differ.
        seed: Seed of the resampling.
        resamples: Number of bootstrap samples.

    Returns:
        The paired difference of the means over seeds, first minus second.

    Raises:
        ValueError: If a table is empty or the two do not cover the same posts.
    """
    tables = [_by_post(counts[["seed", "post", *_COUNTS]]) for counts in (first, second)]
    if not tables[0][1].equals(tables[1][1]):
        raise ValueError("the two tables do not cover the same posts")
    f1 = METRICS.index("f1")
    # Equal seeds draw the same posts for both.
    means = [_measures(summed.sum(axis=0))[:, f1].mean() for _, _, summed in tables]
    samples = [_resampled(summed, seed, resamples)[:, f1] for _, _, summed in tables]
    return Difference(float(means[0] - means[1]), interval_of(samples[0] - samples[1]))


def count_groups(
    counts: pd.DataFrame, by: str, *, seed: int, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Score groups of a counts table.

    Args:
        counts: A counts table with the column to group by.
        by: That column; its missing values belong to no group.
        seed: Seed of the resampling; each group is resampled on its own.
        resamples: Number of bootstrap samples.

    Returns:
        One row per group that occurs, in order: ``group``, ``posts`` (those with a row in it),
        ``gold`` (what there is to find), ``precision``, ``recall``, ``f1``, and in ``low`` and
        ``high`` the 95 % interval of F1.
    """
    rows = []
    for group, members in counts.groupby(by, observed=True, sort=True):
        found = score_counts(members[["seed", "post", *_COUNTS]], seed=seed, resamples=resamples)
        rows.append(
            {
                "group": str(group),
                "posts": members["post"].nunique(),
                "gold": int(members.groupby("seed")["gold"].sum().max()),
                **found.metrics,
                **found.intervals["f1"]._asdict(),
            }
        )
    return pd.DataFrame(rows, columns=["group", "posts", "gold", *METRICS, *Interval._fields])


def same_answers(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Share of the answers that two experts have in common.

    Args:
        first: Counts table with the column ``answer``.
        second: Likewise, of the same posts. Answers of the same seed are compared, and where the
            two do not have the same seeds, all with all.
    """
    paired = set(first["seed"]) == set(second["seed"])
    key = ["seed", "post"] if paired else ["post"]
    answers = first.merge(second, on=key, suffixes=("", "_other"))
    pairs = zip(answers["answer"], answers["answer_other"], strict=True)
    return float(np.mean([one == other for one, other in pairs]))


def _by_post(counts: pd.DataFrame) -> tuple[pd.Index, pd.Index, np.ndarray]:
    """Seeds, posts, and counts ``(posts, seeds, columns)``.

    Columns are correct, predicted and gold; with ``right`` also right answers and all answers.
    """
    if counts.empty:
        raise ValueError("no predictions to score")
    columns = counts[["seed", "post", *_COUNTS]]
    if "right" in counts:
        columns = columns.assign(right=counts["right"].astype(np.int64), answers=1)
    summed = columns.groupby(["post", "seed"]).sum()
    seeds, posts = (
        pd.Index(np.unique(counts[name].to_numpy()), name=name) for name in ("seed", "post")
    )
    # A group may hold a post with some seeds only: the others predicted nothing of it.
    every = pd.MultiIndex.from_product([posts, seeds])
    values = summed.reindex(every, fill_value=0).to_numpy(np.float64)
    return seeds, posts, values.reshape(len(posts), len(seeds), -1)


def _measures(sums: np.ndarray) -> np.ndarray:
    """Metrics ``(..., 3 or 4)`` of summed columns ``(..., 3 or 5)``."""
    scores = micro_scores(sums[..., :3])
    if sums.shape[-1] == 3:
        return scores
    accuracy = sums[..., 3:4] / sums[..., 4:5]
    return np.concatenate([scores, accuracy], axis=-1)


def _resampled(summed: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Metrics of bootstrap samples of the posts, means over seeds: ``(resamples, metrics)``."""
    posts, seeds, columns = summed.shape
    sums = resampled_sums(summed.reshape(posts, -1), seed=seed, resamples=resamples)
    return _measures(sums.reshape(resamples, seeds, columns)).mean(axis=1)
