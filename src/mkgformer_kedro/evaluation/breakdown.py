"""Where the score comes from: the predictions table cut along the graph's own lines."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.graph import (
    entity_frequency,
    frequency_bins,
    relation_categories,
)
from mkgformer_kedro.evaluation.intervals import RESAMPLES, bootstrap
from mkgformer_kedro.evaluation.metrics import rank_contributions, ranks_of

_GROUPS = {
    "category": ["category", "direction"],
    "frequency": ["frequency"],
    "entity_images": ["entity_images"],
    "answer_images": ["answer_images"],
    "leak": ["leak"],
    "relation": ["relation"],
}


def drill_down(
    predictions: pd.DataFrame,
    train: pd.DataFrame,
    *,
    leak: np.ndarray,
    has_images: np.ndarray,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, pd.DataFrame]:
    """Score the predictions group by group.

    Args:
        predictions: A predictions table.
        train: Training triples: integer columns ``head``, ``relation``, ``tail``.
        leak: Whether train holds the reverse of a test triple, ``(triples,)``, indexed by the
            predictions' ``triple``.
        has_images: Whether an entity has images, ``(entities,)``.
        seed: Seed of the resampling behind the intervals.
        resamples: Number of bootstrap samples.

    Returns:
        Tables as ``break_down`` makes them: ``category`` (relation category and direction),
        ``frequency`` (of the answer in train), ``entity_images`` (of the known entity),
        ``answer_images``, ``leak`` and ``relation``.
    """
    categories = relation_categories(train)
    frequency = entity_frequency(train, len(has_images))
    answers = predictions["answer"].to_numpy()
    annotated = predictions.assign(
        category=predictions["relation"].map(categories).fillna("not in train"),
        frequency=frequency_bins(frequency[answers]),
        entity_images=has_images[predictions["entity"].to_numpy()],
        answer_images=has_images[answers],
        leak=leak[predictions["triple"].to_numpy()],
    )
    return {
        name: break_down(annotated, by, seed=seed, resamples=resamples)
        for name, by in _GROUPS.items()
    }


def break_down(
    predictions: pd.DataFrame, by: list[str], *, seed: int, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Score groups of predictions.

    Args:
        predictions: A predictions table with the columns to group by.
        by: Columns that make a group.
        seed: Seed of the resampling; each group is resampled on its own.
        resamples: Number of bootstrap samples.

    Returns:
        One row per group that occurs: the columns of ``by``, ``count``,
        ``inverse_harmonic_mean_rank`` with its 95 % interval in ``low`` and ``high``, and
        ``hits_at_1``, ``hits_at_3``, ``hits_at_10``, all of realistic ranks.
    """
    rows = []
    for group, members in predictions.groupby(by, observed=True, sort=True):
        values = rank_contributions(ranks_of(members)).drop(columns="arithmetic_mean_rank")
        interval = bootstrap(
            values[["inverse_harmonic_mean_rank"]],
            members["triple"].to_numpy(),
            seed=seed,
            resamples=resamples,
        )["inverse_harmonic_mean_rank"]
        rows.append(
            dict(zip(by, group, strict=True))
            | {"count": len(members)}
            | values.mean().to_dict()
            | interval._asdict()
        )
    return pd.DataFrame(rows)
