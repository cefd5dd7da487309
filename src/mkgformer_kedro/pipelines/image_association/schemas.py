"""Schema of the picture manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mkgformer_kedro.datasets.visual_store import INPUT_NAMES
from mkgformer_kedro.pipelines.image_association.decoding import Status

if TYPE_CHECKING:
    from pandera.pandas import DataFrameSchema


def pictures_schema() -> DataFrameSchema:
    """Schema of ``pictures``: a row per file of an owner and per borrowed slot."""
    from pandera.pandas import Check, Column, DataFrameSchema

    return DataFrameSchema(
        {
            "owner": Column("str"),
            "path": Column("str"),
            "role": Column("str", Check.isin(list(INPUT_NAMES)), nullable=True),
            "slot": Column("int32", Check.ge(-1)),
            "sha256": Column("str", Check.str_length(64, 64), nullable=True),
            "width": Column("int32", Check.ge(0)),
            "height": Column("int32", Check.ge(0)),
            "mode": Column("str", nullable=True),
            "status": Column("str", Check.isin([status.value for status in Status])),
            "borrowed_from": Column("str", nullable=True),
        },
        checks=Check(
            lambda table: (table["slot"] >= 0) == (table["status"] == Status.OK),
            error="a picture fills a slot exactly when its status is ok",
        ),
        strict=True,
        ordered=True,
        coerce=True,
    )
