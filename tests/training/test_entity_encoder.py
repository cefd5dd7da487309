"""New entities get embeddings from their descriptions; those that were learned stay."""

import numpy as np
import pytest
import torch

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.training import entity_encoder
from mkgformer_kedro.training.entity_encoder import (
    embed_unseen,
    encode_descriptions,
    fit_entity_encoder,
)
from mkgformer_kedro.training.model_folder import load_model, save_model


@pytest.fixture
def trained(entity_model, store_folder):
    """Model, prompts and images of the tiny graph."""
    model, tokenizer, task = load_model(entity_model)
    return model.eval(), task.prompt_builder(tokenizer, model.config), VisualStore(store_folder)


def rows_of(model):
    return model.mkgformer.graph_embeddings.entities.weight.detach().clone()


def test_the_encoder_is_the_closed_form(trained):
    model, _, _ = trained
    states = torch.randn(50, 16, generator=torch.Generator().manual_seed(1)) + 3
    known = np.arange(12) < 9
    fit_entity_encoder(model, states, known)
    made = model.embed_entities(states).double().numpy()

    rows = rows_of(model)[:9].double().numpy()
    numbers = states.double().numpy()
    covariance = np.cov(numbers.T, bias=True)
    ridge = entity_encoder._RIDGE * np.trace(covariance) / 16 * np.eye(16)
    expected = np.linalg.solve(covariance + ridge, (numbers - numbers.mean(0)).T).T
    np.testing.assert_allclose(made.mean(0), rows.mean(0), atol=1e-5)
    direction = (made - made.mean(0)) / expected
    np.testing.assert_allclose(direction, direction[0, 0], rtol=1e-2)

    def spread(of):
        centred = of - rows.mean(0)
        return np.sqrt(((centred @ covariance) * centred).sum(axis=1)).mean()

    assert spread(made) == pytest.approx(entity_encoder._SPREAD * spread(rows), rel=1e-3)


@pytest.mark.parametrize("count", [1, 1000])
def test_descriptions_that_are_all_the_same_tell_nothing_apart(trained, count):
    model, _, _ = trained
    state = torch.randn(1, 16, generator=torch.Generator().manual_seed(1))
    states = state * (1 + 1e-7 * torch.randn(count, 16))
    fit_entity_encoder(model, states, np.arange(12) < 9)
    mean = rows_of(model)[:9].mean(dim=0)
    torch.testing.assert_close(model.embed_entities(state + 1)[0].detach(), mean)


def test_entities_that_train_lacks_get_embeddings_and_the_others_stay(trained):
    model, prompts, store = trained
    model.entity_bias.data.fill_(0.5)
    before, known = rows_of(model), np.arange(12) % 5 > 0
    embed_unseen(model, prompts, store, known, batch_size=4, seed=0)
    after, unseen = rows_of(model), np.flatnonzero(~known)
    assert torch.equal(after[known], before[known])
    states = encode_descriptions(model, prompts, store, 4, unseen)
    assert torch.equal(after[unseen], model.embed_entities(states))
    assert (after[unseen] != before[unseen]).any(dim=1).all()
    assert model.entity_bias.tolist() == [0.5 * each for each in known]


def test_where_train_has_all_entities_none_changes(trained):
    model, prompts, store = trained
    before = rows_of(model)
    embed_unseen(model, prompts, store, np.ones(12, dtype=bool), batch_size=4, seed=0)
    assert torch.equal(rows_of(model), before)


def test_the_encoder_is_kept_in_the_model_folder(trained, entity_model, tmp_path):
    model, _, _ = trained
    model.set_entity_encoder(torch.eye(16), torch.ones(16))
    _, tokenizer, task = load_model(entity_model)
    again, _, _ = load_model(save_model(tmp_path / "model", model, tokenizer, task))
    states = torch.randn(3, 16)
    assert torch.equal(again.embed_entities(states), states + 1)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_states_are_those_of_the_entities_asked_for(trained, batch_size):
    model, prompts, store = trained
    whole = encode_descriptions(model, prompts, store, 12)
    some = encode_descriptions(model, prompts, store, batch_size, np.array([7, 0, 3]))
    torch.testing.assert_close(some, whole[[7, 0, 3]])


@torch.no_grad()
def test_entities_in_half_precision(trained):
    """Ranks move no further than the rounding of embeddings moves scores."""
    model, prompts, images = trained
    states = encode_descriptions(model, prompts, images, batch_size=5)
    exact, embeddings = model.score_entities(states), rows_of(model)
    model.halve_entities()

    scores = model.score_entities(states)

    error = 2**-8 * states.abs() @ embeddings.abs().T + 1e-5  # of eight bits, and of sums
    assert ((scores - exact).abs() <= error).all()
    ahead = exact - exact.diag()[:, None]
    slack = error + error.diag()[:, None]
    rank = (scores > scores.diag()[:, None]).sum(dim=1)
    assert ((ahead > slack).sum(dim=1) <= rank).all()
    assert (rank < (ahead >= -slack).sum(dim=1)).all()

    known = np.arange(12) < 9
    embed_unseen(model, prompts, images, known, batch_size=5, seed=0)
    made = model.embed_entities(encode_descriptions(model, prompts, images, 5, np.arange(9, 12)))
    assert torch.equal(rows_of(model)[9:], made.bfloat16())
    assert torch.equal(rows_of(model)[:9], embeddings[:9].bfloat16())
