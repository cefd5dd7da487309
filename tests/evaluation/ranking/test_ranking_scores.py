from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mkgformer_kedro.evaluation import intervals
from mkgformer_kedro.evaluation.ranking.metrics import mean_average_precisions, ranking_metrics
from mkgformer_kedro.evaluation.ranking.scores import mrr_difference, score_ranks

MRR = "both.realistic.inverse_harmonic_mean_rank"


def test_intervals_hold_their_value_and_repeat_with_the_seed(graph):
    predictions = graph.answers("model")
    found = score_ranks(predictions, seed=3, resamples=300)
    assert found.metrics == ranking_metrics(predictions) | mean_average_precisions(predictions)
    assert len(found.intervals) == 3 * 5
    for key, (low, high) in found.intervals.items():
        assert low <= found.metrics[key] <= high
    assert score_ranks(predictions, seed=3, resamples=300).intervals == found.intervals
    assert score_ranks(predictions, seed=4, resamples=300).intervals != found.intervals


def test_the_chunks_of_the_resampling_do_not_matter(graph, monkeypatch):
    predictions = graph.answers("model")
    whole = score_ranks(predictions, seed=3, resamples=50)
    monkeypatch.setattr(intervals, "_CELLS_PER_CHUNK", 7 * len(graph.test))
    chunked = score_ranks(predictions, seed=3, resamples=50)
    for key, interval in whole.intervals.items():
        assert chunked.intervals[key] == pytest.approx(interval, rel=1e-12)


def test_scores_are_means_over_seeds(graph):
    alone = [graph.answers("model", seed=1), graph.answers("model", graph.perfect, seed=2)]
    found = score_ranks(pd.concat(alone), seed=0, resamples=50)
    expected = [ranking_metrics(table) for table in alone]
    assert found.metrics[MRR] == pytest.approx(np.mean([one[MRR] for one in expected]))
    assert found.by_seed[MRR].tolist() == [one[MRR] for one in expected]
    assert found.deviations[MRR] == pytest.approx(np.std([one[MRR] for one in expected], ddof=1))
    low, high = found.intervals[MRR]
    assert low < found.metrics[MRR] < high


def test_the_same_answers_of_more_seeds_do_not_narrow_the_interval(graph):
    once = graph.answers("model")
    thrice = pd.concat([once.assign(seed=seed) for seed in (1, 2, 3)])
    first, second = (score_ranks(table, seed=0, resamples=200) for table in (once, thrice))
    assert second.intervals[MRR] == pytest.approx(first.intervals[MRR])


def test_the_difference_is_paired(graph):
    predictions = graph.answers("model")
    same = mrr_difference(predictions, predictions.sample(frac=1, random_state=0), seed=0)
    assert same.value == 0
    assert same.interval == (0, 0)
    assert not same.is_clear


def test_a_clear_difference_has_the_sign_of_the_better(graph):
    first, second = graph.answers("model", graph.perfect), graph.answers("model")
    ahead = mrr_difference(first, second, seed=0)
    behind = mrr_difference(second, first, seed=0)
    assert ahead.is_clear
    assert behind.is_clear
    assert ahead.value == pytest.approx(-behind.value)
    assert ahead.interval.low > 0 > behind.interval.high
    assert ahead.value == pytest.approx(
        score_ranks(first, seed=0).metrics[MRR] - score_ranks(second, seed=0).metrics[MRR]
    )


def test_an_expert_of_one_seed_is_compared_with_one_of_several(graph):
    several = pd.concat([graph.answers("model", seed=1), graph.answers("model", graph.perfect, 2)])
    one = graph.answers("baseline", graph.popularity, seed=0)
    found = mrr_difference(several, one, seed=0)
    scores = [score_ranks(table, seed=0, resamples=20).metrics[MRR] for table in (several, one)]
    assert found.value == pytest.approx(scores[0] - scores[1])
    assert found.is_clear


def test_tables_of_different_triples_are_not_compared(graph):
    predictions = graph.answers("model")
    with pytest.raises(ValueError, match="same triples and directions"):
        mrr_difference(predictions, predictions.iloc[1:], seed=0)
    uneven = pd.concat([predictions, predictions.iloc[1:].assign(seed=8)])
    with pytest.raises(ValueError, match="the seeds of an expert do not cover"):
        score_ranks(uneven, seed=0)


def test_no_predictions_are_an_error(graph):
    with pytest.raises(ValueError, match="no predictions"):
        score_ranks(graph.answers("model").iloc[:0], seed=0)
