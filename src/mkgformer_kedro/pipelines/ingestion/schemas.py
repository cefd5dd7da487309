"""What ingestion's tables look like; the catalog names these as validators.

Every table is checked when it is saved and again whenever a stage loads it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pandera.typing import Series


class _Table(pa.DataFrameModel):
    class Config:
        strict = True


class Entities(_Table):
    """One row per entity; the row number is the entity's index everywhere."""

    entity: str = pa.Field(unique=True, str_length={"min_value": 1})
    name: str = pa.Field(str_length={"min_value": 1})
    text: str = pa.Field(str_length={"min_value": 1})
    text_source: str = pa.Field(isin=["long", "short", "name"])


class Relations(_Table):
    """One row per relation; the row number is the relation's index everywhere."""

    relation: str = pa.Field(unique=True, str_length={"min_value": 1})
    text: str = pa.Field(str_length={"min_value": 1})


class Triples(_Table):
    """One row per distinct triple of a split."""

    head: np.int32 = pa.Field(ge=0)
    relation: np.int32 = pa.Field(ge=0)
    tail: np.int32 = pa.Field(ge=0)
    split: str = pa.Field(isin=["train", "dev", "test"])
    leak: bool

    class Config:
        unique = ("split", "head", "relation", "tail")


class Queries(_Table):
    """One row per distinct (split, direction, entity, relation)."""

    split: str = pa.Field(isin=["train", "dev", "test"])
    direction: str = pa.Field(isin=["tail", "head"])
    entity: np.int32 = pa.Field(ge=0)
    relation: np.int32 = pa.Field(ge=0)
    answers: object
    known: object

    class Config:
        unique = ("split", "direction", "entity", "relation")

    @pa.check("answers", "known")
    def _is_list_of_entities(cls, lists: Series) -> Series[bool]:  # noqa: N805
        return lists.map(lambda answers: answers.dtype == np.int32 and len(answers) > 0)
