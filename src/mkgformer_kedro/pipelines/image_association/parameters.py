"""Typed parameters of image association."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt, model_validator

from mkgformer_kedro.datasets.visual_store import INPUT_NAMES, RoleLayout, slot_roles
from mkgformer_kedro.parameters import Parameters


class RoleSlots(Parameters):
    """Slots of one role: ``count`` pictures of ``size`` x ``size`` pixels an owner."""

    size: PositiveInt
    count: NonNegativeInt


class Borrowing(Parameters):
    """Where owners without pictures borrow theirs.

    Attributes:
        relation: Id of the relation whose training triples link borrower and donor.
        pictures_of: Which end of the triple donates; the other end borrows.
    """

    relation: str
    pictures_of: Literal["head", "tail"]


class ImageAssociationParameters(Parameters):
    """Parameters of the stage; each is explained in ``parameters_image_association.yml``."""

    slots: dict[Literal["full", "grounding", "detection"], RoleSlots]
    order: Literal["resolution", "name"]
    owner_pattern: str
    owner_replacement: str
    borrow: Borrowing | None
    min_side: PositiveInt
    max_pixels: PositiveInt
    workers: PositiveInt | None

    @model_validator(mode="after")
    def _has_slots(self) -> ImageAssociationParameters:
        if not self.slot_roles:
            raise ValueError("slots: every count is 0; give at least one role a slot")
        return self

    @model_validator(mode="after")
    def _names_owners(self) -> ImageAssociationParameters:
        try:
            re.sub(self.owner_pattern, self.owner_replacement, "")
        except re.error as error:
            raise ValueError(f"owner_pattern and owner_replacement: {error}") from error
        return self

    @property
    def slot_roles(self) -> list[str]:
        """The role of each slot, in slot order."""
        return slot_roles({role: each.count for role, each in self.slots.items()})

    @property
    def layouts(self) -> dict[str, RoleLayout]:
        """Layout of each role that has slots, in slot order."""
        return {
            role: RoleLayout(self.slots[role].size, self.slots[role].count)
            for role in INPUT_NAMES
            if role in self.slot_roles
        }

    def owner_of(self, folder: str) -> str | None:
        """The entity id that a folder's name stands for, or None where it fits no pattern."""
        match = re.fullmatch(self.owner_pattern, folder)
        return match and match.expand(self.owner_replacement)
