"""Images as a person has them (a file, a PIL image, several, none), beside those of a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.errors import DataError, Problem

if TYPE_CHECKING:
    from mkgformer_kedro.modeling import MKGformerProcessor


class GivenImages:
    """Images that were given, of questions or of new entities, behind those of a visual store.

    Owners are numbered: first those of the store, then those whose images are given.

    Args:
        processor: The model's processor; it decodes exactly as the visual store does.
        given: For each owner what the processor takes as the images of one example.
        names: What each owner is called in errors, such as ``question 3``.
        store: Images of the owners that come first, or None.

    Attributes:
        slots: Of each owner in ``given``, what fills each slot; ``given`` may be made of it again.

    Raises:
        DataError: An owner has more images than there are slots, or in roles that have none.
    """

    def __init__(
        self,
        processor: MKGformerProcessor,
        given: Sequence[Any],
        names: Sequence[Any],
        store: VisualStore | GivenImages | None = None,
    ) -> None:
        self._processor = processor
        self._names = names
        # As slots: a list may be changed later, and a generator gives its images once.
        self.slots = [
            self._checked(number, processor.slots, None if is_nothing(images) else images)
            for number, images in enumerate(given)
        ]
        self._store = store
        self.first = 0 if store is None else len(store)

    def followed_by(self, more: GivenImages) -> GivenImages:
        """These owners and behind them those of another, which has no store."""
        joined = GivenImages(self._processor, [], [*self._names, *more._names], self._store)
        joined.slots = [*self.slots, *more.slots]
        return joined

    def __len__(self) -> int:
        return self.first + len(self.slots)

    @cached_property
    def has_images(self) -> NDArray[np.bool_]:
        """Whether each owner has at least one image, ``(owners,)``."""
        filled = [any(image is not None for image in slots) for slots in self.slots]
        own = np.array(filled, dtype=bool)
        return own if self._store is None else np.concatenate([self._store.has_images, own])

    def read(self, owners: ArrayLike) -> dict[str, NDArray]:
        """Gather the images of some owners, as :meth:`VisualStore.read` does.

        Raises:
            DataError: An image that was given cannot be used.
        """
        rows = [
            self._store.read([owner]) if owner < self.first else self._read(owner - self.first)
            for owner in np.asarray(owners)
        ]
        return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}

    def _read(self, number: int) -> dict[str, NDArray]:
        inputs = self._checked(number, self._processor.image_inputs, [self.slots[number]])
        inputs.pop("image_index")
        return {name: tensor.numpy() for name, tensor in inputs.items()}

    def _checked(self, number: int, read: Callable[[Any], Any], images: Any) -> Any:
        """What the processor makes of images, or the error that names their owner."""
        try:
            return read(images)
        except ValueError as error:
            remedy = "Give a path, a PIL image, or a list of these."
            where, what = str(self._names[number]), str(error).rstrip(".")
            raise DataError(Problem(where, None, what, remedy)) from error


def is_nothing(images: Any) -> bool:
    """Whether a cell of a table says nothing of images."""
    return images is None or (pd.api.types.is_scalar(images) and pd.isna(images))
