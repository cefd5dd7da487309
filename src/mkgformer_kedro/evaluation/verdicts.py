"""Plain sentences about comparisons, the same for every task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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


def baseline_verdict(
    metric: str, baseline: str, scores: tuple[float, float], difference: Difference
) -> Verdict:
    """Whether a model beats a baseline.

    Args:
        metric: Name of the metric.
        baseline: Name of the baseline, as in "the popularity baseline".
        scores: The model's score and the baseline's.
        difference: The first minus the second.

    Returns:
        A sentence that is good news only where the interval leaves out zero.
    """
    figures = f"{scores[0]:.3f} against {scores[1]:.3f}, a difference of {described(difference)}"
    if difference.value <= 0:
        return Verdict(f"The model does not beat {baseline} on {metric}: {figures}.", "bad")
    if difference.is_clear:
        return Verdict(f"The model beats {baseline} on {metric}: {figures}.", "good")
    return Verdict(
        f"The model is ahead of {baseline} on {metric}, but not clearly: "
        f"{figures}, which leaves room for zero.",
        "open",
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
    if not difference.is_clear:
        return Verdict(f"These {units} do not show that images help: {figures}.", "open")
    if abs(difference.value) < _SHOWN:
        return Verdict(f"Images make hardly any difference: {figures}.", "open")
    if difference.value > 0:
        return Verdict(f"Images help: {figures}.", "good")
    return Verdict(f"Images hurt: {figures}.", "bad")


def images_figures(metric: str, scores: tuple[float, float], difference: Difference) -> str:
    """Scores with images and without them, as part of a sentence."""
    return (
        f"{metric} is {scores[0]:.3f} with them and {scores[1]:.3f} without them, "
        f"a difference of {described(difference)}"
    )


def described(difference: Difference) -> str:
    """A difference with its interval, as part of a sentence."""
    low, high = difference.interval
    return f"{difference.value:+.3f} (95\u00a0% interval {low:+.3f} to {high:+.3f})".replace(
        "-", "\u2212"
    )
