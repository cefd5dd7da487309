"""A verdict is as strong as its interval, and no stronger than the digits that are shown."""

import pytest

from mkgformer_kedro.evaluation.intervals import Difference, Interval
from mkgformer_kedro.evaluation.verdicts import baseline_verdict, images_verdict


@pytest.mark.parametrize(
    ("value", "interval", "outcome", "opening"),
    [
        (0.1, (0.05, 0.15), "good", "Images help"),
        (-0.1, (-0.15, -0.05), "bad", "Images hurt"),
        (0.1, (-0.05, 0.15), "open", "These test posts do not show that images help"),
        (-0.0004, (-0.0006, -0.0001), "open", "Images make hardly any difference"),
    ],
)
def test_images(value, interval, outcome, opening):
    verdict = images_verdict(
        "F1", "test posts", (0.5 + value, 0.5), Difference(value, Interval(*interval))
    )
    assert verdict.outcome == outcome
    assert verdict.text.startswith(opening)


@pytest.mark.parametrize(
    ("value", "interval", "outcome", "opening"),
    [
        (0.1, (0.05, 0.15), "good", "The model beats the baseline on F1"),
        (0.1, (-0.05, 0.15), "open", "The model is ahead of the baseline on F1, but not clearly"),
        (0.0, (0.0, 0.0), "bad", "The model does not beat the baseline on F1"),
    ],
)
def test_baseline(value, interval, outcome, opening):
    scores = (0.5 + value, 0.5)
    verdict = baseline_verdict("F1", "the baseline", scores, Difference(value, Interval(*interval)))
    assert verdict.outcome == outcome
    assert verdict.text.startswith(opening)
