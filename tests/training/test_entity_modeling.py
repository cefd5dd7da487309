"""Stage 1 fits entity embeddings and nothing else."""

import math

import pytest
import torch

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.modeling import MKGformerForLinkPrediction
from mkgformer_kedro.training import entity_modeling
from mkgformer_kedro.training.entity_encoder import encode_descriptions
from mkgformer_kedro.training.entity_modeling import (
    closed_form,
    descend,
    initialize_graph_tokens,
    model_entities,
    solve,
)
from mkgformer_kedro.training.model_folder import load_model
from mkgformer_kedro.training.parameters import (
    AdamParameters,
    EntityModelingParameters,
    ModelParameters,
)
from mkgformer_kedro.training.tasks.link_prediction import LinkPrediction
from mkgformer_kedro.training.towers import build_model, load_tokenizer


@pytest.fixture
def built(model_parameters, store_folder, tables):
    torch.manual_seed(0)
    store = VisualStore(store_folder)
    parameters = ModelParameters(**model_parameters)
    tokenizer = load_tokenizer(parameters)
    model = build_model(
        MKGformerForLinkPrediction,
        parameters,
        "corrected",
        store,
        mask_token_id=tokenizer.mask_token_id,
    )
    model.add_graph_tokens(12, 2)
    task = LinkPrediction(tables["entities"], tables["relations"], "paper", 16)
    return model.eval(), tokenizer, task.prompt_builder(tokenizer, model.config), store


def test_images_are_those_of_the_store(built):
    model, _, _, _ = built
    assert model.config.image_sizes == {"full": 16}
    assert model.config.image_counts == {"full": 2}


def test_a_new_embedding_is_the_mean_of_its_words(built):
    model, tokenizer, prompts, _ = built
    initialize_graph_tokens(model, prompts, "text")
    words, graph = model.get_input_embeddings().weight, model.mkgformer.graph_embeddings
    word = tokenizer.convert_tokens_to_ids("word3")
    torch.testing.assert_close(graph.entities.weight[3], words[word])
    relation = tokenizer.convert_tokens_to_ids("mirror")
    torch.testing.assert_close(graph.relations.weight[1], words[relation])


def test_states_do_not_depend_on_the_batch(built):
    model, _, prompts, store = built
    alone = encode_descriptions(model, prompts, store, batch_size=1)
    together = encode_descriptions(model, prompts, store, batch_size=12)
    torch.testing.assert_close(alone, together)


@pytest.fixture
def made_up():
    """Start and states of 40 entities, the states around a mean that says nothing."""
    draw = torch.Generator().manual_seed(3)
    start = 0.1 * torch.randn(40, 6, generator=draw)
    return start, 2 + torch.randn(40, 6, generator=draw)


def objective_of(embeddings, start, states, ridge):
    loss = torch.nn.functional.cross_entropy(states @ embeddings.T, torch.arange(len(states)))
    return loss + 0.5 * ridge * (embeddings - start).square().sum() / len(states)


@pytest.mark.parametrize("rows", [7, 40, 1024])
def test_loss_and_gradient_do_not_depend_on_the_block(made_up, monkeypatch, rows):
    monkeypatch.setattr(entity_modeling, "_ROWS", rows)
    start, states = made_up
    embeddings = start.clone().requires_grad_()
    expected = 40 * objective_of(embeddings, start, states, 0.0)
    expected.backward()
    loss, gradient = entity_modeling._cross_entropy(start, states)
    assert loss == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(gradient, embeddings.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ridge", [0.1, 1.0, 10.0])
def test_stage_1_is_solved(made_up, ridge):
    start, states = made_up
    embeddings, curve = solve(start, states, ridge)
    best = start.double().requires_grad_()
    optimizer = torch.optim.LBFGS([best], max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = objective_of(best, start.double(), states.double(), ridge)
        loss.backward()
        return loss

    optimizer.step(closure)
    reached = objective_of(embeddings, start, states, ridge).item()
    assert reached == pytest.approx(closure().item(), rel=1e-3)
    assert curve["objective"].iloc[-1] == pytest.approx(reached, rel=1e-4)
    assert torch.equal(embeddings, solve(start, states, ridge)[0])


@pytest.mark.parametrize("spread", [0.0, 1e-4])
def test_entities_of_which_hardly_anything_is_said(spread):
    torch.manual_seed(0)
    start = torch.randn(1, 6).expand(40, 6)
    states = torch.randn(1, 6) + spread * torch.randn(40, 6)
    embeddings, curve = solve(start, states, 1.0)
    assert curve["step"].iloc[0] == 0
    assert curve["loss"].iloc[0] == pytest.approx(math.log(40), rel=1e-5)
    # What little there is, is taken: the closed form is all but right here.
    expected = closed_form(start, states, 1.0)[0]
    torch.testing.assert_close(embeddings, expected, atol=0.02 * spread + 1e-6, rtol=0)


@pytest.mark.parametrize("rows", [7, 1024])
def test_the_closed_form_is_the_newton_step_where_the_softmax_is_flat(made_up, monkeypatch, rows):
    monkeypatch.setattr(entity_modeling, "_ROWS", rows)
    _, states = made_up
    start = torch.zeros_like(states, requires_grad=True)
    objective = len(states) * objective_of(start, start.detach(), states, ridge=0.7)
    (gradient,) = torch.autograd.grad(objective, start)
    curvature = states.T @ states / len(states) + 0.7 * torch.eye(6)

    embeddings, curve = closed_form(start.detach(), states, ridge=0.7)

    torch.testing.assert_close(embeddings @ curvature, -gradient, atol=1e-4, rtol=1e-4)
    reached = objective_of(embeddings, start, states, ridge=0.7).item()
    assert curve["objective"].tolist() == [pytest.approx(reached, rel=1e-5)]
    assert reached < objective.item() / len(states)


def test_the_ridge_holds_embeddings_at_their_start(made_up):
    start, states = made_up
    moved = [(solve(start, states, ridge)[0] - start).norm() for ridge in (0.1, 1, 10, 1e6)]
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] < 1e-3


def test_adam_walks_as_far_as_its_epochs(made_up):
    start, states = made_up
    adam = {"batch_size": 8, "learning_rate": 0.05}
    few, many = (AdamParameters(epochs=epochs, **adam) for epochs in (3, 30))
    embeddings, curve = descend(start, states, many, seed=0)
    assert len(curve) == 30
    assert curve["loss"].iloc[-1] < descend(start, states, few, seed=0)[1]["loss"].iloc[-1]
    assert torch.equal(embeddings, descend(start, states, many, seed=0)[0])
    assert not torch.equal(embeddings, descend(start, states, many, seed=1)[0])


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
def test_only_entity_embeddings_change(
    tmp_path, tables, store_folder, model_parameters, entity_modeling_values, solver
):
    def fit(folder, **changes):
        return model_entities(
            tables["entities"],
            tables["relations"],
            store_folder,
            tmp_path / folder,
            ModelParameters(**model_parameters),
            EntityModelingParameters(**entity_modeling_values | {"solver": solver} | changes),
            "corrected",
            seed=0,
        )

    adam = entity_modeling_values["adam"]
    short, _ = fit("short", ridge=10.0, adam=adam | {"epochs": 1})
    long, curve = fit("long")
    assert curve["loss"].iloc[-1] < curve["loss"].iloc[0]
    before, _, _ = load_model(short)
    after, tokenizer, task = load_model(long)
    assert task.entities["entity"].tolist() == tables["entities"]["entity"].tolist()
    assert len(tokenizer) == after.get_input_embeddings().weight.shape[0]

    changed = {
        name
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert changed == {"mkgformer.graph_embeddings.entities.weight"}


def test_the_preset_picks_the_solver(entity_modeling_values):
    parameters = EntityModelingParameters(**entity_modeling_values)
    assert parameters.with_preset("corrected").solver == "lbfgs"
    assert parameters.with_preset("faithful").solver == "adam"
