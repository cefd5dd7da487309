"""Nodes of the stage ``evaluation`` for link prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
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


def _split(table: pd.DataFrame, split: str) -> pd.DataFrame:
    return table[table["split"] == split].drop(columns="split").reset_index(drop=True)
