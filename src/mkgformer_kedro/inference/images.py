"""Images as a person has them (a file, a PIL image, several, none), beside those of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.training.tasks.questions import wrong

if TYPE_CHECKING:
    from mkgformer_kedro.modeling import MKGformerProcessor


class GivenImages:
    """Images of questions: each question has its own, or those of an owner in a visual store.

    Owners are numbered: first those of the store, then the questions.

    Args:
        processor: The model's processor; it decodes exactly as the visual store does.
        given: For each question what the processor takes as the images of one example.
        names: What each question is called in errors.
        store: Visual store of the model's images, or None.
    """

    def __init__(
        self,
        processor: MKGformerProcessor,
        given: Sequence[Any],
        names: Sequence[Any],
        store: VisualStore | None = None,
    ) -> None:
        self._processor = processor
        self._given = [None if is_nothing(images) else images for images in given]
        self._names = names
        self._store = store
        self.first = 0 if store is None else len(store)

    @cached_property
    def has_images(self) -> NDArray[np.bool_]:
        """Whether each owner has at least one image, ``(owners,)``."""
        own = np.array([_holds_any(images) for images in self._given], dtype=bool)
        return own if self._store is None else np.concatenate([self._store.has_images, own])

    def read(self, owners: ArrayLike) -> dict[str, NDArray]:
        """Gather the images of some owners, as :meth:`VisualStore.read` does.

        Raises:
            DataError: An image of a question cannot be used.
        """
        rows = [
            self._store.read([owner]) if owner < self.first else self._read(owner - self.first)
            for owner in np.asarray(owners)
        ]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    def _read(self, question: int) -> dict[str, NDArray]:
        try:
            inputs = self._processor.image_inputs([self._given[question]])
        except ValueError as error:
            remedy = "Give a path, a PIL image, or a list of these."
            raise wrong(self._names[question], str(error).rstrip("."), remedy) from error
        inputs.pop("image_index")
        return {name: tensor.numpy() for name, tensor in inputs.items()}


def is_nothing(images: Any) -> bool:
    """Whether a cell of a table says nothing of images."""
    return images is None or (isinstance(images, float) and np.isnan(images))


def _holds_any(images: Any) -> bool:
    if isinstance(images, Mapping):
        return any(map(_holds_any, images.values()))
    return bool(images) if isinstance(images, list | tuple) else images is not None
