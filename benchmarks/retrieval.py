"""Entities found by an index: how many of the best hundred, and how fast, beside scoring them all.

    python benchmarks/retrieval.py data/06_models/mkg_w/link_prediction/finetuning/seed_42
    python benchmarks/retrieval.py <model folder> --entities 1000000

With ``--entities`` the table of entities is grown by copies of its rows with noise as large as
their own spread around their mean: trained vectors, and more of them. Questions are drawn from all
pairs of an entity and a relation, one asked at a time, as a person does.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from mkgformer_kedro.errors import DataError
from mkgformer_kedro.inference.experts import LoadedModel
from mkgformer_kedro.inference.retrieval import EntityIndex, Retrieval
from mkgformer_kedro.training.batches import Collator, ask

TOP = 100


def ask_states(model: LoadedModel, questions: int, seed: int) -> Tensor:
    """States ``(questions, d)`` of questions drawn from all that can be asked, without images."""
    network, tokenizer, task = model.parts
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "direction": rng.choice(["tail", "head"], questions),
            "entity": rng.integers(len(task.entities), size=questions),
            "relation": rng.integers(len(task.relations), size=questions),
        }
    )
    items = task.encode(table, tokenizer, network.config)
    blocks = ask(
        network,
        Collator(items, None),
        np.arange(questions),
        batch_size=64,
        what="Asking the model",
        of="questions",
        answer=network.encode_mask,
    )
    states = torch.empty(questions, network.mkgformer.graph_embeddings.entities.embedding_dim)
    for rows, found in blocks:
        states[rows] = found.float().cpu()
    return states


@torch.no_grad()
def grow(network: Any, entities: int, seed: int) -> None:
    """Grow a model's table of entities to so many rows, by copies with noise."""
    table, bias = network.mkgformer.graph_embeddings.entities.weight, network.entity_bias
    more = entities - len(table)
    if more <= 0:
        return
    generator = torch.Generator().manual_seed(seed)
    copied = torch.randint(len(table), (more,), generator=generator)
    noise = torch.randn(more, table.shape[1], generator=generator) * table.std(dim=0)
    grown = torch.cat([table, table[copied] + noise])
    network.mkgformer.graph_embeddings.entities = nn.Embedding.from_pretrained(grown)
    network.entity_bias = nn.Parameter(torch.cat([bias, bias[copied]]))


@torch.no_grad()
def compare(network: Any, states: Tensor, retrieval: Retrieval) -> dict[str, float]:
    """What an index finds, and how long it takes.

    Returns:
        ``entities``; ``recall``: share of the best hundred that is found; CPU ``build`` in seconds
        and ``exact`` and ``searched`` in milliseconds a question.
    """
    began = time.process_time()
    index = EntityIndex(network, retrieval)
    built = time.process_time()
    found = [index.best(state[None], TOP)[0][0] for state in states]
    searched = time.process_time()
    exact = [network.score_entities(state[None]).topk(TOP).indices[0] for state in states]
    ended = time.process_time()
    hits = [len(np.intersect1d(a, b)) for a, b in zip(found, exact, strict=True)]
    return {
        "entities": len(network.entity_bias),
        "recall": float(np.mean(hits)) / TOP,
        "build": built - began,
        "searched": 1000 * (searched - built) / len(states),
        "exact": 1000 * (ended - searched) / len(states),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model folder of one seed")
    parser.add_argument("--entities", type=int, default=0, help="grow the table to so many")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--expansion", type=int, default=Retrieval.expansion)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    model = LoadedModel(given.model)
    began = time.process_time()
    states = ask_states(model, given.questions, given.seed)
    tower = 1000 * (time.process_time() - began) / given.questions
    network = model.parts[0]
    grow(network, given.entities, given.seed)
    found = compare(network, states, Retrieval(expansion=given.expansion))
    print(
        f"{found['entities']} entities: {found['recall']:.4f} of the best {TOP} found; CPU ms a "
        f"question: towers {tower:.1f}, index {found['searched']:.2f}, all entities "
        f"{found['exact']:.2f}; built in {found['build']:.0f} CPU s"
    )


if __name__ == "__main__":
    try:
        main()
    except DataError as error:
        sys.exit(str(error))
