import numpy as np
import pandas as pd
import pytest
import torch

from mkgformer_kedro.errors import DataError
from mkgformer_kedro.inference.structure import StructureExpert
from mkgformer_kedro.training.structural_model import (
    StructuralModel,
    StructureFolder,
    graph_digest,
    write_structure_folder,
)

ENTITIES = pd.DataFrame({"entity": list("abcdefg")})
RELATIONS = pd.DataFrame({"relation": ["likes", "knows"]})
QUERIES = pd.DataFrame(
    {
        "direction": ["tail", "head", "tail", "head", "tail"],
        "entity": np.array([0, 6, 2, 0, 3], dtype=np.int32),
        "relation": np.array([0, 0, 1, 1, 0], dtype=np.int32),
    },
    index=[5, 3, 8, 1, 2],
)


@pytest.fixture
def folder(tmp_path):
    description = {
        "kind": "structure",
        "model": "rotate",
        "dimension": 3,
        "num_entities": 7,
        "num_relations": 2,
        "graph": graph_digest(ENTITIES, RELATIONS),
        "seed": 4,
    }
    seen = torch.tensor([True] * 6 + [False]), torch.tensor([True, False])
    model = StructuralModel("rotate", 7, 2, 3, seed=4)
    write_structure_folder(tmp_path, StructureFolder(model, *seen, description))
    return tmp_path


def test_scores_every_query_once_in_blocks(folder):
    expert = StructureExpert.from_folder(folder, ENTITIES, RELATIONS)
    blocks = list(expert.scores(QUERIES, batch_size=2))
    assert [rows.tolist() for rows, _ in blocks] == [[0, 1], [2, 3], [4]]
    scores = torch.cat([scores for _, scores in blocks]).cpu()
    assert scores.dtype == torch.float
    asked = torch.tensor([[0, 0], [6, 2], [2, 1], [0, 3], [3, 0]])
    oracle = StructuralModel("rotate", 7, 2, 3, seed=4).eval().pykeen.score_t(asked)
    torch.testing.assert_close(scores, oracle)
    assert not scores.requires_grad


def test_is_named_by_its_model_and_seed(folder):
    expert = StructureExpert.from_folder(folder, ENTITIES, RELATIONS)
    assert (expert.name, expert.seed) == ("rotate", 4)


def test_does_not_answer_for_what_train_lacks(folder):
    expert = StructureExpert.from_folder(folder, ENTITIES, RELATIONS)
    assert expert.answers(QUERIES).tolist() == [True, False, False, False, True]


def test_refuses_another_graph(folder):
    with pytest.raises(DataError, match="learned another graph"):
        StructureExpert.from_folder(folder, ENTITIES.assign(entity=list("abcdefh")), RELATIONS)
