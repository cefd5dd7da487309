"""What ingestion checks for every task: splits, published counts, lines left out."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mkgformer_kedro.datasets.text_files import SPLITS
from mkgformer_kedro.errors import DataError, Problem

logger = logging.getLogger(__name__)


def require_every_split(
    folder: Path, files: Mapping[str, str], splits: Collection[str], rows: str, form: str
) -> None:
    """Stop where a split has nothing in it.

    Args:
        folder: Where the files lie.
        files: File name by role; the splits are roles.
        splits: The splits that have something in them.
        rows: What a split is made of, such as ``triples``.
        form: How one is written.

    Raises:
        DataError: Splits are empty; all of them are named.
    """
    empty = [split for split in SPLITS if split not in splits]
    if empty:
        raise DataError(
            [
                Problem(
                    str(folder / files[split]),
                    None,
                    f"the {split} split has no {rows}",
                    f"Put at least one {rows.removesuffix('s')} into it: {form}.",
                )
                for split in empty
            ]
        )


def flat_counts(counts: Mapping[str, Any]) -> dict[str, int]:
    """Counts in groups as one mapping: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``."""
    flat: dict[str, int] = {}
    for name, value in counts.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{inner}": count for inner, count in flat_counts(value).items()}
        else:
            flat[name] = value
    return flat


def unexpected_counts(counts: Mapping[str, Any], published: Mapping[str, Any]) -> dict[str, str]:
    """How counts differ from the published ones, by name; what is not published is not compared.

    Args:
        counts: Counts, in groups or not.
        published: The published ones, in the same groups.
    """
    found = flat_counts(counts)
    return {
        name: f"{found.get(name, 0):,} instead of the published {count:,}"
        for name, count in flat_counts(published).items()
        if found.get(name, 0) != count
    }


def check_counts(
    folder: Path,
    counts: Mapping[str, Any],
    published: Mapping[str, Any],
    on_unexpected: str,
    group: str,
) -> None:
    """Compare counts with the published ones.

    Args:
        folder: Where the files lie.
        counts: Counts, in groups or not.
        published: The published ones, in the same groups.
        on_unexpected: ``stop``, or ``report`` and go on.
        group: The group of parameters that decides it, such as ``ingestion``.

    Raises:
        DataError: They differ and are to ``stop`` the run.
    """
    problems = [
        Problem(
            str(folder),
            None,
            f"{name}: {what}",
            f"Get the published files (docs/data.md), or set {group}.on_unexpected_counts to "
            "report.",
        )
        for name, what in unexpected_counts(counts, published).items()
    ]
    if problems and on_unexpected == "stop":
        raise DataError(problems)
    for problem in problems:
        logger.warning("%s: %s", problem.where, problem.what)


def quarantine_table(folder: Path, problems: Collection[Problem]) -> pd.DataFrame:
    """The table ``quarantine``: ``file``, ``line``, ``what`` of every bad line."""
    if problems:
        logger.warning("%d bad lines are left out; the table quarantine lists them", len(problems))

    def name(path: Path) -> str:
        inside = path.is_relative_to(folder)
        return (path.relative_to(folder) if inside else path).as_posix()

    rows = [(name(Path(problem.where)), problem.line, problem.what) for problem in problems]
    return pd.DataFrame(rows, columns=["file", "line", "what"])


def described_files(digests: Mapping[str, str], verified: Collection[str]) -> dict[str, Any]:
    """Digest of each file, and whether it was compared with a known one, for the report."""
    return {
        name: {"sha256": digest, "verified": name in verified} for name, digest in digests.items()
    }
