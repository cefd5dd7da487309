from __future__ import annotations

import numpy as np
import pytest
import torch

from mkgformer_kedro.errors import DataError
from mkgformer_kedro.inference.mixture.answers import Answered
from mkgformer_kedro.inference.mixture.likelihood import Candidates, minimized


def brute_force(answered, weights):
    """Negative log-likelihood of each answer among all candidates but the other known answers."""
    losses = []
    for rows, scores in answered.blocks():
        for row, at in enumerate(rows):
            total = sum(w * s[row].double() for w, s in zip(weights, scores, strict=True))
            query = answered.queries.iloc[at]
            for answer in query["answers"]:
                kept = np.setdiff1d(np.arange(len(total)), np.setdiff1d(query["known"], [answer]))
                losses.append((torch.logsumexp(total[kept], 0) - total[answer]).item())
    return np.array(losses)


def test_likelihood_is_that_of_all_candidates(world, few, experts, tmp_path):
    answered = Answered.ask(experts, few, tmp_path, entities=30, batch_size=16)
    weights = np.array([0.7, 0.05, 0.0])
    expected = brute_force(answered, weights)
    table = torch.from_numpy(np.tile(weights, (len(few), 1)))
    whole = Candidates.gather(answered, top=30, sampled=1, seed=0)
    assert whole.losses(table).numpy() == pytest.approx(expected, abs=1e-4)
    # A part of the candidates stands for all.
    some = [
        Candidates.gather(answered, top=5, sampled=5, seed=seed).losses(table).mean().item()
        for seed in range(5)
    ]
    assert np.mean(some) == pytest.approx(expected.mean(), rel=0.02)


def test_a_query_without_a_candidate_has_no_part_in_likelihood_and_gradient(few, experts, tmp_path):
    everything = np.arange(30, dtype=np.int32)
    few = few.head(3).copy()
    few["known"] = [few["known"].iloc[0], everything, few["known"].iloc[2]]
    answered = Answered.ask(experts, few, tmp_path, entities=30, batch_size=16)
    whole = Candidates.gather(answered, top=30, sampled=1, seed=0)
    assert 1 not in whole.answer_query
    weights = torch.ones(3, dtype=torch.float64, requires_grad=True)
    losses = whole.losses(weights.expand(3, 3))
    losses.sum().backward()
    others = whole.where(np.array([True, False, True]))
    assert torch.equal(losses, others.losses(torch.ones(2, 3, dtype=torch.float64)))
    assert weights.grad.isfinite().all()


def test_a_fit_that_fails_is_an_error():
    with pytest.raises(DataError, match=r"likelihood of the dev answers.* no finite number"):
        minimized(lambda values: torch.log(values - 1).sum(), np.zeros(2))
