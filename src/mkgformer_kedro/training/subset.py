"""A part of the train split, drawn without replacement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from mkgformer_kedro.training.parameters import TrainSubset


def draw_subset(groups: Sequence[Iterable[Hashable]], subset: TrainSubset, seed: int) -> np.ndarray:
    """Choose items; of two subsets with the same seed the larger one holds the smaller one.

    The items are put into a random order. A share is the beginning of it; ``shots`` are the first
    so many items of each group, so that a group has fewer only where there are no more.

    Args:
        groups: What each item counts for: its relation, or the types that it names.
        subset: How many are chosen.
        seed: Seed of the order.

    Returns:
        Bool ``(items,)``: which are chosen.
    """
    order = np.random.default_rng(seed).permutation(len(groups))
    chosen = np.zeros(len(groups), dtype=bool)
    if subset.share is not None:
        chosen[order[: max(1, round(subset.share * len(groups)))]] = True
        return chosen
    shots, seen = subset.shots or 0, Counter[Hashable]()
    for item in order:
        of_item = set(groups[item])
        chosen[item] = any(seen[group] < shots for group in of_item)
        seen.update(of_item)
    return chosen
