"""Ranking metrics under the names and definitions of PyKEEN.

A key is ``side.rank_type.metric``, such as ``both.realistic.hits_at_10``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.ranking.tables import QUERY

SIDES = ("head", "tail", "both")
RANK_TYPES = ("optimistic", "realistic", "pessimistic")
HITS_AT = (1, 3, 10)
HEADLINE = "both.realistic."
"""What keys of the scores that a run is told by begin with."""
HEADLINE_MRR = f"{HEADLINE}inverse_harmonic_mean_rank"


def ranks_of(predictions: pd.DataFrame, rank_type: str = "realistic") -> np.ndarray:
    """Ranks of one type as floats; the realistic rank is the mean of the two others.

    Args:
        predictions: A frame with ``rank_optimistic`` and ``rank_pessimistic``.
        rank_type: ``optimistic``, ``realistic`` or ``pessimistic``.

    Returns:
        Array ``(len(predictions),)``.
    """
    if rank_type == "realistic":
        ends = predictions[["rank_optimistic", "rank_pessimistic"]]
        return ends.to_numpy(np.float64).mean(axis=1)
    return predictions[f"rank_{rank_type}"].to_numpy(np.float64)


def rank_contributions(ranks: np.ndarray) -> pd.DataFrame:
    """What each rank adds to the metrics that are plain means.

    Args:
        ranks: Ranks from 1.

    Returns:
        One row per rank; columns ``inverse_harmonic_mean_rank`` (the reciprocal rank),
        ``hits_at_1``, ``hits_at_3``, ``hits_at_10`` and ``arithmetic_mean_rank``.
    """
    hits = {f"hits_at_{k}": (ranks <= k).astype(np.float64) for k in HITS_AT}
    return pd.DataFrame(
        {"inverse_harmonic_mean_rank": 1.0 / ranks, **hits, "arithmetic_mean_rank": ranks}
    )


def mean_average_precisions(predictions: pd.DataFrame) -> dict[str, float]:
    """By side, the mean over the distinct queries of the average precision of their answers.

    It suits queries with many answers, of which at most one can come first: the precision at each
    answer's place, where other answers of the split stand before it, is averaged over the answers.
    Answers of other splits are left out, as in filtered ranks; ties count half (realistic ranks).

    Args:
        predictions: A predictions table of one expert and seed: ``direction``, ``entity``,
            ``relation``, and the filtered ranks.

    Returns:
        ``<side>.realistic.mean_average_precision``; a side without a single row is left out.
    """
    ordered = predictions[QUERY].assign(rank=ranks_of(predictions)).sort_values("rank")
    queries = ordered.groupby(QUERY, sort=False)
    place = queries.cumcount() + 1
    # A filtered rank does not count the other answers; those before this one are place - 1.
    precision = place / (ordered["rank"] + place - 1)
    by_query = precision.groupby([ordered[name] for name in QUERY]).mean().reset_index(name="value")
    return {
        f"{side}.realistic.mean_average_precision": float(rows["value"].mean())
        for side in SIDES
        if len(rows := on_side(by_query, side))
    }


def ranking_metrics(predictions: pd.DataFrame) -> dict[str, float]:
    """Score a predictions table.

    The adjusted mean rank index is 1 for a perfect ranking and 0 for a random one: with mean rank
    MR and expected mean rank E = mean((candidates + 1) / 2), it is (MR - E) / (1 - E); Berrendorf
    et al. (2020). It is defined for realistic ranks alone.

    Args:
        predictions: A frame with ``direction``, ``rank_optimistic``, ``rank_pessimistic`` and
            ``candidates``.

    Returns:
        Metrics by PyKEEN's key. A side without a single row is left out.

    Raises:
        ValueError: If the frame is empty.
    """
    if predictions.empty:
        raise ValueError("no predictions to score")
    metrics: dict[str, float] = {}
    for side in SIDES:
        rows = on_side(predictions, side)
        if rows.empty:
            continue
        for rank_type in RANK_TYPES:
            means = rank_contributions(ranks_of(rows, rank_type)).mean()
            for name, value in means.items():
                metrics[f"{side}.{rank_type}.{name}"] = float(value)
            metrics[f"{side}.{rank_type}.count"] = float(len(rows))
        mean_rank = metrics[f"{side}.realistic.arithmetic_mean_rank"]
        expected = (rows["candidates"].to_numpy(np.float64).mean() + 1) / 2
        metrics[f"{side}.realistic.adjusted_arithmetic_mean_rank_index"] = (
            float((mean_rank - expected) / (1 - expected)) if expected > 1 else 0.0
        )
    return metrics


def on_side(predictions: pd.DataFrame, side: str) -> pd.DataFrame:
    """The rows of one direction, or all rows for ``both``."""
    return predictions if side == "both" else predictions[predictions["direction"] == side]


def raw_view(predictions: pd.DataFrame) -> pd.DataFrame:
    """The same table with the raw ranks in the place of the filtered ones."""
    filtered = ["rank_optimistic", "rank_pessimistic", "candidates"]
    return predictions.drop(columns=filtered).rename(columns={f"raw_{c}": c for c in filtered})
