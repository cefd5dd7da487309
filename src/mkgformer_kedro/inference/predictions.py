"""Predictions tables: the answers of any number of experts to a whole test set.

Nobody is asked twice. The experts of a mixture are asked once, for it and for themselves. Where an
expert is a model without images, what is without images anyway is not asked again: it has the
answers of the same model with images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.ranking.tables import QUERY
from mkgformer_kedro.inference.experts import (
    Expert,
    ModelWithStore,
    PostsExpert,
    finite_scores,
)
from mkgformer_kedro.launch import LOCAL, Engine

# Queries or posts that one worker is asked about before the next block.
_BLOCK = 4096


def predict_queries(
    experts: Iterable[Expert],
    queries: pd.DataFrame,
    triples: pd.DataFrame,
    *,
    batch_size: int,
    known_offset: float = -np.inf,
    top: int = 10,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Rank the answers of a table of queries.

    Args:
        experts: Who is asked; a mixture together with its experts, the others one by one.
        queries: Rows of the table ``queries``, of one split.
        triples: The triples of that split.
        batch_size: Queries scored at a time.
        known_offset: What filtering adds to the scores of other known answers.
        top: Length of the lists of best entities.
        engine: Where they are asked.

    Returns:
        A predictions table, see :mod:`mkgformer_kedro.evaluation.ranking.predictions`; the experts
        stand one below the other.
    """
    experts = list(experts)
    together = {number: _mixed(expert, experts) for number, expert in enumerate(experts)}
    within = {number for mixed in together.values() for number in mixed}
    asks = []
    for number, expert in enumerate(experts):
        if number in within:
            continue
        asked = queries
        if _with_images(expert, experts) is not None:
            asked = queries[expert.store.has_images[queries["entity"]]]
        # Queries about one entity stay together: an expert that reads images reads them once.
        place = asked["entity"].rank(method="min").sub(1).to_numpy() // _BLOCK
        who = (number, *together[number])
        asks += [(who, asked[place == each]) for each in np.unique(place)]
    rank = Ranking(experts, triples, batch_size, known_offset, top)
    parts: dict[int, list[pd.DataFrame]] = defaultdict(list)
    with closing(engine.map("evaluation", rank, asks)) as ranked:
        for (who, _), answers in zip(asks, ranked, strict=True):
            for number, table in zip(who, answers, strict=True):
                parts[number].append(table)
    tables: dict[int, pd.DataFrame] = {}
    for number, expert in enumerate(experts):
        twin = _with_images(expert, experts)
        if twin is not None and number not in within:
            same = tables[twin]
            parts[number].append(same[~expert.store.has_images[same["entity"]]])
        tables[number] = pd.concat(parts[number]).sort_values(
            ["triple", "direction"], ignore_index=True
        )
    return _below_each_other(experts, tables)


@dataclass(frozen=True)
class Ranking:
    """Ranks the answers of blocks of queries.

    Attributes:
        experts: Who is asked.
        triples: The triples that queries ask about.
        batch_size: Queries scored at a time.
        known_offset: What filtering adds to the scores of other known answers.
        top: Length of the lists of best entities.
    """

    experts: Sequence[Expert]
    triples: pd.DataFrame
    batch_size: int
    known_offset: float
    top: int

    def __call__(
        self, asks: Iterable[tuple[tuple[int, ...], pd.DataFrame]]
    ) -> Iterator[list[pd.DataFrame]]:
        """What experts answer to some queries: one, or a mixture and then its own, by number."""
        for who, asked in asks:
            first = self.experts[who[0]]
            if len(who) == 1:
                blocks = finite_scores(first, asked, batch_size=self.batch_size)
                yield [self._table(first, asked, self._rank(asked, blocks))]
                continue
            ranked: list[list[pd.DataFrame]] = [[] for _ in who]
            for mixed in first.blocks(asked, batch_size=self.batch_size):
                block, rows = asked.iloc[mixed.rows], np.arange(len(mixed.rows))
                for found, scores in zip(ranked, [mixed.scores, *mixed.each], strict=True):
                    found.append(self._rank(block, [(rows, scores)]))
            yield [
                self._table(self.experts[number], asked, pd.concat(found))
                for number, found in zip(who, ranked, strict=True)
            ]

    def _rank(self, asked: pd.DataFrame, blocks: Iterable[tuple[np.ndarray, Any]]) -> pd.DataFrame:
        from mkgformer_kedro.evaluation.ranking.predictions import rank_queries

        return rank_queries(
            asked, blocks, self.triples, known_offset=self.known_offset, top=self.top
        )

    def _table(self, expert: Expert, asked: pd.DataFrame, ranked: pd.DataFrame) -> pd.DataFrame:
        learned = asked[QUERY].assign(answered=expert.answers(asked))
        return ranked.merge(learned, on=QUERY, how="left", validate="many_to_one")


def predict_posts(
    experts: Iterable[PostsExpert],
    posts: pd.DataFrame,
    gold: str,
    *,
    batch_size: int,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Predict a table of posts.

    Args:
        experts: Who is asked, one after the other.
        posts: Rows of the table ``posts``; the index is the number in the visual store.
        gold: The column of ``posts`` with the right answer.
        batch_size: Posts predicted at a time.
        engine: Where they are asked.

    Returns:
        A row per expert, seed and post: ``expert``, ``seed``, ``post``, the right answer, and what
        the task predicts.
    """
    experts = list(experts)
    asks = []
    for number, expert in enumerate(experts):
        asked = posts
        if _with_images(expert, experts) is not None:
            asked = posts[expert.store.has_images[posts.index]]
        asks += [(number, asked[at : at + _BLOCK]) for at in range(0, len(asked), _BLOCK)]
    parts: dict[int, list[pd.DataFrame]] = defaultdict(list)
    with closing(engine.map("evaluation", Predicting(experts, batch_size), asks)) as predicted:
        for (number, _), table in zip(asks, predicted, strict=True):
            parts[number].append(table)
    tables: dict[int, pd.DataFrame] = {}
    for number, expert in enumerate(experts):
        if (twin := _with_images(expert, experts)) is not None:
            same = tables[twin]
            parts[number].append(same[~expert.store.has_images[same.index]])
        tables[number] = pd.concat(parts[number]).loc[posts.index]
    named = posts[["post", gold]]
    return _below_each_other(experts, {key: named.join(each) for key, each in tables.items()})


@dataclass(frozen=True)
class Predicting:
    """Predicts blocks of posts.

    Attributes:
        experts: Who is asked.
        batch_size: Posts predicted at a time.
    """

    experts: Sequence[PostsExpert]
    batch_size: int

    def __call__(self, asks: Iterable[tuple[int, pd.DataFrame]]) -> Iterator[pd.DataFrame]:
        """What an expert, by its number, predicts of some posts."""
        for number, asked in asks:
            yield self.experts[number].predict(asked, batch_size=self.batch_size)


def _with_images(expert: object, experts: Sequence[object]) -> int | None:
    """Number of the same model with images, if it is the model without that is asked."""
    if isinstance(expert, ModelWithStore) and not expert.with_images:
        for number, other in enumerate(experts):
            twin = isinstance(other, ModelWithStore) and other.with_images
            if twin and other.seed == expert.seed:
                return number
    return None


def _mixed(expert: object, experts: Sequence[object]) -> tuple[int, ...]:
    """Numbers of the experts that an expert mixes; none where it is no mixture."""
    mixed = getattr(expert, "experts", ())
    return tuple(number for one in mixed for number, other in enumerate(experts) if other is one)


def _below_each_other(experts: Sequence[Any], tables: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    parts = []
    for number, table in tables.items():
        part = table.copy()
        part.insert(0, "expert", experts[number].name)
        part.insert(1, "seed", np.int64(experts[number].seed))
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
