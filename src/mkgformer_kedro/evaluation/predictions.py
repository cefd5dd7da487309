"""The predictions table: one row per triple and direction, with ranks and the ten best entities.

Columns, in this order:

========================  ==========  ===========================================================
``triple``                int32       row number of the triple in the split that is scored
``direction``             str         ``tail``: (entity, relation, ?); ``head``: (?, relation, entity)
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
========================  ==========  ===========================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mkgformer_kedro.evaluation.ranking import Cells, RankedAnswers, rank_answers

_RANKS = [field.name for field in fields(RankedAnswers) if not field.name.startswith("top_")]


def predict(
    queries: pd.DataFrame,
    score_blocks: Iterable[Tensor],
    triples: pd.DataFrame,
    *,
    known_offset: float = -torch.inf,
    top: int = 10,
) -> pd.DataFrame:
    """Rank every answer of the queries and lay the result out as a predictions table.

    Blocks are consumed one at a time, so memory does not grow with queries times entities.

    Args:
        queries: Queries of one split: ``direction``, ``entity``, ``relation``, ``answers``, ``known``.
        score_blocks: Scores of all entities, ``(block, entities)`` each; the blocks follow the
            rows of ``queries``.
        triples: The triples of that split; their row numbers become ``triple``.
        known_offset: What filtering adds to the scores of other known answers.
        top: Length of the list of best entities.

    Returns:
        The table, sorted by ``triple`` and then ``direction``.

    Raises:
        ValueError: If the blocks do not cover the queries exactly, an answer makes a triple that
            is not in ``triples``, or a block cannot be ranked (see ``rank_answers``).
    """
    parts = []
    start = 0
    for scores in score_blocks:
        block = queries.iloc[start : start + len(scores)]
        start += len(scores)
        if start > len(queries):
            raise ValueError(f"more rows of scores than the {len(queries)} queries")
        answers = Cells.from_lists(block["answers"], scores.device)
        known = Cells.from_lists(block["known"], scores.device)
        ranked = rank_answers(scores, answers, known, known_offset=known_offset, top=top)
        rows = answers.rows.cpu().numpy()
        parts.append(
            block[["direction", "entity", "relation"]]
            .iloc[rows]
            .assign(answer=answers.columns.cpu().numpy())
            .assign(**{name: getattr(ranked, name).float().cpu().numpy() if name == "score" else getattr(ranked, name).cpu().numpy() for name in _RANKS})
            .assign(**_top_lists(ranked))
        )
    if start < len(queries):
        raise ValueError(f"scores for {start} of {len(queries)} queries")
    predictions = pd.concat(parts, ignore_index=True)
    predictions.insert(0, "triple", _triple_numbers(predictions, triples))
    whole = [name for name in predictions if name not in ("direction", "score", *_TOP)]
    predictions = predictions.astype(dict.fromkeys(whole, np.int32) | {"score": np.float32})
    return predictions.sort_values(["triple", "direction"], ignore_index=True)
