"""What the ingestion of posts shares between relation extraction and entity recognition."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from kedro.pipeline import Node

from mkgformer_kedro.datasets.post_files import RawPosts
from mkgformer_kedro.datasets.text_files import SPLITS
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.evaluation.extraction.mentions import mention_key
from mkgformer_kedro.pipelines.ingestion.checks import (
    described_files,
    require_every_split,
    unexpected_counts,
)
from mkgformer_kedro.pipelines.ingestion.parameters import PostsIngestionParameters

logger = logging.getLogger(__name__)

TYPE_NAMES = {"PER": "person", "LOC": "place", "ORG": "organisation", "MISC": "other"}
"""What types of entity are called in texts for people."""

_NAMED = 5  # in a message
_PAIRS = (("train", "dev"), ("train", "test"), ("dev", "test"))


def posts_nodes(index: Callable[..., Any], report: Callable[..., Any]) -> list[Node]:
    """The stage's nodes for a task on posts: from its raw files to validated tables and a report.

    Args:
        index: Makes the tables ``posts``, ``labels`` and ``quarantine``.
        report: Makes the report.
    """
    return [
        Node(
            func=index,
            inputs=["raw_posts", "params:ingestion"],
            outputs=["posts", "labels", "quarantine"],
            name="index_posts",
        ),
        Node(
            func=report,
            inputs=["raw_posts", "posts", "labels", "quarantine", "params:ingestion"],
            outputs="ingestion_report",
            name="report_ingestion",
        ),
    ]


def common_columns(
    raw: RawPosts,
    usable: np.ndarray,
    problems: list[Problem],
    parameters: PostsIngestionParameters,
    form: str,
) -> pd.DataFrame:
    """The columns of the table ``posts`` that both tasks have.

    Args:
        raw: The posts as their files say them.
        usable: ``(posts,)`` bool, whether the task found a raw post usable.
        problems: What was found wrong so far; what is wrong with the subsets is added.
        parameters: What to do about bad lines.
        form: How a post is written.

    Returns:
        A row per usable post: ``post``, ``split``, ``words``, ``image``, ``line``, ``subset``.

    Raises:
        DataError: There are problems and they are not to be quarantined; a split is empty.
    """
    subsets = _subsets(raw, problems)
    # Subsets last: a split that cannot be read makes all of its subsets wrong.
    of_subsets = str(raw.folder / raw.files.get("subsets", ""))
    problems.sort(key=lambda each: (each.where == of_subsets, each.where, each.line or 0))
    if problems and parameters.on_bad_lines == "stop":
        raise DataError(problems)
    table = raw.posts[usable].reset_index(drop=True)
    require_every_split(raw.folder, raw.files, set(table["split"]), "posts", form)
    ids = _ids(table)
    return pd.DataFrame(
        {
            "post": ids,
            "split": table["split"],
            "words": table["words"],
            "image": table["image"],
            "line": table["line"].astype("int32"),
            "subset": ids.map(subsets).astype("str"),
        }
    )


def warn_of_unseen(kind: str, names: Iterable[str], in_train: Collection[str]) -> None:
    """Say which relations or types train has no example of, so that none can be learned."""
    if unseen := [name for name in names if name not in in_train]:
        logger.warning(
            "Train has no example of %d %s, which no model can learn: %s",
            len(unseen),
            kind,
            ", ".join(unseen[:_NAMED]) + (" ..." if len(unseen) > _NAMED else ""),
        )


def check_overlap(
    raw: RawPosts, posts: pd.DataFrame, parameters: PostsIngestionParameters, task: str
) -> None:
    """Stop where too many test posts are train posts word for word.

    Args:
        raw: The posts as their files say them.
        posts: Table of posts.
        parameters: How many may be.
        task: Name of the task.

    Raises:
        DataError: More are than may be.
    """
    share, allowed = _overlap(posts, "test"), parameters.max_split_overlap
    if allowed is not None and share > allowed:
        raise DataError(
            Problem(
                str(raw.folder / raw.files["test"]),
                None,
                f"the words of {share:.2%} of the test posts are those of a train post, more than "
                f"the {allowed:.2%} that may be",
                f"Take these posts out of one split, or raise {task}.ingestion.max_split_overlap "
                "(null: any share).",
            )
        )


def count_posts(posts: pd.DataFrame) -> dict[str, int]:
    """Posts of each split."""
    return _by_split(posts, len)


def describe_posts(
    raw: RawPosts,
    posts: pd.DataFrame,
    answers: Sequence[str],
    quarantine: pd.DataFrame,
    counts: Mapping[str, Any],
    parameters: PostsIngestionParameters,
) -> dict[str, Any]:
    """Say what posts are like: counts, lines, duplicates, overlap, images, files.

    Args:
        raw: The posts as their files say them.
        posts: Table of posts.
        answers: Columns of ``posts`` that hold what is to be found.
        quarantine: Lines left out.
        counts: Counts to compare with the published ones.
        parameters: Holds the published counts.

    Returns:
        Plain values, ready for JSON.
    """
    published = parameters.expected_counts.published()
    words = posts["words"].map(tuple)
    whole = pd.DataFrame({"split": posts["split"], "words": words, "image": posts["image"]})
    for column in answers:
        values = posts[column]
        whole[column] = values.map(tuple) if values.dtype == object else values
    named = posts["image"].notna()
    return {
        "data_set": raw.folder.name,
        "counts": dict(counts),
        "published_counts": published,
        "unexpected_counts": unexpected_counts(counts, published),
        "lines": _accounted_lines(raw, posts),
        "quarantined_posts": {
            split: raw.lines[split].begun - count for split, count in count_posts(posts).items()
        },
        "quarantined_lines": len(quarantine),
        "longest_post": _by_split(posts, lambda part: int(part["words"].map(len).max())),
        "posts_without_image_name": _by_split(posts, lambda part: int(part["image"].isna().sum())),
        "subsets": _by_split(
            posts,
            lambda part: {name: int(n) for name, n in part["subset"].value_counts().items()},
        ),
        "duplicate_posts": _by_split(whole, lambda part: int(part.duplicated().sum())),
        "posts_with_words_of_another": _by_split(
            whole, lambda part: int(part["words"].duplicated().sum())
        ),
        "posts_with_image_of_another": _by_split(
            whole[named], lambda part: int(part["image"].duplicated().sum())
        ),
        "posts_in_two_splits": _in_two_splits(whole, "words"),
        "images_in_two_splits": _in_two_splits(whole[named], "image"),
        "split_overlap": {split: _overlap(posts, split) for split in ("dev", "test")},
        "files": described_files(raw.digests, raw.verified),
    }


def count_seen_mentions(mentions: Mapping[str, Sequence[Collection[str]]]) -> dict[str, Any]:
    """How many mentions of dev and test occur as a mention of train, whatever their case.

    Args:
        mentions: Words of each mention, by split.
    """
    keys = {split: [mention_key(words) for words in mentions[split]] for split in SPLITS}
    in_train = set(keys["train"])
    return {
        split: {
            "mentions": len(keys[split]),
            "in_train": sum(key in in_train for key in keys[split]),
        }
        for split in ("dev", "test")
    }


def log_posts(report: Mapping[str, Any], what: str) -> None:
    """Log the posts of each split, ``what`` else there is, and the overlap of the splits."""
    counts = report["counts"]
    logger.info("%s posts, %s", " / ".join(f"{counts[split]:,}" for split in SPLITS), what)
    seen = report["mentions_seen_in_train"]["test"]
    logger.info(
        "%.1f %% of the test posts stand in train word for word; "
        "%d of %d mentions of test are mentions of train",
        100 * report["split_overlap"]["test"],
        seen["in_train"],
        seen["mentions"],
    )


def raw_of(raw: RawPosts, posts: pd.DataFrame) -> pd.DataFrame:
    """The raw posts of a table of posts, row by row."""
    by_id = raw.posts.set_axis(pd.Index(_ids(raw.posts)))
    return by_id.loc[posts["post"]].reset_index(drop=True)


def _ids(table: pd.DataFrame) -> pd.Series:
    return (table["split"] + "-" + table["number"].astype("str")).astype("str")


def _subsets(raw: RawPosts, problems: list[Problem]) -> dict[str, str]:
    """Subset by post."""
    subsets: dict[str, str] = {}
    if raw.subsets is None:
        return subsets
    first_lines: dict[str, int] = {}
    for row in raw.subsets.itertuples():
        what, post = None, f"{row.split}-{row.number}"
        begun = raw.lines[row.split].begun if row.split in SPLITS else 0
        # The longest number there could be has no more digits than the number of posts.
        is_number = row.number.isascii() and row.number.isdecimal() and len(row.number) < 10
        remedy = f"Write {' <tab> '.join(('split', 'number', 'subset'))} once for each post."
        if row.split not in SPLITS:
            what = f"unknown split '{row.split}'"
        elif not is_number or row.number != str(int(row.number)):
            what = f"'{row.number}' is not the number of a post"
        elif int(row.number) >= begun:
            what = f"no post {row.number} in {row.split}, which has {begun}"
        elif post in first_lines:
            what = f"post {row.number} of {row.split} is there already, on line {first_lines[post]}"
        if what is not None:
            problems.append(Problem(str(raw.folder / row.file), int(row.line), what, remedy))
        else:
            subsets[post], first_lines[post] = row.subset, int(row.line)
    return subsets


def _by_split(table: pd.DataFrame, describe: Any) -> dict[str, Any]:
    return {split: describe(table[table["split"] == split]) for split in SPLITS}


def _accounted_lines(raw: RawPosts, posts: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Where the lines of each split's file went; none is unaccounted for."""
    used = raw.posts.assign(used=_ids(raw.posts).isin(posts["post"]))
    accounts = {}
    for split in SPLITS:
        counts, here = raw.lines[split], used[used["split"] == split]
        account = {
            "blank": counts.blank,
            "of_posts": int(here.loc[here["used"], "lines"].sum()),
            "left_out": counts.left_out + int(here.loc[~here["used"], "lines"].sum()),
        }
        unaccounted = counts.lines - sum(account.values())
        accounts[split] = {"lines": counts.lines, **account, "unaccounted": unaccounted}
    return accounts


def _in_two_splits(table: pd.DataFrame, column: str) -> dict[str, int]:
    """Rows of the later split whose value is in the earlier one, too."""
    values = {split: table.loc[table["split"] == split, column] for split in SPLITS}
    return {
        f"{one}_{other}": int(values[other].isin(set(values[one])).sum()) for one, other in _PAIRS
    }


def _overlap(posts: pd.DataFrame, split: str) -> float:
    """Share of a split's posts whose words are those of a train post."""
    words = posts["words"].map(tuple)
    in_train = set(words[posts["split"] == "train"])
    return float(words[posts["split"] == split].isin(in_train).mean())
