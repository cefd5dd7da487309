from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from mkgformer_kedro.evaluation.ranking.metrics import (
    mean_average_precisions,
    ranking_metrics,
    ranks_of,
    raw_view,
)


def frame(**columns: list) -> pd.DataFrame:
    return pd.DataFrame(columns)


def test_a_hand_made_table():
    metrics = ranking_metrics(
        frame(
            direction=["tail", "tail", "head"],
            rank_optimistic=[1, 2, 10],
            rank_pessimistic=[1, 4, 12],
            candidates=[10, 20, 30],
        )
    )
    assert metrics["both.optimistic.inverse_harmonic_mean_rank"] == pytest.approx(
        (1 + 1 / 2 + 1 / 10) / 3
    )
    assert metrics["both.realistic.inverse_harmonic_mean_rank"] == pytest.approx(
        (1 + 1 / 3 + 1 / 11) / 3
    )
    assert metrics["both.optimistic.hits_at_10"] == 1.0
    assert metrics["both.realistic.hits_at_10"] == pytest.approx(2 / 3)
    assert metrics["tail.realistic.hits_at_3"] == 1.0
    assert metrics["tail.pessimistic.hits_at_3"] == 0.5
    assert metrics["head.realistic.arithmetic_mean_rank"] == 11.0
    assert metrics["both.realistic.count"] == 3.0
    # MR 5 against an expectation of (10 + 20 + 30) / 3 = 20, halved after adding one: 10.5
    assert metrics["both.realistic.adjusted_arithmetic_mean_rank_index"] == pytest.approx(5.5 / 9.5)


def test_a_random_ranking_has_an_adjusted_index_of_zero():
    ranks = np.arange(1, 100)
    metrics = ranking_metrics(
        frame(
            direction=["tail"] * 99,
            rank_optimistic=ranks,
            rank_pessimistic=ranks,
            candidates=[99] * 99,
        )
    )
    assert metrics["both.realistic.adjusted_arithmetic_mean_rank_index"] == pytest.approx(0.0)


def test_a_side_without_rows_is_left_out():
    metrics = ranking_metrics(
        frame(direction=["tail"], rank_optimistic=[1], rank_pessimistic=[1], candidates=[5])
    )
    assert not any(key.startswith("head.") for key in metrics)
    with pytest.raises(ValueError, match="no predictions"):
        ranking_metrics(frame(direction=[], rank_optimistic=[], rank_pessimistic=[], candidates=[]))


def pykeen_metrics(graph, *, filtered: bool) -> dict[str, float]:
    """Score the graph with PyKEEN's own evaluator and its own filter."""
    from pykeen.evaluation import RankBasedEvaluator
    from pykeen.evaluation.evaluator import create_sparse_positive_filter_, filter_scores_

    everything = torch.as_tensor(
        pd.concat([graph.train, graph.test])[["head", "relation", "tail"]].to_numpy(copy=True)
    )
    row_of = {
        (direction, entity, relation): row
        for row, (direction, entity, relation) in enumerate(
            graph.queries[["direction", "entity", "relation"]].itertuples(index=False)
        )
    }
    evaluator = RankBasedEvaluator(filtered=filtered)
    hrt = torch.as_tensor(graph.test[["head", "relation", "tail"]].to_numpy(copy=True))
    for direction, given, asked in (("tail", 0, 2), ("head", 2, 0)):
        rows = [row_of[direction, int(t[given]), int(t[1])] for t in hrt]
        scores = graph.scores[rows].clone()
        true_scores = scores[torch.arange(len(hrt)), hrt[:, asked], None]
        if filtered:
            positive, _ = create_sparse_positive_filter_(
                hrt_batch=hrt, all_pos_triples=everything, relation_filter=None, filter_col=asked
            )
            scores = filter_scores_(scores=scores, filter_batch=positive)
            scores[torch.arange(len(hrt)), hrt[:, asked]] = true_scores[:, 0]
        evaluator.process_scores_(hrt, direction, scores, true_scores)
    return evaluator.finalize().to_flat_dict()


@pytest.mark.parametrize("filtered", [True, False], ids=["filtered", "raw"])
def test_every_metric_equals_pykeens(graph, filtered):
    predictions = graph.answers("model")
    metrics = ranking_metrics(predictions if filtered else raw_view(predictions))
    expected = pykeen_metrics(graph, filtered=filtered)
    assert len(metrics) == 3 * (3 * 6 + 1)
    for key, value in metrics.items():
        assert value == pytest.approx(expected[key], abs=1e-6), key


def test_ranks_equal_pykeens_on_scores_that_are_all_alike(graph):
    from pykeen.evaluation.ranks import Ranks

    scores = torch.full_like(graph.scores, 0.25)
    predictions = raw_view(graph.answers("model", scores))
    expected = Ranks.from_scores(scores[:1, :1], scores[:1])
    for rank_type, ranks in expected.items():
        assert set(ranks_of(predictions, rank_type)) == {float(ranks)}


def test_average_precision_equals_scikit_learns(graph):
    from sklearn.metrics import average_precision_score

    # Without ties, which scikit-learn counts as one step.
    scores = torch.rand(graph.scores.shape, generator=torch.Generator().manual_seed(0))
    predictions = graph.answers("model", scores)
    expected = {"head": [], "tail": [], "both": []}
    for (direction, entity, relation), answers in predictions.groupby(
        ["direction", "entity", "relation"]
    )["answer"]:
        asked = graph.queries[["direction", "entity", "relation"]].eq([direction, entity, relation])
        row = scores[int(np.flatnonzero(asked.all(axis=1))[0])].numpy()
        given, sought = ("head", "tail") if direction == "tail" else ("tail", "head")
        train = graph.train[(graph.train[given] == entity) & (graph.train["relation"] == relation)]
        kept = ~np.isin(np.arange(len(row)), train[sought].to_numpy())
        is_answer = np.isin(np.arange(len(row)), answers.to_numpy())
        value = average_precision_score(is_answer[kept], row[kept])
        expected[direction].append(value)
        expected["both"].append(value)
    found = mean_average_precisions(predictions)
    for side, values in expected.items():
        key = f"{side}.realistic.mean_average_precision"
        assert found[key] == pytest.approx(np.mean(values), abs=1e-6)
