"""Plain sentences about comparisons, the same for every task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd

from mkgformer_kedro.evaluation.intervals import Difference

# Differences are shown with three digits: what rounds to zero is no news.
_SHOWN = 0.0005


@dataclass(frozen=True)
class Verdict:
    """A plain sentence about a comparison.

    Attributes:
        text: The sentence.
        outcome: Whether it is good news, bad news, or neither.
    """

    text: str
    outcome: Literal["good", "bad", "open"]


def _verdict(difference: Difference, *, good: str, bad: str, unclear: str, small: str) -> Verdict:
    """News only where the interval leaves out zero, and the difference can be seen."""
    if not difference.is_clear:
        return Verdict(unclear, "open")
    if abs(difference.value) < _SHOWN:
        return Verdict(small, "open")
    return Verdict(good, "good") if difference.value > 0 else Verdict(bad, "bad")


def baseline_verdict(
    metric: str, expert: str, baseline: str, scores: tuple[float, float], difference: Difference
) -> Verdict:
    """Whether an expert beats a baseline.

    Args:
        metric: Name of the metric.
        expert: Name of the expert, as in "model".
        baseline: Name of the baseline, as in "the popularity baseline".
        scores: The expert's score and the baseline's.
        difference: The first minus the second.

    Returns:
        A sentence that is good news only where the interval leaves out zero.
    """
    figures = (
        f"{scores[0]:.3f} against {scores[1]:.3f}, a difference of "
        f"{described_difference(difference)}"
    )
    return _verdict(
        difference,
        good=f"The {expert} beats {baseline} on {metric}: {figures}.",
        bad=f"The {expert} is behind {baseline} on {metric}: {figures}.",
        unclear=f"The {expert} is not clearly better or worse than {baseline} on {metric}: "
        f"{figures}.",
        small=f"The {expert} is hardly better or worse than {baseline} on {metric}: {figures}.",
    )


def mixture_verdict(
    metric: str, best: str, scores: tuple[float, float], difference: Difference
) -> Verdict:
    """Whether a mixture is worth more than the best of its experts.

    Args:
        metric: Name of the metric.
        best: Name of the expert with the best score.
        scores: The mixture's score and that expert's.
        difference: The first minus the second.
    """
    figures = (
        f"{metric} is {scores[0]:.3f} against {scores[1]:.3f} of {best}, "
        f"a difference of {described_difference(difference)}"
    )
    return _verdict(
        difference,
        good=f"The mixture is better than its best expert alone: {figures}.",
        bad=f"The mixture is worse than its best expert alone: {figures}.",
        unclear=f"The mixture adds nothing that is clear: {figures}.",
        small=f"The mixture makes hardly any difference: {figures}.",
    )


def images_verdict(
    metric: str, units: str, scores: tuple[float, float], difference: Difference
) -> Verdict:
    """Whether images help a model.

    Args:
        metric: Name of the metric.
        units: What was tested, as in "test triples".
        scores: The score with images and that without images.
        difference: The first minus the second.
    """
    figures = images_figures(metric, scores, difference)
    return _verdict(
        difference,
        good=f"Images help: {figures}.",
        bad=f"Images hurt: {figures}.",
        unclear=f"These {units} do not show that images help: {figures}.",
        small=f"Images make hardly any difference: {figures}.",
    )


def images_figures(metric: str, scores: tuple[float, float], difference: Difference) -> str:
    """Scores with images and without them, as part of a sentence."""
    return (
        f"{metric} is {scores[0]:.3f} with them and {scores[1]:.3f} without them, "
        f"a difference of {described_difference(difference)}"
    )


def control_verdict(
    metric: str, control: str, scores: tuple[float, float], difference: Difference
) -> Verdict:
    """Whether the right image matters: each one's own images against others.

    Args:
        metric: Name of the metric.
        control: What the other images are, as in "shuffled".
        scores: The score of the model that learned from each one's own images, and of the control.
        difference: The first minus the second.
    """
    figures = (
        f"{metric} is {scores[0]:.3f} with each one's own and {scores[1]:.3f} with {control} "
        f"images, a difference of {described_difference(difference)}"
    )
    return _verdict(
        difference,
        good=f"The right image matters: {figures}.",
        bad=f"The right image does worse than a wrong one: {figures}.",
        unclear=f"It is not shown that the right image matters: {figures}.",
        small=f"The right image makes hardly any difference: {figures}.",
    )


def seeds_verdict(metric: str, units: str, by_seed: pd.Series) -> Verdict:
    """How much a score owes to chance in training.

    Args:
        metric: Name of the metric.
        units: What was tested, as in "test triples".
        by_seed: The score of each seed (the index).
    """
    if len(by_seed) == 1:
        return Verdict(
            f"One training run (seed {by_seed.index[0]}): how far another seed would be from it is "
            f"not known. The intervals speak of the {units} alone.",
            "open",
        )
    seeds = ", ".join(str(seed) for seed in by_seed.index)
    return Verdict(
        f"{len(by_seed)} training runs (seeds {seeds}): mean {metric} {by_seed.mean():.3f}, "
        f"standard deviation {by_seed.std(ddof=1):.3f}, from {by_seed.min():.3f} to "
        f"{by_seed.max():.3f}.",
        "open",
    )


def percent(share: float) -> str:
    """A share in percent, as part of a sentence."""
    return f"{100 * share:.0f}\u00a0%"


def described_difference(difference: Difference) -> str:
    """A difference with its interval, as part of a sentence."""
    low, high = difference.interval
    return f"{difference.value:+.3f} (95\u00a0% interval {low:+.3f} to {high:+.3f})".replace(
        "-", "\u2212"
    )
