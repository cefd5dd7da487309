"""Nodes that turn raw posts with two mentions each into tables for relation extraction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from kedro.pipeline import Node

from mkgformer_kedro.datasets.post_files import RawPosts
from mkgformer_kedro.datasets.text_files import SPLITS
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.pipelines.ingestion.checks import check_counts, quarantine_table
from mkgformer_kedro.pipelines.ingestion.parameters import RelationIngestionParameters
from mkgformer_kedro.pipelines.ingestion.posts import (
    TYPE_NAMES,
    check_overlap,
    common_columns,
    count_posts,
    count_seen_mentions,
    describe_posts,
    log_posts,
    posts_nodes,
    warn_of_unseen,
)

if TYPE_CHECKING:
    from mkgformer_kedro.training.tasks.base import Task

_TASK = "relation_extraction"
_SPANS = ["head_start", "head_end", "tail_start", "tail_end"]


def index_posts(
    raw: RawPosts, parameters: RelationIngestionParameters
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Check the mentions of posts and number their relations.

    Args:
        raw: The posts as their files say them.
        parameters: What to do about bad lines, and what the corpus must be like.

    Returns:
        The tables ``posts``, ``labels`` (relations in the order of their numbers) and
        ``quarantine`` (``file``, ``line``, ``what`` of every line left out).

    Raises:
        DataError: There are bad lines and they are not to be quarantined; there is no negative
            relation; a split is empty; the counts are not the published ones; more test posts
            stand in train than may.
    """
    labels = _labels(raw, parameters)
    number_of = {name: number for number, name in enumerate(raw.labels or ())}
    problems = list(raw.problems)
    usable = []
    for post in raw.posts.itertuples():
        wrong = _wrong(post, number_of, raw)
        usable.append(wrong is None)
        if wrong is not None:
            where = str(raw.folder / post.file)
            problems.append(Problem(where, int(post.line), *wrong))
    mask = np.array(usable, dtype=bool)
    form = "a line {'token': [...], 'h': {...}, 't': {...}, 'img_id': ..., 'relation': ...}"
    posts = common_columns(raw, mask, problems, parameters, form)
    chosen = raw.posts[mask].reset_index(drop=True)
    posts[_SPANS] = chosen[_SPANS].astype("int32")
    posts["relation"] = chosen["relation"].map(number_of).astype("int32")
    check_counts(
        raw.folder,
        _counts(posts, labels),
        parameters.expected_counts.published(),
        parameters.on_unexpected_counts,
        f"{_TASK}.ingestion",
    )
    check_overlap(raw, posts, parameters, _TASK)
    names = labels["label"]
    in_train = names[posts.loc[posts["split"] == "train", "relation"].unique()]
    warn_of_unseen("relations", names, set(in_train))
    return posts, labels, quarantine_table(raw.folder, problems)


def report_ingestion(
    raw: RawPosts,
    posts: pd.DataFrame,
    labels: pd.DataFrame,
    quarantine: pd.DataFrame,
    parameters: RelationIngestionParameters,
) -> dict[str, Any]:
    """Say what the data is like: what posts share with other tasks, relations, mentions.

    Args:
        raw: The posts as their files say them.
        posts: Table of posts.
        labels: Table of relations.
        quarantine: Lines left out.
        parameters: Holds the published counts.

    Returns:
        Plain values, ready for JSON.
    """
    answers = [*_SPANS, "relation"]
    report = describe_posts(raw, posts, answers, quarantine, _counts(posts, labels), parameters)
    by_split = {split: posts[posts["split"] == split] for split in SPLITS}
    relations = {
        split: table["relation"].value_counts().reindex(range(len(labels)), fill_value=0)
        for split, table in by_split.items()
    }
    overlapping = posts[["head_start", "tail_start"]].max(axis=1) < (
        posts[["head_end", "tail_end"]].min(axis=1)
    )
    negative = int(labels["negative"].argmax())
    report |= {
        "relations": {
            label: {split: int(relations[split][number]) for split in SPLITS}
            for number, label in enumerate(labels["label"])
        },
        "posts_without_relation": {split: int(relations[split][negative]) for split in SPLITS},
        "posts_with_overlapping_mentions": {
            split: int(overlapping[table.index].sum()) for split, table in by_split.items()
        },
        "mentions_seen_in_train": count_seen_mentions(
            {split: _mentions(table) for split, table in by_split.items()}
        ),
    }
    log_posts(report, f"{len(labels)} relations")
    return report


def _labels(raw: RawPosts, parameters: RelationIngestionParameters) -> pd.DataFrame:
    names = list(raw.labels or ())
    negative, where = parameters.negative_label, str(raw.folder / raw.files["relations"])
    if negative not in names:
        what = f"no relation '{negative}', which stands for none"
        remedy = "Add it, or set relation_extraction.ingestion.negative_label to its name."
        raise DataError(Problem(where, None, what, remedy))
    if len(names) == 1:
        what = f"no relation but '{negative}', which stands for none"
        raise DataError(Problem(where, None, what, "Add those that the posts are to be told by."))
    texts = ["no relation" if name == negative else _text(name) for name in names]
    labels = pd.DataFrame({"label": names, "text": texts}, dtype="str")
    return labels.assign(negative=labels["label"] == negative)


def _text(relation: str) -> str:
    """A relation in words: ``/per/org/member_of`` is "member of (person, organisation)"."""
    *types, name = relation.strip("/").split("/")
    words = name.replace("_", " ").strip() or relation
    named = ", ".join(TYPE_NAMES.get(kind.upper(), kind) for kind in types)
    return f"{words} ({named})" if named else words


def _wrong(post: Any, number_of: dict[str, int], raw: RawPosts) -> tuple[str, str] | None:
    """What is wrong with a post, and what to do about it."""
    spans = {
        "head": (post.head_start, post.head_end, post.head_name),
        "tail": (post.tail_start, post.tail_end, post.tail_name),
    }
    for mention, (start, end, name) in spans.items():
        if not 0 <= start < end <= len(post.words):
            what = f"{mention} [{start}, {end}] is no span of the post's {len(post.words)} words"
            return what, "Write the number of its first word and of the word behind its last."
        found = " ".join(post.words[start:end])
        if found != name:
            what = f"{mention} [{start}, {end}] is '{found}', not '{name}'"
            return what, "Correct its pos or its name."
    if spans["head"][:2] == spans["tail"][:2]:
        what = f"head and tail are the same mention, '{post.head_name}'"
        return what, "Correct one of them or drop the line."
    if post.relation not in number_of:
        remedy = f"Add it to {raw.files['relations']}, or correct or drop the line."
        return f"unknown relation '{post.relation}'", remedy
    return None


def _counts(posts: pd.DataFrame, labels: pd.DataFrame) -> dict[str, int]:
    return {**count_posts(posts), "relations": len(labels)}


def _mentions(posts: pd.DataFrame) -> list[Any]:
    """Words of the heads and tails."""
    return [
        words[start:end]
        for mention in ("head", "tail")
        for words, start, end in zip(
            posts["words"], posts[f"{mention}_start"], posts[f"{mention}_end"], strict=True
        )
    ]


def nodes(task: type[Task]) -> list[Node]:
    """The stage's nodes."""
    return posts_nodes(index_posts, report_ingestion)
