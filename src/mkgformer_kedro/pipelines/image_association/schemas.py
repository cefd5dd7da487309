"""What tables of images look like.

The catalog names these schemas as validators: a table is checked when it is saved and again
whenever a stage loads it. The module is imported by then, and not before.
"""

from pandera.pandas import Check, Column, DataFrameSchema

from mkgformer_kedro.datasets.visual_store import INPUT_NAMES
from mkgformer_kedro.pipelines.image_association.association import BOX
from mkgformer_kedro.pipelines.image_association.decoding import Status

_ROLES = Check.isin(list(INPUT_NAMES))
_CROP = {
    "phrase": Column("str", nullable=True),
    **{edge: Column("float32", Check.ge(0), nullable=True) for edge in BOX},
    "score": Column("float32", Check.in_range(0, 1), nullable=True),
}

#: One row per crop of a post, best first.
crops = DataFrameSchema(
    {"post": Column("str"), "path": Column("str"), "role": Column("str", _ROLES), **_CROP},
    strict=True,
)

#: One row per image of an owner and per borrowed slot.
images = DataFrameSchema(
    {
        "owner": Column("str"),
        "path": Column("str"),
        "role": Column("str", _ROLES, nullable=True),
        "slot": Column("int32", Check.ge(-1)),
        "sha256": Column("str", Check.str_length(64, 64), nullable=True),
        "width": Column("int32", Check.ge(0)),
        "height": Column("int32", Check.ge(0)),
        "mode": Column("str", nullable=True),
        "status": Column("str", Check.isin([status.value for status in Status])),
        "borrowed_from": Column("str", nullable=True),
        **_CROP,
    },
    checks=Check(
        lambda table: (table["slot"] >= 0) == (table["status"] == Status.OK),
        error="an image fills a slot exactly when its status is ok",
    ),
    strict=True,
)
