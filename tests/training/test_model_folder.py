"""A model folder gives back what was put into it, or says what is wrong with it."""

import json
import shutil

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from mkgformer_kedro.errors import DataError
from mkgformer_kedro.training.model_folder import (
    load_entity_embeddings,
    load_model,
    load_task,
    save_model,
)


@pytest.fixture
def folder(entity_model, tmp_path):
    """A model folder to be damaged."""
    return shutil.copytree(entity_model, tmp_path / "model")


def change(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize("half", [False, True])
def test_it_gives_back_model_tokenizer_and_task(folder, tables, tmp_path, half):
    if half:
        model, *rest = load_model(folder)
        model.halve_entities()
        folder = save_model(tmp_path / "half", model, *rest)
    model, tokenizer, task = load_model(folder)
    pd.testing.assert_frame_equal(task.entities, tables["entities"])
    assert (task.name, task.prompt, task.max_length) == ("link_prediction", "paper", 16)
    embeddings = model.mkgformer.graph_embeddings.entities.weight
    assert embeddings.dtype == (torch.bfloat16 if half else torch.float32)
    assert torch.equal(torch.from_numpy(load_entity_embeddings(folder)), embeddings.float())
    again = save_model(tmp_path / "again", model, tokenizer, task)
    assert {path.name for path in again.iterdir()} == {path.name for path in folder.iterdir()}
    for name in ("model.safetensors", "task.json", "entities.parquet", "tokenizer.json"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_the_task_is_read_without_the_model(folder):
    (folder / "model.safetensors").unlink()
    assert load_task(folder).relations["relation"].tolist() == ["next", "mirror"]


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "tokenizer.json", "task.json", "entities.parquet"],
)
def test_what_is_missing_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"no complete model folder: {name} missing"):
        load_model(folder)


def test_a_folder_that_is_no_model_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no complete model folder: task\.json missing"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "tokenizer.json", "task.json", "entities.parquet"],
)
@pytest.mark.parametrize(
    "damage", [lambda raw: raw[: len(raw) // 2], lambda raw: b"", lambda raw: b"{}"]
)
def test_a_damaged_file_is_one_clear_error(folder, name, damage):
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="the model folder is damaged"):
        load_model(folder)


def test_weights_that_are_missing_are_named(folder):
    change(folder, lambda weights: weights.pop("transform.dense.weight"))
    with pytest.raises(DataError, match=r"transform\.dense\.weight missing from the file"):
        load_model(folder)


def test_weights_of_another_model_are_named(folder):
    change(folder, lambda weights: weights.update(strange=torch.ones(2)))
    with pytest.raises(DataError, match="strange of no weight of the model"):
        load_model(folder)


def test_a_model_without_entities_has_no_embeddings_of_them(folder):
    change(folder, lambda weights: weights.pop("mkgformer.graph_embeddings.entities.weight"))
    with pytest.raises(DataError, match=r"damaged .*does not contain tensor mkgformer.graph_emb"):
        load_entity_embeddings(folder)


def test_a_folder_of_an_earlier_version_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"entity_token_start": 23}))
    with pytest.raises(DataError, match=r"of an earlier version.*Train it again"):
        load_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(folder, value):
    change(folder, lambda weights: weights["transform.dense.weight"].fill_(value))
    with pytest.raises(DataError, match=r"transform\.dense\.weight not finite"):
        load_model(folder)


def test_weights_of_another_shape_are_named(folder):
    change(folder, lambda weights: weights.update({"transform.dense.bias": torch.ones(3)}))
    with pytest.raises(DataError, match=r"transform\.dense\.bias"):
        load_model(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "no_task"}, "no task 'no_task'"),
        ({"strange": 1}, "strange"),
        ({"task": []}, "unhashable"),
    ],
)
def test_settings_of_no_task_are_named(folder, settings, message):
    path = folder / "task.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(DataError, match=message):
        load_model(folder)
