"""Stage 1 fits entity embeddings and nothing else."""

import pytest
import torch

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.modeling import MKGformerForLinkPrediction
from mkgformer_kedro.training.entity_modeling import (
    EntityEmbeddings,
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
    assert changed == {"mkgformer.graph_embeddings.entities.weight"}
    assert not (tmp_path / "long" / "checkpoints").exists()
