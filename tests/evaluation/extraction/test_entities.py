from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from seqeval.metrics.v1 import classification_report, precision_recall_fscore_support
from seqeval.scheme import IOB2

from mkgformer_kedro.evaluation.extraction import evaluate_entities
from mkgformer_kedro.evaluation.extraction.baselines import Gazetteer, predict_gazetteer
from mkgformer_kedro.evaluation.extraction.entities import (
    NO_ENTITY,
    align,
    confuse_types,
    count_each_entity,
    count_errors,
    count_posts,
)
from mkgformer_kedro.evaluation.extraction.mentions import entities_of
from mkgformer_kedro.evaluation.extraction.scores import count_groups, score_counts

TYPES = ["PER", "LOC"]


def tables_of(
    gold: list[list[str]], predicted: list[list[str]], words_lost: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions and posts, each word with a name of its own."""
    names = [f"test-{i}" for i in range(len(gold))]
    predictions = pd.DataFrame(
        {
            "expert": "model",
            "seed": 1,
            "post": names,
            "tags": gold,
            "predicted": predicted,
            "words_lost": words_lost,
        }
    )
    words = [[f"w{i}" for i in range(len(tags))] for tags in gold]
    return predictions, pd.DataFrame({"post": names, "split": "test", "words": words})


def any_tags(generator: np.random.Generator, posts: int) -> list[list[str]]:
    """Tags that need not be valid."""
    tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    return [generator.choice(tags, size=12).tolist() for _ in range(posts)]


def evaluation_of(sample):
    return evaluate_entities(
        sample.predictions, sample.tables, has_images=sample.has_images, seed=0, resamples=100
    )


def test_three_posts_by_hand():
    predictions, _ = tables_of(
        [["B-PER", "I-PER", "O"], ["B-LOC", "O"], ["O", "O"]],
        [["B-PER", "I-PER", "B-LOC"], ["B-PER", "O"], ["O", "O"]],
    )
    found = score_counts(count_posts(predictions), seed=0, resamples=20)
    assert found.metrics == pytest.approx({"precision": 1 / 3, "recall": 1 / 2, "f1": 2 / 5})


@pytest.mark.parametrize("chance", range(5))
def test_scores_are_seqevals(chance):
    generator = np.random.default_rng(chance)
    gold, predicted = any_tags(generator, 25), any_tags(generator, 25)
    # Some posts are predicted well, or nothing would be right.
    predicted[:10] = gold[:10]
    predictions, posts = tables_of(gold, predicted)
    found = score_counts(count_posts(predictions), seed=0, resamples=20).metrics
    strict = {"scheme": IOB2, "zero_division": 0}
    expected = precision_recall_fscore_support(gold, predicted, average="micro", **strict)
    assert [found[name] for name in ("precision", "recall", "f1")] == pytest.approx(expected[:3])

    report = classification_report(gold, predicted, output_dict=True, **strict)
    by_type = count_groups(
        count_each_entity(align(predictions, posts)), "type", seed=0, resamples=20
    )
    for row in by_type.itertuples():
        theirs = report[row.group]
        assert (row.precision, row.recall, row.f1, row.gold) == pytest.approx(
            tuple(theirs[key] for key in ("precision", "recall", "f1-score", "support"))
        )
    assert len(by_type) == 2


def test_every_kind_of_error_is_told_from_the_others():
    gold = [["B-PER", "I-PER", "O", "B-LOC", "O", "B-PER", "I-PER", "O", "B-LOC", "B-PER"]]
    predicted = [["B-PER", "I-PER", "B-LOC", "B-PER", "O", "B-PER", "O", "O", "O", "B-PER"]]
    predictions, posts = tables_of(gold, predicted)
    errors = count_errors(align(predictions, posts), TYPES)
    assert errors.loc["all types"].to_dict() == {
        "gold": 5, "correct": 2, "type": 1, "boundary": 1, "boundary_and_type": 0, "missed": 1,
        "lost": 0, "spurious": 1,
    }  # fmt: skip
    assert errors.loc["PER", ["gold", "correct", "boundary"]].tolist() == [3, 2, 1]
    assert errors.loc["LOC", ["gold", "type", "missed", "spurious"]].tolist() == [2, 1, 1, 1]


def test_of_several_overlapping_predictions_the_nearest_counts():
    # A prediction of the same type counts before a longer one of another type.
    predictions, posts = tables_of([["B-PER", "I-PER", "I-PER"]], [["B-LOC", "I-LOC", "B-PER"]])
    (gold,) = align(predictions, posts).query("side == 'gold'").itertuples()
    assert (gold.outcome, gold.other) == ("boundary", "PER")
    predictions, posts = tables_of([["B-PER", "I-PER"]], [["B-LOC", "O"]])
    (gold,) = align(predictions, posts).query("side == 'gold'").itertuples()
    assert (gold.outcome, gold.other) == ("boundary_and_type", "LOC")


def test_outcomes_add_up(entity_sample):
    errors = evaluation_of(entity_sample).errors
    outcomes = errors[["correct", "type", "boundary", "boundary_and_type", "missed"]]
    assert outcomes.sum(axis=1).to_numpy() == pytest.approx(errors["gold"].to_numpy())
    assert errors.iloc[1:].sum().to_numpy() == pytest.approx(errors.iloc[0].to_numpy())


def test_the_confusion_of_types_holds_missed_and_spurious_entities():
    predictions, posts = tables_of(
        [["B-PER", "I-PER", "O", "B-LOC", "B-LOC"]], [["B-LOC", "O", "B-PER", "O", "B-LOC"]]
    )
    matrix = confuse_types(align(predictions, posts), TYPES)
    assert matrix.loc["PER"].tolist() == [0, 1, 0]
    assert matrix.loc["LOC"].tolist() == [0, 1, 1]
    assert matrix.loc[NO_ENTITY].tolist() == [1, 0, 0]


def test_entities_behind_the_window_are_missed_and_counted(entity_sample):
    gold = [["B-PER", "O", "B-LOC", "I-LOC"]]
    predictions, posts = tables_of(gold, [["B-PER", "O", "B-LOC", "O"]], words_lost=1)
    found = align(predictions, posts).query("side == 'gold'")
    assert found["lost"].tolist() == [False, True]
    metrics = score_counts(count_posts(predictions), seed=0, resamples=20).metrics
    assert metrics["recall"] == 1 / 2

    # Two seeds lose the same words; they are counted once.
    model = entity_sample.of("model").assign(words_lost=np.int32(1))
    evaluation = evaluation_of(entity_sample.with_answers("model", model))
    tests = entity_sample.posts.query("split == 'test'")
    assert evaluation.words_lost == len(tests)
    assert evaluation.entities_lost == sum(tags[-1] != "O" for tags in tests["tags"])
    assert evaluation.metrics["test_lost"]["entities"] == evaluation.entities_lost


def test_a_post_with_too_few_tags_is_an_error():
    predictions, posts = tables_of([["O", "O"]], [["O"]])
    with pytest.raises(ValueError, match="test-0 has 2 words, 2 gold tags and 1 predicted"):
        align(predictions, posts)


def test_the_gazetteer_takes_the_longest_mention_and_its_most_frequent_type():
    words = [["New", "York", "Giants", "won"], ["New", "York"], ["New", "York"], ["Paris"],
             ["Paris"], ["Paris"], ["Tie"], ["Tie"]]  # fmt: skip
    tags = [["B-ORG", "I-ORG", "I-ORG", "O"], ["B-LOC", "I-LOC"], ["B-LOC", "I-LOC"], ["B-PER"],
            ["B-PER"], ["B-LOC"], ["B-LOC"], ["B-PER"]]  # fmt: skip
    gazetteer = Gazetteer(words, tags, ["PER", "LOC", "ORG"])
    found = gazetteer.tag(["The", "New", "York", "Giants", "left", "New", "York", "Paris", "paris"])
    assert found == ["O", "B-ORG", "I-ORG", "I-ORG", "O", "B-LOC", "I-LOC", "B-PER", "O"]
    assert gazetteer.tag(["Tie"]) == ["B-PER"]
    assert gazetteer.tag(["in", "New", "York"]) == ["O", "B-LOC", "I-LOC"], (
        "the longer would not fit"
    )
    assert gazetteer.tag([]) == []
    assert Gazetteer([["a"]], [["O"]], ["PER"]).tag(["a"]) == ["O"]


def test_the_gazetteer_reads_train_alone(entity_sample):
    found = predict_gazetteer(entity_sample.tables)
    test = entity_sample.posts.query("split == 'test'")
    assert found["post"].tolist() == test["post"].tolist()
    assert found["tags"].tolist() == test["tags"].tolist()
    train = entity_sample.posts.query("split == 'train'")
    mentions = {
        tuple(words[start:end])
        for words, tags in zip(train["words"], train["tags"], strict=True)
        for start, end, _ in entities_of(tags)
    }
    tagged = [
        tuple(words[start:end])
        for words, tags in zip(test["words"], found["predicted"], strict=True)
        for start, end, _ in entities_of(tags)
    ]
    assert tagged
    assert set(tagged) <= mentions
    assert list(found) == ["expert", "seed", "post", "tags", "predicted", "words_lost"]


def test_tables_read_from_parquet_score_alike(entity_sample, tmp_path):
    expected = evaluation_of(entity_sample)
    changes = {}
    for name in ("predictions", "posts"):
        getattr(entity_sample, name).to_parquet(tmp_path / name)
        changes[name] = pd.read_parquet(tmp_path / name)
    read = replace(entity_sample, **changes)
    found = evaluation_of(read)
    assert found.metrics == expected.metrics
    pd.testing.assert_frame_equal(found.drill_down, expected.drill_down)
    baseline, again = predict_gazetteer(read.tables), predict_gazetteer(entity_sample.tables)
    assert baseline["predicted"].tolist() == again["predicted"].tolist()


def test_the_evaluation_holds_scores_comparisons_and_groups(entity_sample):
    found = evaluation_of(entity_sample)
    assert found.seeds == [1, 2]
    assert "the gazetteer baseline" in found.verdicts[0].text
    assert found.verdicts[1].text.startswith("Images help")
    assert list(found.views) == ["ambiguous", "clear", "misleading"]
    assert set(found.groups) == {"subset", "images", "mention", "type"}
    own = {by: table[table["expert"] == "model"] for by, table in found.groups.items()}
    assert own["type"]["group"].tolist() == ["PER", "LOC", "ORG"]
    gold = sum(
        len(entities_of(tags)) for tags in entity_sample.posts.query("split == 'test'")["tags"]
    )
    assert own["type"]["gold"].sum() == gold
    assert own["mention"]["gold"].sum() == gold
    assert set(found.metrics["test"]) == {"precision", "recall", "f1"}
    assert found.metrics["test_errors"]["all types"]["gold"] == gold


def test_a_mention_is_seen_whatever_its_case_and_type():
    posts = pd.DataFrame(
        {
            "post": ["train-0", "test-0"],
            "split": ["train", "test"],
            "words": [["Ann", "Lee"], ["ann", "LEE", "Bob"]],
            "tags": [["B-PER", "I-PER"], ["B-LOC", "I-LOC", "B-PER"]],
            "subset": None,
        }
    )
    model = pd.DataFrame(
        {
            "expert": "model",
            "seed": 1,
            "post": ["test-0"],
            "tags": [posts["tags"][1]],
            "predicted": [["B-LOC", "I-LOC", "O"]],
            "words_lost": 0,
        }
    )
    tables = {"posts": posts, "labels": pd.DataFrame({"label": TYPES, "text": TYPES})}
    found = evaluate_entities(model, tables, has_images=np.ones(2, bool), seed=0, resamples=20)
    table = found.groups["mention"].set_index("group")
    assert table["recall"].to_dict() == {"in train": 1.0, "not in train": 0.0}
    assert table["gold"].tolist() == [1, 1]
