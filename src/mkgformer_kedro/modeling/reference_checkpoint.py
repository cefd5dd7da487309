"""Checkpoints of the authors' released code (https://github.com/zjunlp/MKGformer)."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertConfig, CLIPVisionConfig

from .configuration_mkgformer import MKGformerConfig
from .modeling_mkgformer import (
    MKGformerForLinkPrediction,
    MKGformerForRelationExtraction,
    MKGformerForTokenClassification,
    MKGformerPreTrainedModel,
)

_MODELS: dict[str, type[MKGformerPreTrainedModel]] = {
    model_class.task: model_class
    for model_class in (
        MKGformerForLinkPrediction,
        MKGformerForRelationExtraction,
        MKGformerForTokenClassification,
    )
}

# Our names and the authors', as prefixes. `{i}` counts fused layers, `{layer}` the text tower's,
# `{base}` is what the task calls the model below its head.
_NAMES = {
    "mkgformer.text_model.embeddings.": "{base}.text_embeddings.",
    # One matrix of theirs holds words, entities and relations.
    "mkgformer.graph_embeddings.entities.weight": "{base}.text_embeddings.word_embeddings.weight",
    "mkgformer.graph_embeddings.relations.weight": "{base}.text_embeddings.word_embeddings.weight",
    "mkgformer.text_model.encoder.layer.": "{base}.encoder.text_layer.",
    "mkgformer.text_model.pooler.": "{base}.text_pooler.",
    "mkgformer.vision_model.embeddings.": "{base}.vision_embeddings.",
    "mkgformer.vision_model.pre_layrnorm.": "{base}.vision_pre_layrnorm.",
    "mkgformer.vision_model.encoder.layers.": "{base}.encoder.vision_layers.",
    "mkgformer.vision_model.post_layernorm.": "{base}.vision_post_layernorm.",
    "mkgformer.fusion_layers.{i}.": "{base}.encoder.text_layer.{layer}.intermediate.",
    "mkgformer.crop_position_embeddings.grounding.": (
        "{base}.vision_embeddings.aux_position_embedding."
    ),
    "mkgformer.crop_position_embeddings.detection.": (
        "{base}.vision_embeddings.rcnn_position_embedding."
    ),
}
_HEAD_NAMES = {
    "link_prediction": {
        "transform.": "cls.predictions.transform.",
        "entity_bias": "cls.predictions.bias",
    },
    "relation_extraction": {"classifier.": "classifier."},
    "entity_recognition": {"classifier.": "fc.", "crf.": "crf."},
}
_BASE = {"link_prediction": "unimo", "relation_extraction": "model", "entity_recognition": "model"}

# What the authors' checkpoints hold besides, and why it is not read.
_UNUSED = re.compile(
    # 0, 1, 2, ...
    r"(unimo|model)\..*position_ids"
    # Tables for crops, which link prediction does not add.
    r"|unimo\.vision_embeddings\.(aux|rcnn)_position_embedding\.weight"
    # Of layers below the fusion.
    r"|(unimo|model)\.encoder\.text_layer\.\d+\.intermediate\.fusion_dense\.(weight|bias)"
    # The word embeddings and the bias once more.
    r"|cls\.predictions\.decoder\.(weight|bias)"
)

_SIZES = (
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "num_hidden_layers",
    "vocab_size",
    "max_position_embeddings",
    "patch_size",
    "image_size",
    "text_hidden_act",
    "vision_hidden_act",
    "layer_norm_eps",
    "first_fused_layer_index",
)
_TASK_SIZES = {
    "link_prediction": ("num_word_tokens", "num_entities", "num_relations"),
    "relation_extraction": ("num_labels",),
    "entity_recognition": ("num_labels",),
}

# Words of uncased BERT, and the id of its mask.
_BERT_WORDS, _BERT_MASK_TOKEN_ID = 30522, 103


def load_reference_checkpoint(
    weights: str | Path, config: Mapping[str, Any] | str | Path
) -> MKGformerPreTrainedModel:
    """Load weights under the names of the authors' code into the faithful model.

    Args:
        weights: A `.safetensors` file, or a `.pth`, `.pt`, `.bin` or `.ckpt` of torch, which is
            read without running code. A Lightning checkpoint's `state_dict` is found inside it.
        config: Task and sizes, or a json file with them: `task` (`link_prediction`,
            `relation_extraction` or `entity_recognition`), `hidden_size`, `num_attention_heads`,
            `intermediate_size`, `num_hidden_layers`, `vocab_size`, `max_position_embeddings`,
            `patch_size`, `image_size`, `text_hidden_act`, `vision_hidden_act`, `layer_norm_eps`
            (`text`, `vision`) and `first_fused_layer_index`. Link prediction also needs
            `num_word_tokens`, `num_entities` and `num_relations`, and takes `mask_token_id`, which
            is 103 where the words are the 30,522 of uncased BERT and left unset otherwise. The
            other two also need `num_labels`.

    Returns:
        The model of the task, in evaluation mode. Labels have no names, since checkpoints hold
        none, and in entity recognition every token is a unit: leave out `word_index`.

    Raises:
        ValueError: The task is not supported, a size is missing, the file cannot be read, or its
            weights are not those of the model: missing, unknown and misshapen ones are listed.
    """
    sizes = _read_config(config)
    task = sizes["task"]
    state = _read_weights(Path(weights), task)
    model = _MODELS[task](
        _faithful_config(sizes, text_pooler=f"{_BASE[task]}.text_pooler.dense.weight" in state)
    )
    model.load_state_dict(_rename(state, model, sizes, weights))
    return model.eval()


def _read_config(config: Mapping[str, Any] | str | Path) -> Mapping[str, Any]:
    sizes = config if isinstance(config, Mapping) else json.loads(Path(config).read_text())
    if (task := sizes.get("task")) not in _MODELS:
        raise ValueError(
            f"Checkpoints of task {task!r} are not supported. Use "
            f"{' or '.join(map(repr, _MODELS))}."
        )
    if missing := [name for name in (*_SIZES, *_TASK_SIZES[task]) if name not in sizes]:
        raise ValueError(f"The checkpoint's config lacks {', '.join(missing)}.")
    return sizes


def _read_weights(path: Path, task: str) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix not in (".pth", ".pt", ".bin", ".ckpt"):
        raise ValueError(
            f"{path}: unknown kind of file. Use .safetensors, .pth, .pt, .bin or .ckpt."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors and is not read, since that would run code from the "
            "file. Save its state_dict alone, from a process that trusts it."
        ) from error
    state = state.get("state_dict", state)
    if task != "link_prediction":
        return state
    # Link prediction is a Lightning module, which names the network it trains `model`. The other
    # two are none, and it is a part of theirs that is named so.
    return {name.removeprefix("model."): tensor for name, tensor in state.items()}


def _faithful_config(sizes: Mapping[str, Any], text_pooler: bool) -> MKGformerConfig:
    shared = {
        name: sizes[name]
        for name in (
            "hidden_size",
            "num_attention_heads",
            "intermediate_size",
            "num_hidden_layers",
        )
    }
    preset = MKGformerConfig.preset("faithful", sizes["task"])
    preset["num_fusion_layers"] = sizes["num_hidden_layers"] - sizes["first_fused_layer_index"]
    words = "num_word_tokens" if sizes["task"] == "link_prediction" else "vocab_size"
    return MKGformerConfig(
        text_config=BertConfig(
            **shared,
            vocab_size=sizes[words],
            max_position_embeddings=sizes["max_position_embeddings"],
            hidden_act=sizes["text_hidden_act"],
            layer_norm_eps=sizes["layer_norm_eps"]["text"],
        ),
        vision_config=CLIPVisionConfig(
            **shared,
            patch_size=sizes["patch_size"],
            image_size=sizes["image_size"],
            hidden_act=sizes["vision_hidden_act"],
            layer_norm_eps=sizes["layer_norm_eps"]["vision"],
        ),
        text_pooler=text_pooler,
        **_task_fields(sizes),
        **preset,
    )


def _task_fields(sizes: Mapping[str, Any]) -> dict[str, Any]:
    if sizes["task"] != "link_prediction":
        return {"num_labels": sizes["num_labels"]}
    mask_token_id = sizes.get("mask_token_id")
    if mask_token_id is None and sizes["num_word_tokens"] == _BERT_WORDS:
        mask_token_id = _BERT_MASK_TOKEN_ID
    return {
        "num_entities": sizes["num_entities"],
        "num_relations": sizes["num_relations"],
        "mask_token_id": mask_token_id,
    }


def _rename(
    state: dict[str, Tensor],
    model: MKGformerPreTrainedModel,
    sizes: Mapping[str, Any],
    source: str | Path,
) -> dict[str, Tensor]:
    """Give the weights our names; an error lists those that are missing, unknown or misshapen."""
    first, base = sizes["first_fused_layer_index"], _BASE[model.task]
    prefixes = {
        ours.format(i=i): theirs.format(layer=first + i, base=base)
        for ours, theirs in (_NAMES | _HEAD_NAMES[model.task]).items()
        for i in range(model.config.num_fusion_layers if "{i}" in ours else 1)
    }
    expected = {}
    for name in model.state_dict():
        prefix = next(prefix for prefix in prefixes if name.startswith(prefix))
        expected[name] = prefixes[prefix] + name.removeprefix(prefix)

    renamed = {name: state[theirs] for name, theirs in expected.items() if theirs in state}
    if model.task == "link_prediction":
        words, entities, relations = (sizes[name] for name in _TASK_SIZES[model.task])
        for name, start, count in (
            ("mkgformer.text_model.embeddings.word_embeddings.weight", 0, words),
            ("mkgformer.graph_embeddings.entities.weight", words, entities),
            ("mkgformer.graph_embeddings.relations.weight", words + entities, relations),
            ("entity_bias", words, entities),
        ):
            if name in renamed:
                renamed[name] = renamed[name][start : start + count]
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    problems = {
        "missing": sorted({theirs for theirs in expected.values() if theirs not in state}),
        "unknown": [
            name for name in state if name not in expected.values() and not _UNUSED.fullmatch(name)
        ],
        "misshapen": [
            f"{expected[name]} {tuple(tensor.shape)} instead of {tuple(shapes[name])}"
            for name, tensor in renamed.items()
            if tensor.shape != shapes[name]
        ],
    }
    if any(problems.values()):
        listed = "; ".join(
            f"{what}: {', '.join(names)}" for what, names in problems.items() if names
        )
        raise ValueError(f"{source} does not fit the model. {listed}")
    return renamed


__all__ = ["load_reference_checkpoint"]
