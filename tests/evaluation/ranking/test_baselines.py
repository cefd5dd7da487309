from __future__ import annotations

import pandas as pd
import pytest
import torch

from mkgformer_kedro.evaluation.ranking.baselines import Popularity, predict_popularity


def test_popularity_counts_answers_of_that_relation_and_direction():
    train = pd.DataFrame({"head": [0, 1, 2, 2], "relation": [0, 0, 0, 1], "tail": [3, 3, 1, 0]})
    queries = pd.DataFrame(
        {"direction": ["tail", "head", "tail", "head", "tail"], "relation": [0, 0, 1, 1, 7]}
    )
    scores = Popularity(train, num_entities=4).score(queries)
    assert scores.dtype == torch.float32
    assert scores.tolist() == [
        [0, 1, 0, 2],
        [1, 1, 1, 0],
        [1, 0, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 0, 0],
    ]


@pytest.mark.parametrize("size", [1, 5])
def test_blocks_score_like_the_whole(graph, size):
    popularity = Popularity(graph.train, graph.num_entities)
    parts = [
        popularity.score(graph.queries.iloc[start : start + size])
        for start in range(0, len(graph.queries), size)
    ]
    assert torch.equal(torch.cat(parts), popularity.score(graph.queries))


def test_the_baseline_ranks_the_test_answers_by_popularity(graph):
    found = predict_popularity(graph.tables)
    expected = graph.answers("baseline", graph.popularity, seed=0)
    assert found.pop("answered").all()
    pd.testing.assert_frame_equal(found, expected)


def test_the_baseline_has_learned_nothing_of_a_relation_that_train_lacks(graph):
    triples = graph.tables["triples"]
    lacks = ~((triples["split"] == "train") & (triples["relation"] == 1))
    found = predict_popularity(graph.tables | {"triples": triples[lacks]})
    assert found["answered"].tolist() == (found["relation"] != 1).tolist()
