"""Whether what a model is said to look at decides: deletion test and pointing game.

The deletion test (after RISE, https://arxiv.org/abs/1806.07421) takes away the patches of highest
weight and sees whether the answer changes; random patches, as many, say how much that is worth. The
pointing game (https://arxiv.org/abs/1608.00507) knows where in an image the answer stands, and sees
whether the patch of highest weight lies there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.intervals import Difference, Interval, bootstrap
from mkgformer_kedro.evaluation.verdicts import Verdict, described_difference, percent

Way = Literal["correlation", "attention", "gradient"]
"""What gives a patch its weight: how similar the tokens of interest are to it (CAF), how much of
its attention goes to the text (PGI's lambda), or how much the answer hangs on its pixels."""
WAYS: tuple[Way, ...] = get_args(Way)
RANDOM = "random"

Quarter = Literal["upper_left", "upper_right", "lower_left", "lower_right"]
"""A quarter of an image."""


def highest(
    weights: np.ndarray, present: np.ndarray, share: float, draws: np.ndarray
) -> np.ndarray:
    """The patches of highest weight.

    Args:
        weights: ``(n, patches)``.
        present: ``(n, patches)`` bool, whether there is such a patch.
        share: Share of a row's patches to take, rounded, at least one.
        draws: ``(n, patches)``, which of equal weights is taken first: the higher.

    Returns:
        ``(n, patches)`` bool.
    """
    order = np.lexsort((-draws, np.where(present, -weights, np.inf)), axis=1)
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(order.shape[1])[None], axis=1)
    taken = np.maximum(1, np.round(share * present.sum(axis=1)))
    return present & (place < taken[:, None])


def quarter_of(quarter: Quarter, sides: Sequence[int]) -> np.ndarray:
    """The patches of a quarter of each image.

    Args:
        quarter: Which one.
        sides: Patches along the side of each image, ``(images,)``.

    Returns:
        ``(patches,)`` bool, image by image and row by row. Of grids of odd sides the middle belongs
        to no quarter.
    """
    lower, right = quarter.startswith("lower"), quarter.endswith("right")
    grids = []
    for side in sides:
        place = np.arange(side) - (side - 1) / 2
        rows, columns = (place > 0 if far else place < 0 for far in (lower, right))
        grids.append((rows[:, None] & columns).ravel())
    return np.concatenate(grids)


def points_into(weights: np.ndarray, present: np.ndarray, region: np.ndarray) -> np.ndarray:
    """How much of the highest weight lies in a region: all or nothing, but for equal weights.

    Args:
        weights: ``(n, patches)``.
        present: ``(n, patches)`` bool, whether there is such a patch; at least one in each row.
        region: ``(n, patches)`` bool.

    Returns:
        ``(n,)``: the share of the patches of highest weight that lie there, so that weights which
        are all the same point to it by chance.
    """
    among = np.where(present, weights, -np.inf)
    first = among == among.max(axis=1, keepdims=True)
    return (first & region).sum(axis=1) / first.sum(axis=1)


def deletion_scores(changes: pd.DataFrame, *, seed: int, resamples: int) -> list[dict[str, Any]]:
    """How often answers change when patches are taken away.

    Args:
        changes: A row per question and share of the patches: ``question``, ``group`` (None: no
            group), ``share``, and bool columns: whether the answer changed without the highest
            patches by each of the ``WAYS``, and without ``random`` ones.
        seed: Seed of the resampling.
        resamples: Bootstrap samples behind each interval.

    Returns:
        For each group, the whole first, and share: ``group``, ``count``, ``share``, by each way
        and ``random`` the ``value`` and its interval (``low``, ``high``), and by each way
        ``minus_random``, likewise.
    """
    groups = [("all", changes), *changes.groupby("group")]
    scores = []
    for group, rows in groups:
        for share, part in rows.groupby("share"):
            values = part[[*WAYS, RANDOM]].astype(float)
            for way in WAYS:
                values[f"{way} minus random"] = values[way] - values[RANDOM]
            measured = _measured(values, part["question"], seed, resamples)
            found: dict[str, Any] = {name: measured[name] for name in (*WAYS, RANDOM)}
            for way in WAYS:
                found[way] |= {"minus_random": measured[f"{way} minus random"]}
            scores.append({"group": group, "count": len(part), "share": share, **found})
    return scores


def pointing_scores(hits: pd.DataFrame, *, seed: int, resamples: int) -> list[dict[str, Any]]:
    """How often the patch of highest weight lies where the answer stands.

    Args:
        hits: A row per question: ``question``, ``relation``, ``chance`` (the region's share of the
            patches), and for each of the ``WAYS`` what :func:`points_into` gives.
        seed: Seed of the resampling.
        resamples: Bootstrap samples behind each interval.

    Returns:
        For all relations together and then each: ``relation``, ``count``, ``chance``, and by each
        way ``value``, ``low``, ``high``.
    """
    scores = []
    for relation, rows in [("all", hits), *hits.groupby("relation")]:
        measured = _measured(rows[[*WAYS]].astype(float), rows["question"], seed, resamples)
        chance = float(rows["chance"].mean())
        scores.append({"relation": relation, "count": len(rows), "chance": chance, **measured})
    return scores


def verdicts(deletion: Sequence[Mapping[str, Any]]) -> list[Verdict]:
    """Plain sentences about what decides, one for each way, at the smallest share.

    Args:
        deletion: What :func:`deletion_scores` gives.
    """
    found = []
    for way in WAYS if deletion else ():
        first = deletion[0]
        more = first[way]["minus_random"]
        difference = Difference(more["value"], Interval(more["low"], more["high"]))
        figures = (
            f"without {percent(first['share'])} of the patches {percent(first[way]['value'])} of "
            f"the answers change, against {percent(first[RANDOM]['value'])} without as many random "
            f"ones, a difference of {described_difference(difference)}"
        )
        if not difference.is_clear:
            text = f"Nothing shows that what {NAMES[way]} marks decides: {figures}."
            found.append(Verdict(text, "open"))
        elif difference.value > 0:
            found.append(Verdict(f"What {NAMES[way]} marks decides: {figures}.", "good"))
        else:
            text = f"What {NAMES[way]} marks decides less than other patches: {figures}."
            found.append(Verdict(text, "bad"))
    return found


NAMES: Mapping[str, str] = {
    "correlation": "the correlation with the tokens of interest (CAF)",
    "attention": "the attention to the text (PGI's lambda)",
    "gradient": "the gradient",
}
"""What the ways are called in a sentence."""


def _measured(
    values: pd.DataFrame, questions: pd.Series, seed: int, resamples: int
) -> dict[str, dict[str, float]]:
    """Mean of each column with its interval."""
    intervals = bootstrap(values, questions.to_numpy(), seed=seed, resamples=resamples)
    return {
        str(name): {"value": float(values[name].mean()), **intervals[str(name)]._asdict()}
        for name in values
    }
