"""Embeddings of entities that training never saw, from the state at the mask of a description.

A trained model reads "<description> is the description of [MASK]". The closed form of stage 1, the
first step of ``entity_modeling.solve``, says which embedding would fill the mask: the distance of
the state from the mean of all states, divided by their covariance. Only mean and covariance are
needed, so that a new entity costs one forward pass and a linear map.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mkgformer_kedro.progress import Progress
from mkgformer_kedro.training.batches import Images, image_inputs, on_device

if TYPE_CHECKING:
    from mkgformer_kedro.training.prompts import PromptBuilder

# Entities that are computed with in double precision at a time.
_BLOCK = 1 << 16
# Entities that tell the mean and covariance of states.
_SAMPLE = 1000
# What is added to the variance of states in each direction, in multiples of their mean variance.
_RIDGE = 5.0
# Spread of a new entity's scores, as a share of that of the others. All of these were picked on dev
# triples with an unseen entity (docs/results.md).
_SPREAD = 0.65
# Variance of states, as a share of their squared mean, up to which it is the rounding of float32.
_LEAST_VARIANCE = 1e-10


@torch.no_grad()
def encode_descriptions(
    model: Any,
    prompts: PromptBuilder,
    images: Images,
    batch_size: int,
    entities: np.ndarray | None = None,
) -> torch.Tensor:
    """State at the mask of entities' descriptions, ``(entities, hidden)``, on the model's device.

    Args:
        model: The model, in evaluation mode.
        prompts: Knows the descriptions.
        images: Images of the entities.
        batch_size: Entities at a time.
        entities: ``(m,)`` which; None: all.
    """
    entities = np.arange(prompts.num_entities) if entities is None else entities
    order = np.argsort(prompts.description_lengths(entities), kind="stable")
    width = model.config.text_config.hidden_size
    states = torch.empty(len(order), width, device=model.device)
    with Progress("Encoding descriptions", len(order), "entities") as progress:
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            text = prompts.descriptions(entities[rows])
            inputs = {name: torch.from_numpy(array) for name, array in text.items()}
            inputs |= image_inputs(images, entities[rows])
            states[rows] = model.encode_mask(**on_device(inputs, model.device)).float()
            progress.advance(len(rows))
    return states


@torch.no_grad()
def fit_entity_encoder(model: Any, states: torch.Tensor, known: np.ndarray) -> None:
    """Give the model its encoder of entities.

    Where the descriptions are all the same to the model it tells nothing apart: every entity gets
    the mean embedding.

    Args:
        model: The model.
        states: ``(m, d)`` states at the masks of some descriptions.
        known: ``(entities,)`` bool, whose embeddings were learned.
    """
    embeddings = model.mkgformer.graph_embeddings.entities.weight
    rows = torch.from_numpy(np.flatnonzero(known)).to(embeddings.device)
    # Whole tables in double precision would be large: some rows at a time.
    mean = states.mean(dim=0)
    covariance = second_moments(states, mean) / len(states)
    middle = sum(embeddings[part].float().sum(dim=0) for part in rows.split(_BLOCK)) / len(rows)
    variance = covariance.diagonal().mean()
    if variance <= _LEAST_VARIANCE * mean.double().square().mean():
        model.set_entity_encoder(torch.zeros_like(covariance).to(mean), middle)
        return
    ridge = _RIDGE * variance
    weight = torch.linalg.inv(covariance + ridge * torch.eye(len(mean)).to(covariance))

    def spread(parts: Iterator[torch.Tensor]) -> torch.Tensor:
        """Standard deviation of scores over descriptions, the mean of rows ``(n, d)``."""
        each = [((part @ covariance) * part).sum(dim=1).sqrt() for part in parts]
        return torch.cat(each).mean()

    learned = ((embeddings[part] - middle).double() for part in rows.split(_BLOCK))
    mapped = ((part - mean).double() @ weight for part in states.split(_BLOCK))
    weight = weight * (_SPREAD * spread(learned) / spread(mapped))
    model.set_entity_encoder(weight.to(mean), middle - weight.to(mean) @ mean)


def second_moments(states: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Sum over states of the outer products of their distances from a mean, ``(d, d)`` double."""
    total = states.new_zeros(len(mean), len(mean), dtype=torch.float64)
    for part in states.split(_BLOCK):
        centred = (part - mean).double()
        total += centred.T @ centred
    return total


@torch.no_grad()
def embed_unseen(
    model: Any,
    prompts: PromptBuilder,
    images: Images,
    known: np.ndarray,
    batch_size: int,
    seed: int,
) -> None:
    """Fit the encoder of a trained model, and give embeddings to entities that train lacks.

    As wrong answers of every query these were only pushed away.

    Args:
        model: The model, in evaluation mode.
        prompts: Knows the descriptions.
        images: Images of the entities.
        known: ``(entities,)`` bool, which train has.
        batch_size: Entities encoded at a time.
        seed: Seed of the sample that tells mean and covariance.
    """
    numbers = np.flatnonzero(known)
    draw = np.random.default_rng(seed)
    sample = np.sort(draw.choice(numbers, min(_SAMPLE, len(numbers)), replace=False))
    states = encode_descriptions(model, prompts, images, batch_size, sample)
    fit_entity_encoder(model, states, known)
    unseen = np.flatnonzero(~known)
    if len(unseen):
        states = encode_descriptions(model, prompts, images, batch_size, unseen)
        embeddings = model.mkgformer.graph_embeddings.entities.weight
        embeddings[torch.from_numpy(unseen)] = model.embed_entities(states).to(embeddings)
        model.entity_bias[torch.from_numpy(unseen)] = 0.0
