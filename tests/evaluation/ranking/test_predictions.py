from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mkgformer_kedro.evaluation.ranking.metrics import raw_view
from mkgformer_kedro.evaluation.ranking.predictions import rank_queries


def whole_of(scores: torch.Tensor) -> list[tuple[np.ndarray, torch.Tensor]]:
    """All queries in one block."""
    return [(np.arange(len(scores)), scores)]


def test_one_row_per_triple_and_direction(graph):
    predictions = rank_queries(graph.queries, whole_of(graph.scores), graph.test)
    assert len(predictions) == 2 * len(graph.test)
    for direction, given, asked in (("tail", "head", "tail"), ("head", "tail", "head")):
        rows = predictions[predictions["direction"] == direction].reset_index(drop=True)
        assert rows["triple"].tolist() == list(range(len(graph.test)))
        assert rows["entity"].tolist() == graph.test[given].tolist()
        assert rows["relation"].tolist() == graph.test["relation"].tolist()
        assert rows["answer"].tolist() == graph.test[asked].tolist()


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_size_and_order_of_the_blocks_do_not_matter(graph, size):
    whole = rank_queries(graph.queries, whole_of(graph.scores), graph.test)
    order = np.random.default_rng(0).permutation(len(graph.queries))
    parts = np.split(order, range(size, len(order), size))
    asked = ((rows, graph.scores[rows]) for rows in parts)
    blocks = rank_queries(graph.queries, asked, graph.test)
    pd.testing.assert_frame_equal(blocks, whole)


def test_parquet_keeps_the_table_as_it_is(graph, tmp_path):
    predictions = rank_queries(graph.queries, whole_of(graph.scores), graph.test)
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
    blocks = [(np.array([0, 1]), scores[:2]), (np.array([2]), scores[2:])]
    predictions = rank_queries(queries, blocks, test)
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
    rows = np.arange(len(graph.queries))
    with pytest.raises(ValueError, match=rf"query {len(rows) - 1} of .* was scored 0 times"):
        rank_queries(graph.queries, [(rows[:-1], graph.scores[:-1])], graph.test)
    twice = [*whole_of(graph.scores), (rows[:1], graph.scores[:1])]
    with pytest.raises(ValueError, match=r"query 0 of .* was scored 2 times"):
        rank_queries(graph.queries, twice, graph.test)
    with pytest.raises(ValueError, match="rows of scores for"):
        rank_queries(graph.queries, [(rows, graph.scores[:-1])], graph.test)


def test_an_answer_outside_the_split_is_named(graph):
    with pytest.raises(ValueError, match="not among the triples scored"):
        rank_queries(graph.queries, whole_of(graph.scores), graph.test.iloc[1:])


def test_memory_hardly_grows_with_queries():
    script = Path(__file__).with_name("peak_of_ranking.py")
    grown = subprocess.run([sys.executable, script], check=True, capture_output=True, text=True)
    # 18,000 rows of the table and of what is asked; as many scores are 137 MiB.
    assert float(grown.stdout) < 48
