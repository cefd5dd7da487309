"""A sampled softmax: exact where all entities are drawn, unbiased where not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mkgformer_kedro.modeling.modeling_mkgformer import multi_answer_cross_entropy
from mkgformer_kedro.training.negatives import Negatives

ENTITIES = 9
ANSWERS = np.repeat(np.arange(ENTITIES), [0, 0, 1, 1, 2, 3, 5, 8, 20])
LABELS = np.array([[8, 2, -100], [5, -100, -100], [2, 0, 7]])


def negatives(draws, uniform=0.25, seed=0):
    return Negatives.by_popularity(ANSWERS, ENTITIES, draws=draws, uniform=uniform, seed=seed)


def tensors(found):
    return {name: torch.from_numpy(array) for name, array in found.items()}


@given(
    st.integers(0, 99), st.sampled_from([0.0, 0.2]), st.sampled_from([0.0, 0.5]),
    st.integers(ENTITIES, 99),
)  # fmt: skip
@settings(max_examples=20)
def test_a_sample_of_all_entities_is_the_exact_loss(seed, smoothing, exponent, draws):
    logits = 3 * torch.randn(3, ENTITIES, generator=torch.Generator().manual_seed(seed))
    found = tensors(negatives(draws).candidates(LABELS, np.arange(3)))

    sampled = multi_answer_cross_entropy(
        logits[:, found["candidates"]], found["labels"], smoothing, exponent, found["log_counts"]
    )

    exact = multi_answer_cross_entropy(logits, torch.from_numpy(LABELS), smoothing, exponent)
    torch.testing.assert_close(sampled, exact)


@pytest.mark.parametrize(("draws", "uniform"), [(3, 0.25), (6, 0.9), (8, 1.0)])
def test_the_sum_over_entities_is_unbiased(draws, uniform):
    """Over 2,000 batches, whose draws are independent, within four standard errors."""
    drawn = negatives(draws, uniform)
    exponentials = np.exp(np.random.default_rng(1).normal(size=ENTITIES))
    sums = []
    for batch in range(2000):
        found = drawn.candidates(LABELS, np.array([batch]))
        counts = np.exp(found["log_counts"].astype(np.float64))
        sums.append((counts * exponentials[found["candidates"]]).sum())
    error = np.std(sums) / np.sqrt(len(sums))
    assert error < 0.1 * exponentials.sum()
    assert abs(np.mean(sums) - exponentials.sum()) < 4 * error


def test_answers_are_there_for_sure_and_everyone_once():
    for batch in range(20):
        found = negatives(4).candidates(LABELS, np.array([batch]))
        entities, there = found["candidates"], LABELS >= 0
        assert len(set(entities)) == len(entities) <= 5 + 4
        np.testing.assert_array_equal(entities[found["labels"][there]], LABELS[there])
        assert (found["labels"][~there] == -100).all()
        is_answer = np.isin(entities, LABELS)
        assert (found["log_counts"][is_answer] == 0).all()
        assert (found["log_counts"][~is_answer] > 0).all()


def test_draws_are_those_of_seed_and_items():
    def drawn(seed, *rows):
        return negatives(5, seed=seed).candidates(LABELS, np.array(rows))["candidates"].tolist()

    assert drawn(3, 1, 7) == drawn(3, 1, 7)
    batches = [drawn(seed, *rows) for seed in (3, 4) for rows in ([1, 7], [7, 1], [2, 7])]
    assert len(set(map(tuple, batches))) > 3
