"""Nodes of the stage ``evaluation`` for relation extraction."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd

from mkgformer_kedro.pipelines.evaluation.parameters import PostsEvaluationParameters

logger = logging.getLogger(__name__)


def predict_majority(posts: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Predict the most frequent relation of train that is not the negative one.

    Returns:
        A predictions table.
    """
    from mkgformer_kedro.evaluation import relation_extraction

    return relation_extraction.predict_majority(posts, labels)


def report_relation_extraction(
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
        table, a figure of the confusion matrix, and the HTML page.
    """
    from mkgformer_kedro.datasets.visual_store import VisualStore
    from mkgformer_kedro.evaluation.extraction_report import (
        relation_examples,
        render_extraction_report,
    )
    from mkgformer_kedro.evaluation.relation_extraction import evaluate_relation_extraction
    from mkgformer_kedro.evaluation.report import Published, confusion_figure

    store = VisualStore(visual_store)
    evaluation = evaluate_relation_extraction(
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
        task="relation_extraction",
        data_set=parameters.title or ingestion_report["corpus"],
        synthetic=parameters.synthetic,
        labels=labels,
        published=[Published(**result.model_dump()) for result in parameters.published],
        curve=training_curve,
        examples=relation_examples(
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
