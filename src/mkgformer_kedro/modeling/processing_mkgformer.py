"""Processor of MKGformer: texts and images as a person has them become the model's inputs."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, BatchFeature, ProcessorMixin

from .configuration_mkgformer import IMAGE_ROLES, MKGformerConfig
from .images import (
    BEGINNING,
    FORMATS,
    MAX_PIXELS,
    MIN_SIDE,
    decode_image,
    fit_square,
    known_as,
    size_of,
    upright_rgb,
)

if TYPE_CHECKING:
    OneImage = str | os.PathLike[str] | Image.Image
    ImagesOfOne = OneImage | Sequence[OneImage] | Mapping[str, Any] | None

_SHOWN = 40  # characters of a value in a message
_INPUT_NAMES = dict(
    zip(
        IMAGE_ROLES,
        ("pixel_values", "grounding_pixel_values", "detection_pixel_values"),
        strict=True,
    )
)


class MKGformerProcessor(ProcessorMixin):
    r"""Tokenizer and image settings of a model.

    Args:
        tokenizer (`PreTrainedTokenizerBase`):
            Tokenizer of the text tower, with the tokens that the task adds.
        image_sizes (`dict[str, int]`):
            Edge length in pixels of the images of each role, see [`MKGformerConfig`].
        image_counts (`dict[str, int]`):
            Number of image slots of each role.
    """

    def __init__(
        self, tokenizer: Any, image_sizes: dict[str, int], image_counts: dict[str, int]
    ) -> None:
        super().__init__(tokenizer)
        self.image_sizes, self.image_counts = dict(image_sizes), dict(image_counts)

    @classmethod
    def of(cls, config: MKGformerConfig, tokenizer: Any) -> MKGformerProcessor:
        """The processor of a model with that configuration."""
        return cls(tokenizer, config.image_sizes, config.image_counts)

    @property
    def image_roles(self) -> tuple[str, ...]:
        """Roles that have slots, in the order of the slots."""
        return tuple(role for role in IMAGE_ROLES if self.image_counts.get(role))

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        images: Sequence[ImagesOfOne] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        r"""Turn texts and images into a batch of the model's inputs.

        Args:
            text (`str` or `list[str]`, *optional*):
                One text per example.
            images (`list`, *optional*):
                The images of each example, as [`image_inputs`] takes them.
            kwargs:
                Passed on to the tokenizer, such as `max_length` and `truncation`.

        Returns:
            [`BatchFeature`] of what the model's `forward` takes.

        Raises:
            ValueError: Texts and images are not equally many, or images cannot be used.
        """
        inputs: dict[str, Any] = {}
        if text is not None:
            texts = [text] if isinstance(text, str) else list(text)
            if images is not None and len(texts) != len(images):
                raise ValueError(f"There are {len(texts)} texts, but images of {len(images)}.")
            kwargs = {"padding": True, "return_tensors": "pt", **kwargs}
            inputs |= self.tokenizer(texts, **kwargs)
        if images is not None:
            inputs |= self.image_inputs(images)
        return BatchFeature(inputs)

    def image_inputs(self, images: Sequence[ImagesOfOne]) -> dict[str, torch.Tensor]:
        """The model's image inputs; images are decoded exactly as for a visual store.

        Examples with the same images share a row, and examples without any have none.

        Args:
            images: For each example None, an image, several images, which fill the slots in their
                order, or images by role: `{"full": image, "grounding": [image, image]}`. An image
                is a path or a PIL image.

        Returns:
            For each role with slots its uint8 images `(G, count, 3, size, size)`, `image_mask`
            `(G, slots)`, and `image_index` `(B,)` with -1 for examples without images. Nothing
            where no example has any.

        Raises:
            ValueError: An image is missing, damaged, too small or too large, a role has no slots,
                or an example has more images than slots.
        """
        rows: dict[tuple[Any, ...], tuple[int, list[Any]]] = {}
        index = []
        for of_one in images:
            slots = self.slots(of_one)
            if all(image is None for image in slots):
                index.append(-1)
                continue
            # A PIL image has no name; it is the same only as itself.
            key = tuple(
                image if image is None or isinstance(image, str) else id(image) for image in slots
            )
            index.append(rows.setdefault(key, (len(rows), slots))[0])
        if not rows:
            return {}
        filled = [slots for _, slots in rows.values()]
        inputs, start = {}, 0
        for role in self.image_roles:
            size, count = self.image_sizes[role], self.image_counts[role]
            pixels = np.zeros((len(filled), count, 3, size, size), dtype=np.uint8)
            for row, slots in zip(pixels, filled, strict=True):
                for slot, image in zip(row, slots[start : start + count], strict=True):
                    if image is not None:
                        slot[:] = _decode(image, size)
            inputs[_INPUT_NAMES[role]] = torch.from_numpy(pixels)
            start += count
        mask = [[image is not None for image in slots] for slots in filled]
        return {**inputs, "image_mask": torch.tensor(mask), "image_index": torch.tensor(index)}

    def slots(self, images: ImagesOfOne) -> list[Any]:
        """What fills each slot of one example: a path as `str`, a PIL image or None.

        Args:
            images: The example's images, as [`image_inputs`] takes them.

        Raises:
            ValueError: A role has no slots, or there are more images than slots.
        """
        if isinstance(images, Mapping):
            unknown = sorted(str(role) for role in images if role not in self.image_roles)
            if unknown:
                raise ValueError(
                    f"Images of {', '.join(unknown)} are given, but the model has slots for "
                    f"{', '.join(self.image_roles)}."
                )
            return [
                image
                for role in self.image_roles
                for image in _padded(_several(images.get(role)), self.image_counts[role], role)
            ]
        slots = sum(self.image_counts[role] for role in self.image_roles)
        return _padded(_several(images), slots, "all roles")


def _several(images: Any) -> list[Any]:
    if images is None:
        return []
    whole = (str, bytes, os.PathLike, io.IOBase)  # though some give one thing after the other
    single = isinstance(images, whole) or not isinstance(images, Iterable)
    if single or getattr(images, "ndim", 1) != 1:  # an array: the pixels of one image
        return [_named(images)]
    return [_named(image) for image in images]


def _named(image: Any) -> Any:
    return os.fspath(image) if isinstance(image, os.PathLike) else image


def _padded(images: list[Any], count: int, where: str) -> list[Any]:
    if len(images) > count:
        raise ValueError(
            f"An example has {len(images)} images for the {count} slots of {where}. Leave some out."
        )
    return [*images, *[None] * (count - len(images))]


def _decode(image: Any, size: int) -> np.ndarray:
    """Pixels `(3, size, size)` of one image."""
    if not isinstance(image, (str, Image.Image)):
        told = repr(image) if len(repr(image)) < _SHOWN else f"A {type(image).__name__}"
        raise ValueError(f"{told} is no image. Give a path or a PIL image.")
    # os.path knows what is no name, such as one that is too long; Path raises.
    if isinstance(image, str) and not os.path.isfile(image):  # noqa: PTH113
        raise ValueError(f"{image}: there is no such image file.")
    name = image if isinstance(image, str) else "The image"
    if sides := size_of(image):
        width, height = sides
        if min(sides) < MIN_SIDE or width * height > MAX_PIXELS:
            raise ValueError(
                f"{name} has {width} x {height} pixels. A side needs {MIN_SIDE} at least, and "
                f"{MAX_PIXELS:,} in all are the most."
            )
    if isinstance(image, Image.Image):
        try:
            return fit_square(upright_rgb(image), size)
        except OSError as error:
            raise ValueError(f"The image is damaged ({error}).") from error
    pixels = decode_image(Path(image), size)
    if pixels is None:
        with Path(image).open("rb") as file:
            known = known_as(file.read(BEGINNING))
        raise ValueError(
            f"{image} cannot be read as an image: "
            + (known or "it is damaged, too large, or of grey levels in no known range")
            + f". Formats are {', '.join(FORMATS)}."
        )
    return pixels


AutoProcessor.register(MKGformerConfig, MKGformerProcessor)

__all__ = ["MKGformerProcessor"]
