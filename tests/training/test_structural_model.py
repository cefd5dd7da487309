import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from mkgformer_kedro.errors import DataError
from mkgformer_kedro.training import structural_model
from mkgformer_kedro.training.queries import Queries
from mkgformer_kedro.training.structural_model import (
    StructuralModel,
    StructureFolder,
    graph_digest,
    read_structure_folder,
    write_structure_folder,
)

NAMES = ["complex", "distmult", "rescal", "tucker", "transe", "rotate"]
ENTITIES = pd.DataFrame({"entity": [f"e{i}" for i in range(11)]})
RELATIONS = pd.DataFrame({"relation": ["likes", "knows", "fears"]})


@pytest.fixture
def make_model():
    def make(name):
        model = StructuralModel(name, len(ENTITIES), len(RELATIONS), 4, seed=1).double().eval()
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(generator=generator)
            # RotatE's relations have modulus one; PyKEEN turns whichever side is cheaper.
            model.pykeen.post_parameter_update()
        return model

    return make


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_pykeen(make_model, name):
    model = make_model(name)
    entity, relation = torch.tensor([0, 3, 10]), torch.tensor([2, 0, 1])
    tails, heads = (
        model.answer(
            Queries(np.full(3, is_tail), entity.numpy(), relation.numpy(), None, None), np.arange(3)
        )
        for is_tail in (True, False)
    )
    pairs = torch.stack([entity, relation], dim=1)
    torch.testing.assert_close(tails, model.pykeen.score_t(pairs))
    inverse = torch.stack([entity, relation + len(RELATIONS)], dim=1)
    torch.testing.assert_close(heads, model.pykeen.score_t(inverse))


@pytest.mark.parametrize("name", NAMES)
def test_a_pair_scores_as_pykeen_scores_the_triple(make_model, name):
    model = make_model(name)
    triples = torch.tensor([[0, 2, 4], [3, 5, 3], [10, 0, 0]])
    questions = model.join(model.entities(triples[:, 0]), model.relations(triples[:, 1]))
    scores = model.score_pairs(questions, model.entities(triples[:, 2]))
    torch.testing.assert_close(scores, model.pykeen.score_hrt(triples)[:, 0])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("name", NAMES)
def test_log_partition_in_blocks_is_what_autograd_makes_of_all_scores(
    make_model, monkeypatch, name, smoothing
):
    monkeypatch.setattr(structural_model, "_BLOCK_CELLS", 2 * len(ENTITIES))
    entity, relation = torch.tensor([0, 3, 10, 3, 7]), torch.tensor([2, 0, 5, 4, 1])
    weights = torch.tensor([1.0, 3.0, 1.0, 2.0, 5.0], dtype=torch.double)
    results = []
    for in_blocks in (True, False):
        model = make_model(name)
        questions = model.join(model.entities(entity), model.relations(relation))
        if in_blocks:
            value = model.log_partition(questions, weights, smoothing=smoothing)
        else:
            scores = model.score_all(questions)
            value = (weights * (scores.logsumexp(1) - smoothing * scores.mean(1))).sum()
        (3 * value).backward()
        results.append([value, *(parameter.grad for parameter in model.parameters())])
    torch.testing.assert_close(*results)


def test_a_distance_of_zero_has_a_finite_gradient():
    model = StructuralModel("transe", 3, 1, 2, seed=0)
    questions = model.entities(torch.tensor([1]))
    model.log_partition(questions, torch.ones(1)).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_bfloat16_products_come_close(make_model):
    model = make_model("complex").float()
    entity, relation = torch.tensor([0, 3]), torch.tensor([2, 5])
    questions = model.join(model.entities(entity), model.relations(relation))
    exact, rough = (
        model.log_partition(questions, torch.ones(2), dtype=dtype)
        for dtype in (torch.float, torch.bfloat16)
    )
    assert rough.dtype == torch.float
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=0.02)


@pytest.fixture
def folder(tmp_path):
    model = StructuralModel("tucker", len(ENTITIES), len(RELATIONS), 4, seed=1)
    description = {
        "kind": "structure",
        "model": "tucker",
        "dimension": 4,
        "num_entities": len(ENTITIES),
        "num_relations": len(RELATIONS),
        "graph": graph_digest(ENTITIES, RELATIONS),
    }
    seen = torch.arange(len(ENTITIES)) != 5
    contents = StructureFolder(model, seen, torch.ones(3, dtype=torch.bool), description)
    write_structure_folder(tmp_path / "expert", contents)
    return tmp_path / "expert"


def test_a_folder_gives_back_what_was_written(folder):
    again = read_structure_folder(folder, ENTITIES, RELATIONS)
    fresh = StructuralModel("tucker", len(ENTITIES), len(RELATIONS), 4, seed=1)
    torch.testing.assert_close(
        dict(again.model.pykeen.state_dict()), dict(fresh.pykeen.state_dict()), rtol=0, atol=0
    )
    assert not again.seen_entities[5]
    assert again.seen_entities.sum() == 10


def test_reading_leaves_the_random_numbers_of_torch_alone(folder):
    before = torch.get_rng_state()
    read_structure_folder(folder, ENTITIES, RELATIONS)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("entities", "relations"),
    [
        (ENTITIES.iloc[:-1], RELATIONS),
        (ENTITIES.iloc[::-1], RELATIONS),
        (ENTITIES, RELATIONS.iloc[::-1]),
    ],
)
def test_an_expert_of_another_graph_is_refused(folder, entities, relations):
    with pytest.raises(DataError, match="learned another graph"):
        read_structure_folder(folder, entities, relations)


def _cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def _spoil_a_number(folder):
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "entity" in name)
    tensors[name][2, 1] = torch.nan
    save_file(tensors, folder / "model.safetensors")


def _leave_out_a_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors.pop("model.interaction.core_tensor")
    save_file(tensors, folder / "model.safetensors")


def _say(**changes):
    def change(folder):
        path = folder / "expert.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "expert.json").unlink(), "no description of an expert"),
        (lambda folder: (folder / "expert.json").write_text("{"), "no description of an expert"),
        (lambda folder: (folder / "expert.json").write_text("[1]"), "no description of an expert"),
        (lambda folder: (folder / "model.safetensors").unlink(), "damaged"),
        (_cut_weights, "damaged"),
        (_leave_out_a_tensor, "damaged"),
        (_spoil_a_number, "not finite"),
        (_say(dimension=5), "damaged"),
        (_say(kind="mixture"), "no structural expert"),
        (_say(model="word2vec"), "no structural expert"),
    ],
)
def test_a_damaged_folder_is_one_clear_error(folder, damage, message):
    damage(folder)
    with pytest.raises(DataError, match=message) as caught:
        read_structure_folder(folder, ENTITIES, RELATIONS)
    assert "Run the stage structure_modeling again" in str(caught.value)
    assert len(caught.value.problems) == 1
