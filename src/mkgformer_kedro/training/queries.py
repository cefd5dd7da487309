"""Queries of link prediction as arrays, and where their answers stand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from mkgformer_kedro.training.ragged import Ragged

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Queries:
    """Queries as arrays; see the dataset ``queries`` in ``docs/architecture.md``.

    Attributes:
        is_tail: ``(n,)`` bool; True asks (entity, relation, ?), False asks (?, relation, entity).
        entity: ``(n,)`` index of the known entity.
        relation: ``(n,)`` index of the relation.
        answers: Answers in the query's own split; None where they are not known.
        known: Answers in any split, likewise.
    """

    is_tail: np.ndarray
    entity: np.ndarray
    relation: np.ndarray
    answers: Ragged | None
    known: Ragged | None

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, **more: Any) -> Self:
        """Read the columns of the table ``queries``; ``more`` is what a subclass adds."""
        return cls(
            is_tail=(frame["direction"] == "tail").to_numpy(),
            entity=frame["entity"].to_numpy(np.int64),
            relation=frame["relation"].to_numpy(np.int64),
            answers=Ragged.from_rows(frame["answers"]) if "answers" in frame else None,
            known=Ragged.from_rows(frame["known"]) if "known" in frame else None,
            **more,
        )

    def __len__(self) -> int:
        return len(self.entity)

    def ranks(self, rows: np.ndarray, scores: Tensor) -> dict[str, np.ndarray]:
        """Filtered ranks of all answers of a block of queries.

        Args:
            rows: ``(b,)`` numbers of the block's queries.
            scores: ``(b, entities)``.

        Returns:
            ``direction``, ``rank_optimistic``, ``rank_pessimistic``, ``candidates``; an entry per
            answer.
        """
        import torch

        from mkgformer_kedro.evaluation.ranking.ranks import Cells, rank_answers

        positions, values = self.answers.flat(rows)
        answers, known = (
            Cells(*(torch.from_numpy(array).to(scores.device) for array in cells))
            for cells in ((positions, values), self.known.flat(rows))
        )
        ranked = rank_answers(scores, answers, known, top=1)
        names = ("rank_optimistic", "rank_pessimistic", "candidates")
        return {
            "direction": np.where(self.is_tail[rows][positions], "tail", "head"),
            **{name: getattr(ranked, name).cpu().numpy() for name in names},
        }

    def all_ranks(
        self, rows: np.ndarray, blocks: Iterable[tuple[np.ndarray, Tensor]]
    ) -> pd.DataFrame:
        """The ranks of all answers of the queries ``rows``, which ``blocks`` score piece by piece.

        Memory is taken for them once.
        """
        from mkgformer_kedro.evaluation.ranking.ranks import below_each_other

        parts = (self.ranks(block, scores) for block, scores in blocks)
        return pd.DataFrame(below_each_other(parts, self.answers.lengths_of(rows).sum()))


def dev_scores(ranks: pd.DataFrame) -> dict[str, float]:
    """Metrics of both directions and realistic ranks, as PyKEEN names them."""
    from mkgformer_kedro.evaluation.ranking.metrics import HEADLINE, ranking_metrics

    scores = ranking_metrics(ranks)
    return {key: value for key, value in scores.items() if key.startswith(HEADLINE)}
