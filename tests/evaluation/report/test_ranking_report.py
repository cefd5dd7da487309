from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mkgformer_kedro.evaluation.ranking.metrics import ranks_of
from mkgformer_kedro.evaluation.report.ranking import choose_queries, describe_queries

RELATIONS = ["part of", "kind of", "member of"]
IMAGE = np.full((3, 8, 8), 90, dtype=np.uint8)


@pytest.fixture(scope="module")
def has_images(one_graph) -> np.ndarray:
    return np.arange(one_graph.num_entities) % 2 == 0


@pytest.fixture(scope="module")
def predictions(one_graph) -> pd.DataFrame:
    return one_graph.answers("model")


def test_examples_are_right_then_wrong_and_prefer_images(predictions, has_images):
    chosen = choose_queries(predictions, has_images, number=2, seed=0)
    assert (chosen["rank_pessimistic"].iloc[:2] == 1).all()
    assert (chosen["rank_optimistic"].iloc[2:] > 10).all()
    assert has_images[chosen["entity"]].all()
    wrong = chosen.iloc[2:]
    assert not wrong.duplicated(["relation", "direction"]).any()
    again = choose_queries(predictions, has_images, number=2, seed=0)
    pd.testing.assert_frame_equal(again, chosen)


def test_examples_run_out_gracefully(predictions, has_images):
    perfect = predictions.assign(rank_optimistic=1, rank_pessimistic=1)
    assert len(choose_queries(perfect.head(2), has_images, number=5, seed=0)) == 2


def test_an_example_tells_query_answer_guesses_and_other_ranks(one_graph, predictions, has_images):
    chosen = choose_queries(predictions, has_images, number=2, seed=0)
    other = one_graph.answers("complex", one_graph.scores.flip(0))
    examples = describe_queries(
        chosen,
        {"ComplEx": other},
        one_graph.tables["entities"],
        RELATIONS,
        lambda entity: [IMAGE] * 6 if has_images[entity] else [],
    )
    assert len(examples) == 4
    ranks = other.assign(rank=ranks_of(other)).set_index(["triple", "direction"])["rank"]
    for row, example in zip(chosen.itertuples(), examples, strict=True):
        assert example.known.name == f"entity {row.entity}"
        assert example.answer.name == f"entity {row.answer}"
        assert example.relation == RELATIONS[row.relation]
        assert len(example.known.images) == 4
        assert [g.is_answer for g in example.guesses] == [
            entity == row.answer for entity in row.top_entities[:5]
        ]
        assert example.other_ranks == {"ComplEx": ranks[row.triple, row.direction]}
    assert [example.guesses[0].is_answer for example in examples] == [True] * 2 + [False] * 2
