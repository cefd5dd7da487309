"""What is said of any task on posts: subsets, verdicts, any number of experts."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mkgformer_kedro.evaluation.experts import View
from mkgformer_kedro.evaluation.extraction import evaluate_relations
from mkgformer_kedro.evaluation.extraction.evaluation import (
    ambiguous_verdict,
    compare_posts,
    misleading_verdict,
)
from mkgformer_kedro.evaluation.extraction.relations import count_posts
from mkgformer_kedro.evaluation.extraction.scores import score_counts
from mkgformer_kedro.evaluation.intervals import Difference, Interval, Scores


def view_of(value: float, low: float, high: float, same: float) -> View:
    scores = Scores({"f1": 0.5}, {}, pd.DataFrame({"f1": [0.5]}, index=[1]))
    return View(
        "ambiguous",
        48,
        {"model": scores, "without_images": scores},
        {"without_images": Difference(value, Interval(low, high))},
        {"without_images": same},
    )


def evaluation_of(sample):
    return evaluate_relations(
        sample.predictions, sample.tables, has_images=sample.has_images, seed=0, resamples=50
    )


def test_subsets_are_compared_one_by_one(relation_sample):
    counts = {
        expert: count_posts(relation_sample.of(expert), relation_sample.labels)
        for expert in ("model", "without_images")
    }
    posts = counts["model"]["post"].unique()
    subsets = pd.Series(
        [["misleading", "ambiguous", "zebra", None][i % 4] for i in range(len(posts))], index=posts
    )
    views = compare_posts(counts, subsets, seed=0, resamples=100)["views"]
    assert list(views) == ["ambiguous", "misleading", "zebra"]
    for name, view in views.items():
        inside = subsets.index[subsets == name]
        first, second = (t[t["post"].isin(inside)].reset_index() for t in counts.values())
        assert view.count == 15
        same = (first["answer"] == second["answer"]).mean()
        assert view.same_answers == {"without_images": same}
        expected = [score_counts(t, seed=0, resamples=20).metrics["f1"] for t in (first, second)]
        assert view.differences["without_images"].value == pytest.approx(expected[0] - expected[1])
        assert view.scores["model"].metrics["f1"] == pytest.approx(expected[0])


def test_any_number_of_experts(relation_sample):
    sample = relation_sample.with_answers("text_only", relation_sample.of("without_images"))
    mixed = sample.with_answers("mixture", relation_sample.of("model"))
    found = evaluation_of(mixed)
    assert set(found.experts) == {"model", "without_images", "baseline", "text_only", "mixture"}
    metrics = found.metrics
    assert metrics["experts"] == found.experts
    assert metrics["test_text_only"] == metrics["test_without_images"]
    assert metrics["test_mixture"] == metrics["test"]
    for subset in metrics["test_by_subset"].values():
        assert set(subset) == {*found.experts, "difference", "interval"}
        assert subset["text_only"] == subset["without_images"]
    (verdict,) = [one for one in found.verdicts if "mixture" in one.text]
    assert "adds nothing that is clear" in verdict.text
    assert set(found.drill_down["expert"]) == set(found.experts)


def test_a_model_alone_is_compared_with_nobody(relation_sample):
    predictions = relation_sample.of("model")
    found = evaluate_relations(
        predictions,
        relation_sample.tables,
        has_images=relation_sample.has_images,
        seed=0,
        resamples=50,
    )
    assert found.others == []
    assert [verdict.text.split(" (")[0] for verdict in found.verdicts] == ["2 training runs"]
    assert set(found.metrics["test_by_subset"]["clear"]) == {"model"}


def test_the_order_of_experts_does_not_matter_to_the_reference(relation_sample):
    backwards = relation_sample.predictions.iloc[::-1].reset_index(drop=True)
    found = evaluate_relations(
        backwards,
        relation_sample.tables,
        has_images=relation_sample.has_images,
        seed=0,
        resamples=50,
    )
    assert found.experts[0] == "model"
    expected = evaluation_of(relation_sample)
    assert found.metrics["test_interval"] == expected.metrics["test_interval"]


def test_the_ambiguous_subset_is_won_or_the_reason_is_given():
    won = ambiguous_verdict(view_of(0.3, 0.2, 0.4, 0.3))
    assert won.outcome == "good"
    assert "(48)" in won.text
    assert "images help" in won.text
    ignored = ambiguous_verdict(view_of(0.01, -0.1, 0.1, 0.95))
    assert ignored.outcome == "bad"
    assert "do not show that images help" in ignored.text
    assert "95\u00a0% of them: it hardly looks" in ignored.text
    unread = ambiguous_verdict(view_of(0.01, -0.1, 0.1, 0.4))
    assert "has not learned to read them" in unread.text
    lost = ambiguous_verdict(view_of(-0.3, -0.4, -0.2, 0.4))
    assert lost.outcome == "bad"
    assert "images hurt" in lost.text


@pytest.mark.parametrize(
    ("ends", "outcome", "words"),
    [
        ((-0.3, -0.4, -0.2), "bad", "images hurt"),
        ((-0.1, -0.3, 0.1), "open", "no harm is shown"),
        ((0.3, 0.2, 0.4), "good", "help all the same"),
    ],
)
def test_misleading_images_do_harm_or_not(ends, outcome, words):
    verdict = misleading_verdict(view_of(*ends, same=0.5))
    assert verdict.outcome == outcome
    assert words in verdict.text


def test_answers_without_the_column_answered_are_all_learned(relation_sample):
    assert evaluation_of(relation_sample).answered == {}
    some = relation_sample.of("baseline").assign(answered=np.arange(60) % 2 == 0)
    found = evaluation_of(relation_sample.with_answers("baseline", some))
    assert found.answered == {"baseline": 0.5}
