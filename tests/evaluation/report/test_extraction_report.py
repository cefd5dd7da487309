from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mkgformer_kedro.evaluation.extraction import evaluate_entities, evaluate_relations
from mkgformer_kedro.evaluation.report.extraction import (
    choose_posts,
    entity_examples,
    entity_sections,
    relation_examples,
    relation_sections,
)

TASKS = {
    "relation_extraction": (evaluate_relations, relation_examples),
    "entity_recognition": (evaluate_entities, entity_examples),
}
IMAGE = np.full((3, 8, 8), 90, dtype=np.uint8)


@pytest.fixture(scope="module")
def samples(relation_sample, entity_sample):
    return dict(zip(TASKS, (relation_sample, entity_sample), strict=True))


def evaluation_of(task: str, sample):
    return TASKS[task][0](
        sample.predictions, sample.tables, has_images=sample.has_images, seed=0, resamples=20
    )


def examples_of(task: str, sample, number: int = 2):
    return TASKS[task][1](
        evaluation_of(task, sample),
        sample.tables,
        sample.has_images,
        lambda row: [IMAGE] * 6 if sample.has_images[row] else [],
        number=number,
        seed=0,
    )


def test_the_errors_of_entities_are_named_and_counted(samples, collect):
    evaluation = evaluation_of("entity_recognition", samples["entity_recognition"])
    (section,) = entity_sections(evaluation, {})
    text = " ".join(collect(str(section.body)).text.split())
    numbers = [evaluation.errors.loc["all types", kind]
               for kind in ("gold", "correct", "type", "boundary")]  # fmt: skip
    shown = " ".join(f"{n:.0f}" if n == int(n) else f"{n:.1f}" for n in numbers)
    assert f"all types {shown}" in text
    assert "Every word lies within the model's window" in text
    (section,) = entity_sections(replace(evaluation, words_lost=31, entities_lost=7), {})
    text = " ".join(collect(str(section.body)).text.split())
    assert "31 words lie behind the model's window" in text
    assert "7 gold entities reach into them" in text


def test_truncated_posts_are_reported(samples, collect):
    evaluation = evaluation_of("relation_extraction", samples["relation_extraction"])
    (section,) = relation_sections(evaluation, {})
    text = " ".join(collect(str(section.body)).text.split())
    assert "Every post fits into the model's window" in text
    assert "Kinds of errors" not in text
    (section,) = relation_sections(replace(evaluation, posts_truncated=5, mentions_truncated=1), {})
    text = " ".join(collect(str(section.body)).text.split())
    assert "5 posts are longer than the model's window and were truncated" in text


def test_examples_are_of_four_kinds_and_prefer_images():
    posts = [f"p{i}" for i in range(40)]
    right = pd.Series([i % 2 == 0 for i in range(40)], index=posts)
    without_images = pd.Series([i % 4 < 2 for i in range(40)], index=posts)
    about = pd.Series([None if i < 4 else i % 3 for i in range(40)], index=posts, dtype=object)
    images = pd.Series([i >= 4 and i < 36 for i in range(40)], index=posts)
    chosen = choose_posts(right, without_images, about, images, examples=3, seed=0)
    assert [kind for kind, _ in chosen] == [
        kind for kind in ("decided", "misled", "right", "wrong") for _ in range(3)
    ]
    assert len({post for _, post in chosen}) == 12
    for kind, post in chosen:
        assert images[post]
        assert right[post] == (kind in ("decided", "right"))
        assert (right[post] != without_images[post]) == (kind in ("decided", "misled"))
    again = choose_posts(right, without_images, about, images, examples=3, seed=0)
    assert again == chosen


def test_nobody_without_images_leaves_two_kinds():
    right = pd.Series([True, False, True], index=["a", "b", "c"])
    about = pd.Series([1, 1, 2], index=right.index)
    chosen = choose_posts(right, None, about, ~right, examples=5, seed=0)
    assert sorted(chosen) == [("right", "a"), ("right", "c"), ("wrong", "b")]


def test_examples_run_out_gracefully():
    posts = ["a", "b", "c"]
    right = pd.Series([True, True, True], index=posts)
    about = pd.Series([1, 1, None], index=posts)
    chosen = choose_posts(right, right, about, ~right, examples=5, seed=0)
    assert sorted(chosen) == [("right", "a"), ("right", "b")]


def test_a_relation_example_marks_both_mentions_and_names_all_answers(samples):
    sample = samples["relation_extraction"]
    examples = examples_of("relation_extraction", sample)
    assert len(examples) == 8
    first = sample.of("model").query("seed == 1").set_index("post")
    for example in examples:
        post = sample.posts.set_index("post").loc[example.post]
        (pieces,) = example.readings.values()
        assert " ".join(piece.text for piece in pieces) == " ".join(post["words"])
        marked = {piece.label: piece.text for piece in pieces if piece.label}
        assert marked == {"head": post["words"][0], "tail": post["words"][1]}
        answer = first.loc[example.post]
        assert example.answers["Gold"] == sample.labels["text"][answer["relation"]]
        assert list(example.answers) == ["Gold", "Model", "Without images", "Majority baseline"]
        assert example.answers["Model"].startswith(sample.labels["text"][answer["predicted"]])
        assert example.right == (answer["relation"] == answer["predicted"])
        assert example.subset == post["subset"]
        assert len(example.images) == 4


def test_mentions_that_overlap_are_both_marked(samples):
    sample = samples["relation_extraction"]
    posts = sample.posts.assign(head_start=0, head_end=2, tail_start=1, tail_end=3)
    (pieces,) = examples_of("relation_extraction", replace(sample, posts=posts))[
        0
    ].readings.values()
    assert [(piece.label, len(piece.text.split(" "))) for piece in pieces[:2]] == [
        ("head", 1),
        ("head and tail", 1),
    ]
    assert pieces[2].label == "tail"


def test_an_entity_example_marks_gold_and_predicted_entities(samples):
    sample = samples["entity_recognition"]
    examples = examples_of("entity_recognition", sample)
    assert {example.kind for example in examples} == {
        "Right with images, wrong without images",
        "Wrong with images, right without images",
        "Right",
        "Wrong",
    }
    for example in examples:
        readers = ", ".join(example.readings).lower()
        assert set(readers.split(", ")) == {
            "gold", "model", "without images", "gazetteer baseline",
        }  # fmt: skip
        assert example.right == any("gold, model" in reader.lower() for reader in example.readings)
        words = sample.posts.set_index("post").loc[example.post, "words"]
        for pieces in example.readings.values():
            assert " ".join(piece.text for piece in pieces) == " ".join(words)
            assert all(piece.label in ("", "PER", "LOC", "ORG") for piece in pieces)


def test_neighbouring_entities_of_one_type_are_two_marks(samples):
    sample = samples["entity_recognition"]
    test = sample.posts.query("split == 'test'").head(1).reset_index(drop=True)
    words = ["a", "b", "c"]
    posts = test.assign(words=[words], tags=[["B-PER", "B-PER", "I-PER"]])
    answers = pd.DataFrame(
        {
            "seed": 1,
            "post": posts["post"],
            "tags": posts["tags"],
            "predicted": posts["tags"],
            "words_lost": 0,
        }
    )
    both = pd.concat([answers.assign(expert=name) for name in ("model", "without_images")])
    one = replace(sample, posts=posts, has_images=np.array([True]), predictions=both)
    (example,) = examples_of("entity_recognition", one, number=1)
    ((reader, pieces),) = example.readings.items()
    assert reader == "Gold, model, without images"
    assert [(piece.text, piece.label) for piece in pieces] == [("a", "PER"), ("b c", "PER")]
