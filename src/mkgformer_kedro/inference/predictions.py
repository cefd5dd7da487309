"""Predictions tables: the answers of any number of experts to a whole test set.

Where an expert is a model without images, what is without images anyway is not asked again: it has
the answers of the same model with images.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from mkgformer_kedro.inference.experts import (
    Expert,
    ModelWithStore,
    PostsExpert,
    finite_scores,
)

_QUERY = ["direction", "entity", "relation"]


def predict_queries(
    experts: Iterable[Expert],
    queries: pd.DataFrame,
    triples: pd.DataFrame,
    *,
    batch_size: int,
    known_offset: float = -np.inf,
    top: int = 10,
) -> pd.DataFrame:
    """Rank the answers of a table of queries.

    Args:
        experts: Who is asked, one after the other.
        queries: Rows of the table ``queries``, of one split.
        triples: The triples of that split.
        batch_size: Queries scored at a time.
        known_offset: What filtering adds to the scores of other known answers.
        top: Length of the lists of best entities.

    Returns:
        A predictions table, see :mod:`mkgformer_kedro.evaluation.ranking.predictions`; the experts
        stand one below the other.
    """
    from mkgformer_kedro.evaluation.ranking.predictions import rank_queries

    tables: dict[tuple[str, int], pd.DataFrame] = {}
    for expert in experts:
        asked, parts = queries, []
        if (same := _with_images(expert, tables)) is not None:
            has_images = expert.store.has_images
            asked = queries[has_images[queries["entity"]]]
            parts = [same[~has_images[same["entity"]]]]
        if len(asked):
            blocks = finite_scores(expert, asked, batch_size=batch_size)
            ranked = rank_queries(asked, blocks, triples, known_offset=known_offset, top=top)
            learned = asked[_QUERY].assign(answered=expert.answers(asked))
            parts.append(ranked.merge(learned, on=_QUERY, how="left", validate="many_to_one"))
        tables[expert.name, expert.seed] = pd.concat(parts).sort_values(
            ["triple", "direction"], ignore_index=True
        )
    return _below_each_other(tables)


def predict_posts(
    experts: Iterable[PostsExpert], posts: pd.DataFrame, gold: str, *, batch_size: int
) -> pd.DataFrame:
    """Predict a table of posts.

    Args:
        experts: Who is asked, one after the other.
        posts: Rows of the table ``posts``; the index is the number in the visual store.
        gold: The column of ``posts`` with the right answer.
        batch_size: Posts predicted at a time.

    Returns:
        A row per expert, seed and post: ``expert``, ``seed``, ``post``, the right answer, and what
        the task predicts.
    """
    predicted: dict[tuple[str, int], pd.DataFrame] = {}
    for expert in experts:
        asked, parts = posts, []
        if (same := _with_images(expert, predicted)) is not None:
            has_images = expert.store.has_images
            asked = posts[has_images[posts.index]]
            parts = [same[~has_images[same.index]]]
        if len(asked):
            parts.append(expert.predict(asked, batch_size=batch_size))
        predicted[expert.name, expert.seed] = pd.concat(parts).loc[posts.index]
    named = posts[["post", gold]]
    return _below_each_other({key: named.join(table) for key, table in predicted.items()})


def _with_images(
    expert: object, tables: dict[tuple[str, int], pd.DataFrame]
) -> pd.DataFrame | None:
    """What the same model answered with images, if it is the model without that is asked."""
    if isinstance(expert, ModelWithStore) and not expert.with_images:
        return tables.get(("model", expert.seed))
    return None


def _below_each_other(tables: dict[tuple[str, int], pd.DataFrame]) -> pd.DataFrame:
    parts = []
    for (name, seed), table in tables.items():
        part = table.copy()
        part.insert(0, "expert", name)
        part.insert(1, "seed", np.int64(seed))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
