from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mkgformer_kedro.evaluation.ranking.baselines import Popularity
from mkgformer_kedro.evaluation.ranking.graph import reverse_in_train
from mkgformer_kedro.evaluation.link_prediction import (
    MRR,
    LinkPredictionEvaluation,
    evaluate_link_prediction,
)
from mkgformer_kedro.evaluation.ranking.metrics import ranking_metrics
from mkgformer_kedro.evaluation.ranking.predictions import predict, raw_view


def oracle(graph) -> pd.DataFrame:
    """Predictions that put every answer first."""
    scores = graph.scores.clone()
    for row, answers in enumerate(graph.queries["answers"]):
        scores[row, answers] = 1e6
    return predict(graph.queries, [scores], graph.test)


def guesses(graph) -> pd.DataFrame:
    return predict(graph.queries, [graph.scores], graph.test)


def evaluation_of(
    graph, model: pd.DataFrame, without_images: pd.DataFrame, leak: np.ndarray
) -> LinkPredictionEvaluation:
    popularity = Popularity(graph.train, graph.num_entities).score(graph.queries)
    return evaluate_link_prediction(
        model,
        without_images,
        predict(graph.queries, [popularity], graph.test),
        graph.train,
        leak=leak,
        has_images=np.ones(graph.num_entities, dtype=bool),
        seed=0,
        resamples=100,
    )


def test_every_table_is_scored_with_and_without_leaks(graph):
    leak = reverse_in_train(graph.train, graph.test)
    assert 0 < leak.mean() < 1
    predictions = guesses(graph)
    evaluation = evaluation_of(graph, predictions, predictions, leak)
    assert evaluation.leak_share == leak.mean()
    assert evaluation.model.scores.metrics == ranking_metrics(predictions)
    kept = predictions[~leak[predictions["triple"]]]
    assert evaluation.model.without_leaks.metrics == ranking_metrics(kept)
    assert evaluation.popularity.without_leaks.metrics["both.realistic.count"] == len(kept)
    assert evaluation.raw == ranking_metrics(raw_view(predictions))


@pytest.mark.parametrize("leaks", [False, True])
def test_nothing_or_everything_leaking_leaves_no_second_view(graph, leaks):
    predictions = guesses(graph)
    evaluation = evaluation_of(graph, predictions, predictions, np.full(len(graph.test), leaks))
    assert evaluation.model.without_leaks is None


def test_the_verdicts_say_what_the_figures_say(graph):
    best, poor = oracle(graph), guesses(graph)
    no_leak = np.zeros(len(graph.test), dtype=bool)

    helped = evaluation_of(graph, best, poor, no_leak)
    assert helped.popularity_verdict.outcome == "good"
    assert "beats the popularity baseline" in helped.popularity_verdict.text
    assert "1.000 against" in helped.popularity_verdict.text
    assert f"{helped.popularity.scores.metrics[MRR]:.3f}" in helped.popularity_verdict.text
    assert helped.images_verdict.outcome == "good"
    assert helped.images_verdict.text.startswith("Images help")

    hurt = evaluation_of(graph, poor, best, no_leak)
    assert hurt.images_verdict.outcome == "bad"
    assert hurt.images_verdict.text.startswith("Images hurt")
    assert "a difference of \u2212" in hurt.images_verdict.text

    alike = evaluation_of(graph, poor, poor, no_leak)
    assert alike.images_verdict.outcome == "open"
    assert "do not show that images help" in alike.images_verdict.text


def test_a_model_no_better_than_popularity_is_called_that(graph):
    popularity = Popularity(graph.train, graph.num_entities).score(graph.queries)
    same = predict(graph.queries, [popularity], graph.test)
    evaluation = evaluation_of(graph, same, same, np.zeros(len(graph.test), dtype=bool))
    assert evaluation.popularity_verdict.outcome == "bad"
    assert "does not beat" in evaluation.popularity_verdict.text
