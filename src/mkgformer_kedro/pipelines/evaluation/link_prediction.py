"""Nodes of the stage ``evaluation`` for link prediction."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mkgformer_kedro.pipelines.evaluation.parameters import EvaluationParameters
from mkgformer_kedro.training.parameters import ModelParameters

if TYPE_CHECKING:
    from mkgformer_kedro.evaluation.link_prediction import LinkPredictionEvaluation

logger = logging.getLogger(__name__)

_CURVE_PANELS = {
    "Training loss": "loss",
    "Dev MRR": "dev_both.realistic.inverse_harmonic_mean_rank",
}


def rank_test_answers(
    model_folder: Path,
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
    from mkgformer_kedro.training.predictor import LinkPredictor

    predictor = LinkPredictor(
        model_folder, visual_store, attention=model.attention, batch_size=parameters.batch_size
    )
    test_queries, test_triples = _split(queries, "test"), _split(triples, "test")
    offset = parameters.offset(preset)
    predictions = predictor.rank(
        test_queries, test_triples, known_offset=offset, what="Ranking test queries"
    )
    # Without images of its known entity a query is answered the same either way.
    seen = predictor.store.has_images[test_queries["entity"].to_numpy()]
    if not seen.any():
        return predictions, predictions.copy()
    blind = predictor.rank(
        test_queries[seen],
        test_triples,
        with_images=False,
        known_offset=offset,
        what="Ranking without images",
    )
    unseen = ~predictor.store.has_images[predictions["entity"].to_numpy()]
    without_images = pd.concat([blind, predictions[unseen]])
    return predictions, without_images.sort_values(["triple", "direction"], ignore_index=True)


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
    from mkgformer_kedro.evaluation.ranking.baselines import Popularity
    from mkgformer_kedro.evaluation.ranking.predictions import predict

    popularity = Popularity(_split(triples, "train"), len(entities))
    test_queries = _split(queries, "test")
    blocks = (
        popularity.score(test_queries.iloc[start : start + parameters.batch_size])
        for start in range(0, len(test_queries), parameters.batch_size)
    )
    return predict(test_queries, blocks, _split(triples, "test"))


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
    from mkgformer_kedro.evaluation.ranking.metrics import ranks_of
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
