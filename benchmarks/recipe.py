"""Compare recipes of stage 2 of link prediction: short trainings of equal length, judged on dev.

Needs what the stages up to ``link_prediction.entity_modeling`` made of a data set, and
``link_prediction.structure_modeling`` for what starts from a structural expert. What was found
stands in ``docs/results.md``.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from kedro.io import CatalogConfigResolver

from mkgformer_kedro.configuration import ExtendingConfigLoader
from mkgformer_kedro.evaluation.ranking.metrics import HEADLINE_MRR
from mkgformer_kedro.modeling import MKGformerForLinkPrediction
from mkgformer_kedro.settings import CONFIG_LOADER_ARGS
from mkgformer_kedro.training.entity_modeling import initialize_graph_tokens
from mkgformer_kedro.training.finetuning import finetune
from mkgformer_kedro.training.model_folder import load_model, save_model
from mkgformer_kedro.training.parameters import ModelParameters
from mkgformer_kedro.training.structural_model import read_structure_folder
from mkgformer_kedro.training.tasks.link_prediction import LinkPrediction, LinkPredictionParameters

PROJECT = Path(__file__).parents[1]
TASK = "link_prediction"
MRR = f"dev_{HEADLINE_MRR}"
ONE = {"default": 2e-4}
TABLES = {**ONE, "graph_embeddings": 2e-3, "entity_bias": 2e-2}

# Each recipe: what it changes of `link_prediction.finetuning`, what entities start as (stage 1
# where nothing is said), and how they are scored (see `scored`).
RECIPES: dict[str, dict[str, Any]] = {
    "one rate for all, 2e-4": {"learning_rates": ONE},
    "one rate for all, 5e-4": {"learning_rates": {"default": 5e-4}},
    "one rate for all, 1e-3": {"learning_rates": {"default": 1e-3}},
    "every question alike": {"answer_exponent": 0.0},
    "every triple alike": {"answer_exponent": 1.0},
    "every triple alike, bias of popularity": {"answer_exponent": 1.0, "start": "popularity"},
    "between (exponent .5)": {"answer_exponent": 0.5},
    "every triple alike, from structure": {"answer_exponent": 1.0, "start": "structure"},
    "2e-4, from words": {"learning_rates": ONE, "start": "text"},
    "2e-4, from structure": {"learning_rates": ONE, "start": "structure"},
    "5e-4, from structure": {"learning_rates": {"default": 5e-4}, "start": "structure"},
    "tables 2e-3": {"learning_rates": {**ONE, "graph_embeddings": 2e-3}},
    "tables 2e-3, bias 2e-2": {"learning_rates": TABLES},
    "tables 1e-2, bias 2e-2": {"learning_rates": {**TABLES, "graph_embeddings": 1e-2}},
    "towers 5e-5, the rest 5e-4": {
        "learning_rates": {"default": 5e-4, "text_model": 5e-5, "vision_model": 5e-5}
    },
    "head 1e-3": {"learning_rates": {**ONE, "transform": 1e-3}},
    "fusion 1e-3": {"learning_rates": {**ONE, "fusion": 1e-3}},
    "tables without decay": {"weight_decay": {"default": 1e-2, "graph_embeddings": 0.0}},
    "label smoothing .1": {"label_smoothing": 0.1},
    "binary cross-entropy": {"loss": "binary_cross_entropy"},
    "128 queries a step, 5e-4": {"learning_rates": {"default": 5e-4}, "batch_size": 128},
    "4,096 sampled negatives": {"sampled_softmax": {"negatives": 4096, "uniform": 0.25}},
    "4,096 sampled negatives, entities in half precision": {
        "sampled_softmax": {"negatives": 4096, "uniform": 0.25},
        "half_precision_entities": True,
    },
    "answers of the batch, almost alone": {"sampled_softmax": {"negatives": 1, "uniform": 1.0}},
    "temperature 2": {"scores": (False, 2.0)},
    "temperature .5": {"scores": (False, 0.5)},
    "cosines, temperature .05": {"scores": (True, 0.05)},
    "cosines, temperature .02": {"scores": (True, 0.02)},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train each recipe in turn and print its loss and dev MRR."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--env", help="Kedro environment; default: the embedded sample")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--dev-queries", type=int, default=1000)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--work", type=Path, required=True, help="folder for models")
    options = parser.parse_args(arguments)

    conf = ExtendingConfigLoader(str(PROJECT / "conf"), env=options.env, **CONFIG_LOADER_ARGS)
    parameters, catalog = conf["parameters"], CatalogConfigResolver(conf["catalog"])
    paths = {
        name: PROJECT / catalog.resolve_pattern(f"{TASK}.{name}")["filepath"]
        for name in (
            *("entities", "relations", "queries", "visual_store"),
            *("structure_models", "entity_model"),
        )
    }
    model_parameters = ModelParameters.model_validate(parameters["model"])
    print("| recipe | loss | dev MRR | seconds |\n| --- | ---: | ---: | ---: |", flush=True)
    for name in options.recipes:
        changes = dict(RECIPES[name])
        start = starting_model(changes.pop("start", "stage 1"), paths, options.work)
        scores = changes.pop("scores", (False, 1.0))
        values = parameters[TASK]["finetuning"] | changes
        values |= {"max_steps": options.steps, "evaluations_per_epoch": 1, "seeds": None}
        # Its own: what `scored` changes is no part of what checkpoints are known by.
        work = options.work / "finetuning" / name
        began = time.perf_counter()
        with scored(*scores):
            _, curve = finetune(
                TASK,
                {"entity_model": start, "queries": pd.read_parquet(paths["queries"])},
                paths["visual_store"],
                work,
                model_parameters,
                LinkPredictionParameters.model_validate(
                    values | {"dev_queries": options.dev_queries, "patience": None}
                ),
                parameters["preset"],
                parameters["seed"],
            )
        loss, mrr = (curve[column].dropna().iloc[-1] for column in ("loss", MRR))
        seconds = time.perf_counter() - began
        shutil.rmtree(work)
        print(f"| {name} | {loss:.3f} | {mrr:.4f} | {seconds:.0f} |", flush=True)


@contextmanager
def scored(cosine: bool, temperature: float) -> Iterator[None]:
    """Score all entities by products, or cosines, of states and embeddings over a temperature."""
    plain = MKGformerForLinkPrediction.score_entities

    def score_entities(
        model: MKGformerForLinkPrediction,
        states: torch.Tensor,
        entities: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if not cosine:
            return plain(model, states, entities) / temperature
        table = model.mkgformer.graph_embeddings.entities.weight
        with torch.autocast(states.device.type, enabled=False):
            unit = [torch.nn.functional.normalize(each.float(), dim=1) for each in (states, table)]
            return unit[0] @ unit[1].T / temperature + model.entity_bias

    with mock.patch.object(MKGformerForLinkPrediction, "score_entities", score_entities):
        yield


def starting_model(kind: str, paths: dict[str, Path], work: Path) -> Path:
    """Model folder in which entities stand at their start, made once.

    Args:
        kind: ``stage 1``: as the stage left them; ``text``: means of their words; ``structure``:
            as after stage 1, and the principal components of ComplEx's entities, as large, added;
            ``popularity``: as after stage 1, with the logarithm of their answers as biases.
        paths: Tables, visual store and structural experts.
        work: Folder of model folders.
    """
    if kind == "stage 1":
        return paths["entity_model"]
    folder = work / f"start_{kind}"
    if (folder / "model.safetensors").exists():
        return folder
    model, tokenizer, task = load_model(paths["entity_model"])
    if kind == "structure":
        add_structure(model, next(paths["structure_models"].glob("complex/seed_*")), task)
    elif kind == "popularity":
        queries = pd.read_parquet(paths["queries"])
        answers = np.concatenate(queries.loc[queries["split"] == "train", "answers"].to_list())
        counts = torch.from_numpy(np.bincount(answers, minlength=len(task.entities))) + 0.5
        model.entity_bias.data = counts.log().float() - counts.log().mean()
    else:
        initialize_graph_tokens(model, task.prompt_builder(tokenizer, model.config), "text")
    return save_model(folder, model, tokenizer, task)


@torch.no_grad()
def add_structure(model: MKGformerForLinkPrediction, expert: Path, task: LinkPrediction) -> None:
    """Add to each entity what a structural expert knows of it."""
    vectors = read_structure_folder(expert, task.entities, task.relations).model.entities()
    if vectors.is_complex():
        vectors = torch.view_as_real(vectors).flatten(1)
    table = model.mkgformer.graph_embeddings.entities.weight
    centred = vectors.float() - vectors.float().mean(dim=0)
    _, _, directions = torch.pca_lowrank(centred, q=min(table.shape[1], vectors.shape[1]))
    components = torch.zeros_like(table)
    components[:, : directions.shape[1]] = centred @ directions
    table += components * (table.norm(dim=1).mean() / components.norm(dim=1).mean())


if __name__ == "__main__":
    main()
