"""The predictions table of ranking: one row per expert, seed, triple and direction.

Columns, in this order:

========================  ==========  ===========================================================
``expert``                str         who answered
``seed``                  int64       seed of its training
``triple``                int32       row number of the triple in the split that is scored
``direction``             str         ``tail``: (e, relation, ?); ``head``: (?, relation, e)
``entity``, ``relation``  int32       what is given
``answer``                int32       what is asked for
``score``                 float32     score of the answer
``rank_optimistic``       int32       filtered rank ahead of ties, from 1
``rank_pessimistic``      int32       filtered rank behind ties
``candidates``            int32       entities in the filtered ranking, the answer included
``raw_rank_optimistic``   int32       rank among all entities ahead of ties
``raw_rank_pessimistic``  int32       rank among all entities behind ties
``raw_candidates``        int32       all entities
``top_entities``          list int32  ten best entities of the filtered ranking, best first
``top_scores``            list f32    their scores
``answered``              bool        optional: whether the expert has learned to answer this query
========================  ==========  ===========================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mkgformer_kedro.evaluation.ranking.ranks import Cells, below_each_other, rank_answers
from mkgformer_kedro.evaluation.ranking.tables import TRIPLE

_RANKS = (
    "rank_optimistic",
    "rank_pessimistic",
    "candidates",
    "raw_rank_optimistic",
    "raw_rank_pessimistic",
    "raw_candidates",
)


def rank_queries(
    queries: pd.DataFrame,
    blocks: Iterable[tuple[np.ndarray, Tensor]],
    triples: pd.DataFrame,
    *,
    known_offset: float = -torch.inf,
    top: int = 10,
) -> pd.DataFrame:
    """Rank every answer of the queries and lay the result out as a predictions table.

    Blocks are consumed one at a time, so memory does not grow with queries times entities.

    Args:
        queries: Queries of one split: ``direction``, ``entity``, ``relation``, ``answers`` and
            ``known`` (lists of entities; the answers are among the known ones).
        blocks: Positions in ``queries``, ``(block,)``, and the scores of all entities for these,
            ``(block, entities)``. Every query is in exactly one block.
        triples: The triples of that split; their row numbers become ``triple``.
        known_offset: What filtering adds to the scores of the other known answers, see
            ``rank_answers``.
        top: Length of the lists of best entities.

    Returns:
        The table without ``expert`` and ``seed``, sorted by ``triple`` and then ``direction``.

    Raises:
        ValueError: If the blocks do not cover the queries exactly, an answer makes a triple that
            is not in ``triples``, or a block cannot be ranked (see ``rank_answers``).
    """
    scored = np.zeros(len(queries), dtype=np.int64)

    def ranked() -> Iterator[dict[str, np.ndarray]]:
        for rows, scores in blocks:
            if len(rows) != len(scores):
                raise ValueError(f"{len(scores)} rows of scores for {len(rows)} queries")
            np.add.at(scored, rows, 1)
            _check_once(scored, rows)
            yield _block_rows(queries.iloc[rows], scores, known_offset, top)

    columns = below_each_other(ranked(), int(queries["answers"].map(len).sum()))
    _check_once(scored, np.arange(len(queries)))
    listed = np.isfinite(columns["top_scores"]).sum(axis=1)
    lists = {
        name: [row[:length] for row, length in zip(columns[name], listed, strict=True)]
        for name in ("top_entities", "top_scores")
    }
    predictions = pd.DataFrame({**columns, **lists})
    predictions.insert(0, "triple", _triple_numbers(predictions, triples))
    return predictions.sort_values(["triple", "direction"], ignore_index=True)


def _check_once(scored: np.ndarray, rows: np.ndarray) -> None:
    wrong = rows[scored[rows] != 1]
    if len(wrong):
        at = wrong[0]
        raise ValueError(f"query {at} of {len(scored)} was scored {scored[at]} times, not once")


def _block_rows(
    block: pd.DataFrame, scores: Tensor, known_offset: float, top: int
) -> dict[str, np.ndarray]:
    """Lay out one block: a row per answer, everything but ``triple``."""
    answers = Cells.from_lists(block["answers"], scores.device)
    known = Cells.from_lists(block["known"], scores.device)
    ranked = rank_answers(scores, answers, known, known_offset=known_offset, top=top)
    rows = answers.rows.numpy(force=True)
    return {
        "direction": block["direction"].to_numpy()[rows],
        "entity": block["entity"].to_numpy(np.int32)[rows],
        "relation": block["relation"].to_numpy(np.int32)[rows],
        "answer": answers.columns.to(torch.int32).numpy(force=True),
        "score": ranked.score.float().numpy(force=True),
        **{name: getattr(ranked, name).to(torch.int32).numpy(force=True) for name in _RANKS},
        "top_entities": ranked.top_entities.to(torch.int32).numpy(force=True),
        "top_scores": ranked.top_scores.float().numpy(force=True),
    }


def _triple_numbers(predictions: pd.DataFrame, triples: pd.DataFrame) -> np.ndarray:
    """Row number in ``triples`` of the triple that each prediction is about."""
    asks_tail = predictions["direction"] == "tail"
    asked = pd.DataFrame(
        {
            "head": predictions["entity"].where(asks_tail, predictions["answer"]),
            "relation": predictions["relation"],
            "tail": predictions["answer"].where(asks_tail, predictions["entity"]),
        }
    )
    numbered = triples[TRIPLE].assign(triple=np.arange(len(triples))).drop_duplicates(TRIPLE)
    found = asked.merge(numbered, on=TRIPLE, how="left", sort=False)["triple"]
    if found.isna().any():
        missing = asked[found.isna().to_numpy()].iloc[0].to_dict()
        raise ValueError(f"the queries ask for {missing}, which is not among the triples scored")
    return found.to_numpy(np.int32)
