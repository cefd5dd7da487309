"""The trivial answer that a model has to beat."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mkgformer_kedro.evaluation.experts import BASELINE
from mkgformer_kedro.evaluation.ranking.predictions import rank_queries
from mkgformer_kedro.evaluation.ranking.ranks import rows_at_a_time

_BLOCK = 256


class Popularity:
    """Scores an entity by how often train has it as the answer of that relation and direction.

    Relations that train lacks give every entity the score zero.

    Args:
        train: Training triples: integer columns ``head``, ``relation``, ``tail``.
        num_entities: Number of entities of the graph.
    """

    def __init__(self, train: pd.DataFrame, num_entities: int) -> None:
        self.num_entities = num_entities
        sides = [
            train[["relation", side]].rename(columns={side: "answer"}).assign(direction=side)
            for side in ("head", "tail")
        ]
        counts = pd.concat(sides).groupby(["direction", "relation", "answer"]).size()
        answers = counts.index.get_level_values("answer").to_numpy()
        self._counts = {
            asked: (answers[rows], counts.to_numpy(np.float32)[rows])
            for asked, rows in counts.groupby(["direction", "relation"]).indices.items()
        }

    def score(self, queries: pd.DataFrame) -> Tensor:
        """Score all entities for a block of queries.

        Args:
            queries: Frame with ``direction`` and ``relation``.

        Returns:
            Float32 tensor ``(len(queries), num_entities)``: numbers of training triples.
        """
        scores = np.zeros((len(queries), self.num_entities), dtype=np.float32)
        asked = zip(queries["direction"], queries["relation"], strict=True)
        for row, question in zip(scores, asked, strict=True):
            if question in self._counts:
                answers, counts = self._counts[question]
                row[answers] = counts
        return torch.from_numpy(scores)


def predict_popularity(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Rank the test answers by how often train has them as answers of the relation.

    Args:
        tables: The tables ``queries``, ``triples`` and ``entities``.

    Returns:
        A predictions table with seed 0; the queries whose relation train lacks are not
        ``answered``.
    """
    queries, triples = tables["queries"], tables["triples"]
    train, test = (triples[triples["split"] == split] for split in ("train", "test"))
    asked = queries[queries["split"] == "test"]
    popularity = Popularity(train, len(tables["entities"]))
    size = rows_at_a_time(_BLOCK, popularity.num_entities)
    parts = np.split(np.arange(len(asked)), range(size, len(asked), size))
    blocks = ((rows, popularity.score(asked.iloc[rows])) for rows in parts)
    ranked = rank_queries(asked, blocks, test)
    ranked.insert(0, "expert", BASELINE)
    ranked.insert(1, "seed", np.int64(0))
    return ranked.assign(answered=ranked["relation"].isin(train["relation"]))
