"""The nodes of both tasks on posts, from tables to the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mkgformer_kedro.datasets.visual_store import RoleLayout, VisualStoreWriter
from mkgformer_kedro.pipelines.evaluation.parameters import PostsEvaluationParameters
from mkgformer_kedro.pipelines.evaluation.posts import predict_baseline, report_posts

PARAMETERS = PostsEvaluationParameters(
    title=None,
    batch_size=8,
    resamples=100,
    examples=2,
    published=[{"name": "MKGformer", "metrics": {"f1": 0.8}, "source": "a paper"}],
    synthetic=True,
)
CURVE = pd.DataFrame({"seed": 5, "step": [1, 2], "loss": [0.5, np.nan], "dev_f1": [np.nan, 0.2]})


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A visual store in which every second of twelve posts has an image."""
    writer = VisualStoreWriter(
        tmp_path_factory.mktemp("store"), {"full": RoleLayout(8, 1)}, 12, "t"
    )
    pixels = np.full((3, 8, 8), 90, dtype=np.uint8)
    for owner in range(0, 12, 2):
        writer.append(owner, {0: (f"{owner}", pixels)}, None)
    return writer.finish()


@pytest.fixture(scope="module")
def tables() -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """Posts and labels by task: six posts of train, six of test."""
    posts = pd.DataFrame(
        {
            "post": [f"{split}-{i}" for split in ("train", "test") for i in range(6)],
            "split": ["train"] * 6 + ["test"] * 6,
            "words": [["Ann", "met", f"Bob{i}"] for i in range(12)],
            "group": ["ambiguous", "clear", "misleading"] * 4,
        }
    )
    relations = posts.assign(
        head_start=0, head_end=1, tail_start=2, tail_end=3, relation=np.int32([0, 1, 2, 1] * 3)
    )
    tagged = posts.assign(tags=[["B-PER", "O", "B-LOC" if i % 2 else "O"] for i in range(12)])
    names = {"relation_extraction": ["None", "a", "b"], "entity_recognition": ["PER", "LOC"]}
    labels = {task: pd.DataFrame({"label": of, "text": of}) for task, of in names.items()}
    return {
        "relation_extraction": (relations, labels["relation_extraction"]),
        "entity_recognition": (tagged, labels["entity_recognition"]),
    }


@pytest.mark.parametrize("task", ["relation_extraction", "entity_recognition"])
def test_tables_become_metrics_groups_figure_and_page(task, store, tables):
    posts, labels = tables[task]
    baseline = predict_baseline(posts, labels)
    gold = "relation" if task == "relation_extraction" else "tags"
    perfect = baseline.assign(seed=np.int64(5), predicted=baseline[gold])
    metrics, drill_down, figure, page = report_posts(
        perfect,
        baseline.assign(seed=np.int64(5)),
        baseline,
        posts,
        labels,
        store,
        CURVE,
        {"corpus": "three & more", "posts": 12},
        {"with_images": 6},
        PARAMETERS,
        "corrected",
        5,
    )
    assert json.loads(json.dumps(metrics)) == metrics
    assert metrics["test"]["f1"] == 1.0
    assert metrics["seeds"] == [5]
    assert 0 < metrics["test_baseline"]["f1"] < 1
    assert metrics["test_without_images"] == metrics["test_baseline"]
    assert set(metrics["test_by_group"]) == {"ambiguous", "clear", "misleading"}
    assert set(drill_down["cut"]) >= {"group", "images"}
    assert len(figure.axes) == 1
    assert "on three &amp; more" in page
    assert "One training run (seed 5)" in page
    assert "synthetic sample" in page
    assert "data:image/jpeg;base64," in page
