from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mkgformer_kedro.evaluation import intervals
from mkgformer_kedro.evaluation.intervals import bootstrap, mrr_difference, score
from mkgformer_kedro.evaluation.ranking.predictions import predict


def predictions_of(graph, scores=None) -> pd.DataFrame:
    return predict(graph.queries, [graph.scores if scores is None else scores], graph.test)


def test_intervals_hold_their_value_and_repeat_with_the_seed(graph):
    predictions = predictions_of(graph)
    found = score(predictions, seed=3, resamples=300)
    assert len(found.intervals) == 3 * 5
    for key, (low, high) in found.intervals.items():
        assert low <= found.metrics[key] <= high
    assert score(predictions, seed=3, resamples=300) == found
    assert score(predictions, seed=4, resamples=300) != found


def test_the_chunks_of_the_resampling_do_not_matter(graph, monkeypatch):
    predictions = predictions_of(graph)
    whole = score(predictions, seed=3, resamples=50)
    monkeypatch.setattr(intervals, "_CELLS_PER_CHUNK", 7 * len(graph.test))
    chunked = score(predictions, seed=3, resamples=50)
    for key, interval in whole.intervals.items():
        assert chunked.intervals[key] == pytest.approx(interval, rel=1e-12)


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


def test_the_difference_is_paired(graph):
    predictions = predictions_of(graph)
    same = mrr_difference(predictions, predictions.sample(frac=1, random_state=0), seed=0)
    assert same.value == 0
    assert same.interval == (0, 0)
    assert not same.is_clear


def test_a_clear_difference_has_the_sign_of_the_better(graph):
    better = graph.scores.clone()
    for row, answers in enumerate(graph.queries["answers"]):
        better[row, answers] = 1e6
    first, second = predictions_of(graph, better), predictions_of(graph)
    ahead = mrr_difference(first, second, seed=0)
    behind = mrr_difference(second, first, seed=0)
    assert ahead.is_clear
    assert behind.is_clear
    assert ahead.value == pytest.approx(-behind.value)
    assert ahead.interval.low > 0 > behind.interval.high
    key = "both.realistic.inverse_harmonic_mean_rank"
    assert ahead.value == pytest.approx(
        score(first, seed=0).metrics[key] - score(second, seed=0).metrics[key]
    )


def test_tables_of_different_triples_are_not_compared(graph):
    predictions = predictions_of(graph)
    with pytest.raises(ValueError, match="same triples and directions"):
        mrr_difference(predictions, predictions.iloc[1:], seed=0)
