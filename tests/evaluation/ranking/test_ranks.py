from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mkgformer_kedro.evaluation.ranking.ranks import (
    Cells,
    RankedAnswers,
    best_entities,
    rank_answers,
)


@st.composite
def ranking_problems(draw) -> tuple[torch.Tensor, Cells, Cells]:
    """Scores with many ties, known answers, and some of these as the answers to rank."""
    queries, entities = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    scores = draw(hnp.arrays(np.float32, (queries, entities), elements=st.integers(-3, 3)))
    known = [
        draw(st.lists(st.integers(0, entities - 1), min_size=1, unique=True))
        for _ in range(queries)
    ]
    answers = [draw(st.lists(st.sampled_from(row), min_size=1, unique=True)) for row in known]
    return torch.from_numpy(scores), Cells.from_lists(answers), Cells.from_lists(known)


def rank_one_by_one(scores: torch.Tensor, answers: Cells, known: Cells) -> list[dict]:
    """The definition, candidate by candidate."""
    found = []
    for row, answer in zip(answers.rows.tolist(), answers.columns.tolist(), strict=True):
        own = scores[row, answer]
        others = [e for e in range(scores.shape[1]) if e != answer]
        others_known = set(known.columns[known.rows == row].tolist()) - {answer}
        left = [e for e in others if e not in others_known]
        found.append(
            {
                "rank_optimistic": 1 + sum(bool(scores[row, e] > own) for e in left),
                "rank_pessimistic": 1 + sum(bool(scores[row, e] >= own) for e in left),
                "candidates": 1 + len(left),
                "raw_rank_optimistic": 1 + sum(bool(scores[row, e] > own) for e in others),
                "raw_rank_pessimistic": 1 + sum(bool(scores[row, e] >= own) for e in others),
                "raw_candidates": 1 + len(others),
            }
        )
    return found


def as_rows(ranked: RankedAnswers, names: dict) -> list[dict]:
    columns = {name: getattr(ranked, name).tolist() for name in names}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@given(ranking_problems())
def test_ranks_follow_the_definition(problem):
    expected = rank_one_by_one(*problem)
    assert as_rows(rank_answers(*problem), expected[0]) == expected


@given(ranking_problems(), st.integers(1, 15))
def test_the_best_are_the_beginning_of_a_stable_sort(problem, top):
    scores = problem[0].masked_fill(problem[0] == -3, -torch.inf)
    expected = scores.sort(dim=1, descending=True, stable=True)
    entities, values = best_entities(scores, top)
    assert torch.equal(entities, expected.indices[:, :top])
    assert torch.equal(values, expected.values[:, :top])


@given(ranking_problems())
def test_filtering_and_ties_only_ever_move_a_rank_one_way(problem):
    ranked = rank_answers(*problem)
    assert (ranked.rank_optimistic >= 1).all()
    assert (ranked.rank_optimistic <= ranked.rank_pessimistic).all()
    assert (ranked.rank_pessimistic <= ranked.candidates).all()
    assert (ranked.rank_optimistic <= ranked.raw_rank_optimistic).all()
    assert (ranked.rank_pessimistic <= ranked.raw_rank_pessimistic).all()


@given(ranking_problems(), st.randoms(use_true_random=False))
def test_the_order_of_the_entities_does_not_matter(problem, random):
    scores, answers, known = problem
    order = list(range(scores.shape[1]))
    random.shuffle(order)
    place = torch.tensor(order).argsort()
    shuffled = rank_answers(
        scores[:, order],
        Cells(answers.rows, place[answers.columns]),
        Cells(known.rows, place[known.columns]),
    )
    ranked = rank_answers(scores, answers, known)
    for name in ("rank_optimistic", "rank_pessimistic", "candidates", "raw_rank_pessimistic"):
        assert torch.equal(getattr(ranked, name), getattr(shuffled, name))
    assert torch.equal(ranked.top_scores, shuffled.top_scores)


@given(ranking_problems())
def test_the_top_list_agrees_with_the_rank(problem):
    scores, answers, known = problem
    ranked = rank_answers(scores, answers, known, top=4)
    for i, (row, answer) in enumerate(zip(answers.rows, answers.columns, strict=True)):
        listed = [
            int(e)
            for e, s in zip(ranked.top_entities[i], ranked.top_scores[i], strict=True)
            if torch.isfinite(s)
        ]
        assert len(listed) == min(4, int(ranked.candidates[i]))
        assert len(set(listed)) == len(listed)
        others_known = set(known.columns[known.rows == row].tolist()) - {int(answer)}
        assert not others_known & set(listed)
        assert torch.equal(ranked.top_scores[i, : len(listed)], scores[row, listed])
        place = int(ranked.rank_pessimistic[i])
        assert (listed[place - 1] == int(answer)) if place <= 4 else (int(answer) not in listed)


@settings(max_examples=30)
@given(ranking_problems())
def test_a_finite_offset_pushes_known_answers_back_without_removing_them(problem):
    scores, answers, known = problem
    removed = rank_answers(scores, answers, known)
    pushed = rank_answers(scores, answers, known, known_offset=-100.0)
    assert torch.equal(pushed.rank_optimistic, removed.rank_optimistic)
    assert torch.equal(pushed.rank_pessimistic, removed.rank_pessimistic)
    assert torch.equal(pushed.candidates, pushed.raw_candidates)


def test_a_known_answer_far_ahead_survives_a_finite_offset():
    scores = torch.tensor([[250.0, 1.0, 0.0]])
    answers, known = Cells.from_lists([[1]]), Cells.from_lists([[0, 1]])
    assert rank_answers(scores, answers, known).rank_pessimistic.tolist() == [1]
    pushed = rank_answers(scores, answers, known, known_offset=-100.0)
    assert pushed.rank_optimistic.tolist() == [2]
    assert pushed.top_entities.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_ranks_are_those_of_the_precision_given(dtype):
    scores = torch.tensor([[1.0, 1.0 + 1e-4, 0.5]], dtype=dtype)
    ranked = rank_answers(scores, Cells.from_lists([[0]]), Cells.from_lists([[0]]))
    tied = dtype != torch.float64
    assert ranked.rank_optimistic.tolist() == [1 if tied else 2]
    assert ranked.rank_pessimistic.tolist() == [2]


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_not_finite_are_named(value):
    scores = torch.zeros(3, 4)
    scores[1, 2] = value
    cells = Cells.from_lists([[0], [0], [0]])
    with pytest.raises(ValueError, match="entity 2 for query 1"):
        rank_answers(scores, cells, cells)


def test_an_answer_that_is_not_known_is_named():
    with pytest.raises(ValueError, match="entity 3 is an answer of query 1"):
        rank_answers(torch.zeros(2, 4), Cells.from_lists([[0], [3]]), Cells.from_lists([[0], [1]]))


def test_an_offset_that_does_not_push_back_is_refused():
    cells = Cells.from_lists([[0]])
    with pytest.raises(ValueError, match="negative"):
        rank_answers(torch.zeros(1, 2), cells, cells, known_offset=0.0)
