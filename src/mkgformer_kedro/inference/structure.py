"""A structural model as an expert: it answers from the triples of train alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.ranking.ranks import rows_at_a_time
from mkgformer_kedro.evaluation.ranking.tables import QUERY
from mkgformer_kedro.training.queries import Queries

if TYPE_CHECKING:
    from torch import Tensor

    from mkgformer_kedro.training.structural_model import StructuralModel, StructureFolder


class StructureExpert:
    """Asks a structural model, see :class:`mkgformer_kedro.inference.experts.Expert`.

    Args:
        contents: What the expert's folder holds.
    """

    def __init__(self, contents: StructureFolder) -> None:
        self.name: str = contents.description["model"]
        self.seed: int = contents.description["seed"]
        self._contents = contents
        self.learned = contents.seen_entities.numpy()
        self._seen_relations = contents.seen_relations.numpy()

    @cached_property
    def _model(self) -> StructuralModel:
        """The model on the device of whoever asks it, which may be another process."""
        import torch

        return self._contents.model.to("cuda" if torch.cuda.is_available() else "cpu")

    @classmethod
    def from_folder(
        cls, folder: Path, entities: pd.DataFrame, relations: pd.DataFrame
    ) -> StructureExpert:
        """Read an expert of the graph that has these tables.

        Raises:
            DataError: The folder is damaged, or of another graph.
        """
        from mkgformer_kedro.training.structural_model import read_structure_folder

        return cls(read_structure_folder(folder, entities, relations))

    def scores(
        self, queries: pd.DataFrame, *, batch_size: int
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Scores of all entities in blocks that follow the rows of ``queries``."""
        asked, rows = Queries.from_frame(queries[QUERY]), np.arange(len(queries))
        size = rows_at_a_time(batch_size, len(self.learned))
        for start in range(0, len(rows), size):
            block = rows[start : start + size]
            yield block, self._model.answer(asked, block)

    def answers(self, queries: pd.DataFrame) -> np.ndarray:
        """The queries whose entity and relation train has."""
        return (
            self.learned[queries["entity"].to_numpy()]
            & self._seen_relations[queries["relation"].to_numpy()]
        )


def load_structure_expert(folder: Path, task: Any, experts: Sequence[Any]) -> StructureExpert:
    """Load an expert of the kind ``structure``, see ``inference.experts.EXPERT_KINDS``."""
    return StructureExpert.from_folder(folder, task.entities, task.relations)
