"""What holds of the page of every task: well formed, escaped, alone, and true to its numbers."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from jinja2 import UndefinedError

from mkgformer_kedro.evaluation.extraction import evaluate_entities, evaluate_relations
from mkgformer_kedro.evaluation.ranking import evaluate
from mkgformer_kedro.evaluation.report import Published, Section, render
from mkgformer_kedro.evaluation.report.extraction import ENTITIES, RELATIONS
from mkgformer_kedro.evaluation.report.figures import curve_figure
from mkgformer_kedro.evaluation.report.ranking import LINK_PREDICTION
from mkgformer_kedro.evaluation.report.sections import below

HOSTILE = "<script>alert('x')</script>\" onload=\"x"
TASKS = {
    "link_prediction": (evaluate, LINK_PREDICTION),
    "relation_extraction": (evaluate_relations, RELATIONS),
    "entity_recognition": (evaluate_entities, ENTITIES),
}
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
def samples(one_graph, relation_sample, entity_sample):
    """Predictions, tables and images by task: five experts, two seeds, hostile texts."""
    graph, found = one_graph, {}
    structural = graph.answers("complex", graph.scores.flip(0), seed=3)
    structural["answered"] = structural["triple"] % 4 != 0
    answers = [
        graph.answers("model", seed=1),
        graph.answers("model", graph.scores.roll(2, dims=1), seed=2),
        graph.answers("without_images", graph.scores.roll(1, dims=1)),
        structural,
        graph.answers("mixture", graph.perfect),
        graph.answers("baseline", graph.popularity, seed=0),
    ]
    tables = graph.tables
    tables["relations"]["text"] = ["part of", "kind of & more", "<b>member</b> of $x$"]
    tables["entities"] += f" {HOSTILE}"
    predictions = pd.concat(answers, ignore_index=True)
    has_images = np.arange(graph.num_entities) % 2 == 0
    found["link_prediction"] = predictions, tables, has_images
    for task, sample in (
        ("relation_extraction", relation_sample),
        ("entity_recognition", entity_sample),
    ):
        posts = sample.posts.copy()
        posts["words"] = [[*words[:2], HOSTILE, *words[3:]] for words in posts["words"]]
        labels = sample.labels.assign(text=sample.labels["text"] + " <b>& $x$")
        sample = replace(sample, posts=posts, labels=labels)
        sample = sample.with_answers("mixture", sample.of("model"))
        sample = sample.with_answers("text_only", sample.of("without_images"))
        found[task] = sample.predictions, sample.tables, sample.has_images
    return found


def evaluation_of(task: str, samples, **changes):
    predictions, tables, has_images = samples[task]
    return TASKS[task][0](
        predictions, tables | changes, has_images=has_images, seed=0, resamples=50
    )


def page_of(task: str, samples, evaluation, *, synthetic: bool = True, sections=()) -> str:
    _, tables, has_images = samples[task]
    return render(
        TASKS[task][1],
        evaluation,
        tables,
        data_set=f"own data {HOSTILE}",
        synthetic=synthetic,
        published=[
            Published("Theirs", {"f1": 0.814, "hits_at_10": 0.814}, "a paper", "https://e.org/a"),
            Published("Trap", {"f1": 0.2, "hits_at_10": 0.2}, "a source", "javascript:alert(1)"),
        ],
        curve=CURVE,
        has_images=has_images,
        images=lambda owner: [IMAGE] * 6 if has_images[owner] else [],
        examples=2,
        seed=0,
        facts={"Data": {"posts": 14541, HOSTILE: [HOSTILE, 1, None, True]}},
        sections=sections,
    )


@pytest.fixture(scope="module")
def evaluations(samples):
    return {task: evaluation_of(task, samples) for task in TASKS}


@pytest.fixture(scope="module")
def pages(samples, evaluations):
    return {task: page_of(task, samples, evaluations[task]) for task in TASKS}


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
    tables = samples[task][1]
    texts = tables["relations" if task == "link_prediction" else "labels"]["text"]
    assert "<script" not in pages[task].lower()
    assert HOSTILE in collected.text
    assert texts.iloc[-1] in collected.text
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
    assert "@import" not in pages[task]
    links = [a["href"] for t, a in collected.tags if t == "a" and not a["href"].startswith("#")]
    assert links == ["https://e.org/a"]


@pytest.mark.parametrize("task", TASKS)
def test_the_page_holds_the_numbers_it_was_given(task, pages, evaluations, collect):
    text = " ".join(collect(pages[task]).text.split())
    evaluation, layout = evaluations[task], TASKS[task][1]
    for view in (evaluation.whole, *evaluation.views.values()):
        for scores in view.scores.values():
            metrics = below(layout.prefix, scores.metrics)
            deviations = below(layout.prefix, scores.deviations)
            for name, (low, high) in below(layout.prefix, scores.intervals).items():
                digits = 1 if name == "arithmetic_mean_rank" else 3
                spread = f" ± {deviations[name]:.{digits}f}" if deviations else ""
                shown = f"{metrics[name]:.{digits}f}{spread}"
                assert f"{shown} {low:.{digits}f} to {high:.{digits}f}" in text
    for difference in (*evaluation.differences.values(), *evaluation.added.values()):
        low, high = difference.interval
        shown = f"{difference.value:+.3f} {low:+.3f} to {high:+.3f}".replace("-", "\u2212")
        assert shown in text
    for table in (evaluation.groups[by] for by in layout.groups):
        column = evaluation.metric.key.rpartition(".")[2]
        for row in table.to_dict("records"):
            assert f"{row[column]:.3f}" in text
            if row["expert"] == evaluation.reference:
                assert f"{row[column]:.3f} {row['low']:.3f} to {row['high']:.3f}" in text
    for seed in evaluation.seeds:
        assert f"Seed {seed} " in text
    for verdict in evaluation.verdicts:
        assert " ".join(verdict.text.split()) in text
        assert f'<li class="{verdict.outcome}">' in pages[task]
    assert "Theirs a paper 0.814" in text
    assert "14\u202f541" in collect(pages[task]).text


@pytest.mark.parametrize("task", TASKS)
def test_experts_stand_in_one_table_then_verdicts_then_what_differs(task, pages, evaluations):
    page = pages[task]
    table, verdicts, differ = (
        page.index(part)
        for part in ("This run, one evaluator", 'class="verdicts"', "How far apart they are")
    )
    assert table < verdicts < differ
    for expert in evaluations[task].experts:
        name = evaluations[task].name(expert)
        assert page[table:verdicts].count(f'<th scope="row">{name[:1].upper()}{name[1:]}\n') == 1


def test_whoever_could_not_answer_is_reported(pages, collect):
    text = " ".join(collect(pages["link_prediction"]).text.split())
    assert "Complex has learned to answer 75\u00a0% of the queries".replace("\u00a0", " ") in text


@pytest.mark.parametrize("task", TASKS)
def test_a_synthetic_sample_is_called_one_and_other_data_is_not(
    task, pages, samples, evaluations, collect
):
    head = pages[task].split("<main")[0]
    assert "(synthetic sample)</title>" in head
    assert "A synthetic sample" in collect(pages[task]).text
    page = page_of(task, samples, evaluations[task], synthetic=False)
    assert "synthetic" not in collect(page).text


@pytest.mark.parametrize("task", ["relation_extraction", "entity_recognition"])
def test_a_test_set_without_parts_has_no_section_of_them(task, pages, samples):
    assert "Parts of the test set" in pages[task]
    posts = samples[task][1]["posts"].assign(subset=None)
    page = page_of(task, samples, evaluation_of(task, samples, posts=posts))
    assert "Parts of the test set" not in page


def test_the_caller_can_add_sections(samples, evaluations, collect):
    table = pd.DataFrame({"ECE": [0.031]}, index=pd.Index(["model <i>"], name="Expert"))
    figure = curve_figure(CURVE, {"Loss": "loss"}, x="step")
    section = Section.of(
        "Calibration & more",
        text="Probabilities are <i>true</i>.",
        tables={"By expert": table},
        figures={"Reliability": figure},
    )
    page = page_of("link_prediction", samples, evaluations["link_prediction"], sections=[section])
    collected = collect(page)
    assert section.anchor == "calibration-more"
    assert ("a", {"href": "#calibration-more"}) in collected.tags
    text = " ".join(collected.text.split())
    assert "Calibration & more Probabilities are <i>true</i>." in text
    assert "Expert ECE model <i> 0.031" in text
    assert 'aria-label="Reliability"' in page


def test_a_section_with_a_missing_variable_is_an_error():
    with pytest.raises(UndefinedError, match="facts"):
        Section.from_template("Data", "facts.html.j2", {})
