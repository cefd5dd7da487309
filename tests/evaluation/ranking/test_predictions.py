from __future__ import annotations

import pandas as pd
import pytest
import torch

from mkgformer_kedro.evaluation.ranking.predictions import predict, raw_view


def test_one_row_per_triple_and_direction(graph):
    predictions = predict(graph.queries, [graph.scores], graph.test)
    assert len(predictions) == 2 * len(graph.test)
    for direction, given, asked in (("tail", "head", "tail"), ("head", "tail", "head")):
        rows = predictions[predictions["direction"] == direction].reset_index(drop=True)
        assert rows["triple"].tolist() == list(range(len(graph.test)))
        assert rows["entity"].tolist() == graph.test[given].tolist()
        assert rows["relation"].tolist() == graph.test["relation"].tolist()
        assert rows["answer"].tolist() == graph.test[asked].tolist()


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_size_of_the_blocks_does_not_matter(graph, size):
    whole = predict(graph.queries, [graph.scores], graph.test)
    blocks = predict(graph.queries, iter(graph.scores.split(size)), graph.test)
    pd.testing.assert_frame_equal(blocks, whole)


def test_parquet_keeps_the_table_as_it_is(graph, tmp_path):
    predictions = predict(graph.queries, [graph.scores], graph.test)
    predictions.to_parquet(tmp_path / "predictions.parquet")
    back = pd.read_parquet(tmp_path / "predictions.parquet")
    pd.testing.assert_frame_equal(back, predictions, check_dtype=False)
    whole = ["triple", "entity", "relation", "answer", *(c for c in back if "rank" in c)]
    assert {str(back[name].dtype) for name in whole} == {"int32"}
    assert back["top_entities"][0].dtype == "int32"
    assert back["top_scores"][0].dtype == "float32"


def test_a_hand_made_table():
    test = pd.DataFrame({"head": [0, 0], "relation": [0, 0], "tail": [1, 2]})
    queries = pd.DataFrame(
        {
            "direction": ["tail", "head", "head"],
            "entity": [0, 1, 2],
            "relation": [0, 0, 0],
            "answers": [[1, 2], [0], [0]],
            "known": [[1, 2, 3], [0], [0, 1]],
        }
    )
    scores = torch.tensor([[0.0, 3.0, 2.0, 9.0], [5.0, 5.0, 1.0, 0.0], [1.0, 7.0, 0.0, 2.0]])
    predictions = predict(queries, scores.split(2), test)
    ranks = predictions[
        ["triple", "direction", "answer", "rank_optimistic", "rank_pessimistic", "candidates"]
    ]
    assert ranks.to_numpy().tolist() == [
        [0, "head", 0, 1, 2, 4],
        [0, "tail", 1, 1, 1, 2],
        [1, "head", 0, 2, 2, 3],
        [1, "tail", 2, 1, 1, 2],
    ]
    assert [list(row) for row in predictions["top_entities"]] == [
        [1, 0, 2, 3],
        [1, 0],
        [3, 0, 2],
        [2, 0],
    ]
    raw = raw_view(predictions)
    assert raw["rank_optimistic"].tolist() == [1, 2, 3, 3]
    assert raw["rank_pessimistic"].tolist() == [2, 2, 3, 3]
    assert raw["candidates"].tolist() == [4, 4, 4, 4]


def test_scores_must_cover_the_queries(graph):
    with pytest.raises(ValueError, match="scores for only"):
        predict(graph.queries, [graph.scores[:-1]], graph.test)
    with pytest.raises(ValueError, match="more rows of scores"):
        predict(graph.queries, [graph.scores, graph.scores[:1]], graph.test)


def test_an_answer_outside_the_split_is_named(graph):
    with pytest.raises(ValueError, match="not among the triples scored"):
        predict(graph.queries, [graph.scores], graph.test.iloc[1:])
