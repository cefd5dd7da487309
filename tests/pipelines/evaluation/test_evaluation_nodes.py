"""The nodes of the stage, from tables to the report, for every task."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mkgformer_kedro.datasets.visual_store import RoleLayout, VisualStoreWriter
from mkgformer_kedro.evaluation.explanations import WAYS
from mkgformer_kedro.evaluation.report import Look
from mkgformer_kedro.inference import explanation
from mkgformer_kedro.pipelines.evaluation import nodes as evaluation_nodes
from mkgformer_kedro.pipelines.evaluation.nodes import (
    explain_for,
    nodes,
    predict_baseline_for,
    predict_for,
    report_for,
)
from mkgformer_kedro.pipelines.evaluation.parameters import (
    EvaluationParameters,
    RankingEvaluationParameters,
)
from mkgformer_kedro.training.parameters import (
    FinetuningParameters,
    ImagesParameters,
    ModelParameters,
    TrainSubset,
)
from mkgformer_kedro.training.tasks.registry import TASKS, task_named

SETTINGS = {
    "title": None,
    "synthetic": True,
    "batch_size": 8,
    "resamples": 100,
    "examples": 2,
    "explanations": {"questions": 4, "shares": [0.5]},
    "published": [
        {"name": "Theirs", "metrics": {"f1": 0.8, "hits_at_1": 0.8}, "source": "a paper"}
    ],
}
CURVE = pd.DataFrame({"seed": 5, "step": [1, 2], "loss": [0.5, np.nan], "dev_f1": [np.nan, 0.2]})
REPORTS = {
    "calibration_report": {
        "fit": {
            "log_likelihood": {"mixture": -4.0},
            "log_likelihood_without": {},
            "linear": {"model": 0.0, "another_one": 0.0},
            "log_likelihood_gained_by_linear": 0.0,
        },
        "weights": {
            "whole": {"model": 0.5, "another_one": 1.5},
            "direction": {side: {"model": 0.5, "another_one": 1.5} for side in ("head", "tail")},
            "relation": [],
        },
        "test": None,
    }
}
_CELL = {"value": 0.25, "low": 0.1, "high": 0.4}
EXPLANATIONS = {
    "questions": 4,
    "deletion": [
        {
            "group": "all",
            "count": 4,
            "share": 0.5,
            "random": {"value": 0.0, "low": 0.0, "high": 0.0},
        }
        | {way: {**_CELL, "minus_random": _CELL} for way in WAYS}
    ],
    "pointing": [],
}
MAIN = {
    "link_prediction": "both.realistic.inverse_harmonic_mean_rank",
    "relation_extraction": "f1",
    "entity_recognition": "f1",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A visual store in which every second of twelve owners has an image."""
    writer = VisualStoreWriter(
        tmp_path_factory.mktemp("store"), {"full": RoleLayout(8, 1)}, 12, "t"
    )
    pixels = np.full((3, 8, 8), 90, dtype=np.uint8)
    for owner in range(0, 12, 2):
        writer.append(owner, {0: (f"{owner}", pixels)}, None)
    return writer.finish()


def model_with(source: str) -> ModelParameters:
    """Parameters of a model that sees images of some kind."""
    return ModelParameters.model_construct(
        attention="sdpa", images=ImagesParameters(source=source, seed=0)
    )


def graph_tables() -> dict[str, pd.DataFrame]:
    """Twelve entities in a ring by one relation; the last four triples are test's."""
    ring = np.arange(12)
    triples = pd.DataFrame(
        {
            "head": ring,
            "relation": 0,
            "tail": (ring + 1) % 12,
            "split": ["train"] * 8 + ["test"] * 4,
            "leak": [False] * 11 + [True],
        }
    )
    test = triples[triples["split"] == "test"]
    queries = pd.DataFrame(
        {
            "split": "test",
            "direction": ["tail"] * 4 + ["head"] * 4,
            "entity": [*test["head"], *test["tail"]],
            "relation": 0,
            "answers": [[answer] for answer in [*test["tail"], *test["head"]]],
            "known": [[answer] for answer in [*test["tail"], *test["head"]]],
        }
    )
    names = [f"entity {i}" for i in range(12)]
    return {
        "triples": triples,
        "entities": pd.DataFrame({"entity": names, "name": names, "text": names}),
        "relations": pd.DataFrame({"relation": ["next"], "text": ["next to"]}),
        "queries": queries,
    }


def posts_tables(task: str) -> dict[str, pd.DataFrame]:
    """Six posts of train and six of test."""
    posts = pd.DataFrame(
        {
            "post": [f"{split}-{i}" for split in ("train", "test") for i in range(6)],
            "split": ["train"] * 6 + ["test"] * 6,
            "words": [["Ann", "met", f"Bob{i}"] for i in range(12)],
            "subset": ["ambiguous", "clear", "misleading"] * 4,
        }
    )
    if task == "relation_extraction":
        names = ["None", "a", "b"]
        posts = posts.assign(
            head_start=0, head_end=1, tail_start=2, tail_end=3, relation=np.int32([0, 1, 2, 1] * 3)
        )
    else:
        names = ["PER", "LOC"]
        posts = posts.assign(tags=[["B-PER", "O", "B-LOC" if i % 2 else "O"] for i in range(12)])
    labels = pd.DataFrame({"label": names, "text": names})
    return {"posts": posts, "labels": labels.assign(negative=labels["label"] == "None")}


def tables_of(task: str) -> list[pd.DataFrame]:
    tables = graph_tables() if task == "link_prediction" else posts_tables(task)
    return [tables[name] for name in task_named(task).tables]


def parameters_of(task: str) -> EvaluationParameters:
    if task == "link_prediction":
        explanations = {**SETTINGS["explanations"], "pointing": {"next": "upper_left"}}
        return RankingEvaluationParameters(
            **SETTINGS | {"explanations": explanations}, known_offset=None
        )
    return EvaluationParameters(**SETTINGS)


def finetuning_of(task: str, **values) -> FinetuningParameters:
    values = {"train_subset": None, "seeds": None} | values
    return task_named(task).parameters_class.model_construct(**values)


def perfect_of(task: str, baseline: pd.DataFrame) -> pd.DataFrame:
    if task == "link_prediction":
        return baseline.assign(rank_optimistic=1, rank_pessimistic=1)
    return baseline.assign(predicted=baseline[{"r": "relation", "e": "tags"}[task[0]]])


@pytest.mark.parametrize("task", MAIN)
@pytest.mark.parametrize("source", ["own", "none"])
def test_tables_become_metrics_groups_figure_and_page(task, source, store, monkeypatch):
    def look_at(looker, items, images):
        heats = [np.arange(8.0).reshape(2, 2, 2)]
        owners = items["entity"] if task == "link_prediction" else items.index
        look = Look("correlation", "mask & more", heats)
        return [[look] if images.has_images[owner] else [] for owner in owners]

    monkeypatch.setattr(explanation, "look_at", look_at)
    monkeypatch.setattr(evaluation_nodes, "_looker", lambda trained: None)
    tables = tables_of(task)
    baseline = predict_baseline_for(task_named(task))(finetuning_of(task), 5, *tables)
    perfect = perfect_of(task, baseline)
    answers = [
        perfect.assign(expert="model", seed=np.int64(5)),
        baseline.assign(expert="without_images", seed=np.int64(5)),
        perfect.assign(expert="another_one", seed=np.int64(5)),
    ]
    metrics, drill_down, figure, page = report_for(task_named(task))(
        pd.concat(answers, ignore_index=True),
        baseline,
        Path("models"),
        store,
        EXPLANATIONS,
        CURVE,
        {"data_set": "three & more", "posts": 12},
        {"with_images": 6},
        model_with(source),
        parameters_of(task),
        finetuning_of(task),
        "corrected",
        5,
        *tables,
        *(REPORTS[name] for name in task_named(task).reports),
    )
    key = MAIN[task]
    assert json.loads(json.dumps(metrics)) == metrics
    blind = ["without_images"] if source == "own" else []
    assert metrics["experts"] == ["model", *blind, "another_one", "baseline"]
    assert ("has an image: whether images help is not known" in page) == (source == "none")
    assert metrics["test"][key] == metrics["test_another_one"][key] == 1.0
    assert metrics["seeds"] == [5]
    assert 0 < metrics["test_baseline"][key] < 1
    assert metrics.get("test_without_images", metrics["test_baseline"]) == metrics["test_baseline"]
    assert set(drill_down["expert"]) == set(metrics["experts"])
    assert len(figure.axes) == 1
    assert "on three &amp; more" in page
    assert "Another one" in page
    assert "One training run (seed 5)" in page
    assert "synthetic sample" in page
    # What the model saw is what is shown.
    assert ("data:image/jpeg;base64," in page) == (source == "own")
    shown = page.count('<details class="looks">')
    assert (shown > 0) == (source == "own")
    # A mean over the layers and both of them, over each example's image.
    assert page.count("--heat:url(data:image/png;base64,") == 3 * shown
    assert ("mask &amp; more: correlation (CAF), layer 2" in page) == (source == "own")
    assert "25\u00a0% of the answers change, against 0\u00a0%" in page


@pytest.mark.parametrize("task", MAIN)
def test_baseline_views_and_groups_know_what_the_models_learned_from(task, store, monkeypatch):
    kind, tables = task_named(task), tables_of(task)
    given = dict(zip(kind.tables, tables, strict=True))
    subset = TrainSubset(shots=1)
    finetuning = finetuning_of(task, train_subset=subset, seeds=[6, 5])
    parts = {seed: kind.restrict_train(given, subset, seed) for seed in (5, 6)}

    baseline = predict_baseline_for(kind)(finetuning, 0, *tables)

    for seed, part in parts.items():
        found = baseline[baseline["seed"] == seed].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, kind.predict_baseline(part).assign(seed=seed))
    assert len(baseline) == 2 * len(found)

    seen = {}
    evaluate = kind.evaluate

    def spy(predictions, tables, **options):
        seen.update(tables)
        return evaluate(predictions, tables, **options)

    monkeypatch.setattr(kind, "evaluate", spy)
    report_for(kind)(
        perfect_of(task, baseline).assign(expert="model"),
        baseline,
        Path("models"),
        store,
        EXPLANATIONS,
        CURVE,
        {"data_set": "three"},
        {},
        model_with("none"),
        parameters_of(task).model_copy(update={"examples": 0}),
        finetuning,
        "corrected",
        0,
        *tables,
        *(REPORTS[name] for name in kind.reports),
    )
    for name in kind.tables:
        pd.testing.assert_frame_equal(seen[name], parts[5][name])


@pytest.mark.parametrize("task", MAIN)
def test_a_task_has_its_own_parameters_and_tables(task):
    kind = task_named(task)
    makers = (predict_for, explain_for, report_for)
    annotated = {make(kind).__annotations__["parameters"] for make in makers}
    assert annotated == {type(parameters_of(task))}
    stage = nodes(kind)
    assert [node.name for node in stage] == ["predict", "predict_baseline", "explain", "report"]
    for node in stage:
        assert set(kind.tables) <= set(node.inputs)


def test_a_split_without_images_explains_nothing(store):
    tables = graph_tables()
    tables["queries"] = tables["queries"][tables["queries"]["entity"] % 2 == 1]
    kind = task_named("link_prediction")
    found = explain_for(kind)(
        Path("models"),
        store,
        model_with("own"),
        parameters_of("link_prediction"),
        5,
        *(tables[name] for name in kind.tables),
    )
    assert found == {"questions": 0, "deletion": [], "pointing": []}


def test_every_task_is_tested():
    assert set(MAIN) <= set(TASKS)


def test_a_model_is_asked_what_decides(
    entity_model, store_folder, tables, model_parameters, tmp_path
):
    (tmp_path / "seed_3").symlink_to(entity_model)
    kind = task_named("link_prediction")
    found = explain_for(kind)(
        tmp_path,
        store_folder,
        ModelParameters(**model_parameters),
        parameters_of("link_prediction"),
        5,
        *(tables[name] for name in kind.tables),
    )
    assert json.loads(json.dumps(found)) == found
    assert [(row["group"], row["share"]) for row in found["deletion"]] == [("all", 0.5)]
    assert found["deletion"][0]["count"] == found["questions"] > 0
    # Of the test queries one is about entity 4, which has an image, by the relation that points.
    assert [(row["relation"], row["count"], row["chance"]) for row in found["pointing"]] == [
        ("all", 1, 0.25),
        ("next", 1, 0.25),
    ]
