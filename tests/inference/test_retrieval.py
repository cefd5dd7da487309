"""Answers are found among many entities without scoring all of them."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch

from mkgformer_kedro.errors import DataError
from mkgformer_kedro.inference import Predictor
from mkgformer_kedro.inference.retrieval import EntityIndex, Retrieval

QUESTIONS = pd.DataFrame({"entity": ["e0", "e1", "e2"], "relation": ["r0", "r1", "r0"]})


class Table:
    """As a model: embeddings from .3 to 3 times the usual length, and biases that matter."""

    def __init__(self, entities, d=24):
        generator = torch.Generator().manual_seed(0)
        lengths = torch.exp(0.4 * torch.randn(entities, 1, generator=generator))
        self.entity_bias = torch.randn(entities, generator=generator)
        self.table = torch.nn.Embedding.from_pretrained(
            lengths * torch.randn(entities, d, generator=generator)
        )
        self.states = torch.randn(50, d, generator=generator)
        self.mkgformer = self.graph_embeddings = self
        self.entities = self.table

    def score_each(self, states, entities):
        found = torch.einsum("bkd,bd->bk", self.table(entities).float(), states)
        return found + self.entity_bias[entities]

    def score_added(self, states):
        return states.new_empty(len(states), 0)

    def score_entities(self, states):
        return states @ self.table.weight.T.float() + self.entity_bias

    def exact(self, top):
        return self.score_entities(self.states).topk(top)


@pytest.fixture(scope="module")
def table():
    return Table(3000)


def test_nearly_all_of_the_best_are_found_and_scored_exactly(table):
    found, scores = EntityIndex(table, Retrieval()).best(table.states, 100)
    exact = table.exact(100)
    recall = [len(np.intersect1d(a, b)) / 100 for a, b in zip(found, exact.indices, strict=True)]
    assert np.mean(recall) >= 0.99
    assert (scores.diff(dim=1) <= 0).all()
    assert torch.allclose(scores, table.score_each(table.states, found))
    assert torch.allclose(scores[:, 0], exact.values[:, 0], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_all_are_candidates_it_is_exact(dtype):
    small = Table(200)
    small.table.to(dtype)
    found, scores = EntityIndex(small, Retrieval(least=200)).best(small.states, 10)
    exact = small.exact(10)
    assert torch.equal(found, exact.indices)
    assert torch.allclose(scores, exact.values, atol=1e-5)


def test_where_the_index_finds_too_few_all_are_scored():
    alike = Table(1000)
    alike.table.weight.data[100:], alike.entity_bias[100:] = alike.table.weight[0], 0
    index = EntityIndex(alike, Retrieval(least=600))
    assert len(index._index.search(np.ones(25, dtype=np.float32), 600)) < 600
    found, scores = index.best(alike.states, 600)
    expected = alike.score_entities(alike.states).sort(dim=1, descending=True, stable=True)
    assert torch.equal(found, expected.indices[:, :600])
    assert torch.allclose(scores, expected.values[:, :600], atol=1e-5)


def test_an_index_is_kept_and_made_anew_where_its_file_is_damaged(
    table, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    kept = Retrieval(folder=tmp_path / "index")
    expected = EntityIndex(table, kept).best(table.states, 5)
    (path,) = kept.folder.iterdir()
    bytes_of = path.read_bytes()
    assert torch.equal(EntityIndex(table, kept).best(table.states, 5)[0], expected[0])
    path.write_bytes(bytes_of[: len(bytes_of) // 2])
    again = EntityIndex(table, kept).best(table.states, 5)
    assert torch.equal(again[1], expected[1])
    assert "is damaged" in caplog.text
    assert len(path.read_bytes()) == len(bytes_of)
    # Another table is another index.
    EntityIndex(Table(100), kept)
    assert len(list(kept.folder.iterdir())) == 2


@pytest.mark.usefixtures("in_bf16")
def test_a_predictor_gives_the_same_answers(entity_model, tables):
    exact = Predictor.from_folder(entity_model)
    few = Predictor.from_folder(entity_model, retrieval=Retrieval())
    searched = Predictor.from_folder(entity_model, retrieval=Retrieval(above=1))
    ids = tables["entities"]["entity"].to_list()
    questions = QUESTIONS.assign(
        entity=ids[:3], relation=tables["relations"]["relation"].to_list()[:1] * 3
    )
    new = pd.DataFrame({"entity": ["new"], "name": ["new"], "text": ["word1 word2"]})
    rough = Predictor.from_folder(entity_model, retrieval=Retrieval(above=1), precision="bf16")
    for predictor in (exact, few, searched, rough):
        predictor.add_entities(new)
    expected = exact.predict(questions, top=4)
    for predictor in (few, searched):
        found = predictor.predict(questions, top=4)
        pd.testing.assert_frame_equal(found, expected, check_exact=False, atol=1e-5)
    assert few._entities is None
    everything = searched.predict(questions, top=len(ids) + 1)
    assert set(everything["entity"]) == {*ids, "new"}
    in_bf16 = rough.predict(questions, top=4)
    assert 0 < (in_bf16["score"] - expected["score"]).abs().max() < 0.05 * expected["score"].std()


@pytest.mark.parametrize("value", [0, -1, 1.5, True, None])
def test_numbers_are_checked(value):
    with pytest.raises(DataError, match=r"expansion is .*; it must be a whole number from 1"):
        Retrieval(expansion=value)


def test_without_usearch_it_says_what_to_install(table, monkeypatch):
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(DataError, match="usearch is not installed"):
        EntityIndex(table, Retrieval())
