"""Stage 1 fits entity embeddings and nothing else."""

import numpy as np
import pytest
import torch

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.modeling import MKGformerForLinkPrediction
from mkgformer_kedro.training.entity_modeling import (
    EntityEmbeddings,
    add_graph_tokens,
    encode_descriptions,
    initialize_graph_tokens,
    model_entities,
)
from mkgformer_kedro.training.model_folder import load_model
from mkgformer_kedro.training.parameters import EntityModelingParameters, ModelParameters
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
    add_graph_tokens(model, tokenizer, 12, 2)
    task = LinkPrediction(tables["entities"], tables["relations"], "paper", 16)
    return model.eval(), tokenizer, task.prompt_builder(tokenizer, model.config), store


def test_images_are_those_of_the_store(built):
    model, _, _, _ = built
    assert model.config.image_sizes == {"full": 16}
    assert model.config.image_counts == {"full": 2}


def test_new_tokens_are_one_token_each(built):
    model, tokenizer, _, _ = built
    for i in (0, 11):
        assert tokenizer(f"[ENTITY_{i}]", add_special_tokens=False)["input_ids"] == [
            model.config.entity_token_start + i
        ]
    assert tokenizer("[RELATION_1]", add_special_tokens=False)["input_ids"] == [
        model.config.relation_token_start + 1
    ]


def test_a_new_embedding_is_the_mean_of_its_words(built):
    model, tokenizer, prompts, _ = built
    initialize_graph_tokens(model, prompts, "text")
    weight = model.get_input_embeddings().weight
    word = tokenizer.convert_tokens_to_ids("word3")
    torch.testing.assert_close(weight[model.config.entity_token_start + 3], weight[word])
    relation = tokenizer.convert_tokens_to_ids("mirror")
    torch.testing.assert_close(weight[model.config.relation_token_start + 1], weight[relation])


def test_states_do_not_depend_on_the_batch(built):
    model, _, prompts, store = built
    alone = encode_descriptions(model, prompts, store, batch_size=1)
    together = encode_descriptions(model, prompts, store, batch_size=12)
    torch.testing.assert_close(alone, together)


def test_loss_is_cross_entropy_over_all_entities():
    states, embeddings = torch.randn(5, 3), torch.randn(5, 3)
    labels = torch.tensor([1, 4])
    loss = EntityEmbeddings(embeddings, states)(labels)["loss"]
    expected = -torch.log_softmax(states[labels] @ embeddings.T, dim=1)[[0, 1], labels].mean()
    torch.testing.assert_close(loss, expected)


def test_only_entity_embeddings_change(
    tmp_path, tables, store_folder, model_parameters, entity_modeling_values, built
):
    def fit(folder, epochs):
        entity_modeling_values["epochs"] = epochs
        return model_entities(
            tables["entities"],
            tables["relations"],
            store_folder,
            tmp_path / folder,
            ModelParameters(**model_parameters),
            EntityModelingParameters(**entity_modeling_values),
            "corrected",
            seed=0,
        )

    short, _ = fit("short", 0.4)
    long, curve = fit("long", 20)
    assert curve["step"].max() == 60
    before, _, _ = load_model(short)
    after, tokenizer, task = load_model(long)
    assert task.entities["entity"].tolist() == tables["entities"]["entity"].tolist()
    assert len(tokenizer) == after.get_input_embeddings().weight.shape[0]

    changed = {
        name
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert len(changed) == 1
    assert "word_embeddings" in changed.pop()
    start = after.config.entity_token_start
    moved = (before.get_input_embeddings().weight != after.get_input_embeddings().weight).any(dim=1)
    assert np.flatnonzero(moved.numpy()).tolist() == list(range(start, start + 12))
    assert not (tmp_path / "long" / "checkpoints").exists()
