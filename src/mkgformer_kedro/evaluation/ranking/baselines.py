"""The trivial answer that a model has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mkgformer_kedro.evaluation.experts import BASELINE
from mkgformer_kedro.evaluation.ranking.predictions import rank_queries

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
        self._counts = (
            pd.concat(sides)
            .groupby(["direction", "relation", "answer"])
            .size()
            .rename("count")
            .reset_index()
        )

    def scores(
        self, queries: pd.DataFrame, *, batch_size: int = _BLOCK
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Score all entities for queries, block by block.

        Args:
            queries: Frame with ``direction`` and ``relation``.
            batch_size: Queries per block.

        Yields:
            Positions in ``queries``, ``(block,)``, and float32 scores ``(block, num_entities)``:
            numbers of training triples.
        """
        for start in range(0, len(queries), batch_size):
            block = queries[["direction", "relation"]].iloc[start : start + batch_size]
            cells = block.assign(row=np.arange(len(block))).merge(
                self._counts, on=["direction", "relation"]
            )
            scores = np.zeros((len(block), self.num_entities), dtype=np.float32)
            scores[cells["row"], cells["answer"]] = cells["count"]
            yield np.arange(start, start + len(block)), torch.from_numpy(scores)


def predict_popularity(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Rank the test answers by how often train has them as answers of the relation.

    Args:
        tables: The tables ``queries``, ``triples`` and ``entities``.

    Returns:
        A predictions table with seed 0.
    """
    queries, triples = tables["queries"], tables["triples"]
    train, test = (triples[triples["split"] == split] for split in ("train", "test"))
    asked = queries[queries["split"] == "test"]
    popularity = Popularity(train, len(tables["entities"]))
    ranked = rank_queries(asked, popularity.scores(asked), test)
    return pd.concat(
        [pd.DataFrame({"expert": BASELINE, "seed": 0}, index=ranked.index), ranked], axis=1
    )
