"""Items as batches of model inputs: queries or posts with their owners' images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import torch

from mkgformer_kedro.progress import Progress
from mkgformer_kedro.training.parameters import Precision
from mkgformer_kedro.training.precision import computing_in

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_Given, _Made = TypeVar("_Given"), TypeVar("_Made")


class Items(Protocol):
    """What a model learns from or is asked, encoded; items are known by their numbers from 0.

    Attributes:
        owners: ``(n,)`` owner of each item's images, as the images number their owners.
        lengths: ``(n,)`` length of each item in tokens.
    """

    owners: np.ndarray
    lengths: np.ndarray

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """The model's inputs but the images for the chosen items; ``labels`` where they are known.

        Args:
            rows: ``(B,)`` numbers of the items.
        """


class Images(Protocol):
    """Images by their owner: a visual store, or what a person gave.

    Attributes:
        has_images: ``(owners,)`` bool, whether each owner has at least one image.
    """

    has_images: NDArray[np.bool_]

    def read(self, owners: ArrayLike) -> dict[str, Any]:
        """The model's image inputs, a row for each of ``owners``, with ``image_mask``.

        Arrays, or tensors where NumPy lacks their type.
        """


@dataclass(frozen=True)
class Collator:
    """Turn item numbers into a batch of model inputs.

    Attributes:
        items: The items.
        images: Images of their owners, or None to leave all images out.
    """

    items: Items
    images: Images | None

    def __call__(self, rows: list[Any] | np.ndarray) -> dict[str, torch.Tensor]:
        """The model's inputs, with ``labels`` where the items have any."""
        numbers = np.asarray(rows)
        return {
            **self.items.batch(numbers),
            **image_inputs(self.images, self.items.owners[numbers]),
        }


def image_inputs(images: Images | None, owners: np.ndarray) -> dict[str, torch.Tensor]:
    """Images of a batch, each owner's once.

    Args:
        images: Images by owner, or None to leave all images out.
        owners: ``(B,)`` owner of every item's images.

    Returns:
        The model's image inputs: one row per distinct owner that has images, ``image_index``
        ``(B,)`` with -1 for items without any, and ``image_rows``, the items with some. Empty where
        no item has one.
    """
    if images is None:
        return {}
    with_images = images.has_images[owners]
    if not with_images.any():
        return {}
    distinct, row = np.unique(owners[with_images], return_inverse=True)
    index = np.full(len(owners), -1, dtype=np.int64)
    index[with_images] = row
    rows = np.flatnonzero(with_images)
    arrays = {**images.read(distinct), "image_index": index, "image_rows": rows}
    return {name: torch.as_tensor(array) for name, array in arrays.items()}


def asking_order(items: Items, rows: np.ndarray) -> np.ndarray:
    """Order item numbers so that items of equal length, then of one owner, are neighbours."""
    owners, lengths = items.owners[rows], items.lengths[rows]
    longest = np.zeros(int(owners.max(initial=0)) + 1, dtype=np.int64)
    np.maximum.at(longest, owners, lengths)
    return rows[np.lexsort((rows, owners, longest[owners]))]


@torch.no_grad()
def ask(
    model: Any,
    collator: Collator,
    rows: np.ndarray,
    *,
    batch_size: int,
    what: str,
    of: str,
    answer: Callable[..., Any] | None = None,
    precision: Precision = "fp32",
) -> Iterator[tuple[np.ndarray, Any]]:
    """Ask a model block by block, so that memory does not grow with items times candidates.

    Args:
        model: Model; its mode is set to evaluation and restored afterwards.
        collator: Builder of batches.
        rows: ``(n,)`` numbers of the items to ask about.
        batch_size: Items per block.
        what: What the progress bar says is done.
        of: What the items are called.
        answer: What of the model is called with a batch; None: the model.
        precision: Of its matrix products; scores are compared in fp32.

    Yields:
        ``(b,)`` numbers of a block's items, in :func:`asking_order`, and the model's output.
    """
    order = asking_order(collator.items, rows)
    blocks = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]

    def make(block: np.ndarray) -> dict[str, torch.Tensor]:
        inputs = collator(block)
        inputs.pop("labels", None)
        return on_device(inputs, model.device)

    # On processors the thread would take from the model what it brings.
    batches = map(make, blocks) if model.device.type == "cpu" else one_ahead(make, blocks)
    was_training = model.training
    model.eval()
    try:
        with Progress(what, len(order), of) as progress:
            for block, inputs in zip(blocks, batches, strict=True):
                with computing_in(precision, model.device.type):
                    outputs = (answer or model)(**inputs)
                yield block, outputs
                progress.advance(len(block))
    finally:
        model.train(was_training)


def one_ahead(make: Callable[[_Given], _Made], given: Iterable[_Given]) -> Iterator[_Made]:
    """What is made of each thing that is given, while the next is being made in a thread."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        coming: Future[_Made] | None = None
        for each in given:
            made, coming = coming, thread.submit(make, each)
            if made is not None:
                yield made.result()
        if coming is not None:
            yield coming.result()


def on_device(inputs: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Move a batch to a device without waiting for the copy."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}
