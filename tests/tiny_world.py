"""A world small enough to train on in seconds: 12 entities or 24 posts, half with images."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch

from mkgformer_kedro.datasets.visual_store import RoleLayout, VisualStoreWriter
from mkgformer_kedro.launch import LaunchParameters, Stage
from mkgformer_kedro.pipelines.ingestion.link_prediction import group_queries
from mkgformer_kedro.training import precision
from mkgformer_kedro.training.parameters import FinetuningParameters

_ENTITIES = 12
_WORDS = [f"word{i}" for i in range(_ENTITIES)] + [
    "next",
    "mirror",
    "is",
    "the",
    "description",
    "of",
]

COMPLETION = {
    "questions": {
        "relations": None,
        "directions": ["tail", "head"],
        "implied": None,
        "functional": None,
        "unseen_neighbours": None,
        "least_entities": 1,
        "at_most": None,
    },
    "per_question": 4,
    "least_probability": 0.0,
    "block": 5,
    "batch_size": 3,
    "keep": {"probability": 0.2, "best": None, "both_directions": False},
    "publication": {
        "entity_namespace": "http://example.org/entity/",
        "relation_namespace": "http://example.org/relation/",
        "page_completions": 10,
        "page_images": 2,
        "nearest": 3,
    },
}
LAUNCH = LaunchParameters(
    engine="local",
    address=None,
    at_most=None,
    attempts=3,
    workers={stage: {"cpus": 1, "gpus": 0, "memory": 0.1} for stage in get_args(Stage)},
)
_ENTITY_MODELING = {
    "max_length": 16,
    "prompt": None,
    "initialization": None,
    "solver": None,
    "ridge": 1.0,
    "closed_form_above": 100,
    "adam": {"epochs": 3, "batch_size": 4, "learning_rate": 0.05},
    "encoding_batch_size": 5,
}
_FINETUNING = {
    "epochs": 3,
    "max_steps": None,
    "min_steps": None,
    "batch_size": 4,
    "gradient_accumulation": 1,
    "learning_rates": {"default": 0.003, "fusion": 0.01},
    "weight_decay": {"default": 0.01},
    "warmup_ratio": 0.1,
    "max_length": 16,
    "log_every": 2,
    "evaluations_per_epoch": 2,
    "patience": None,
    "seeds": None,
    "train_subset": None,
    "dev_queries": None,
    "entity_encoder": None,
    "dev_batch_size": 3,
    "prompt": None,
    "item": None,
    "shuffle": None,
    "queries_per_entity": 2,
    "loss": "cross_entropy",
    "label_smoothing": 0.1,
    "answer_exponent": 0.5,
    "sampled_softmax": None,
    "half_precision_entities": False,
    "precision": "fp32",
    "freeze": None,
    "gradient_checkpointing": False,
    "loader_workers": 0,
    "processes": 1,
}


@pytest.fixture
def entity_modeling_values() -> dict:
    """Parameters of stage 1, to be changed at will."""
    return copy.deepcopy(_ENTITY_MODELING)


@pytest.fixture
def finetuning_values() -> dict:
    """Parameters of stage 2, to be changed at will."""
    return copy.deepcopy(_FINETUNING)


@pytest.fixture
def in_bf16(monkeypatch) -> Iterator[None]:
    """Products are in bf16 where that is asked for, on processors that take long for it too."""
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    precision.precision_on.cache_clear()
    yield
    precision.precision_on.cache_clear()


@pytest.fixture(scope="session")
def text_tower(tmp_path_factory) -> Path:
    """Folder of a two-layer BERT with its tokenizer."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("tower")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS]) + "\n")
    tokenizer = BertTokenizer(str(vocabulary))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_parameters(text_tower) -> dict:
    """Parameters of the tiny model."""
    return {
        "text_tower": str(text_tower),
        "vision_tower": None,
        "vision_config": {
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 8,
        },
        "images": {"source": "own", "seed": 0},
        "attention": "sdpa",
        "config": {"num_fusion_layers": 1},
    }


@pytest.fixture(scope="session")
def tables() -> dict[str, pd.DataFrame]:
    """Tables of a ring of entities: ``next`` goes round, ``mirror`` across."""
    entities = pd.DataFrame(
        {
            "entity": [f"e{i}" for i in range(_ENTITIES)],
            "name": [f"Entity {i}" for i in range(_ENTITIES)],
            "text": [f"word{i}" for i in range(_ENTITIES)],
            "text_source": "short",
        }
    )
    relations = pd.DataFrame({"relation": ["next", "mirror"], "text": ["next", "mirror"]})
    ring = np.arange(_ENTITIES)
    triples = pd.DataFrame(
        {
            "head": np.tile(ring, 2),
            "relation": np.repeat([0, 1], _ENTITIES),
            "tail": np.concatenate([(ring + 1) % _ENTITIES, _ENTITIES - 1 - ring]),
            "split": "train",
        }
    ).astype({"head": "int32", "relation": "int32", "tail": "int32"})
    triples.loc[[1, 15], "split"] = "dev"
    triples.loc[[4, 20], "split"] = "test"
    return {
        "entities": entities,
        "relations": relations,
        "triples": triples,
        "queries": group_queries(triples),
    }


@pytest.fixture(scope="session")
def store_folder(tmp_path_factory) -> Path:
    """Visual store in which every second entity has one or two images."""
    work = tmp_path_factory.mktemp("store")
    writer = VisualStoreWriter(work, {"full": RoleLayout(16, 2)}, _ENTITIES, "tiny")
    rng = np.random.default_rng(0)
    for owner in range(0, _ENTITIES, 2):
        images = {
            slot: (f"{owner}-{slot}", rng.integers(0, 255, (3, 16, 16), dtype=np.uint8))
            for slot in range(1 + owner % 4 // 2)
        }
        writer.append(owner, images, None)
    return writer.finish()


@pytest.fixture(scope="session")
def entity_model(tmp_path_factory, tables, store_folder, model_parameters) -> Path:
    """Model folder of stage 1."""
    from mkgformer_kedro.training.entity_modeling import model_entities
    from mkgformer_kedro.training.parameters import EntityModelingParameters, ModelParameters

    folder, _ = model_entities(
        tables["entities"],
        tables["relations"],
        store_folder,
        tmp_path_factory.mktemp("stage1"),
        ModelParameters(**model_parameters),
        EntityModelingParameters(**_ENTITY_MODELING),
        "corrected",
        seed=0,
    )
    return folder


def relation_posts() -> pd.DataFrame:
    """The third word decides between three relations."""
    rows = []
    for number in range(24):
        relation = number % 3
        words = [
            f"word{number % 4}",
            "next",
            ["is", "of", "the"][relation],
            f"word{4 + number % 5}",
        ]
        rows.append((words, 0, 1, 3, 4, relation))
    columns = ["words", "head_start", "head_end", "tail_start", "tail_end", "relation"]
    return pd.DataFrame(rows, columns=columns)


def tagged_posts() -> pd.DataFrame:
    """Words 0 to 3 are places, two in a row are one; words 4 to 8 are people."""
    rows = []
    for number in range(24):
        place, person = number % 4, 4 + number % 5
        words = ["the", f"word{place}", f"word{(place + 1) % 4}", "is", "next", f"word{person}"]
        rows.append((words, ["O", "B-LOC", "I-LOC", "O", "O", "B-PER"]))
    return pd.DataFrame(rows, columns=["words", "tags"])


@pytest.fixture
def posts() -> dict[str, pd.DataFrame]:
    """Posts of both tasks, by task: 12 to train on, 6 of dev, 6 of test."""
    tables = {"relation_extraction": relation_posts(), "entity_recognition": tagged_posts()}
    for table in tables.values():
        table["split"] = ["train"] * 12 + ["dev"] * 6 + ["test"] * 6
        table["post"] = table["split"] + "-" + table.index.astype(str)
    return tables


@pytest.fixture(scope="session")
def labels() -> dict[str, pd.DataFrame]:
    """Labels of both tasks, by task."""
    names = {
        "relation_extraction": ["none", "/a/a/likes", "/a/b/of"],
        "entity_recognition": ["LOC", "PER"],
    }
    tables = {task: pd.DataFrame({"label": of, "text": of}) for task, of in names.items()}
    tables["relation_extraction"]["negative"] = [True, False, False]
    return tables


@pytest.fixture(scope="session")
def posts_store(tmp_path_factory) -> Path:
    """Visual store in which every second post has an image and a crop."""
    layouts = {"full": RoleLayout(16, 1), "grounding": RoleLayout(8, 2)}
    return store_of(tmp_path_factory.mktemp("posts_store"), layouts)


@pytest.fixture(scope="session")
def crops_store(tmp_path_factory) -> Path:
    """Visual store in which every second post has crops, and none a whole image."""
    layouts = {"grounding": RoleLayout(16, 1), "detection": RoleLayout(8, 2)}
    return store_of(tmp_path_factory.mktemp("crops_store"), layouts)


def store_of(work: Path, layouts: dict[str, RoleLayout]) -> Path:
    writer = VisualStoreWriter(work, layouts, 24, "tiny")
    rng = np.random.default_rng(0)

    def image(size: int) -> np.ndarray:
        return rng.integers(0, 255, (3, size, size), dtype=np.uint8)

    for owner in range(0, 24, 2):
        # Slots count through the roles.
        writer.append(owner, {0: (f"{owner}-0", image(16)), 1: (f"{owner}-1", image(8))}, None)
    return writer.finish()


@pytest.fixture
def posts_values(finetuning_values: dict) -> dict[str, dict]:
    """Parameters of fine-tuning by task, to be changed at will."""
    shared = {
        name: value
        for name, value in finetuning_values.items()
        if name in FinetuningParameters.model_fields
    }
    shared |= {"classifier_dropout": None}
    return {
        "relation_extraction": shared | {"representation": "markers"},
        "entity_recognition": shared | {"units": None},
    }


@pytest.fixture
def checkpoints(tmp_path, finetuning_values):
    """A Trainer of two weights that has made checkpoints at the steps 1, 2 and 3."""
    from mkgformer_kedro.training import trainer
    from mkgformer_kedro.training.tasks.link_prediction import LinkPredictionParameters

    parameters = LinkPredictionParameters.model_validate(finetuning_values)
    arguments = trainer.training_arguments(
        tmp_path, parameters, batches_per_epoch=1, seed=0, metric="eval_score"
    )
    made = trainer.StageTrainer(
        model=torch.nn.Linear(2, 2),
        args=arguments,
        batch_sampler=[],
        eval_dataset=[0],
        learning_rates={"default": 0.1},
        weight_decay={"default": 0.0},
    )
    made.create_optimizer_and_scheduler(3)
    for made.state.global_step in (1, 2, 3):
        made._save_checkpoint(made.model, None)
    (tmp_path / "job.json").write_text(json.dumps({"fingerprint": "job"}))
    return SimpleNamespace(trainer=made, folder=tmp_path)
