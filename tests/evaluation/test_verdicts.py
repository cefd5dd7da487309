"""A verdict is as strong as its interval, and no stronger than the digits that are shown."""

import pandas as pd
import pytest

from mkgformer_kedro.evaluation.intervals import Difference, Interval
from mkgformer_kedro.evaluation.verdicts import (
    baseline_verdict,
    control_verdict,
    images_verdict,
    mixture_verdict,
    seeds_verdict,
)


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
        (-0.1, (-0.15, -0.05), "bad", "The model is behind the baseline on F1"),
        (0.1, (-0.05, 0.15), "open", "The model is not clearly better or worse than the baseline"),
        (-0.1, (-0.15, 0.05), "open", "The model is not clearly better or worse than the baseline"),
        (0.0, (0.0, 0.0), "open", "The model is not clearly better or worse than the baseline"),
        (0.0004, (0.0001, 0.0006), "open", "The model is hardly better or worse than the baseline"),
    ],
)
def test_baseline(value, interval, outcome, opening):
    scores = (0.5 + value, 0.5)
    verdict = baseline_verdict(
        "F1", "model", "the baseline", scores, Difference(value, Interval(*interval))
    )
    assert verdict.outcome == outcome
    assert verdict.text.startswith(opening)


@pytest.mark.parametrize(
    ("value", "interval", "outcome", "opening"),
    [
        (0.1, (0.05, 0.15), "good", "The mixture is better than its best expert alone"),
        (-0.1, (-0.15, -0.05), "bad", "The mixture is worse than its best expert alone"),
        (0.1, (-0.05, 0.15), "open", "The mixture adds nothing that is clear"),
        (0.0004, (0.0001, 0.0006), "open", "The mixture makes hardly any difference"),
    ],
)
def test_mixture(value, interval, outcome, opening):
    verdict = mixture_verdict(
        "MRR", "complex", (0.5 + value, 0.5), Difference(value, Interval(*interval))
    )
    assert verdict.outcome == outcome
    assert verdict.text.startswith(opening)
    assert "of complex, a difference" in verdict.text


def test_one_seed_is_said_to_be_one():
    one = seeds_verdict("F1", "test posts", pd.Series({4: 0.5}))
    assert one.text.startswith("One training run (seed 4)")
    assert "The intervals speak of the test posts alone" in one.text
    several = seeds_verdict("F1", "test posts", pd.Series({1: 0.5, 2: 0.6, 5: 0.7}))
    assert several.text == (
        "3 training runs (seeds 1, 2, 5): mean F1 0.600, standard deviation 0.100, from 0.500 to "
        "0.700."
    )


@pytest.mark.parametrize(
    ("ends", "outcome", "says"),
    [
        ((0.01, 0.2), "good", "The right image matters: F1 is 0.500"),
        ((-0.01, 0.2), "open", "It is not shown that the right image matters"),
        ((-0.2, -0.01), "bad", "The right image does worse than a wrong one"),
        ((0.0001, 0.0006), "open", "The right image makes hardly any difference"),
    ],
)
def test_whether_the_right_image_matters(ends, outcome, says):
    difference = Difference(sum(ends) / 2, Interval(*ends))
    verdict = control_verdict("F1", "shuffled", (0.5, 0.4), difference)
    assert verdict.outcome == outcome
    assert verdict.text.startswith(says)
    assert "0.400 with shuffled images" in verdict.text
