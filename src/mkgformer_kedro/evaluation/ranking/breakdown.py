"""Where the score comes from: predictions broken down along the graph's own lines."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.intervals import RESAMPLES, bootstrap
from mkgformer_kedro.evaluation.ranking.graph import (
    entity_frequency,
    frequency_bins,
    relation_categories,
)
from mkgformer_kedro.evaluation.ranking.metrics import rank_contributions, ranks_of

_WITH, _WITHOUT = "with images", "without images"
_LEAK, _NO_LEAK = "reverse in train", "reverse not in train"


def break_down_ranks(
    predictions: pd.DataFrame,
    train: pd.DataFrame,
    relations: pd.DataFrame,
    *,
    leak: np.ndarray,
    has_images: np.ndarray,
    seed: int,
    resamples: int = RESAMPLES,
) -> dict[str, pd.DataFrame]:
    """Score the predictions of one expert group by group.

    Args:
        predictions: A predictions table of one expert.
        train: Training triples: integer columns ``head``, ``relation``, ``tail``.
        relations: Table ``relations``: the relations' names.
        leak: Whether train holds the reverse of a test triple, ``(triples,)``, indexed by the
            predictions' ``triple``.
        has_images: Whether an entity has images, ``(entities,)``.
        seed: Seed of the resampling behind the intervals.
        resamples: Number of bootstrap samples.

    Returns:
        Tables as ``rank_groups`` makes them, by what the groups have in common: ``category``
        (relation category and direction), ``frequency`` (of the answer in train),
        ``entity_images`` (of the known entity), ``answer_images``, ``leak`` and ``relation``.
    """
    categories = predictions["relation"].map(relation_categories(train)).fillna("not in train")
    frequency = entity_frequency(train, len(has_images))
    answers = predictions["answer"].to_numpy()
    leaking = leak[predictions["triple"].to_numpy()]
    groups = {
        "category": categories + " " + predictions["direction"],
        "frequency": frequency_bins(frequency[answers]),
        "entity_images": _either(has_images[predictions["entity"].to_numpy()], _WITH, _WITHOUT),
        "answer_images": _either(has_images[answers], _WITH, _WITHOUT),
        "leak": _either(leaking, _LEAK, _NO_LEAK),
        "relation": pd.Categorical.from_codes(
            predictions["relation"], relations["relation"], ordered=True
        ),
    }
    return {
        by: rank_groups(predictions.assign(group=group), seed=seed, resamples=resamples)
        for by, group in groups.items()
    }


def rank_groups(
    predictions: pd.DataFrame, *, seed: int, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Score groups of predictions of one expert.

    Args:
        predictions: A predictions table of one expert, with the column ``group``.
        seed: Seed of the resampling; each group is resampled on its own.
        resamples: Number of bootstrap samples.

    Returns:
        One row per group that occurs, in order: ``group``, ``count`` (answers asked for),
        ``inverse_harmonic_mean_rank``, ``hits_at_1``, ``hits_at_3``, ``hits_at_10``, all of
        realistic ranks, and in ``low`` and ``high`` the 95 % interval of the first.
    """
    rows = []
    for group, members in predictions.groupby("group", observed=True, sort=True):
        values = rank_contributions(ranks_of(members)).drop(columns="arithmetic_mean_rank")
        interval = bootstrap(
            values[["inverse_harmonic_mean_rank"]],
            members["triple"].to_numpy(),
            seed=seed,
            resamples=resamples,
        )["inverse_harmonic_mean_rank"]
        rows.append(
            {"group": str(group), "count": len(members) // members["seed"].nunique()}
            | values.mean().to_dict()
            | interval._asdict()
        )
    return pd.DataFrame(rows)


def _either(condition: np.ndarray, yes: str, no: str) -> pd.Categorical:
    codes = np.where(condition, 0, 1)
    return pd.Categorical.from_codes(codes, [yes, no], ordered=True)
