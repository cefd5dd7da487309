"""Experts answer in blocks, in their own order, each query once."""

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from mkgformer_kedro.datasets.visual_store import RoleLayout, VisualStore, VisualStoreWriter
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.evaluation.ranking import ranks
from mkgformer_kedro.inference import experts as module
from mkgformer_kedro.inference.experts import (
    EXPERT_KINDS,
    LoadedModel,
    ModelExpert,
    TrainedModels,
    expert_digest,
    load_experts,
)
from mkgformer_kedro.inference.predictions import predict_queries
from mkgformer_kedro.training.batches import Collator


def split(table, name):
    return table[table["split"] == name].drop(columns="split").reset_index(drop=True)


@pytest.fixture
def expert(entity_model, store_folder):
    """The model of stage 1, whose fusion was moved away from zero: a fresh one ignores images."""

    def make(with_images=True, precision="fp32"):
        model = LoadedModel(entity_model, precision=precision)
        for number, layer in enumerate(model.parts[0].mkgformer.fusion_layers):
            rng = np.random.default_rng(number)
            weight = layer.fusion_dense.weight.data
            weight.copy_(weight.new_tensor(rng.normal(size=weight.shape)))
        return ModelExpert(model, VisualStore(store_folder), 0, with_images=with_images)

    return make


@pytest.fixture
def models(entity_model, tmp_path):
    """A folder of models as fine-tuning leaves it."""
    (tmp_path / "models").mkdir()
    for seed in (10, 9):
        (tmp_path / f"models/seed_{seed}").symlink_to(entity_model)
    return tmp_path / "models"


def test_every_query_is_scored_once(expert, tables):
    queries = split(tables["queries"], "train")
    blocks = list(expert().scores(queries, batch_size=5))
    rows = np.concatenate([rows for rows, _ in blocks])
    assert sorted(rows) == list(range(len(queries)))
    assert all(scores.shape == (len(rows), 12) for rows, scores in blocks)
    assert expert().answers(queries).all()


@pytest.mark.parametrize("scores", [ranks._SCORES, 30])
@pytest.mark.parametrize("batch_size", [1, 64])
def test_blocks_do_not_change_the_ranks(expert, tables, batch_size, scores, monkeypatch):
    queries, triples = split(tables["queries"], "train"), split(tables["triples"], "train")
    whole = predict_queries([expert()], queries, triples, batch_size=7)
    monkeypatch.setattr(ranks, "_SCORES", scores)
    # 30 scores at a time are those of two queries.
    sizes = {len(rows) for rows, _ in expert().scores(queries, batch_size=batch_size)}
    assert max(sizes) == min(batch_size, len(queries), scores // 12)
    blocks = predict_queries([expert()], queries, triples, batch_size=batch_size)
    columns = ["triple", "direction", "rank_optimistic", "rank_pessimistic"]
    pd.testing.assert_frame_equal(whole[columns], blocks[columns])
    np.testing.assert_allclose(whole["score"], blocks["score"], atol=1e-5)
    assert len(whole) == 2 * len(triples)


@pytest.mark.usefixtures("in_bf16")
def test_in_bf16_products_are_rounded_and_scores_are_compared_in_fp32(expert, tables):
    queries = split(tables["queries"], "train")
    rough = expert(precision="bf16")
    products = []
    for layer in rough.model.parts[0].modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(lambda layer, given, made: products.append(made.dtype))
    exact = list(expert().scores(queries, batch_size=5))
    for (rows, scores), (same, wanted) in zip(
        rough.scores(queries, batch_size=5), exact, strict=True
    ):
        # Nobody else computes in bf16 meanwhile.
        assert not torch.is_autocast_enabled("cpu")
        np.testing.assert_array_equal(rows, same)
        assert scores.dtype == torch.float32
        assert not torch.equal(scores, scores.bfloat16().float())
        assert 0 < (scores - wanted).abs().max() < 0.1 * wanted.std()
    assert set(products) == {torch.bfloat16}
    model, tokenizer, task = expert().model.parts
    items = task.encode(queries, tokenizer, model.config)
    for rows, scores in exact:
        with torch.no_grad():
            inputs = Collator(items, VisualStore(expert().store.folder))(rows)
            assert torch.equal(model(**inputs).logits, scores)


def test_leaving_images_out_changes_only_queries_about_entities_with_images(expert, tables):
    queries, triples = split(tables["queries"], "train"), split(tables["triples"], "train")
    seen = predict_queries([expert()], queries, triples, batch_size=64)
    blind = predict_queries([expert(with_images=False)], queries, triples, batch_size=64)
    assert seen["expert"].unique().tolist() == ["model"]
    assert blind["expert"].unique().tolist() == ["without_images"]
    differs = seen["score"] != blind["score"]
    np.testing.assert_array_equal(differs, seen["entity"] % 2 == 0)


def test_what_has_no_images_is_asked_once(expert, tables):
    queries, triples = split(tables["queries"], "train"), split(tables["triples"], "train")
    both = predict_queries([expert(), expert(with_images=False)], queries, triples, batch_size=64)
    alone = predict_queries([expert(with_images=False)], queries, triples, batch_size=64)
    again = both[both["expert"] == "without_images"].reset_index(drop=True)
    pd.testing.assert_frame_equal(again, alone, atol=1e-5)

    blind = expert(with_images=False)
    asked = []
    scores = blind.scores
    blind.scores = lambda queries, **options: asked.append(queries) or scores(queries, **options)
    predict_queries([expert(), blind], queries, triples, batch_size=64)
    assert (asked[0]["entity"] % 2 == 0).all()


def test_what_a_file_manager_leaves_makes_no_other_expert(tmp_path):
    expert = SimpleNamespace(folder=tmp_path)
    (tmp_path / "expert.json").write_bytes(b"x")
    digest = expert_digest(expert)
    (tmp_path / ".DS_Store").write_bytes(b"x")
    assert expert_digest(expert) == digest
    (tmp_path / "more.json").write_bytes(b"x")
    assert expert_digest(expert) != digest


@pytest.fixture
def lookup(table_expert):
    """An expert that is silent about one entity, and scores all entities alike."""
    return table_expert("lookup", np.zeros((2, 12, 2, 12)), silent=frozenset([0]))


def test_what_an_expert_answers_is_told(lookup, tables):
    triples, queries = split(tables["triples"], "train"), split(tables["queries"], "train")
    table = predict_queries([lookup], queries, triples, batch_size=3)
    assert table["expert"].unique().tolist() == ["lookup"]
    assert (table["answered"] == (table["entity"] != 0)).all()
    assert table["answered"].nunique() == 2
    assert len(table) == 2 * len(triples)


def test_all_seeds_are_loaded_in_order(models, store_folder):
    found = load_experts(TrainedModels(models, VisualStore(store_folder), precision="bf16"))
    there = pickle.loads(pickle.dumps(found))  # noqa: S301 (as Ray sends experts)
    assert (
        {each.model.precision for each in there} == {each.precision for each in found} == {"bf16"}
    )
    assert [(expert.name, expert.seed) for expert in found] == [
        ("model", 9), ("without_images", 9), ("model", 10), ("without_images", 10),
    ]  # fmt: skip


def test_a_model_read_in_inference_mode_gives_gradients(entity_model):
    with torch.inference_mode():
        model, *_ = LoadedModel(entity_model).parts
    tensors = [*model.parameters(), *model.buffers()]
    assert not any(tensor.is_inference() for tensor in tensors)


def test_other_kinds_of_expert_are_found_by_their_file(
    models, store_folder, tmp_path, monkeypatch, lookup
):
    seen = []

    def load(folder, task, experts):
        seen.append((folder.name, len(task.entities), [each.name for each in experts]))
        return lookup

    monkeypatch.setattr(module, "load_for_test", load, raising=False)
    monkeypatch.setitem(EXPERT_KINDS, "test", f"{module.__name__}:load_for_test")
    for name in ("structures/complex/seed_1", "mixture"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "expert.json").write_text(json.dumps({"kind": "test"}))
    found = load_experts(
        TrainedModels(models, VisualStore(store_folder)),
        tmp_path / "structures",
        tmp_path / "mixture",
    )
    assert [expert.name for expert in found[4:]] == ["lookup", "lookup"]
    assert [each[:2] for each in seen] == [("seed_1", 12), ("mixture", 12)]
    assert seen[1][2][-1] == "lookup", "a mixture is given the experts before it"


@pytest.mark.parametrize("text", ["", "{}", '{"kind": "strange"}', '{"kind": []}', "[]"])
def test_an_expert_of_no_known_kind_is_named(models, store_folder, tmp_path, text):
    (tmp_path / "mixture").mkdir()
    (tmp_path / "mixture/expert.json").write_text(text)
    with pytest.raises(DataError, match="no expert of a known kind"):
        load_experts(TrainedModels(models, VisualStore(store_folder)), mixture=tmp_path / "mixture")


def test_a_store_of_another_graph_is_refused(models, store_folder, tmp_path):
    other = VisualStoreWriter(tmp_path, {"full": RoleLayout(16, 2)}, 3, "other").finish()
    with pytest.raises(DataError, match="3 owners, the model 12 entities"):
        load_experts(TrainedModels(models, VisualStore(other)))


def test_a_folder_without_models_is_named(tmp_path, store_folder):
    with pytest.raises(DataError, match="no folder seed_<number>"):
        load_experts(TrainedModels(tmp_path, VisualStore(store_folder)))
