from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mkgformer_kedro.evaluation.ranking.breakdown import break_down, drill_down
from mkgformer_kedro.evaluation.ranking.graph import reverse_in_train
from mkgformer_kedro.evaluation.ranking.metrics import ranking_metrics
from mkgformer_kedro.evaluation.ranking.predictions import predict


def test_groups_of_a_hand_made_table():
    predictions = pd.DataFrame(
        {
            "triple": [0, 1, 2],
            "relation": [5, 5, 2],
            "rank_optimistic": [1, 4, 2],
            "rank_pessimistic": [1, 4, 2],
        }
    )
    table = break_down(predictions, ["relation"], seed=0)
    assert table["relation"].tolist() == [2, 5]
    assert table["count"].tolist() == [1, 2]
    assert table["inverse_harmonic_mean_rank"].tolist() == [0.5, 0.625]
    assert table["hits_at_1"].tolist() == [0.0, 0.5]
    assert table[["low", "high"]].to_numpy().tolist() == [[0.5, 0.5], [0.25, 1.0]]


def test_every_cut_covers_all_predictions_and_averages_to_the_whole(graph):
    predictions = predict(graph.queries, [graph.scores], graph.test)
    has_images = np.arange(graph.num_entities) % 3 == 0
    leak = reverse_in_train(graph.train, graph.test)
    tables = drill_down(
        predictions, graph.train, leak=leak, has_images=has_images, seed=0, resamples=50
    )
    whole = ranking_metrics(predictions)["both.realistic.inverse_harmonic_mean_rank"]
    for table in tables.values():
        assert table["count"].sum() == len(predictions)
        mrr = table["inverse_harmonic_mean_rank"]
        assert np.average(mrr, weights=table["count"]) == pytest.approx(whole)
        assert (table["low"] <= mrr).all()
        assert (mrr <= table["high"]).all()
    leaking = tables["leak"].set_index("leak")["count"]
    assert leaking[True] == 2 * leak.sum()
    with_images = tables["entity_images"].set_index("entity_images")["count"]
    given = np.concatenate([graph.test["head"], graph.test["tail"]])
    assert with_images[True] == has_images[given].sum()
    assert set(tables["category"]["direction"]) == {"head", "tail"}


def test_a_relation_that_train_lacks_is_named_as_such(graph):
    predictions = predict(graph.queries, [graph.scores], graph.test)
    train = graph.train[graph.train["relation"] != 1]
    tables = drill_down(
        predictions,
        train,
        leak=np.zeros(len(graph.test), dtype=bool),
        has_images=np.zeros(graph.num_entities, dtype=bool),
        seed=0,
        resamples=10,
    )
    unseen = tables["category"].query("category == 'not in train'")["count"].sum()
    assert unseen == 2 * (graph.test["relation"] == 1).sum()
