from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from mkgformer_kedro.evaluation.ranking import RankingEvaluation, evaluate
from mkgformer_kedro.evaluation.ranking.evaluation import MRR
from mkgformer_kedro.evaluation.ranking.graph import reverse_in_train
from mkgformer_kedro.evaluation.ranking.metrics import ranking_metrics, raw_view
from mkgformer_kedro.evaluation.ranking.scores import mrr_difference


def evaluation_of(graph, *answers: pd.DataFrame, **tables: pd.DataFrame) -> RankingEvaluation:
    """Of the given experts and popularity."""
    baseline = graph.answers("baseline", graph.popularity, seed=0)
    return evaluate(
        pd.concat([*answers, baseline], ignore_index=True),
        graph.tables | tables,
        has_images=np.ones(graph.num_entities, dtype=bool),
        seed=0,
        resamples=100,
    )


def model_and_blind(graph, model, blind) -> list[pd.DataFrame]:
    return [graph.answers("model", model), graph.answers("without_images", blind)]


def leaking(graph, leaks: bool) -> pd.DataFrame:
    """Triples with the reverse of all of test in train, or of none."""
    triples = graph.tables["triples"]
    in_train = triples["split"] == "train"
    if not leaks:
        return triples[~(in_train & reverse_in_train(triples[~in_train], triples))]
    reverse = triples[~in_train].rename(columns={"head": "tail", "tail": "head"})
    return pd.concat([triples, reverse.assign(split="train")], ignore_index=True)


def test_every_expert_is_scored_with_and_without_leaks(graph):
    model = graph.answers("model")
    evaluation = evaluation_of(graph, model, graph.answers("without_images"))
    assert evaluation.experts == ["model", "without_images", "baseline"]
    assert evaluation.whole.count == len(graph.test)
    assert evaluation.scores["model"].metrics.items() >= ranking_metrics(model).items()
    assert evaluation.raw == ranking_metrics(raw_view(model))
    leak = graph.tables["triples"].query("split == 'test'")["leak"].to_numpy()
    assert evaluation.leak_share == leak.mean()
    kept = model[~leak[model["triple"]]]
    view = evaluation.views["without_leaks"]
    assert view.count == (~leak).sum()
    assert view.scores["model"].metrics.items() >= ranking_metrics(kept).items()
    assert view.scores["baseline"].metrics["both.realistic.count"] == len(kept)


@pytest.mark.parametrize("side", ["tail", "head"])
def test_each_direction_is_a_view(graph, side):
    evaluation = evaluation_of(graph, graph.answers("model"), graph.answers("without_images"))
    view, key = evaluation.views[side], "realistic.inverse_harmonic_mean_rank"
    for expert in evaluation.experts:
        expected = evaluation.scores[expert].metrics[f"{side}.{key}"]
        assert view.scores[expert].metrics[f"both.{key}"] == expected
    difference = view.differences["without_images"]
    assert difference.interval.low <= difference.value <= difference.interval.high


@pytest.mark.parametrize("leaks", [False, True])
def test_nothing_or_everything_leaking_leaves_no_second_view(graph, leaks):
    evaluation = evaluation_of(graph, graph.answers("model"), triples=leaking(graph, leaks))
    assert "without_leaks" not in evaluation.views


def test_triples_with_an_unseen_entity_are_a_view(graph):
    triples = graph.tables["triples"]
    touches = (triples["head"] == 3) | (triples["tail"] == 3)
    triples = triples[~(touches & (triples["split"] == "train"))]
    evaluation = evaluation_of(graph, graph.answers("model"), triples=triples)
    there = touches & (triples["split"] == "test")
    view = evaluation.views["unseen_entities"]
    assert view.count == there.sum() > 0
    assert view.scores["model"].metrics["both.realistic.count"] == 2 * view.count
    assert evaluation.unseen_share == view.count / len(graph.test)
    metrics = evaluation.metrics
    assert metrics["test_unseen_entities"] == metrics["test_by_view"]["unseen_entities"]["model"]


def test_any_number_of_experts_and_seeds(graph):
    others = [
        graph.answers("model", seed=1),
        graph.answers("model", graph.perfect, seed=2),
        graph.answers("complex", graph.scores.flip(0)),
        graph.answers("mixture", graph.perfect),
    ]
    evaluation = evaluation_of(graph, *others)
    assert evaluation.experts == ["model", "complex", "mixture", "baseline"]
    assert evaluation.seeds == [1, 2]
    metrics = evaluation.metrics
    assert json.loads(json.dumps(metrics)) == metrics
    assert metrics["experts"] == evaluation.experts
    assert set(metrics["test_complex"]) == {k for k in metrics["test"] if k.startswith("both.rea")}
    assert metrics["test_std"][MRR.key] > 0
    for expert, difference in evaluation.differences.items():
        scores = evaluation.scores
        expected = scores["model"].metrics[MRR.key] - scores[expert].metrics[MRR.key]
        assert difference.value == pytest.approx(expected)
        assert metrics["test_difference"][expert]["value"] == difference.value
    table = evaluation.drill_down
    assert set(table["expert"]) == set(evaluation.experts)
    assert list(table)[:4] == ["expert", "by", "group", "count"]
    per_expert = table.groupby("expert")["count"].sum()
    assert per_expert.nunique() == 1


def test_a_mixture_is_compared_with_each_of_its_experts(graph):
    model, mixture = graph.answers("model"), graph.answers("mixture", graph.perfect)
    evaluation = evaluation_of(graph, model, mixture)
    assert set(evaluation.added) == {"model", "baseline"}
    assert evaluation.added["model"] == mrr_difference(mixture, model, seed=0, resamples=100)
    (verdict,) = [one for one in evaluation.verdicts if "mixture" in one.text]
    assert verdict.outcome == "good"
    assert "better than its best expert alone" in verdict.text
    assert set(evaluation.metrics["test_added_by_mixture"]) == {"model", "baseline"}


def test_whoever_could_not_answer_is_reported(graph):
    structural = graph.answers("complex")
    structural["answered"] = structural["triple"] % 4 != 0
    evaluation = evaluation_of(graph, graph.answers("model"), structural)
    assert evaluation.answered == {"complex": structural["answered"].mean()}
    assert evaluation.metrics["test_answered"] == evaluation.answered
    assert "test_answered" not in evaluation_of(graph, graph.answers("model")).metrics


def test_another_reference_can_be_asked_for(graph):
    predictions = pd.concat([graph.answers("model"), graph.answers("complex", graph.perfect)])
    evaluation = evaluate(
        predictions,
        graph.tables,
        has_images=np.ones(graph.num_entities, dtype=bool),
        seed=0,
        resamples=100,
        reference="complex",
        names={"complex": "ComplEx"},
    )
    assert evaluation.experts == ["complex", "model"]
    assert evaluation.differences["model"].is_clear
    assert evaluation.name("complex") == "ComplEx"
    with pytest.raises(ValueError, match="no predictions of 'rotate', only of: model, complex"):
        evaluate(
            predictions,
            graph.tables,
            has_images=np.ones(graph.num_entities, dtype=bool),
            seed=0,
            reference="rotate",
        )


def test_the_verdicts_say_what_the_figures_say(graph):
    best, poor, triples = graph.perfect, graph.scores, leaking(graph, False)

    helped = evaluation_of(graph, *model_and_blind(graph, best, poor), triples=triples)
    baseline, images, seeds = helped.verdicts
    assert baseline.outcome == "good"
    assert "The model beats the popularity baseline" in baseline.text
    assert f"1.000 against {helped.scores['baseline'].metrics[MRR.key]:.3f}" in baseline.text
    assert images.outcome == "good"
    assert images.text.startswith("Images help")
    assert seeds.text.startswith("One training run (seed 7)")

    hurt = evaluation_of(graph, *model_and_blind(graph, poor, best), triples=triples)
    assert hurt.verdicts[1].outcome == "bad"
    assert hurt.verdicts[1].text.startswith("Images hurt")
    assert "a difference of \u2212" in hurt.verdicts[1].text

    alike = evaluation_of(graph, *model_and_blind(graph, poor, poor), triples=triples)
    assert alike.verdicts[1].outcome == "open"
    assert "do not show that images help" in alike.verdicts[1].text


def test_a_model_no_better_than_popularity_is_called_that(graph):
    evaluation = evaluation_of(graph, graph.answers("model", graph.popularity))
    verdict = evaluation.verdicts[0]
    assert verdict.outcome == "open"
    assert "not clearly better or worse than" in verdict.text


def test_tables_read_from_parquet_score_alike(graph, tmp_path):
    predictions = pd.concat(
        [graph.answers("model"), graph.answers("baseline", graph.popularity, seed=0)]
    )
    predictions.to_parquet(tmp_path / "predictions.parquet")
    images = np.ones(graph.num_entities, dtype=bool)
    found, expected = (
        evaluate(table, graph.tables, has_images=images, seed=0, resamples=100)
        for table in (pd.read_parquet(tmp_path / "predictions.parquet"), predictions)
    )
    assert found.metrics == expected.metrics
