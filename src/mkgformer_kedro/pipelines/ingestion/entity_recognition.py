"""Nodes that turn raw posts with tagged words into tables for entity recognition."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from kedro.pipeline import Node

from mkgformer_kedro.datasets.post_files import RawPosts
from mkgformer_kedro.datasets.text_files import SPLITS
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.evaluation.extraction.mentions import (
    OUTSIDE,
    entities_of,
    repair_tags,
    split_tag,
)
from mkgformer_kedro.pipelines.ingestion.checks import check_counts, quarantine_table
from mkgformer_kedro.pipelines.ingestion.parameters import TaggedIngestionParameters
from mkgformer_kedro.pipelines.ingestion.posts import (
    TYPE_NAMES,
    check_overlap,
    common_columns,
    count_posts,
    count_seen_mentions,
    describe_posts,
    log_posts,
    posts_nodes,
    raw_of,
    warn_of_unseen,
)

if TYPE_CHECKING:
    from mkgformer_kedro.training.tasks.base import Task

logger = logging.getLogger(__name__)

_TASK = "entity_recognition"
# Twitter-2015, from which Twitter-2017 comes, calls MISC so.
_OTHER_NAMES = {"OTHER": "MISC"}


def index_posts(
    raw: RawPosts, parameters: TaggedIngestionParameters
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Check the tags of posts and make them valid IOB2.

    Args:
        raw: The posts as their files say them.
        parameters: What to do about bad lines and invalid tags, and what the corpus must be like.

    Returns:
        The tables ``posts``, ``labels`` (types of entity) and ``quarantine`` (``file``, ``line``,
        ``what`` of every bad line; its whole post is left out).

    Raises:
        DataError: There are bad lines and they are not to be quarantined, or invalid tags that
            are not to be repaired; a split is empty; the counts are not the published ones; more
            test posts stand in train than may.
    """
    types = parameters.entity_types
    problems, invalid = list(raw.problems), []
    usable, all_tags = [], []
    for post in raw.posts.itertuples():
        where, first = str(raw.folder / post.file), int(post.line) + 1
        tags = [_known(tag, types) for tag in post.tags]
        for place, tag in enumerate(post.tags):
            if tags[place] is None:
                remedy = f"Write O, or B- or I- before one of {', '.join(types)}."
                problems.append(Problem(where, first + place, f"unknown tag '{tag}'", remedy))
        usable.append(None not in tags)
        if usable[-1]:
            valid, changed = repair_tags(tags)
            all_tags.append(valid)
            invalid += [
                Problem(
                    where,
                    first + place,
                    f"'{post.tags[place]}' continues no entity of its type",
                    f"Begin the entity with B-, or set {_TASK}.ingestion.invalid_tags to repair.",
                )
                for place in changed
            ]
    if invalid and parameters.invalid_tags == "stop":
        bad_lines = problems if parameters.on_bad_lines == "stop" else []
        raise DataError([*bad_lines, *invalid])
    if invalid:
        logger.warning("%d I- tags that continue no entity were made B- tags", len(invalid))
    form = "a line IMGID:<image>, then a line word <tab> tag for each word"
    posts = common_columns(raw, np.array(usable, dtype=bool), problems, parameters, form)
    posts["tags"] = pd.Series(all_tags, dtype=object)
    labels = pd.DataFrame(
        {"label": types, "text": [TYPE_NAMES.get(name, name) for name in types]}, dtype="str"
    )
    check_counts(
        raw.folder,
        _counts(posts, types),
        parameters.expected_counts.published(),
        parameters.on_unexpected_counts,
        f"{_TASK}.ingestion",
    )
    check_overlap(raw, posts, parameters, _TASK)
    tags = posts.loc[posts["split"] == "train", "tags"].explode().dropna()
    warn_of_unseen("types", types, {split_tag(tag)[1] for tag in tags if tag != OUTSIDE})
    return posts, labels, quarantine_table(raw.folder, problems)


def report_ingestion(
    raw: RawPosts,
    posts: pd.DataFrame,
    labels: pd.DataFrame,
    quarantine: pd.DataFrame,
    parameters: TaggedIngestionParameters,
) -> dict[str, Any]:
    """Say what the data is like: what posts share with other tasks, entities, repaired tags.

    Args:
        raw: The posts as their files say them.
        posts: Table of posts.
        labels: Table of types of entity.
        quarantine: Lines left out.
        parameters: Holds the published counts.

    Returns:
        Plain values, ready for JSON.
    """
    types = labels["label"].tolist()
    counts = _counts(posts, types)
    report = describe_posts(raw, posts, ["tags"], quarantine, counts, parameters)
    as_read = raw_of(raw, posts)["tags"]
    repaired = pd.Series(
        [
            sum(_known(old, types) != new for old, new in zip(before, after, strict=True))
            for before, after in zip(as_read, posts["tags"], strict=True)
        ]
    )
    by_split = {split: posts[posts["split"] == split] for split in SPLITS}
    report |= {
        "words": {split: int(table["words"].map(len).sum()) for split, table in by_split.items()},
        "repaired_tags": {
            split: int(repaired[table.index].sum()) for split, table in by_split.items()
        },
        "posts_without_entity": {
            split: sum({*tags} == {OUTSIDE} for tags in table["tags"])
            for split, table in by_split.items()
        },
        "mentions_seen_in_train": count_seen_mentions(
            {split: _mentions(table) for split, table in by_split.items()}
        ),
    }
    totals = (f"{sum(counts['entities'][split].values()):,}" for split in SPLITS)
    log_posts(report, f"{' / '.join(totals)} entities")
    return report


def _known(tag: str, types: Collection[str]) -> str | None:
    """The tag under the type's own name, or None where there is no such tag."""
    try:
        prefix, kind = split_tag(tag)
    except ValueError:
        return None
    if not kind:
        return tag
    kind = kind if kind in types else _OTHER_NAMES.get(kind, kind)
    return f"{prefix}-{kind}" if kind in types else None


def _counts(posts: pd.DataFrame, types: Sequence[str]) -> dict[str, Any]:
    """Posts of each split, and entities of each split and type."""
    entities = {}
    for split in SPLITS:
        of_split = posts.loc[posts["split"] == split, "tags"]
        begun = Counter(entity.type for tags in of_split for entity in entities_of(tags))
        entities[split] = {name: begun[name] for name in types}
    return {**count_posts(posts), "entities": entities}


def _mentions(posts: pd.DataFrame) -> list[Any]:
    """Words of the entities."""
    return [
        words[entity.start : entity.end]
        for words, tags in zip(posts["words"], posts["tags"], strict=True)
        for entity in entities_of(tags)
    ]


def nodes(task: type[Task]) -> list[Node]:
    """The stage's nodes."""
    return posts_nodes(index_posts, report_ingestion)
