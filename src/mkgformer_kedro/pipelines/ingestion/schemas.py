"""What ingestion's tables look like.

The catalog names these schemas as validators: a table is checked when it is saved and again
whenever a stage loads it. The module is imported by then, and not before.
"""

from typing import Any

import numpy as np
import pandas as pd
from pandera.pandas import Check, Column, DataFrameSchema

from mkgformer_kedro.datasets.text_files import SPLITS
from mkgformer_kedro.evaluation.extraction.mentions import is_iob2

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


def _holds_strings(values: Any) -> bool:
    return (
        isinstance(values, list | np.ndarray)
        and len(values) > 0
        and all(isinstance(value, str) and value for value in values)
    )


def _spans_within(posts: pd.DataFrame) -> pd.Series:
    lengths = posts["words"].map(len)
    within = [
        (posts[f"{mention}_start"] < posts[f"{mention}_end"]) & (posts[f"{mention}_end"] <= lengths)
        for mention in ("head", "tail")
    ]
    return within[0] & within[1]


def _spans_differ(posts: pd.DataFrame) -> pd.Series:
    return (posts["head_start"] != posts["tail_start"]) | (posts["head_end"] != posts["tail_end"])


_STRING_LISTS = Column(
    "object",
    Check(
        lambda lists: lists.map(_holds_strings), error="each is a non-empty list of non-empty str"
    ),
)
_POST = {
    "post": Column("str", Check.str_matches(rf"^(?:{'|'.join(SPLITS)})-\d+$"), unique=True),
    "split": _SPLIT,
    "words": _STRING_LISTS,
    "image": Column("str", _TEXT, nullable=True),
    "line": Column("int32", Check.ge(1)),
    "subset": Column("str", _TEXT, nullable=True),
}

#: One row per entity; the row number is the entity's index everywhere.
entities = DataFrameSchema(
    {
        "entity": Column("str", _TEXT, unique=True),
        "name": Column("str", _TEXT),
        "text": Column("str", _TEXT),
        "text_source": Column("str", Check.isin(["long", "short", "name", "none"])),
        # Paths of images, where the graph itself links them.
        "image_links": Column(
            "object",
            Check(
                lambda lists: lists.map(
                    lambda links: (
                        isinstance(links, list | np.ndarray)
                        and all(isinstance(link, str) and link for link in links)
                    )
                ),
                error="each is a list of paths",
            ),
            required=False,
        ),
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

#: One row per post with two mentions; the row number is the post's index everywhere.
relation_posts = DataFrameSchema(
    {
        **_POST,
        "head_start": _INDEX,
        "head_end": _INDEX,
        "tail_start": _INDEX,
        "tail_end": _INDEX,
        "relation": _INDEX,
    },
    checks=[
        Check(_spans_within, error="mentions lie within the words"),
        Check(_spans_differ, error="head and tail are two mentions"),
    ],
    strict=True,
)

#: One row per post with a tag for every word; the row number is the post's index everywhere.
tagged_posts = DataFrameSchema(
    {
        **_POST,
        "tags": Column(
            "object",
            [
                Check(lambda lists: lists.map(_holds_strings), error="each is a list of str"),
                Check(lambda lists: lists.map(is_iob2), error="each is valid IOB2"),
            ],
        ),
    },
    checks=Check(
        lambda posts: posts["words"].map(len) == posts["tags"].map(len),
        error="there are as many tags as words",
    ),
    strict=True,
)

#: One row per relation or type of entity; the row number is the label's index everywhere. Of
#: relations ``negative`` says which stands for none.
labels = DataFrameSchema(
    {
        "label": Column("str", _TEXT, unique=True),
        "text": Column("str", _TEXT),
        "negative": Column("bool", required=False),
    },
    strict=True,
)
