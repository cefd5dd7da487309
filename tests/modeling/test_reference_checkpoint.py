import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mkgformer_kedro.modeling import (
    MKGformerForRelationExtraction,
    MKGformerForTokenClassification,
    load_reference_checkpoint,
)

GOLDENS = Path(__file__).parents[1] / "data" / "golden"
GOLDEN = GOLDENS / "link_prediction"
WEIGHTS, CONFIG = GOLDEN / "weights.safetensors", GOLDEN / "config.json"


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "tensors.safetensors")


@pytest.fixture(scope="module")
def inputs(golden):
    return {
        "input_ids": golden["input_ids"],
        "attention_mask": golden["attention_mask"],
        "token_type_ids": golden["token_type_ids"],
        "pixel_values": golden["pixel_values"].unsqueeze(1),
        "grounding_pixel_values": golden["aux_values"],
        "detection_pixel_values": golden["rcnn_values"],
    }


@torch.no_grad()
def assert_matches(model, inputs, golden):
    model.config.mask_token_id = golden["input_ids"][0, 3].item()
    base = model.mkgformer(**inputs)
    logits = model(**inputs).logits

    for output, name in (
        (base.last_hidden_state, "out.last_hidden_state"),
        (base.pooler_output, "out.pooler_output"),
        (logits, "out.entity_logits"),
    ):
        torch.testing.assert_close(output, golden[name], atol=1e-5, rtol=0)


def test_golden_vectors(inputs, golden):
    assert_matches(load_reference_checkpoint(WEIGHTS, CONFIG), inputs, golden)


def test_masked_images_are_the_zero_images_of_the_golden_vectors(inputs, golden):
    names = ("pixel_values", "grounding_pixel_values", "detection_pixel_values")
    masks = [inputs[name].flatten(2).any(dim=2) for name in names]
    assert not torch.cat(masks, dim=1).all()
    noisy = {
        name: inputs[name].masked_fill(~mask[..., None, None, None], 1.0)
        for name, mask in zip(names, masks, strict=True)
    }
    model = load_reference_checkpoint(WEIGHTS, CONFIG)

    assert_matches(model, {**inputs, **noisy, "image_mask": torch.cat(masks, dim=1)}, golden)


def test_saved_model_still_matches(inputs, golden, tmp_path):
    model = load_reference_checkpoint(WEIGHTS, json.loads(CONFIG.read_text()))
    model.save_pretrained(tmp_path)

    assert_matches(type(model).from_pretrained(tmp_path), inputs, golden)


@pytest.mark.parametrize("name", ["best.pth", "best.ckpt"])
def test_torch_checkpoints(name, inputs, golden, tmp_path):
    state = load_file(WEIGHTS)
    if name.endswith(".ckpt"):  # as Lightning writes it
        state = {
            "epoch": 3,
            "state_dict": {f"model.{key}": tensor for key, tensor in state.items()},
        }
    torch.save(state, tmp_path / name)

    assert_matches(load_reference_checkpoint(tmp_path / name, CONFIG), inputs, golden)


def test_checkpoint_with_code_is_refused(tmp_path):
    checkpoint = {"state_dict": load_file(WEIGHTS), "hyper_parameters": argparse.Namespace(lr=1)}
    torch.save(checkpoint, tmp_path / "last.ckpt")

    with pytest.raises(ValueError, match="more than tensors"):
        load_reference_checkpoint(tmp_path / "last.ckpt", CONFIG)


def test_misfits_are_listed(tmp_path):
    state = load_file(WEIGHTS)
    del state["unimo.encoder.text_layer.9.intermediate.fusion_dense.weight"]
    del state["unimo.vision_post_layernorm.bias"]
    state["unimo.extra.weight"] = torch.zeros(1)
    state["unimo.vision_pre_layrnorm.bias"] = torch.zeros(3)
    save_file(state, tmp_path / "weights.safetensors")

    with pytest.raises(ValueError, match="does not fit the model") as error:
        load_reference_checkpoint(tmp_path / "weights.safetensors", CONFIG)

    missing, unknown, misshapen = str(error.value).split("; ")
    assert "unimo.encoder.text_layer.9.intermediate.fusion_dense.weight" in missing
    assert "unimo.vision_post_layernorm.bias" in missing
    assert unknown == "unknown: unimo.extra.weight"
    assert misshapen == "misshapen: unimo.vision_pre_layrnorm.bias (3,) instead of (32,)"


def test_unsupported_task():
    with pytest.raises(ValueError, match=r"'captioning'.*'link_prediction' or"):
        load_reference_checkpoint(WEIGHTS, {"task": "captioning"})


def test_incomplete_config():
    with pytest.raises(ValueError, match="lacks num_attention_heads, intermediate_size"):
        load_reference_checkpoint(WEIGHTS, {"task": "link_prediction", "hidden_size": 32})


def test_incomplete_config_of_posts():
    config = json.loads(CONFIG.read_text()) | {"task": "relation_extraction"}

    with pytest.raises(ValueError, match=r"lacks num_labels\."):
        load_reference_checkpoint(WEIGHTS, config)


def test_unknown_kind_of_file():
    with pytest.raises(ValueError, match="unknown kind of file"):
        load_reference_checkpoint("weights.h5", CONFIG)


def test_mask_token_is_known_for_bert_words_only():
    assert load_reference_checkpoint(WEIGHTS, CONFIG).config.mask_token_id is None


# Relation extraction and entity recognition

POSTS = {
    "relation_extraction": MKGformerForRelationExtraction,
    "entity_recognition": MKGformerForTokenClassification,
}


def load_posts(task, weights="weights.safetensors"):
    return load_reference_checkpoint(GOLDENS / task / weights, GOLDENS / task / "config.json")


@torch.no_grad()
def assert_matches_posts(model, task):
    golden = load_file(GOLDENS / task / "tensors.safetensors")
    names = ("input_ids", "attention_mask", "token_type_ids", "head_index", "tail_index")
    inputs = {name: golden[name] for name in names if name in golden}
    # Stored as float16. The authors' code decodes full images for these tasks, and ignores them.
    inputs["grounding_pixel_values"] = golden["aux_values"]
    inputs["detection_pixel_values"] = golden["rcnn_values"]
    of_base = {name: value for name, value in inputs.items() if not name.endswith("_index")}

    base = model.mkgformer(**of_base)
    output = model(**inputs, labels=golden["labels"])

    logits = "out.logits" if task == "relation_extraction" else "out.emissions"
    for actual, name in (
        (base.last_hidden_state, "out.last_hidden_state"),
        (base.pooler_output, "out.pooler_output"),
        (output.logits, logits),
        (output.loss[None], "out.loss"),
    ):
        torch.testing.assert_close(actual, golden[name], atol=1e-5, rtol=1e-6)
    if task == "entity_recognition":
        assert torch.equal(
            model.decode(output.logits, golden["attention_mask"]), golden["out.decoded"]
        )


@pytest.mark.parametrize("task", POSTS)
def test_golden_vectors_of_posts(task):
    model = load_posts(task)

    assert isinstance(model, POSTS[task])
    assert not model.training
    assert_matches_posts(model, task)


@pytest.mark.parametrize("task", POSTS)
def test_saved_model_of_posts_still_matches(task, tmp_path):
    load_posts(task).save_pretrained(tmp_path)

    assert_matches_posts(POSTS[task].from_pretrained(tmp_path), task)


@pytest.mark.parametrize("task", POSTS)
def test_torch_checkpoint_of_posts(task, tmp_path):
    """Here `model.` is a part of the network, not the Lightning module's name for it."""
    torch.save(load_file(GOLDENS / task / "weights.safetensors"), tmp_path / "best.pth")

    assert_matches_posts(load_posts(task, tmp_path / "best.pth"), task)


@pytest.mark.parametrize(
    ("task", "head"), [("relation_extraction", "classifier"), ("entity_recognition", "fc")]
)
def test_misfits_of_posts_are_listed(task, head, tmp_path):
    state = load_file(GOLDENS / task / "weights.safetensors")
    del state[f"{head}.bias"]
    del state["model.vision_embeddings.aux_position_embedding.weight"]
    state["model.vision_embeddings.rcnn_position_embedding.weight"] = torch.zeros(4, 32)
    state["model.vision_embeddings.other.weight"] = torch.zeros(1)
    save_file(state, tmp_path / "weights.safetensors")

    with pytest.raises(ValueError, match="does not fit the model") as error:
        load_posts(task, tmp_path / "weights.safetensors")

    missing, unknown, misshapen = str(error.value).split("; ")
    assert f"{head}.bias" in missing
    assert "model.vision_embeddings.aux_position_embedding.weight" in missing
    assert unknown == "unknown: model.vision_embeddings.other.weight"
    assert misshapen == (
        "misshapen: model.vision_embeddings.rcnn_position_embedding.weight (4, 32) instead of "
        "(12, 32)"
    )
