import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mkgformer_kedro.modeling import load_reference_checkpoint

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "link_prediction"
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


def test_masked_pictures_are_the_zero_pictures_of_the_golden_vectors(inputs, golden):
    names = ("pixel_values", "grounding_pixel_values", "detection_pixel_values")
    masks = [inputs[name].flatten(2).any(dim=2) for name in names]
    assert not torch.cat(masks, dim=1).all()
    noisy = {
        name: inputs[name].masked_fill(~mask[..., None, None, None], 1.0)
        for name, mask in zip(names, masks, strict=True)
    }
    model = load_reference_checkpoint(WEIGHTS, CONFIG)

    assert_matches(model, {**inputs, **noisy, "picture_mask": torch.cat(masks, dim=1)}, golden)


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
    with pytest.raises(ValueError, match=r"'entity_recognition'.*'link_prediction'"):
        load_reference_checkpoint(WEIGHTS, {"task": "entity_recognition"})


def test_incomplete_config():
    with pytest.raises(ValueError, match="lacks num_attention_heads, intermediate_size"):
        load_reference_checkpoint(WEIGHTS, {"task": "link_prediction", "hidden_size": 32})


def test_unknown_kind_of_file():
    with pytest.raises(ValueError, match="unknown kind of file"):
        load_reference_checkpoint("weights.h5", CONFIG)


def test_mask_token_is_known_for_bert_words_only():
    assert load_reference_checkpoint(WEIGHTS, CONFIG).config.mask_token_id is None
