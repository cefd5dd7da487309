"""Ask a trained model: single queries by name, or a whole table of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.evaluation.ranking.predictions import predict
from mkgformer_kedro.training.model_folder import load_model_folder
from mkgformer_kedro.training.queries import Queries
from mkgformer_kedro.training.scoring import score_blocks, scoring_order


class LinkPredictor:
    """A trained link prediction model, ready to be asked.

    Args:
        model_folder: Model folder of stage 2.
        store_folder: Visual store of the same entities; None answers from text alone.
        attention: Attention implementation.
        batch_size: Queries scored at a time.

    Raises:
        DataError: The folder is no model folder, or the store is of another graph.
    """

    def __init__(
        self,
        model_folder: Path,
        store_folder: Path | None = None,
        *,
        attention: str = "sdpa",
        batch_size: int = 64,
    ) -> None:
        self.model, tokenizer, vocabulary = load_model_folder(model_folder, attention)
        self.entities, self.relations = vocabulary.entities, vocabulary.relations
        self.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.prompts = vocabulary.prompt_builder(tokenizer, self.model)
        self.store = None if store_folder is None else VisualStore(store_folder)
        self.batch_size = batch_size
        if self.store is not None and len(self.store) != len(self.entities):
            raise DataError(
                Problem(
                    str(store_folder),
                    None,
                    f"the store has {len(self.store)} owners, "
                    f"the model {len(self.entities)} entities",
                    "Give the visual store that the model was trained with.",
                )
            )

    def answer(
        self, entity: str, relation: str, direction: str = "tail", top: int = 10
    ) -> pd.DataFrame:
        """The best answers to one query.

        Args:
            entity: Id of the known entity.
            relation: Id of the relation.
            direction: ``tail`` asks (entity, relation, ?), ``head`` asks (?, relation, entity).
            top: Number of answers.

        Returns:
            ``entity``, ``name`` and ``score``, best first.

        Raises:
            KeyError: The model knows no such entity or relation.
            ValueError: ``direction`` is neither ``tail`` nor ``head``.
        """
        if direction not in ("tail", "head"):
            raise ValueError(f"direction is '{direction}'; it must be 'tail' or 'head'")
        nothing = [np.empty(0, np.int64)]
        query = pd.DataFrame(
            {
                "direction": [direction],
                "entity": [_row(self.entities, "entity", entity)],
                "relation": [_row(self.relations, "relation", relation)],
                "answers": nothing,
                "known": nothing,
            }
        )
        scores = next(iter(self._scores(query)))[0].cpu()
        best = scores.topk(min(top, len(scores)))
        found = self.entities.iloc[best.indices.numpy()][["entity", "name"]]
        return found.assign(score=best.values.numpy()).reset_index(drop=True)

    def rank(
        self,
        queries: pd.DataFrame,
        triples: pd.DataFrame,
        *,
        with_images: bool = True,
        known_offset: float = -np.inf,
        top: int = 10,
        what: str = "Ranking",
    ) -> pd.DataFrame:
        """Rank the answers of a table of queries.

        Args:
            queries: Rows of the table ``queries``, of one split.
            triples: The triples of that split.
            with_images: False leaves the images out.
            known_offset: What filtering adds to the scores of other known answers.
            top: Length of the lists of best entities.
            what: What the progress bar says is done.

        Returns:
            A predictions table, see :mod:`mkgformer_kedro.evaluation.ranking.predictions`.
        """
        order = scoring_order(Queries.from_frame(queries), np.arange(len(queries)), self.prompts)
        ordered = queries.iloc[order]
        scores = self._scores(ordered, with_images=with_images, what=what)
        return predict(ordered, scores, triples, known_offset=known_offset, top=top)

    def _scores(self, queries: pd.DataFrame, *, with_images: bool = True, what: str = "Scoring"):
        blocks = score_blocks(
            self.model,
            Queries.from_frame(queries),
            np.arange(len(queries)),
            self.prompts,
            self.store if with_images else None,
            batch_size=self.batch_size,
            what=what,
        )
        return (scores for _, scores in blocks)


def _row(table: pd.DataFrame, column: str, name: str) -> int:
    rows = np.flatnonzero(table[column] == name)
    if len(rows) == 0:
        raise KeyError(f"the model knows no {column} '{name}'")
    return int(rows[0])
