"""Nodes of the stage ``evaluation`` for the tasks on posts, which their columns tell apart."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd
from kedro.pipeline import Node

from mkgformer_kedro.pipelines.evaluation.parameters import PostsEvaluationParameters
from mkgformer_kedro.training.parameters import ModelParameters
from mkgformer_kedro.training.tasks.base import Task

logger = logging.getLogger(__name__)

_GOLD = {"relation": "relation_extraction", "tags": "entity_recognition"}


def predict_test_posts(
    models: Path,
    posts: pd.DataFrame,
    visual_store: Path,
    model: ModelParameters,
    parameters: PostsEvaluationParameters,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predict the test posts with images, and by the same models without images.

    Args:
        models: Folder with one model folder ``seed_<seed>`` per seed.
        posts: Table ``posts``.
        visual_store: Visual store of the posts.
        model: For the attention implementation.
        parameters: For the batch size.

    Returns:
        Two predictions tables: a row per seed and test post.
    """
    from mkgformer_kedro.inference.experts import load_posts_experts
    from mkgformer_kedro.inference.predictions import predict_posts

    test = posts[posts["split"] == "test"]
    table = predict_posts(
        load_posts_experts(models, store_folder=visual_store, attention=model.attention),
        test,
        next(name for name in _GOLD if name in test),
        batch_size=parameters.batch_size,
    )
    return tuple(
        table[table["expert"] == name].drop(columns="expert").reset_index(drop=True)
        for name in ("model", "without_images")
    )


def predict_baseline(posts: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Predict the test posts without a model.

    Relation extraction: the most frequent relation of train that is not the negative one. Entity
    recognition: the mentions of train, wherever they are found again.

    Returns:
        A predictions table.
    """
    from mkgformer_kedro.evaluation.entity_recognition import predict_gazetteer
    from mkgformer_kedro.evaluation.relation_extraction import predict_majority

    predict = predict_gazetteer if _task_of(posts) == "entity_recognition" else predict_majority
    return predict(posts, labels)


def report_posts(
    predictions: pd.DataFrame,
    without_images: pd.DataFrame,
    baseline: pd.DataFrame,
    posts: pd.DataFrame,
    labels: pd.DataFrame,
    visual_store: Path,
    training_curve: pd.DataFrame,
    ingestion_report: dict[str, Any],
    coverage_report: dict[str, Any],
    parameters: PostsEvaluationParameters,
    preset: str,
    seed: int,
) -> tuple[dict[str, Any], pd.DataFrame, Any, str]:
    """Score the three predictions tables and write the report.

    Returns:
        The metrics (key ``test`` and what stands beside it), the scores of all groups in one
        table, a figure of what is taken for what, and the HTML page.
    """
    from mkgformer_kedro.datasets.visual_store import VisualStore
    from mkgformer_kedro.evaluation.entity_recognition import evaluate_entity_recognition
    from mkgformer_kedro.evaluation.extraction_report import (
        entity_examples,
        relation_examples,
        render_extraction_report,
    )
    from mkgformer_kedro.evaluation.relation_extraction import evaluate_relation_extraction
    from mkgformer_kedro.evaluation.report import Published, confusion_figure

    task = _task_of(posts)
    evaluate, choose_examples = {
        "relation_extraction": (evaluate_relation_extraction, relation_examples),
        "entity_recognition": (evaluate_entity_recognition, entity_examples),
    }[task]
    store = VisualStore(visual_store)
    evaluation = evaluate(
        predictions,
        without_images,
        baseline,
        posts,
        labels,
        has_images=store.has_images,
        seed=seed,
        resamples=parameters.resamples,
    )
    for verdict in evaluation.verdicts:
        logger.info(verdict.text)
    page = render_extraction_report(
        evaluation,
        task=task,
        data_set=parameters.title or ingestion_report["corpus"],
        synthetic=parameters.synthetic,
        labels=labels,
        published=[Published(**result.model_dump()) for result in parameters.published],
        curve=training_curve,
        examples=choose_examples(
            predictions,
            without_images,
            posts,
            labels,
            store.has_images,
            store.images,
            examples=parameters.examples,
            seed=seed,
        ),
        facts={
            "Data": ingestion_report,
            "Images": coverage_report,
            "Run": {"preset": preset, "seed": seed, "seeds": evaluation.seeds},
        },
    )
    figure = confusion_figure(evaluation.confusion)
    return evaluation.metrics, evaluation.drill_down, figure, page


def _task_of(posts: pd.DataFrame) -> str:
    return next(task for gold, task in _GOLD.items() if gold in posts)


def nodes(task: type[Task]) -> list[Node]:
    """The stage's nodes."""
    return [
        Node(
            func=predict_test_posts,
            inputs=["models", "posts", "visual_store", "params:model", "params:evaluation"],
            outputs=["predictions", "predictions_without_images"],
            name="predict_test_posts",
            tags="gpu",
        ),
        Node(
            func=predict_baseline,
            inputs=["posts", "labels"],
            outputs="predictions_baseline",
            name="predict_baseline",
        ),
        Node(
            func=report_posts,
            inputs=[
                "predictions",
                "predictions_without_images",
                "predictions_baseline",
                "posts",
                "labels",
                "visual_store",
                "training_curve",
                "ingestion_report",
                "coverage_report",
                "params:evaluation",
                "params:preset",
                "params:seed",
            ],
            outputs=["metrics", "drill_down", "plot", "report"],
            name="report_posts",
        ),
    ]
