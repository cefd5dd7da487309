"""Deletion test and pointing game, on numbers that are counted by hand."""

import numpy as np
import pandas as pd
import pytest

from mkgformer_kedro.evaluation.explanations import (
    RANDOM,
    WAYS,
    deletion_scores,
    highest,
    pointing_scores,
    points_into,
    quarter_of,
    verdicts,
)

WEIGHTS = np.array([[0.1, 0.4, 0.3, 0.2], [9.0, 1.0, 1.0, 0.0], [-3.0, -1.0, -2.0, -4.0]])
DRAWS = np.array([[0.1, 0.2, 0.3, 0.4], [0.9, 0.3, 0.2, 0.8], [0.4, 0.1, 0.2, 0.3]])
PRESENT = np.array([[True] * 4, [False, True, True, True], [True] * 4])


def test_the_highest_of_the_patches_there_are_is_taken():
    assert highest(WEIGHTS, PRESENT, 0.01, DRAWS).tolist() == [
        [False, True, False, False],
        [False, True, False, False],  # of equal ones that of the higher draw
        [False, True, False, False],
    ]
    assert highest(WEIGHTS, PRESENT, 0.5, DRAWS).sum(axis=1).tolist() == [2, 2, 2]
    np.testing.assert_array_equal(highest(WEIGHTS, PRESENT, 1.0, DRAWS), PRESENT)
    by_chance = highest(DRAWS, PRESENT, 0.5, DRAWS)
    np.testing.assert_array_equal(highest(np.ones((3, 4)), PRESENT, 0.5, DRAWS), by_chance)


def test_quarters_part_an_image():
    names = ("upper_left", "upper_right", "lower_left", "lower_right")
    even = np.stack([quarter_of(name, [4, 2]) for name in names])
    assert (even.sum(axis=0) == 1).all()
    assert quarter_of("upper_right", [2]).tolist() == [False, True, False, False]
    assert quarter_of("lower_left", [2]).tolist() == [False, False, True, False]
    odd = np.stack([quarter_of(name, [3]) for name in names]).any(axis=0)
    assert odd.reshape(3, 3).tolist() == [[True, False, True], [False] * 3, [True, False, True]]


def test_pointing_is_at_the_highest_patch_there_is():
    region = np.array([[False, True, True, False]] * 3)
    assert points_into(WEIGHTS, PRESENT, region).tolist() == [True, True, True]
    assert points_into(WEIGHTS, PRESENT, ~region).tolist() == [False, False, False]


@pytest.mark.parametrize("quarter", ["upper_left", "upper_right", "lower_left", "lower_right"])
def test_weights_that_say_nothing_point_to_a_quarter_by_chance(quarter):
    region = np.stack([quarter_of(quarter, [4, 4])] * 2)
    there = np.stack([np.ones(32, dtype=bool), np.arange(32) < 16])
    assert points_into(np.full((2, 32), 0.5), there, region).tolist() == [0.25, 0.25]


@pytest.fixture
def deletion():
    """Eight questions: correlations decide the ambiguous half, lambda nothing, random a quarter."""
    ambiguous = np.arange(40) % 2 == 0
    changes = pd.DataFrame(
        {
            "question": np.arange(40),
            "share": 0.5,
            "correlation": ambiguous,
            "attention": False,
            "gradient": np.arange(40) % 4 == 0,
            RANDOM: np.arange(40) % 4 == 0,
            "group": np.where(ambiguous, "ambiguous", "clear"),
        }
    )
    return deletion_scores(pd.concat([changes.assign(share=0.75), changes]), seed=0, resamples=200)


def test_changes_are_counted_by_group_and_share(deletion):
    found = {(row["group"], row["share"]): row for row in deletion}
    assert list(found) == [(g, s) for g in ("all", "ambiguous", "clear") for s in (0.5, 0.75)]
    ambiguous = found["ambiguous", 0.5]
    assert ambiguous["count"] == 20
    assert ambiguous["correlation"]["value"] == 1
    assert ambiguous[RANDOM]["value"] == 0.5
    assert ambiguous["correlation"]["minus_random"]["value"] == 0.5
    assert found["clear", 0.5]["correlation"] == {
        "value": 0, "low": 0, "high": 0, "minus_random": {"value": 0, "low": 0, "high": 0},
    }  # fmt: skip
    whole = found["all", 0.5]["correlation"]
    assert whole["low"] < whole["value"] == 0.5 < whole["high"]


def test_verdicts_are_no_stronger_than_their_intervals(deletion):
    assert [verdict.outcome for verdict in verdicts(deletion)] == ["good", "bad", "open"]
    assert "50\u00a0% of the answers change, against 25\u00a0%" in verdicts(deletion)[0].text
    assert verdicts([]) == []


def test_without_groups_there_is_the_whole():
    changes = pd.DataFrame({"question": [0, 1], "share": 0.5, "group": None})
    changes[[*WAYS, RANDOM]] = [[True] * 4, [False] * 4]
    assert [row["group"] for row in deletion_scores(changes, seed=0, resamples=100)] == ["all"]


def test_pointing_is_counted_by_relation():
    hits = pd.DataFrame(
        {
            "question": range(4),
            "relation": ["a", "a", "b", "b"],
            "chance": [0.25, 0.25, 0.25, 0.5],
            "correlation": [True, True, True, False],
            "attention": False,
            "gradient": True,
        }
    )
    scores = {row["relation"]: row for row in pointing_scores(hits, seed=0, resamples=100)}
    assert {name: row["correlation"]["value"] for name, row in scores.items()} == {
        "all": 0.75, "a": 1, "b": 0.5,
    }  # fmt: skip
    assert scores["b"]["chance"] == 0.375
    assert scores["all"]["gradient"]["value"] == 1
