"""Nodes of the stage ``evaluation`` for link prediction."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mkgformer_kedro.pipelines.evaluation.parameters import EvaluationParameters
from mkgformer_kedro.training.parameters import ModelParameters


def rank_test_answers(
    model_folder: Path,
    queries: pd.DataFrame,
    triples: pd.DataFrame,
    visual_store: Path,
    model: ModelParameters,
    parameters: EvaluationParameters,
    preset: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rank the test answers with pictures, and by the same model with pictures withheld.

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
        test_queries, test_triples, known_offset=offset, progress="Ranking test queries"
    )
    # Without pictures of its known entity a query is answered the same either way.
    seen = predictor.store.has_pictures[test_queries["entity"].to_numpy()]
    if not seen.any():
        return predictions, predictions.copy()
    blind = predictor.rank(
        test_queries[seen],
        test_triples,
        with_pictures=False,
        known_offset=offset,
        progress="Ranking with pictures withheld",
    )
    unseen = ~predictor.store.has_pictures[predictions["entity"].to_numpy()]
    withheld = pd.concat([blind, predictions[unseen]])
    return predictions, withheld.sort_values(["triple", "direction"], ignore_index=True)


def rank_by_popularity(
    queries: pd.DataFrame,
    triples: pd.DataFrame,
    entities: pd.DataFrame,
    parameters: EvaluationParameters,
    preset: str,
) -> pd.DataFrame:
    """Rank the test answers by how often train has them as answers of the relation.

    Returns:
        A predictions table.
    """
    from mkgformer_kedro.evaluation.baselines import Popularity
    from mkgformer_kedro.evaluation.predictions import predict

    popularity = Popularity(_split(triples, "train"), len(entities))
    test_queries = _split(queries, "test")
    blocks = (
        popularity.score(test_queries.iloc[start : start + parameters.batch_size])
        for start in range(0, len(test_queries), parameters.batch_size)
    )
    return predict(
        test_queries, blocks, _split(triples, "test"), known_offset=parameters.offset(preset)
    )


def score_predictions(
    predictions: pd.DataFrame,
    pictures_withheld: pd.DataFrame,
    popularity: pd.DataFrame,
    triples: pd.DataFrame,
) -> dict[str, dict[str, float]]:
    """Metrics of all predictions, keyed as PyKEEN names them.

    Returns:
        ``test`` holds every metric of the model. Beside it stand, for both directions and realistic
        ranks: ``test_raw``, ``test_without_leaks`` (triples whose reverse is not in train; left
        out where all have it), ``test_pictures_withheld`` and ``test_popularity``.
    """
    from mkgformer_kedro.evaluation.metrics import ranking_metrics

    def headline(table: pd.DataFrame) -> dict[str, float]:
        metrics = ranking_metrics(table)
        return {key: value for key, value in metrics.items() if key.startswith("both.realistic.")}

    raw = predictions.drop(columns=["rank_optimistic", "rank_pessimistic", "candidates"])
    leak = _split(triples, "test")["leak"].to_numpy()[predictions["triple"].to_numpy()]
    metrics = {"test": ranking_metrics(predictions)}
    metrics["test_raw"] = headline(raw.rename(columns=lambda name: name.removeprefix("raw_")))
    if not leak.all():
        metrics["test_without_leaks"] = headline(predictions[~leak])
    metrics["test_pictures_withheld"] = headline(pictures_withheld)
    metrics["test_popularity"] = headline(popularity)
    return metrics


def _split(table: pd.DataFrame, split: str) -> pd.DataFrame:
    return table[table["split"] == split].drop(columns="split").reset_index(drop=True)
