from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mkgformer_kedro.evaluation.entity_recognition import evaluate_entity_recognition
from mkgformer_kedro.evaluation.extraction_report import (
    choose_examples,
    entity_examples,
    relation_examples,
    render_extraction_report,
)
from mkgformer_kedro.evaluation.relation_extraction import evaluate_relation_extraction
from mkgformer_kedro.evaluation.report import Published

HOSTILE = "<script>alert('x')</script>\" onload=\"x"
TASKS = ["relation_extraction", "entity_recognition"]
EVALUATE = dict(
    zip(TASKS, [evaluate_relation_extraction, evaluate_entity_recognition], strict=True)
)
EXAMPLES = dict(zip(TASKS, [relation_examples, entity_examples], strict=True))
IMAGE = np.full((3, 8, 8), 90, dtype=np.uint8)
CURVE = pd.DataFrame(
    {
        "seed": [1, 1, 2, 2],
        "step": [1, 2, 1, 2],
        "loss": [0.5, np.nan, 0.4, np.nan],
        "dev_f1": [np.nan, 0.2, np.nan, 0.3],
    }
)


@pytest.fixture(scope="module")
def samples(relation_sample, entity_sample):
    """Samples by task, with hostile texts."""
    found = {}
    for task, sample in zip(TASKS, (relation_sample, entity_sample), strict=True):
        posts = sample.posts.copy()
        posts["words"] = [[*words[:2], HOSTILE, *words[3:]] for words in posts["words"]]
        labels = sample.labels.assign(text=sample.labels["text"] + " <b>& $x$")
        found[task] = replace(sample, posts=posts, labels=labels)
    return found


def evaluation_of(task: str, sample):
    return EVALUATE[task](
        sample.model,
        sample.without_images,
        sample.baseline,
        sample.posts,
        sample.labels,
        has_images=sample.has_images,
        seed=0,
        resamples=50,
    )


def examples_of(task: str, sample, examples: int = 2):
    return EXAMPLES[task](
        sample.model,
        sample.without_images,
        sample.posts,
        sample.labels,
        sample.has_images,
        lambda row: [IMAGE] * 6 if sample.has_images[row] else [],
        examples=examples,
        seed=0,
    )


def page_of(task: str, sample, evaluation, *, synthetic: bool = True) -> str:
    return render_extraction_report(
        evaluation,
        task=task,
        data_set=f"own data {HOSTILE}",
        synthetic=synthetic,
        labels=sample.labels,
        published=[
            Published("MKGformer", {"f1": 0.814}, "a paper", "https://example.org/paper"),
            Published("Trap", {"f1": 0.2}, "a source", "javascript:alert(1)"),
        ],
        curve=CURVE,
        examples=examples_of(task, sample),
        facts={"Data": {"posts": 14541, HOSTILE: [HOSTILE, 1, None, True]}},
    )


@pytest.fixture(scope="module")
def evaluations(samples):
    return {task: evaluation_of(task, samples[task]) for task in TASKS}


@pytest.fixture(scope="module")
def pages(samples, evaluations):
    return {task: page_of(task, samples[task], evaluations[task]) for task in TASKS}


@pytest.mark.parametrize("task", TASKS)
def test_the_page_is_well_formed_and_says_what_it_is_about(task, pages, collect):
    collected = collect(pages[task])
    assert collected.text.count(f"{task.replace('_', ' ').capitalize()} on own data") == 2
    assert [tag for tag, _ in collected.tags].count("h1") == 1
    assert all(attrs.get("alt") for tag, attrs in collected.tags if tag == "img")
    targets = {attrs["href"][1:] for tag, attrs in collected.tags
               if tag == "a" and attrs["href"].startswith("#")}  # fmt: skip
    identifiers = [attrs["id"] for _, attrs in collected.tags if "id" in attrs]
    assert targets <= set(identifiers)
    assert len(identifiers) == len(set(identifiers))


@pytest.mark.parametrize("task", TASKS)
def test_whatever_the_data_says_is_escaped(task, pages, samples, collect):
    collected = collect(pages[task])
    assert "<script" not in pages[task].lower()
    assert HOSTILE in collected.text
    assert samples[task].labels["text"].iloc[-1] in collected.text
    assert not any("onload" in attrs for _, attrs in collected.tags)
    assert "b" not in {tag for tag, _ in collected.tags}


@pytest.mark.parametrize("task", TASKS)
def test_the_page_asks_nothing_of_the_network(task, pages, collect):
    collected = collect(pages[task])
    assert not {"script", "link", "iframe"} & {tag for tag, _ in collected.tags}
    sources = [attrs["src"] for _, attrs in collected.tags if "src" in attrs]
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not re.search(r"url\((?!#)", pages[task])
    links = [a["href"] for t, a in collected.tags if t == "a" and not a["href"].startswith("#")]
    assert links == ["https://example.org/paper"]


@pytest.mark.parametrize("task", TASKS)
def test_the_page_holds_the_numbers_it_was_given(task, pages, evaluations, collect):
    text = " ".join(collect(pages[task]).text.split())
    evaluation = evaluations[task]
    for scores in (evaluation.model, evaluation.without_images, evaluation.baseline):
        for name, value in scores.metrics.items():
            low, high = scores.intervals[name]
            assert f"{value:.3f} {low:.3f} to {high:.3f}" in text
    for row in evaluation.model.by_seed.itertuples():
        assert f"Seed {row.Index} {row.precision:.3f} {row.recall:.3f} {row.f1:.3f}" in text
    deviations = " ".join(f"{value:.3f}" for value in evaluation.model.deviations.values())
    assert f"Standard deviation {deviations}" in text
    assert "MKGformer a paper 0.814" in text
    for verdict in evaluation.verdicts:
        assert " ".join(verdict.text.split()) in text
        assert f'<li class="{verdict.outcome}">' in pages[task]
    for share in evaluation.shares:
        difference = f"{share.difference.value:+.3f}".replace("-", "\u2212")
        low, high = share.without_images.intervals["f1"]
        assert (
            f"{share.without_images.metrics['f1']:.3f} {low:.3f} to {high:.3f} {difference}" in text
        )
    for cut, table in evaluation.groups.items():
        if cut != "group":
            for row in table.itertuples():
                assert f"{row.f1:.3f} {row.low:.3f} to {row.high:.3f}" in text


@pytest.mark.parametrize("task", TASKS)
def test_a_synthetic_sample_is_called_one_and_other_data_is_not(task, pages, samples, collect):
    head = pages[task].split("<main")[0]
    assert "(synthetic sample)</title>" in head
    assert "A synthetic sample" in collect(pages[task]).text
    real = replace(samples[task], posts=samples[task].posts.assign(group=None))
    page = page_of(task, real, evaluation_of(task, real), synthetic=False)
    assert "synthetic" not in collect(page).text
    assert "What images bring" not in page


def test_the_errors_of_entities_are_named_and_counted(pages, evaluations, samples, collect):
    text = " ".join(collect(pages["entity_recognition"]).text.split())
    evaluation = evaluations["entity_recognition"]
    numbers = [evaluation.errors.loc["all types", kind]
               for kind in ("gold", "correct", "type", "boundary")]  # fmt: skip
    shown = " ".join(f"{n:.0f}" if n == int(n) else f"{n:.1f}" for n in numbers)
    assert f"all types {shown}" in text
    assert "Every word lies within the model's window" in text
    lost = replace(evaluation, words_lost=31, entities_lost=7)
    page = page_of("entity_recognition", samples["entity_recognition"], lost)
    assert "31 words lie behind the model's window" in " ".join(collect(page).text.split())
    assert "7 gold entities reach into them" in " ".join(collect(page).text.split())
    assert "Kinds of errors" not in pages["relation_extraction"]


def test_examples_are_of_four_kinds_and_prefer_images():
    posts = [f"p{i}" for i in range(40)]
    right = pd.Series([i % 2 == 0 for i in range(40)], index=posts)
    without_images = pd.Series([i % 4 < 2 for i in range(40)], index=posts)
    about = pd.Series([None if i < 4 else i % 3 for i in range(40)], index=posts, dtype=object)
    images = pd.Series([i >= 4 and i < 36 for i in range(40)], index=posts)
    chosen = choose_examples(right, without_images, about, images, examples=3, seed=0)
    assert [kind for kind, _ in chosen] == [
        kind for kind in ("decided", "misled", "right", "wrong") for _ in range(3)
    ]
    assert len({post for _, post in chosen}) == 12
    for kind, post in chosen:
        assert images[post]
        assert right[post] == (kind in ("decided", "right"))
        assert (right[post] != without_images[post]) == (kind in ("decided", "misled"))
    again = choose_examples(right, without_images, about, images, examples=3, seed=0)
    assert again == chosen


def test_examples_run_out_gracefully():
    posts = ["a", "b", "c"]
    right = pd.Series([True, True, True], index=posts)
    about = pd.Series([1, 1, None], index=posts)
    chosen = choose_examples(right, right, about, ~right, examples=5, seed=0)
    assert sorted(chosen) == [("right", "a"), ("right", "b")]


def test_a_relation_example_marks_both_mentions_and_names_all_answers(samples):
    sample = samples["relation_extraction"]
    examples = examples_of("relation_extraction", sample)
    assert len(examples) == 8
    first = sample.model[sample.model["seed"] == 1].set_index("post")
    for example in examples:
        post = sample.posts.set_index("post").loc[example.post]
        (pieces,) = example.readings.values()
        assert " ".join(piece.text for piece in pieces) == " ".join(post["words"])
        marked = {piece.label: piece.text for piece in pieces if piece.label}
        assert marked == {"head": post["words"][0], "tail": post["words"][1]}
        answer = first.loc[example.post]
        assert example.answers["Gold"] == sample.labels["text"][answer["relation"]]
        assert example.answers["Predicted"].startswith(sample.labels["text"][answer["predicted"]])
        assert example.right == (answer["relation"] == answer["predicted"])
        assert example.share == post["group"]
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
        assert readers == "gold, predicted, without images"
        assert example.right == any(
            "gold, predicted" in reader.lower() for reader in example.readings
        )
        words = sample.posts.set_index("post").loc[example.post, "words"]
        for pieces in example.readings.values():
            assert " ".join(piece.text for piece in pieces) == " ".join(words)
            assert all(piece.label in ("", "PER", "LOC", "ORG") for piece in pieces)


def test_neighbouring_entities_of_one_type_are_two_marks(samples):
    sample = samples["entity_recognition"]
    test = sample.posts.query("split == 'test'").head(1)
    words = ["a", "b", "c"]
    posts = test.assign(words=[words], tags=[["B-PER", "B-PER", "I-PER"]])
    model = pd.DataFrame(
        {
            "post": posts["post"],
            "seed": 1,
            "tags": posts["tags"],
            "predicted": posts["tags"],
            "words_lost": 0,
        }
    )
    (example,) = entity_examples(
        model, model, posts, sample.labels, np.array([True]), lambda row: [IMAGE],
        examples=1, seed=0,
    )  # fmt: skip
    ((reader, pieces),) = example.readings.items()
    assert reader == "Gold, predicted, without images"
    assert [(piece.text, piece.label) for piece in pieces] == [("a", "PER"), ("b c", "PER")]
