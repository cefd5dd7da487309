"""Nodes of the stage ``evaluation`` for entity recognition."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from mkgformer_kedro.pipelines.evaluation.parameters import PostsEvaluationParameters

logger = logging.getLogger(__name__)


def predict_gazetteer(posts: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Find the mentions of train again in the test posts.

    Returns:
        A predictions table.
    """
    from mkgformer_kedro.evaluation import entity_recognition

    return entity_recognition.predict_gazetteer(posts, labels)


def report_entity_recognition(
    predictions: pd.DataFrame,
    pictures_withheld: pd.DataFrame,
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
        table, a figure of the confusion of types, and the HTML page.
    """
    from mkgformer_kedro.datasets.visual_store import VisualStore
    from mkgformer_kedro.evaluation.entity_recognition import evaluate_entity_recognition
    from mkgformer_kedro.evaluation.extraction_report import (
        entity_examples,
        render_extraction_report,
    )
    from mkgformer_kedro.evaluation.report import Published, confusion_figure

    store = VisualStore(visual_store)
    evaluation = evaluate_entity_recognition(
        predictions,
        pictures_withheld,
        baseline,
        posts,
        labels,
        has_pictures=store.has_pictures,
        seed=seed,
        resamples=parameters.resamples,
    )
    for verdict in evaluation.verdicts:
        logger.info(verdict.text)
    page = render_extraction_report(
        evaluation,
        task="entity_recognition",
        data_set=parameters.title or ingestion_report["corpus"],
        synthetic=parameters.synthetic,
        labels=labels,
        published=[Published(**result.model_dump()) for result in parameters.published],
        curve=training_curve,
        examples=entity_examples(
            predictions,
            pictures_withheld,
            posts,
            labels,
            store.has_pictures,
            store.pictures,
            examples=parameters.examples,
            seed=seed,
        ),
        facts={
            "Data": ingestion_report,
            "Pictures": coverage_report,
            "Run": {"preset": preset, "seed": seed, "seeds": evaluation.seeds},
        },
    )
    figure = confusion_figure(evaluation.confusion)
    return evaluation.metrics, evaluation.drill_down, figure, page
