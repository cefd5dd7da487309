from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mkgformer_kedro.evaluation.extraction.counts import micro_scores
from mkgformer_kedro.evaluation.extraction.scores import (
    count_groups,
    f1_difference,
    same_answers,
    score_counts,
)


def random_counts(
    seeds: tuple[int, ...] = (1,), posts: int = 60, rate: float = 0.6, chance: int = 0
) -> pd.DataFrame:
    """Posts with up to three things to find, each found with the rate."""
    generator = np.random.default_rng(5)
    gold = generator.integers(4, size=posts)
    generator = np.random.default_rng(chance)
    tables = []
    for seed in seeds:
        correct = generator.binomial(gold, rate)
        predicted = correct + generator.binomial(2, 0.2, size=posts)
        tables.append(
            pd.DataFrame(
                {
                    "seed": seed,
                    "post": [f"test-{i}" for i in range(posts)],
                    "correct": correct,
                    "predicted": predicted,
                    "gold": gold,
                    "answer": correct,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def test_micro_scores_by_hand():
    counts = np.array([[2, 4, 3], [0, 0, 3], [0, 5, 0], [0, 0, 0]])
    expected = [[1 / 2, 2 / 3, 4 / 7], [0, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert micro_scores(counts) == pytest.approx(np.array(expected))


def test_scores_of_three_posts_by_hand():
    counts = pd.DataFrame(
        {
            "seed": 7,
            "post": ["a", "b", "c"],
            "correct": [1, 0, 1],
            "predicted": [1, 2, 1],
            "gold": [2, 0, 1],
            "right": [False, False, True],
        }
    )
    found = score_counts(counts, seed=0, resamples=50)
    assert found.metrics == pytest.approx(
        {"precision": 2 / 4, "recall": 2 / 3, "f1": 4 / 7, "accuracy": 1 / 3}
    )
    assert list(found.by_seed.index) == [7]
    assert found.deviations == {}


def test_several_seeds_are_averaged_and_deviate():
    counts = random_counts(seeds=(3, 1, 2))
    found = score_counts(counts, seed=0, resamples=50)
    alone = [
        score_counts(counts[counts["seed"] == seed], seed=0, resamples=50).metrics["f1"]
        for seed in (1, 2, 3)
    ]
    assert found.by_seed["f1"].tolist() == pytest.approx(alone)
    assert found.metrics["f1"] == pytest.approx(np.mean(alone))
    assert found.deviations["f1"] == pytest.approx(np.std(alone, ddof=1))


def test_intervals_hold_their_value_and_repeat_with_the_seed():
    counts = random_counts(seeds=(1, 2))
    found = score_counts(counts, seed=3, resamples=300)
    for name, (low, high) in found.intervals.items():
        assert low < found.metrics[name] < high
    assert score_counts(counts, seed=3, resamples=300).intervals == found.intervals
    assert score_counts(counts, seed=4, resamples=300).intervals != found.intervals


def test_the_order_of_rows_does_not_matter():
    counts = random_counts(seeds=(1, 2))
    shuffled = counts.sample(frac=1, random_state=0)
    first, second = (score_counts(table, seed=0, resamples=100) for table in (counts, shuffled))
    assert first.metrics == second.metrics
    assert first.intervals == second.intervals


def test_the_same_answers_of_more_seeds_do_not_narrow_the_interval():
    once = random_counts()
    thrice = pd.concat([once.assign(seed=seed) for seed in (1, 2, 3)])
    first, second = (score_counts(table, seed=0, resamples=200) for table in (once, thrice))
    assert second.intervals["f1"] == pytest.approx(first.intervals["f1"])


def test_the_interval_of_an_accuracy_is_the_textbooks():
    right = np.random.default_rng(0).random(500) < 0.7
    counts = pd.DataFrame(
        {
            "seed": 1,
            "post": np.arange(500).astype(str),
            "correct": right.astype(int),
            "predicted": 1,
            "gold": 1,
            "right": right,
        }
    )
    found = score_counts(counts, seed=1, resamples=4000)
    p = right.mean()
    half = 1.96 * np.sqrt(p * (1 - p) / 500)
    for name in ("accuracy", "f1"):
        assert found.intervals[name] == pytest.approx((p - half, p + half), abs=0.005)


def test_the_difference_is_paired():
    counts = random_counts(seeds=(1, 2))
    same = f1_difference(counts, counts.sample(frac=1, random_state=0), seed=0)
    assert same.value == 0
    assert same.interval == (0, 0)
    assert not same.is_clear


def test_a_clear_difference_has_the_sign_of_the_better():
    good, poor = random_counts(rate=0.9), random_counts(rate=0.3)
    ahead, behind = f1_difference(good, poor, seed=0), f1_difference(poor, good, seed=0)
    assert ahead.is_clear
    assert ahead.value == pytest.approx(-behind.value)
    assert ahead.interval.low > 0 > behind.interval.high
    expected = [score_counts(t, seed=0, resamples=20).metrics["f1"] for t in (good, poor)]
    assert ahead.value == pytest.approx(expected[0] - expected[1])


def test_a_baseline_of_one_seed_is_compared_with_a_model_of_several():
    model, baseline = random_counts(seeds=(1, 2, 3), rate=0.9), random_counts(seeds=(0,), rate=0.3)
    found = f1_difference(model, baseline, seed=0)
    scores = [score_counts(t, seed=0, resamples=20).metrics["f1"] for t in (model, baseline)]
    assert found.value == pytest.approx(scores[0] - scores[1])
    assert found.is_clear


def test_tables_of_different_posts_are_not_compared():
    counts = random_counts()
    with pytest.raises(ValueError, match="same posts"):
        f1_difference(counts, counts.iloc[1:], seed=0)


def test_no_predictions_are_an_error():
    with pytest.raises(ValueError, match="no predictions"):
        score_counts(random_counts().iloc[:0], seed=0)


def test_groups_are_scored_apart_and_hold_every_row():
    counts = random_counts(seeds=(1, 2))
    counts["kind"] = np.where(counts["post"].str.endswith(("1", "2")), "one or two", "other")
    counts.loc[counts["post"] == "test-7", "kind"] = None
    table = count_groups(counts, "kind", seed=0, resamples=50)
    assert table["group"].tolist() == ["one or two", "other"]
    assert table["posts"].sum() == 59
    for row in table.itertuples():
        alone = score_counts(counts[counts["kind"] == row.group], seed=0, resamples=50)
        assert row.f1 == pytest.approx(alone.metrics["f1"])
        assert (row.low, row.high) == pytest.approx(alone.intervals["f1"])
        assert row.gold == counts.loc[(counts["kind"] == row.group) & (counts["seed"] == 1),
                                      "gold"].sum()  # fmt: skip


def test_a_seed_without_a_row_of_a_post_predicted_nothing_of_it():
    counts = pd.DataFrame(
        {
            "seed": [1, 2, 1],
            "post": ["a", "a", "b"],
            "correct": [1, 1, 0],
            "predicted": [1, 1, 1],
            "gold": [1, 1, 0],
        }
    )
    found = score_counts(counts, seed=0, resamples=20)
    assert found.by_seed["precision"].tolist() == [0.5, 1.0]


def test_answers_are_compared_seed_by_seed_or_all_with_all():
    first, second = random_counts(seeds=(1, 2)), random_counts(seeds=(1, 2), chance=1)
    assert same_answers(first, first) == 1
    found = same_answers(first, second)
    assert found == (first["answer"] == second["answer"]).mean()
    one = second[second["seed"] == 1].assign(seed=0)
    pairs = first.merge(one, on="post")
    assert same_answers(first, one) == (pairs["answer_x"] == pairs["answer_y"]).mean()
