"""Queries of link prediction as arrays, and where their answers stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.ranking.tables import QUERY, TRIPLE
from mkgformer_kedro.training.parameters import TrainSubset
from mkgformer_kedro.training.ragged import Ragged
from mkgformer_kedro.training.subset import draw_subset

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


def part_of_graph(
    tables: Mapping[str, pd.DataFrame], subset: TrainSubset, seed: int
) -> dict[str, pd.DataFrame]:
    """The tables ``queries`` and ``triples`` with a part of the train split, others as they are.

    Queries keep the answers that chosen triples give them, and those without any are left out. What
    is known of them, which ranking leaves out, stays what it is.

    Args:
        tables: Tables by name; any of the two, and any others.
        subset: How many triples of each relation, or which share of the triples, is kept.
        seed: Seed of the draw, which is the same whichever tables are given.
    """
    found = dict(tables)
    for name in {"queries", "triples"} & set(tables):
        in_train = (tables[name]["split"] == "train").to_numpy()
        train, rest = tables[name][in_train], tables[name][~in_train]
        triples = _as_triples(train) if name == "queries" else train[TRIPLE]
        distinct = triples.drop_duplicates().sort_values(TRIPLE)
        groups = distinct[["relation"]].to_numpy().tolist()
        kept = distinct[draw_subset(groups, subset, seed)]
        chosen = pd.MultiIndex.from_frame(triples).isin(pd.MultiIndex.from_frame(kept))
        if name == "queries":
            answers = train["answers"].explode()[chosen].groupby(level=0).agg(list)
            train = train.loc[answers.index].assign(answers=answers)
        else:
            train = train[chosen]
        found[name] = pd.concat([train, rest]).sort_index()
    return found


def _as_triples(queries: pd.DataFrame) -> pd.DataFrame:
    """The triples that queries and their answers stand for, a row each with the query's index."""
    each = queries[[*QUERY, "answers"]].explode("answers")
    is_tail, answer = each["direction"] == "tail", each["answers"].astype(np.int64)
    return pd.DataFrame(
        {
            "head": each["entity"].where(is_tail, answer),
            "relation": each["relation"],
            "tail": answer.where(is_tail, each["entity"]),
        }
    )
