"""Where the true answers stand among all candidates.

Terms follow Berrendorf et al. (2020, "On the ambiguity of rank-based evaluation of entity alignment
or link prediction methods") and PyKEEN: the *optimistic* rank places an answer before all
candidates of equal score, the *pessimistic* rank behind them, the *realistic* rank is their mean.
*Filtered* ranks leave out the other known answers of the query, *raw* ranks do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Scores that are made at a time, so that memory does not grow with entities: 128 MiB.
_SCORES = 1 << 25
# Scores that ranking copies at a time: 16 MiB.
_COPIED = 1 << 22


def rows_at_a_time(most: int, entities: int) -> int:
    """How many queries are scored at a time, of ``most``: as many as memory is meant for."""
    return min(most, max(1, _SCORES // entities))


def below_each_other(parts: Iterable[Mapping[str, np.ndarray]], rows: int) -> dict[str, np.ndarray]:
    """Put the parts of a table one below the other, in columns that are made once.

    Small arrays that are kept from block to block would come to lie between the large ones of the
    scores, whose memory could then not be used again.

    Args:
        parts: Columns by name, ``(n, ...)``, of at least one part.
        rows: How many rows the parts have together.
    """
    columns: dict[str, np.ndarray] = {}
    at = 0
    for part in parts:
        for name, values in part.items():
            if name not in columns:
                columns[name] = np.empty((rows, *values.shape[1:]), values.dtype)
            columns[name][at : at + len(values)] = values
        at += len(values)
    return columns


def best_entities(scores: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The best entities by score and, where scores are equal, by number.

    Args:
        scores: ``(queries, entities)``, without NaN.
        top: Entities wanted; all of them where there are fewer.

    Returns:
        Their numbers ``(queries, top)``, best first, and their scores: the beginning of a stable
        sort, for about the time of ``topk``.
    """
    width = min(top, scores.shape[1])
    # One more says whether the last ones tie with others, of which topk takes any.
    best = scores.topk(min(width + 1, scores.shape[1]), dim=1)
    last, beyond = best.values[:, width - 1 : width], best.values[:, width:]
    entities = best.indices[:, :width].clone()
    for row in (last == beyond).nonzero()[:, 0].tolist():
        above, tied = scores[row] > last[row], scores[row] == last[row]
        found = torch.cat([above.nonzero()[:, 0], tied.nonzero()[:, 0]])
        entities[row] = found[:width]
    entities = entities.sort(dim=1).values
    values, order = scores.gather(1, entities).sort(dim=1, descending=True, stable=True)
    return entities.gather(1, order), values


@dataclass(frozen=True)
class Cells:
    """Cells of a score matrix, as parallel index tensors.

    Attributes:
        rows: Queries, ``(cells,)``.
        columns: Entities, ``(cells,)``.
    """

    rows: Tensor
    columns: Tensor

    @classmethod
    def from_lists(
        cls, lists: Iterable[Sequence[int] | np.ndarray], device: torch.device | None = None
    ) -> Cells:
        """Flatten one list of entities per query, keeping their order."""
        lists = list(lists)
        lengths = [len(entities) for entities in lists]
        columns = np.concatenate([np.asarray(entities, dtype=np.int64) for entities in lists])
        rows = np.repeat(np.arange(len(lists)), lengths)
        return cls(torch.as_tensor(rows, device=device), torch.as_tensor(columns, device=device))


@dataclass(frozen=True)
class RankedAnswers:
    """Ranks of answers, one entry per answer in the order given. Tensors are ``(answers,)``.

    Attributes:
        score: Score of the answer.
        rank_optimistic: Filtered rank, ahead of ties, from 1.
        rank_pessimistic: Filtered rank, behind ties.
        candidates: Number of entities in the filtered ranking, the answer included.
        raw_rank_optimistic: Rank among all entities, ahead of ties.
        raw_rank_pessimistic: Rank among all entities, behind ties.
        raw_candidates: Number of entities.
        top_entities: Best entities of the filtered ranking, ``(answers, top)``; the answer stands
            behind entities of equal score.
        top_scores: Their scores, ``(answers, top)``; -inf where there are fewer entities.
    """

    score: Tensor
    rank_optimistic: Tensor
    rank_pessimistic: Tensor
    candidates: Tensor
    raw_rank_optimistic: Tensor
    raw_rank_pessimistic: Tensor
    raw_candidates: Tensor
    top_entities: Tensor
    top_scores: Tensor


@torch.no_grad()
def rank_answers(
    scores: Tensor,
    answers: Cells,
    known: Cells,
    *,
    known_offset: float = -torch.inf,
    top: int = 10,
) -> RankedAnswers:
    """Rank each answer of a block of queries among all entities.

    Beside the scores, memory is taken for 16 MiB of them, and for those of the known answers.

    Args:
        scores: Finite scores ``(queries, entities)``, higher is better.
        answers: The answers to rank.
        known: Every known answer of each query, those to rank included.
        known_offset: What filtering adds to the scores of the other known answers, below zero. The
            default removes them from the ranking; a finite value only pushes them back.
        top: Length of the list of best entities.

    Returns:
        The ranks, in the order of ``answers`` and on the device of ``scores``.

    Raises:
        ValueError: If a score is not finite, an answer is not among the known ones, or
            ``known_offset`` is not negative.
    """
    if not known_offset < 0:
        raise ValueError(f"known_offset is {known_offset}; filtering needs a negative one")
    # Extremes carry NaN on; a mask of all finite cells would cost ten times as much.
    if not torch.isfinite(torch.stack(torch.aminmax(scores))).all():
        row, column = (~torch.isfinite(scores)).nonzero()[0].tolist()
        raise ValueError(
            f"the score of entity {column} for query {row} of the block is "
            f"{scores[row, column].item()}; ranks need finite scores"
        )
    num_queries, num_entities = scores.shape
    cells = (known.rows * num_entities + known.columns).unique()
    unknown = ~torch.isin(answers.rows * num_entities + answers.columns, cells)
    if unknown.any():
        at = int(unknown.nonzero()[0])
        raise ValueError(
            f"entity {int(answers.columns[at])} is an answer of query {int(answers.rows[at])} of "
            "the block but not among its known answers"
        )
    known = Cells(cells // num_entities, cells % num_entities)
    num_known = known.rows.bincount(minlength=num_queries)
    ends = num_known.cumsum(0)
    place = torch.arange(len(cells), device=cells.device) - (ends - num_known)[known.rows]
    of_known = scores.new_full((num_queries, int(num_known.max())), -torch.inf)
    of_known[known.rows, place] = scores[known.rows, known.columns]
    own = scores[answers.rows, answers.columns]
    if math.isinf(known_offset):
        candidates = num_entities + 1 - num_known[answers.rows]
    else:
        candidates = torch.full_like(answers.rows, num_entities)
    # Among the raw scores the answer ties with itself; filtering lowers it with the known ones, so
    # that it never counts against itself.
    raw_before, raw_not_behind = _count_rivals(scores, answers.rows, own)
    known_before, known_not_behind = _count_rivals(of_known, answers.rows, own)
    lowered_before, lowered_not_behind = _count_rivals(of_known + known_offset, answers.rows, own)
    before = raw_before - known_before + lowered_before
    not_behind = raw_not_behind - known_not_behind + lowered_not_behind

    width = min(top, num_entities)
    best_scores, best = _best(scores, known, ends, known_offset, width)
    others, other_scores = best[answers.rows], best_scores[answers.rows]
    other_scores = other_scores.masked_fill(others == answers.columns[:, None], -torch.inf)
    top_scores, order = torch.sort(
        torch.cat([other_scores, own[:, None]], dim=1), dim=1, descending=True, stable=True
    )
    top_entities = torch.cat([others, answers.columns[:, None]], dim=1).gather(1, order)
    return RankedAnswers(
        score=own,
        rank_optimistic=before + 1,
        rank_pessimistic=not_behind + 1,
        candidates=candidates,
        raw_rank_optimistic=raw_before + 1,
        raw_rank_pessimistic=raw_not_behind,
        raw_candidates=torch.full_like(candidates, num_entities),
        top_entities=top_entities[:, :width],
        top_scores=top_scores[:, :width],
    )


def _count_rivals(matrix: Tensor, rows: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """Count the cells above, and those at or above, a threshold in the row given for each."""
    above, at_or_above = [], []
    at_a_time = max(1, _COPIED // max(1, matrix.shape[1]))
    for row, threshold in zip(rows.split(at_a_time), thresholds.split(at_a_time), strict=True):
        cells = matrix.index_select(0, row)
        # Summing into 32 bits is ten times as fast as into the default 64.
        above.append((cells > threshold[:, None]).sum(dim=1, dtype=torch.int32))
        at_or_above.append((cells >= threshold[:, None]).sum(dim=1, dtype=torch.int32))
    return torch.cat(above), torch.cat(at_or_above)


def _best(
    scores: Tensor, known: Cells, ends: Tensor, known_offset: float, width: int
) -> tuple[Tensor, Tensor]:
    """Scores and numbers ``(queries, width)`` of each query's best entities, the known lowered.

    The known cells are sorted; those of query ``i`` end at ``ends[i]``.
    """
    values, entities, done = [], [], 0
    at_a_time = max(1, _COPIED // scores.shape[1])
    for first, part in zip(range(0, len(scores), at_a_time), scores.split(at_a_time), strict=True):
        end = int(ends[first + len(part) - 1])
        filtered = part.clone()
        filtered[known.rows[done:end] - first, known.columns[done:end]] += known_offset
        best = filtered.topk(width, dim=1)
        values.append(best.values)
        entities.append(best.indices)
        done = end
    return torch.cat(values), torch.cat(entities)
