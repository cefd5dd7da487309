"""Nodes of the stage ``evaluation`` for the tasks on posts, which their columns tell apart."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mkgformer_kedro.pipelines.evaluation.parameters import PostsEvaluationParameters
from mkgformer_kedro.training.parameters import ModelParameters

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
    from mkgformer_kedro.training.posts import PostsPredictor

    test = posts[posts["split"] == "test"]
    gold = test[["post", *(name for name in _GOLD if name in test)]]
    seen, without_images = [], []
    found = [int(path.name.removeprefix("seed_")) for path in models.glob("seed_*[0-9]")]
    for seed in sorted(found):
        folder = models / f"seed_{seed}"
        predictor = PostsPredictor(
            folder, visual_store, attention=model.attention, batch_size=parameters.batch_size
        )
        named = gold.assign(seed=np.int64(seed))
        predicted = predictor.predict(test, what=f"Predicting test posts (seed {seed})")
        seen.append(named.join(predicted))
        # A post without images is answered the same either way.
        with_images = test[predictor.store.has_images[test.index]]
        if len(with_images):
            blind = predictor.predict(
                with_images, with_images=False, what=f"Predicting without images (seed {seed})"
            )
            predicted = pd.concat([blind, predicted.drop(with_images.index)]).loc[test.index]
        without_images.append(named.join(predicted))
    return pd.concat(seen, ignore_index=True), pd.concat(without_images, ignore_index=True)


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
