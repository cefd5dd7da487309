"""Images as a person has them (a file, a PIL image, several, none), beside those of a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mkgformer_kedro.datasets.visual_store import (
    INPUT_NAMES,
    RoleLayout,
    VisualStore,
    slot_roles,
)
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.training.tasks.questions import wrong

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")


def layouts_of(config: Any) -> dict[str, RoleLayout]:
    """How many images of which size a model takes, by role in slot order."""
    return {
        role: RoleLayout(config.image_sizes[role], config.image_counts[role])
        for role in INPUT_NAMES
        if config.image_counts.get(role)
    }


class GivenImages:
    """Images of questions: each question has its own, or those of an owner in a visual store.

    Owners are numbered: first those of the store, then the questions.

    Args:
        layouts: Images that the model takes.
        given: For each question None, an image, a list of images in slot order, or images (or
            lists) by role. An image is a path or a PIL image.
        names: What each question is called in errors.
        store: Visual store whose layouts are the same, or None.

    Raises:
        DataError: There are more images than slots, or something is no image.
    """

    def __init__(
        self,
        layouts: Mapping[str, RoleLayout],
        given: Sequence[Any],
        names: Sequence[Any],
        store: VisualStore | None = None,
    ) -> None:
        self.layouts = dict(layouts)
        self.store = store
        self.first = 0 if store is None else len(store)
        self._names = names
        self._slots = [
            self._slots_of(name, images) for name, images in zip(names, given, strict=True)
        ]

    @cached_property
    def has_images(self) -> NDArray[np.bool_]:
        """Whether each owner has at least one image, ``(owners,)``."""
        own = np.array([bool(slots) for slots in self._slots], dtype=bool)
        return own if self.store is None else np.concatenate([self.store.has_images, own])

    def read(self, owners: ArrayLike) -> dict[str, NDArray]:
        """Gather the images of some owners, as :meth:`VisualStore.read` does."""
        index = np.asarray(owners, dtype=np.int64)
        roles = slot_roles({role: layout.count for role, layout in self.layouts.items()})
        inputs: dict[str, NDArray] = {
            INPUT_NAMES[role]: np.zeros(
                (len(index), layout.count, 3, layout.size, layout.size), dtype=np.uint8
            )
            for role, layout in self.layouts.items()
        }
        inputs["image_mask"] = np.zeros((len(index), len(roles)), dtype=bool)
        stored = index < self.first
        if stored.any():
            for name, values in self.store.read(index[stored]).items():
                inputs[name][stored] = values
        for row in np.flatnonzero(~stored):
            number = index[row] - self.first
            for slot, image in self._slots[number].items():
                role = roles[slot]
                pixels = read_pixels(image, self.layouts[role].size)
                inputs[INPUT_NAMES[role]][row, slot - roles.index(role)] = pixels
                inputs["image_mask"][row, slot] = True
        return inputs

    def _slots_of(self, name: Any, images: Any) -> dict[int, Any]:
        """Images of one question by slot."""
        roles = slot_roles({role: layout.count for role, layout in self.layouts.items()})
        if not isinstance(images, Mapping):
            return dict(self._numbered(name, _listed(images), range(len(roles)), "its images"))
        slots: dict[int, Any] = {}
        for role, of_role in images.items():
            if role not in self.layouts:
                known = ", ".join(self.layouts)
                raise wrong(name, f"the model takes no images '{role}'", f"It takes {known}.")
            free = [slot for slot, each in enumerate(roles) if each == role]
            slots |= self._numbered(name, _listed(of_role), free, f"images '{role}'")
        return slots

    def _numbered(
        self, name: Any, images: list[Any], slots: Sequence[int], what: str
    ) -> dict[int, Any]:
        if len(images) > len(slots):
            remedy = "Give the most telling ones."
            raise wrong(name, f"{what} are {len(images)}, the model takes {len(slots)}", remedy)
        return {slot: check_image(image, name) for slot, image in zip(slots, images, strict=False)}


def is_nothing(images: Any) -> bool:
    """Whether a cell of a table says that there are no images."""
    return images is None or (isinstance(images, float) and np.isnan(images))


def _listed(images: Any) -> list[Any]:
    if is_nothing(images):
        return []
    return list(images) if isinstance(images, list | tuple) else [images]


def check_image(image: Any, name: Any) -> Any:
    """See to it that something is an image that can be read.

    Args:
        image: A path or a PIL image.
        name: The question, for errors.

    Raises:
        DataError: It is no image, or a file that cannot be opened as one.
    """
    from PIL import Image

    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, str | Path):
        what = f"{type(image).__name__} is no image"
        raise wrong(name, what, "Give a path or a PIL image.")
    if not Path(image).is_file():
        raise DataError(Problem(str(image), None, "no such file", "Correct the path."))
    return Path(image)


def read_pixels(image: Any, size: int) -> NDArray[np.uint8]:
    """Pixels of an image as the visual store holds them, uint8 ``(3, size, size)``.

    Raises:
        DataError: A file is damaged or no image.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(image, formats=_FORMATS) if isinstance(image, Path) else image as opened:
            opened.draft(None, (2 * size, 2 * size))
            opened.load()
            upright = _rgb(ImageOps.exif_transpose(opened))
    except Exception as error:  # damaged content makes Pillow's decoders raise almost anything
        what = f"the file is damaged or no image of a known format ({type(error).__name__})"
        raise DataError(Problem(str(image), None, what, "Give another file.")) from error
    square = ImageOps.fit(upright, (size, size), method=Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))


def _rgb(image: Any) -> Any:
    from PIL import Image

    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip, not scale
        grey = np.asarray(image).clip(0, 65_535) // 256
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("RGB")
    return image.convert("RGB")
