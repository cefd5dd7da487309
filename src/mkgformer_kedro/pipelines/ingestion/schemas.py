"""What ingestion's tables look like.

The catalog names these schemas as validators: a table is checked when it is saved and again
whenever a stage loads it. The module is imported by then, and not before.
"""

import numpy as np
from pandera.pandas import Check, Column, DataFrameSchema

from mkgformer_kedro.datasets.graph_folder import SPLITS

_TEXT = Check.str_length(min_value=1)
_INDEX = Column("int32", Check.ge(0))
_SPLIT = Column("str", Check.isin(SPLITS))
_ENTITY_LISTS = Column(
    "object",
    Check(
        lambda lists: lists.map(lambda answers: answers.dtype == np.int32 and len(answers) > 0),
        error="each is a non-empty int32 array",
    ),
)

#: One row per entity; the row number is the entity's index everywhere.
entities = DataFrameSchema(
    {
        "entity": Column("str", _TEXT, unique=True),
        "name": Column("str", _TEXT),
        "text": Column("str", _TEXT),
        "text_source": Column("str", Check.isin(["long", "short", "name"])),
    },
    strict=True,
)

#: One row per relation; the row number is the relation's index everywhere.
relations = DataFrameSchema(
    {"relation": Column("str", _TEXT, unique=True), "text": Column("str", _TEXT)}, strict=True
)

#: One row per distinct triple of a split.
triples = DataFrameSchema(
    {"head": _INDEX, "relation": _INDEX, "tail": _INDEX, "split": _SPLIT, "leak": Column("bool")},
    unique=["split", "head", "relation", "tail"],
    strict=True,
)

#: One row per distinct query of a split.
queries = DataFrameSchema(
    {
        "split": _SPLIT,
        "direction": Column("str", Check.isin(["tail", "head"])),
        "entity": _INDEX,
        "relation": _INDEX,
        "answers": _ENTITY_LISTS,
        "known": _ENTITY_LISTS,
    },
    unique=["split", "direction", "entity", "relation"],
    strict=True,
)
