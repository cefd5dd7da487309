from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mkgformer_kedro.evaluation.intervals import Scores, bootstrap


def test_the_interval_of_a_mean_is_the_textbooks():
    values = np.random.default_rng(0).normal(size=400)
    found = bootstrap(pd.DataFrame({"mean": values}), np.arange(400), seed=1, resamples=4000)
    half = 1.96 * values.std() / np.sqrt(400)
    assert found["mean"] == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)


def test_both_directions_of_a_triple_are_resampled_together():
    values = np.random.default_rng(0).normal(size=200)
    once = bootstrap(pd.DataFrame({"mean": values}), np.arange(200), seed=1)["mean"]
    both = pd.DataFrame({"mean": np.concatenate([values, values])})
    triples = np.concatenate([np.arange(200), np.arange(200)])
    together = bootstrap(both, triples, seed=1)["mean"]
    apart = bootstrap(both, np.arange(400), seed=1)["mean"]
    assert together == pytest.approx(once)
    assert apart.high - apart.low < 0.85 * (once.high - once.low)


def test_equal_values_have_no_spread():
    found = bootstrap(pd.DataFrame({"hits": [1.0, 1.0, 1.0]}), np.array([4, 4, 9]), seed=0)
    assert found["hits"] == (1.0, 1.0)


def test_one_seed_deviates_from_nothing():
    by_seed = pd.DataFrame({"f1": [0.5, 0.7]}, index=[1, 2])
    assert Scores({}, {}, by_seed).deviations["f1"] == pytest.approx(0.2 / np.sqrt(2))
    assert Scores({}, {}, by_seed.head(1)).deviations == {}
