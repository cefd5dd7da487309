"""Typed parameters of image association."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from mkgformer_kedro.datasets.visual_store import INPUT_NAMES, RoleLayout, slot_roles
from mkgformer_kedro.parameters import Parameters


class RoleSlots(Parameters):
    """Slots of one role: ``count`` images of ``size`` x ``size`` pixels an owner."""

    size: PositiveInt
    count: NonNegativeInt


class Borrowing(Parameters):
    """Where owners without images borrow theirs.

    Attributes:
        relation: Id of the relation whose training triples link borrower and donor.
        images_of: Which end of the triple donates; the other end borrows.
    """

    relation: str
    images_of: Literal["head", "tail"]


class ImageParameters(Parameters):
    """Parameters that the stage has for every task."""

    no_result_depends_on = frozenset({"workers"})

    slots: dict[Literal["full", "grounding", "detection"], RoleSlots]
    min_side: PositiveInt
    max_pixels: PositiveInt
    workers: PositiveInt | None

    @model_validator(mode="after")
    def _has_slots(self) -> Self:
        if not self._in_use:
            raise ValueError("slots: every count is 0 (of roles in use); give one a slot")
        return self

    @property
    def _in_use(self) -> list[str]:
        """Roles that have slots, in slot order."""
        return [role for role in INPUT_NAMES if role in self.slots and self.slots[role].count]

    @property
    def slot_roles(self) -> list[str]:
        """The role of each slot, in slot order."""
        return slot_roles({role: self.slots[role].count for role in self._in_use})

    @property
    def layouts(self) -> dict[str, RoleLayout]:
        """Layout of each role that has slots, in slot order."""
        return {
            role: RoleLayout(self.slots[role].size, self.slots[role].count) for role in self._in_use
        }

    @property
    def least_memory(self) -> int:
        """Bytes of one owner's images, as the model takes them (float32)."""
        return sum(4 * each.count * each.image_bytes for each in self.layouts.values())


class ImageAssociationParameters(ImageParameters):
    """Parameters of link prediction; ``parameters_link_prediction.yml`` explains each."""

    order: Literal["resolution", "name"]
    owner_pattern: str
    owner_replacement: str
    borrow: Borrowing | None

    @model_validator(mode="after")
    def _names_owners(self) -> Self:
        try:
            re.sub(self.owner_pattern, self.owner_replacement, "")
        except re.error as error:
            raise ValueError(f"owner_pattern and owner_replacement: {error}") from error
        return self

    def owner_of(self, folder: str) -> str | None:
        """The entity id that a folder's name stands for, or None where it fits no pattern."""
        match = re.fullmatch(self.owner_pattern, folder)
        return match and match.expand(self.owner_replacement)


class DetectorParameters(Parameters):
    """The zero-shot detector that makes crops.

    Attributes:
        model: A zero-shot object detector of transformers, by hub name or folder.
        threshold: Boxes of a lower score are dropped.
        objects: What is looked for in every image, for the slots of ``detection``.
        max_phrases: Phrases of a post that are looked for, for the slots of ``grounding``.
        batch_size: Images at a time.
    """

    model: str
    threshold: Annotated[float, Field(gt=0, lt=1)]
    objects: list[Annotated[str, Field(min_length=1)]]
    max_phrases: NonNegativeInt
    batch_size: PositiveInt


class PostImageAssociationParameters(ImageParameters):
    """Parameters of the tasks on posts; ``parameters_<task>.yml`` explains each."""

    crops: Literal["none", "files", "detect"]
    detector: DetectorParameters

    @model_validator(mode="after")
    def _has_slots_for_crops(self) -> Self:
        if self.crops != "none" and not self.crop_roles:
            raise ValueError(
                f"crops: {self.crops}, but slots gives neither grounding nor detection a count"
            )
        return self

    @property
    def _in_use(self) -> list[str]:
        """Roles that have slots, in slot order; without crops there are none for them."""
        return [role for role in super()._in_use if role == "full" or self.crops != "none"]

    @property
    def crop_roles(self) -> list[str]:
        """Roles that have slots for crops."""
        return [role for role in self.layouts if role != "full"]
