"""Ask a model block by block, so that memory does not grow with queries times candidates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mkgformer_kedro.progress import Progress
from mkgformer_kedro.training.prompts import PromptBuilder
from mkgformer_kedro.training.queries import Queries

if TYPE_CHECKING:
    from mkgformer_kedro.datasets.visual_store import VisualStore
    from mkgformer_kedro.modeling import MKGformerForLinkPrediction


def image_inputs(store: VisualStore | None, entity: np.ndarray) -> dict[str, torch.Tensor]:
    """Images of a batch's known entities, each entity's once.

    Args:
        store: Visual store, or None to leave all images out.
        entity: ``(B,)`` known entity of every query.

    Returns:
        The model's image inputs: one row per distinct entity that has images, and
        ``image_index`` ``(B,)`` with -1 for queries without any. Empty where no query has one.
    """
    if store is None:
        return {}
    with_images = store.has_images[entity]
    if not with_images.any():
        return {}
    owners, row = np.unique(entity[with_images], return_inverse=True)
    index = np.full(len(entity), -1, dtype=np.int64)
    index[with_images] = row
    arrays = {**store.read(owners), "image_index": index}
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def query_inputs(
    queries: Queries, rows: np.ndarray, prompts: PromptBuilder, store: VisualStore | None
) -> dict[str, torch.Tensor]:
    """The model's inputs for the chosen queries."""
    entity = queries.entity[rows]
    text = prompts.queries(queries.is_tail[rows], entity, queries.relation[rows])
    return {
        **{name: torch.from_numpy(array) for name, array in text.items()},
        **image_inputs(store, entity),
    }


def scoring_order(queries: Queries, rows: np.ndarray, prompts: PromptBuilder) -> np.ndarray:
    """Order query numbers so that prompts of equal length, then of one entity, are neighbours."""
    lengths = prompts.query_lengths(queries.entity[rows], queries.relation[rows])
    longest = np.zeros(int(queries.entity.max(initial=0)) + 1, dtype=np.int64)
    np.maximum.at(longest, queries.entity[rows], lengths)
    return rows[np.lexsort((rows, queries.entity[rows], longest[queries.entity[rows]]))]


@torch.no_grad()
def score_blocks(
    model: MKGformerForLinkPrediction,
    queries: Queries,
    rows: np.ndarray,
    prompts: PromptBuilder,
    store: VisualStore | None,
    *,
    batch_size: int,
    what: str = "Scoring",
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Score all entities for every chosen query.

    Args:
        model: Model; its mode is set to evaluation and restored afterwards.
        queries: All queries.
        rows: Numbers of the queries to score, best in :func:`scoring_order`.
        prompts: Builder of the model's prompts.
        store: Visual store, or None to leave all images out.
        batch_size: Queries per block.
        what: What the progress bar says is done.

    Yields:
        ``(b,)`` query numbers and their scores ``(b, entities)``, float32 on the model's device.
    """
    was_training = model.training
    model.eval()
    try:
        with Progress(what, len(rows), "queries") as progress:
            for start in range(0, len(rows), batch_size):
                block = rows[start : start + batch_size]
                inputs = on_device(query_inputs(queries, block, prompts, store), model.device)
                yield block, model(**inputs).logits.float()
                progress.advance(len(block))
    finally:
        model.train(was_training)


def on_device(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Move a batch to a device without waiting for the copy."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}
