from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from mkgformer_kedro.evaluation.extraction import evaluate_relations
from mkgformer_kedro.evaluation.extraction.baselines import predict_majority
from mkgformer_kedro.evaluation.extraction.relations import (
    confuse_relations,
    count_each_relation,
    count_posts,
    seen_mentions,
)
from mkgformer_kedro.evaluation.extraction.scores import count_groups, score_counts

LABELS = pd.DataFrame(
    {"label": ["none", "a", "b"], "text": ["none", "A", "B"], "negative": [True, False, False]}
)


def predictions_of(gold: list[int], predicted: list[int], seed: int = 1) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "expert": "model",
            "seed": seed,
            "post": [f"test-{i}" for i in range(len(gold))],
            "relation": gold,
            "predicted": predicted,
            "score": 0.5,
            "tokens_truncated": np.int32(0),
            "mentions_truncated": False,
        }
    )


def evaluation_of(sample):
    return evaluate_relations(
        sample.predictions, sample.tables, has_images=sample.has_images, seed=0, resamples=100
    )


def test_three_posts_by_hand():
    # The negative relation is nothing to find: post 0 adds nothing, post 1 a false positive.
    found = score_counts(
        count_posts(predictions_of([0, 0, 1], [0, 1, 1]), LABELS), seed=0, resamples=20
    )
    assert found.metrics == pytest.approx(
        {"precision": 1 / 2, "recall": 1.0, "f1": 2 / 3, "accuracy": 2 / 3}
    )


@pytest.mark.parametrize("chance", range(5))
@pytest.mark.parametrize("negative", [0, 3], ids=["negative first", "negative last"])
def test_scores_are_scikit_learns(chance, negative):
    generator = np.random.default_rng(chance)
    names = ["r0", "r1", "r2", "r3", "r4"]
    labels = pd.DataFrame({"label": names, "text": names, "negative": np.arange(5) == negative})
    gold, predicted = generator.integers(5, size=(2, 40)).tolist()
    predictions = predictions_of(gold, predicted)
    positive = [i for i in range(5) if i != negative]

    found = score_counts(count_posts(predictions, labels), seed=0, resamples=20).metrics
    expected = precision_recall_fscore_support(
        gold, predicted, labels=positive, average="micro", zero_division=0
    )
    assert [found[name] for name in ("precision", "recall", "f1")] == pytest.approx(expected[:3])
    assert found["accuracy"] == pytest.approx(accuracy_score(gold, predicted))

    table = count_groups(count_each_relation(predictions, labels), "relation", seed=0, resamples=20)
    each = precision_recall_fscore_support(gold, predicted, labels=positive, zero_division=0)
    assert table["group"].tolist() == [names[i] for i in positive]
    for column, values in zip(("precision", "recall", "f1", "gold"), each, strict=True):
        assert table[column].to_numpy() == pytest.approx(values)
    matrix = confuse_relations(predictions, labels)
    assert (matrix.to_numpy() == confusion_matrix(gold, predicted, labels=range(5))).all()


def test_without_a_negative_relation_f1_is_accuracy():
    labels = LABELS.assign(negative=False)
    found = score_counts(
        count_posts(predictions_of([0, 1, 2], [0, 2, 2]), labels), seed=0, resamples=20
    )
    assert found.metrics["f1"] == pytest.approx(found.metrics["accuracy"])


def test_the_confusion_of_two_seeds_is_their_mean():
    both = pd.concat([predictions_of([1, 2], [1, 1], 1), predictions_of([1, 2], [1, 2], 2)])
    assert confuse_relations(both, LABELS).to_numpy().tolist() == [
        [0, 0, 0],
        [0, 1, 0],
        [0, 0.5, 0.5],
    ]


def test_the_majority_is_trains_and_not_the_negative_relation():
    posts = pd.DataFrame(
        {
            "post": [f"p{i}" for i in range(9)],
            "split": ["train"] * 6 + ["dev"] + ["test"] * 2,
            "relation": np.array([0, 0, 0, 2, 2, 1, 1, 1, 0], dtype=np.int32),
        }
    )
    found = predict_majority({"posts": posts, "labels": LABELS})
    assert found["post"].tolist() == ["p7", "p8"]
    assert found["relation"].tolist() == [1, 0]
    assert found["predicted"].tolist() == [2, 2]
    assert (found["seed"] == 0).all()
    assert (found["expert"] == "baseline").all()
    columns = ["expert", "seed", "post", "relation", "predicted", "score"]
    assert list(found) == [*columns, "tokens_truncated", "mentions_truncated"]
    assert found["predicted"].dtype == np.int32
    assert found["seed"].dtype == np.int64


def test_mentions_are_seen_as_a_pair_apart_or_not():
    rows = [
        ("train", ["Ann", "Lee", "met", "Bob"], 0, 2, 3, 4),
        ("train", ["Cy", "Bob"], 0, 1, 1, 2),
        ("dev", ["Eve", "Dan"], 0, 1, 1, 2),
        ("test", ["BOB", "ann", "Lee"], 0, 1, 1, 3),
        ("test", ["Cy", "Ann", "Lee"], 0, 1, 1, 3),
        ("test", ["Cy", "Eve"], 0, 1, 1, 2),
        ("test", ["Dan", "Eve"], 0, 1, 1, 2),
    ]
    columns = ["split", "words", "head_start", "head_end", "tail_start", "tail_end"]
    posts = pd.DataFrame(rows, columns=columns)
    posts["post"] = [f"p{i}" for i in range(len(rows))]
    posts["words"] = [np.array(words, dtype=object) for words in posts["words"]]
    found = seen_mentions(posts)
    assert found.to_dict() == {
        "p3": "pair in train",
        "p4": "both in train, not as a pair",
        "p5": "one in train",
        "p6": "none in train",
    }


def test_the_evaluation_holds_scores_comparisons_and_groups(relation_sample):
    found = evaluation_of(relation_sample)
    assert found.whole.count == 60
    assert found.seeds == [1, 2]
    baseline, images = found.verdicts[:2]
    assert baseline.outcome == "good"
    assert "The model beats the majority baseline on F1" in baseline.text
    assert images.text.startswith("Images help")
    assert list(found.views) == ["ambiguous", "clear", "misleading"]
    assert set(found.groups) == {"subset", "images", "mentions", "relation"}
    own = {by: table[table["expert"] == "model"] for by, table in found.groups.items()}
    for by in ("subset", "images", "mentions"):
        assert own[by]["posts"].sum() == 60
    assert own["images"]["group"].tolist() == ["with images", "without images"]
    assert own["relation"]["group"].tolist() == ["/a/a/peer", "/a/b/of"]
    by_subset = own["subset"].set_index("group")["f1"]
    for name, view in found.views.items():
        assert by_subset[name] == pytest.approx(view.scores["model"].metrics["f1"])
    assert found.confusion.to_numpy().sum() == pytest.approx(60)


def test_metrics_are_what_metrics_json_holds(relation_sample):
    found = evaluation_of(relation_sample)
    metrics = found.metrics
    assert set(metrics["test"]) == {"precision", "recall", "f1", "accuracy"}
    assert metrics["test"] == found.scores["model"].metrics
    assert metrics["seeds"] == [1, 2]
    assert metrics["test_std"]["f1"] == pytest.approx(found.scores["model"].by_seed["f1"].std())
    ends = metrics["test_interval"]["f1"]
    assert ends["low"] < metrics["test"]["f1"] < ends["high"]
    for subset in metrics["test_by_subset"].values():
        assert subset["difference"] == pytest.approx(subset["model"] - subset["without_images"])
        assert subset["interval"]["low"] <= subset["difference"] <= subset["interval"]["high"]

    alone = evaluation_of(
        replace(relation_sample, predictions=relation_sample.predictions.query("seed != 1"))
    )
    assert "test_std" not in alone.metrics
    assert alone.metrics["seeds"] == [2]
    assert alone.verdicts[-1].text.startswith("One training run (seed 2)")


def test_posts_that_were_truncated_are_counted_for_one_seed(relation_sample):
    model = relation_sample.of("model")
    first = model["post"].iloc[0]
    truncated = model.assign(
        tokens_truncated=np.int32(3), mentions_truncated=model["post"] == first
    )
    found = evaluation_of(relation_sample.with_answers("model", truncated))
    assert found.metrics["test_truncated"] == {
        "posts": model["post"].nunique(),
        "posts_with_truncated_mentions": 1,
    }


def test_other_data_has_no_subsets(relation_sample):
    posts = relation_sample.posts.assign(subset=None)
    found = evaluation_of(replace(relation_sample, posts=posts))
    assert found.views == {}
    assert "test_by_subset" not in found.metrics
    assert len(found.verdicts) == 3
    assert set(found.drill_down["by"]) == {"images", "mentions", "relation"}


def test_the_drill_down_is_one_table(relation_sample):
    found = evaluation_of(relation_sample)
    table = found.drill_down
    assert list(table) == [
        "expert", "by", "group", "posts", "gold", "precision", "recall", "f1", "low", "high",
    ]  # fmt: skip
    assert len(table) == sum(map(len, found.groups.values()))
    assert table.notna().all(axis=None)
