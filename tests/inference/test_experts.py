"""Asking a trained model."""

import numpy as np
import pandas as pd
import pytest
from mkgformer_kedro.training.predictor import LinkPredictor

from mkgformer_kedro.errors import DataError


def split(table, name):
    return table[table["split"] == name].drop(columns="split").reset_index(drop=True)


def test_answers_come_best_first_with_their_names(entity_model, store_folder):
    answers = LinkPredictor(entity_model, store_folder).answer("e0", "next", top=5)
    assert list(answers.columns) == ["entity", "name", "score"]
    assert answers["score"].is_monotonic_decreasing
    assert len(answers) == 5
    assert (answers["name"] == "Entity " + answers["entity"].str[1:]).all()


def test_more_answers_than_entities_are_all_entities(entity_model):
    assert len(LinkPredictor(entity_model).answer("e0", "next", "head", top=99)) == 12


@pytest.mark.parametrize(
    ("query", "error", "message"),
    [
        (("nobody", "next"), KeyError, "no entity 'nobody'"),
        (("e0", "nothing"), KeyError, "no relation 'nothing'"),
        (("e0", "next", "left"), ValueError, "must be 'tail' or 'head'"),
    ],
)
def test_what_the_model_does_not_know_is_an_error(entity_model, query, error, message):
    with pytest.raises(error, match=message):
        LinkPredictor(entity_model).answer(*query)


def test_a_store_of_another_graph_is_refused(entity_model, tmp_path):
    from mkgformer_kedro.datasets.visual_store import RoleLayout, VisualStoreWriter

    other = VisualStoreWriter(tmp_path, {"full": RoleLayout(16, 2)}, 3, "other").finish()
    with pytest.raises(DataError, match="3 owners, the model 12 entities"):
        LinkPredictor(entity_model, other)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no complete model folder: config\.json"):
        LinkPredictor(tmp_path)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_blocks_do_not_change_the_ranks(entity_model, store_folder, tables, batch_size):
    queries, triples = split(tables["queries"], "train"), split(tables["triples"], "train")
    whole = LinkPredictor(entity_model, store_folder, batch_size=7).rank(queries, triples)
    blocks = LinkPredictor(entity_model, store_folder, batch_size=batch_size).rank(queries, triples)
    ranks = ["triple", "direction", "rank_optimistic", "rank_pessimistic"]
    pd.testing.assert_frame_equal(whole[ranks], blocks[ranks])
    np.testing.assert_allclose(whole["score"], blocks["score"], atol=1e-5)
    assert len(whole) == 2 * len(triples)


def test_leaving_images_out_changes_only_queries_about_entities_with_images(
    entity_model, store_folder, tables
):
    predictor = LinkPredictor(entity_model, store_folder)
    # A fresh model ignores images: its fusion starts at zero.
    for layer in predictor.model.mkgformer.fusion_layers:
        layer.fusion_dense.weight.data.normal_()
    queries, triples = split(tables["queries"], "train"), split(tables["triples"], "train")
    seen = predictor.rank(queries, triples)
    blind = predictor.rank(queries, triples, with_images=False)
    differs = seen["score"] != blind["score"]
    np.testing.assert_array_equal(differs, seen["entity"] % 2 == 0)
