from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mkgformer_kedro.evaluation.ranking.breakdown import break_down_ranks, rank_groups
from mkgformer_kedro.evaluation.ranking.graph import reverse_in_train
from mkgformer_kedro.evaluation.ranking.metrics import ranking_metrics


def test_groups_of_a_hand_made_table():
    predictions = pd.DataFrame(
        {
            "seed": 7,
            "triple": [0, 1, 2],
            "group": ["b", "b", "a"],
            "rank_optimistic": [1, 4, 2],
            "rank_pessimistic": [1, 4, 2],
        }
    )
    table = rank_groups(predictions, seed=0)
    assert table["group"].tolist() == ["a", "b"]
    assert table["count"].tolist() == [1, 2]
    assert table["inverse_harmonic_mean_rank"].tolist() == [0.5, 0.625]
    assert table["hits_at_1"].tolist() == [0.0, 0.5]
    assert table[["low", "high"]].to_numpy().tolist() == [[0.5, 0.5], [0.25, 1.0]]
    twice = pd.concat([predictions, predictions.assign(seed=8)])
    pd.testing.assert_frame_equal(rank_groups(twice, seed=0), table)


def test_groups_cover_all_predictions_and_average_to_the_whole(graph):
    predictions = graph.answers("model")
    has_images = np.arange(graph.num_entities) % 3 == 0
    leak = reverse_in_train(graph.train, graph.test)
    tables = break_down_ranks(
        predictions,
        graph.train,
        graph.tables["relations"],
        leak=leak,
        has_images=has_images,
        seed=0,
        resamples=50,
    )
    whole = ranking_metrics(predictions)["both.realistic.inverse_harmonic_mean_rank"]
    for table in tables.values():
        assert table["count"].sum() == len(predictions)
        mrr = table["inverse_harmonic_mean_rank"]
        assert np.average(mrr, weights=table["count"]) == pytest.approx(whole)
        assert (table["low"] <= mrr).all()
        assert (mrr <= table["high"]).all()
    counts = {by: table.set_index("group")["count"] for by, table in tables.items()}
    assert counts["leak"]["reverse in train"] == 2 * leak.sum()
    given = np.concatenate([graph.test["head"], graph.test["tail"]])
    assert counts["entity_images"]["with images"] == has_images[given].sum()
    assert all(group.endswith((" head", " tail")) for group in counts["category"].index)
    assert counts["relation"].index.tolist() == ["r", "s", "t"]


def test_a_relation_that_train_lacks_is_named_as_such(graph):
    tables = break_down_ranks(
        graph.answers("model"),
        graph.train[graph.train["relation"] != 1],
        graph.tables["relations"],
        leak=np.zeros(len(graph.test), dtype=bool),
        has_images=np.zeros(graph.num_entities, dtype=bool),
        seed=0,
        resamples=10,
    )
    categories = tables["category"]
    unseen = categories[categories["group"].str.startswith("not in train")]["count"].sum()
    assert unseen == 2 * (graph.test["relation"] == 1).sum()
