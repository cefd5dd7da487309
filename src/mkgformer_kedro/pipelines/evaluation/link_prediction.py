"""Nodes of the stage ``evaluation`` for link prediction."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from kedro.pipeline import Node

from mkgformer_kedro.pipelines.evaluation.parameters import EvaluationParameters
from mkgformer_kedro.training.parameters import ModelParameters
from mkgformer_kedro.training.tasks.base import Task

if TYPE_CHECKING:
    from mkgformer_kedro.evaluation.link_prediction import LinkPredictionEvaluation

logger = logging.getLogger(__name__)

_CURVE_PANELS = {
    "Training loss": "loss",
    "Dev MRR": "dev_both.realistic.inverse_harmonic_mean_rank",
}


def rank_test_answers(
    models: Path,
    queries: pd.DataFrame,
    triples: pd.DataFrame,
    visual_store: Path,
    model: ModelParameters,
    parameters: EvaluationParameters,
    preset: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rank the test answers with images, and by the same model without images.

    Returns:
        Two predictions tables.
    """
    from mkgformer_kedro.inference.experts import load_experts
    from mkgformer_kedro.inference.predictions import predict_queries

    table = predict_queries(
        load_experts(models, store_folder=visual_store, attention=model.attention),
        _split(queries, "test"),
        _split(triples, "test"),
        batch_size=parameters.batch_size,
        known_offset=parameters.offset(preset),
    )
    return tuple(_of(table, name) for name in ("model", "without_images"))


def _of(table, name):
    columns = ["expert", "seed", "answered"]
    return table[table["expert"] == name].drop(columns=columns).reset_index(drop=True)


def rank_by_popularity(
    queries: pd.DataFrame,
    triples: pd.DataFrame,
    entities: pd.DataFrame,
    parameters: EvaluationParameters,
) -> pd.DataFrame:
    """Rank the test answers by how often train has them as answers of the relation.

    Returns:
        A predictions table.
    """
    from mkgformer_kedro.inference.experts import PopularityExpert
    from mkgformer_kedro.inference.predictions import predict_queries

    expert = PopularityExpert(_split(triples, "train"), len(entities))
    return _of(
        predict_queries(
            [expert],
            _split(queries, "test"),
            _split(triples, "test"),
            batch_size=parameters.batch_size,
        ),
        "baseline",
    )


def report_link_prediction(
    predictions: pd.DataFrame,
    without_images: pd.DataFrame,
    popularity: pd.DataFrame,
    triples: pd.DataFrame,
    entities: pd.DataFrame,
    relations: pd.DataFrame,
    visual_store: Path,
    training_curve: pd.DataFrame,
    ingestion_report: dict[str, Any],
    coverage_report: dict[str, Any],
    parameters: EvaluationParameters,
    preset: str,
    seed: int,
) -> tuple[dict[str, Any], pd.DataFrame, Any, str]:
    """Score the three predictions tables and write the report.

    Returns:
        The metrics (key ``test``, with PyKEEN's keys under it, and what stands beside it), the
        scores of all groups in one table, a figure of Hits@k, and the HTML page.
    """
    from mkgformer_kedro.datasets.visual_store import VisualStore
    from mkgformer_kedro.evaluation.link_prediction import evaluate_link_prediction
    from mkgformer_kedro.evaluation.link_prediction_report import (
        choose_examples,
        describe_examples,
        render_link_prediction_report,
    )
    from mkgformer_kedro.evaluation.metrics import ranks_of
    from mkgformer_kedro.evaluation.report import Published, hits_figure

    store = VisualStore(visual_store)
    evaluation = evaluate_link_prediction(
        predictions,
        without_images,
        popularity,
        _split(triples, "train"),
        leak=_split(triples, "test")["leak"].to_numpy(),
        has_images=store.has_images,
        seed=seed,
        resamples=parameters.resamples,
    )
    for verdict in (evaluation.popularity_verdict, evaluation.images_verdict):
        logger.info(verdict.text)

    chosen = choose_examples(
        predictions,
        store.has_images,
        right=parameters.examples,
        wrong=parameters.examples,
        seed=seed,
    )
    texts = relations["text"].tolist()
    page = render_link_prediction_report(
        evaluation,
        data_set=parameters.title or ingestion_report["graph"],
        relations=texts,
        published=[Published(**result.model_dump()) for result in parameters.published],
        curve=training_curve,
        curve_panels=_CURVE_PANELS,
        examples=describe_examples(chosen, entities, texts, store.images),
        facts={
            "Data": ingestion_report,
            "Images": coverage_report,
            "Run": {"preset": preset, "seed": seed},
        },
    )
    figure = hits_figure(
        {
            "model": ranks_of(predictions),
            "without images": ranks_of(without_images),
            "popularity": ranks_of(popularity),
        }
    )
    groups = pd.concat(
        [_long(cut, table, relations) for cut, table in evaluation.groups.items()],
        ignore_index=True,
    )
    return _metrics(evaluation), groups, figure, page


def _metrics(evaluation: LinkPredictionEvaluation) -> dict[str, Any]:
    def headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in metrics.items() if key.startswith("both.realistic.")}

    model = evaluation.model
    metrics = {
        "test": model.scores.metrics,
        "test_interval": {
            key: interval._asdict() for key, interval in headline(model.scores.intervals).items()
        },
        "test_raw": headline(evaluation.raw),
        "test_without_images": headline(evaluation.without_images.scores.metrics),
        "test_popularity": headline(evaluation.popularity.scores.metrics),
    }
    if model.without_leaks is not None:
        metrics["test_without_leaks"] = headline(model.without_leaks.metrics)
    return metrics


def _long(cut: str, table: pd.DataFrame, relations: pd.DataFrame) -> pd.DataFrame:
    """A table of groups with the group's name in one column, whatever it is cut by."""
    if cut == "relation":
        group = table["relation"].map(relations["relation"])
    elif cut == "category":
        group = table["category"].astype(str) + " " + table["direction"]
    else:
        group = table[cut].astype(str)
    scores = table.loc[:, "count":]
    return pd.concat([pd.DataFrame({"cut": cut, "group": group}), scores], axis=1)


def _split(table: pd.DataFrame, split: str) -> pd.DataFrame:
    return table[table["split"] == split].drop(columns="split").reset_index(drop=True)


def nodes(task: type[Task]) -> list[Node]:
    """The stage's nodes."""
    return [
        Node(
            func=rank_test_answers,
            inputs=[
                "models",
                "queries",
                "triples",
                "visual_store",
                "params:model",
                "params:evaluation",
                "params:preset",
            ],
            outputs=["predictions", "predictions_without_images"],
            name="rank_test_answers",
            tags="gpu",
        ),
        Node(
            func=rank_by_popularity,
            inputs=["queries", "triples", "entities", "params:evaluation"],
            outputs="predictions_baseline",
            name="rank_by_popularity",
        ),
        Node(
            func=report_link_prediction,
            inputs=[
                "predictions",
                "predictions_without_images",
                "predictions_baseline",
                "triples",
                "entities",
                "relations",
                "visual_store",
                "training_curve",
                "ingestion_report",
                "coverage_report",
                "params:evaluation",
                "params:preset",
                "params:seed",
            ],
            outputs=["metrics", "drill_down", "plot", "report"],
            name="report_link_prediction",
        ),
    ]
