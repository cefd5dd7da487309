"""Folders of text files that people put there: found, read whole, compared with known digests."""

from __future__ import annotations

import difflib
import gzip
import hashlib
import io
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

import pandas as pd
from kedro.io import AbstractDataset, DatasetError

from mkgformer_kedro.datasets.lineage import RawData
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import fingerprint, require_file, sha256_of
from mkgformer_kedro.parameters import Folder, Parameters, typed

SPLITS = ("train", "dev", "test")
HELP = "docs/data.md says where the files come from and where to put them."

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")

_MOST_UNPACKED = 200  # bytes of a text for each byte of its archive, beyond which it is none

Content = TypeVar("Content")


class TextFolderDataset(RawData, AbstractDataset[NoReturn, Content], Generic[Content]):
    """Read-only folder of text files; a subclass says which, and loads them.

    Args:
        filepath: The folder.
        files: File names by what they hold, as ``files_class`` names them.
        checksums: SHA-256 by file name, for files that are known. Any other file is accepted.
        metadata: Passed on to plugins such as Kedro-Viz.
    """

    files_class: ClassVar[type[Parameters]]

    def __init__(
        self,
        *,
        filepath: str,
        files: dict[str, Any],
        checksums: dict[str, str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._folder = typed(Folder, filepath, "folder")
        self._files = typed(self.files_class, files, "files")
        self._checksums = typed(dict[str, str | None] | None, checksums, "checksums") or {}
        self.metadata = metadata

    def save(self, data: NoReturn) -> None:
        """Refuse: raw data is put there by people."""
        raise DatasetError(f"{self._folder} holds raw data, which is read and never written.")

    @property
    def reading(self) -> dict[str, Any]:
        """Which files are read."""
        return {"files": self._files}

    def identity(self, *, hashed_up_to: float = math.inf) -> str | None:
        """Hash of the files' digests, which are not parsed; None where one cannot be read."""
        try:
            names = list(self._present_files().values())
        except DataError:
            return None
        paths = [self._folder / name for name in names]
        if (
            any(map(self._unreadable, names))
            or max(path.stat().st_size for path in paths) > hashed_up_to
        ):
            return None
        return fingerprint({n: sha256_of(p) for n, p in zip(names, paths, strict=True)})

    def _exists(self) -> bool:
        return self._folder.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._folder)}

    def _present_files(self) -> dict[str, str]:
        """The file to read for each role: of several names the first that is there."""
        if not self._folder.is_dir():
            raise DataError(Problem(str(self._folder), None, "no such folder", HELP))
        files: dict[str, str] = {}
        known: list[str] = []
        for role, names in self._files.model_dump(exclude_none=True).items():
            choices = [names] if isinstance(names, str) else names
            known += choices
            there = [name for name in choices if (self._folder / name).exists()]
            if choices:
                files[role] = (there or choices)[0]
        nowhere = [name for name, digest in self._checksums.items() if digest and name not in known]
        if nowhere:
            raise DataError([self._checksum_of_none(name, known) for name in nowhere])
        return files

    def _checksum_of_none(self, name: str, known: Sequence[str]) -> Problem:
        near = difflib.get_close_matches(name, known, n=1)
        meant = f"did you mean '{near[0]}'?" if near else f"the files are {', '.join(known)}."
        what = "checksums names this file, but nothing is read from it"
        return Problem(str(self._folder / name), None, what, f"Correct the name: {meant}")

    def _read(self, names: Iterable[str]) -> dict[str, bytes]:
        """The bytes of each file, once every one of them is known to be usable."""
        contents: dict[str, bytes] = {}
        problems: list[Problem] = []
        for name in names:
            problem = self._unreadable(name)
            if problem is None:
                contents[name] = (self._folder / name).read_bytes()
                problems += self._unusable(name, contents[name])
            else:
                problems.append(problem)
        if problems:
            raise DataError(problems)
        return contents

    def _digests(self, names: Iterable[str]) -> dict[str, str]:
        """SHA-256 of files that are too large to be held, once every one is known to be usable."""
        digests: dict[str, str] = {}
        problems: list[Problem] = []
        for name in names:
            path = self._folder / name
            problem = self._unreadable(name)
            if problem is None and path.stat().st_size == 0:
                problem = Problem(str(path), None, "the file is empty", HELP)
            if problem is None:
                digests[name] = sha256_of(path)
                problems += self._differs(name, digests[name])
            else:
                problems.append(problem)
        if problems:
            raise DataError(problems)
        return digests

    def _unreadable(self, name: str) -> Problem | None:
        path = self._folder / name
        try:
            require_file(path)
            with path.open("rb"):
                return None
        except FileNotFoundError:
            return self._missing(name)
        except OSError as error:
            what = f"cannot be read ({error.strerror})"
            return Problem(str(path), None, what, "Make it a readable file.")

    def _unusable(self, name: str, content: bytes) -> list[Problem]:
        if not content.strip():
            return [Problem(str(self._folder / name), None, "the file is empty", HELP)]
        if content.startswith(_UTF_16):
            what = "not UTF-8 but UTF-16, as spreadsheets write a Unicode text"
            return [Problem(str(self._folder / name), None, what, "Save the file as UTF-8.")]
        return self._differs(name, sha256(content))

    def _differs(self, name: str, found: str) -> list[Problem]:
        expected, path = self._checksums.get(name), str(self._folder / name)
        if not expected or found == expected:
            return []
        what = f"differs from the published file (SHA-256 {found} instead of {expected})"
        remedy = f"{HELP} To use this one all the same, set its checksum to null in globals.yml."
        return [Problem(path, None, what, remedy)]

    def _missing(self, name: str) -> Problem:
        stem = Path(name).stem.lower()
        beside = (self._folder / name).parent
        found = sorted(beside.iterdir()) if beside.is_dir() else []
        like = [path.name for path in found if path.stem.lower() == stem]
        what = f"no such file, only {', '.join(like)}" if like else "no such file"
        return Problem(str(self._folder / name), None, what, HELP)

    def _verified(self, names: Iterable[str]) -> tuple[str, ...]:
        """Names of the files that are the known ones, of those that could be read."""
        return tuple(name for name in names if self._checksums.get(name))


def unpacked(where: str, content: bytes) -> bytes | Problem:
    """What a file holds: of an archive named ``.gz`` what was packed into it.

    Args:
        where: The file's path.
        content: Its bytes.

    Returns:
        The text's bytes, or what is wrong with the archive.
    """
    if not where.endswith(".gz"):
        return content
    most = _MOST_UNPACKED * len(content)
    try:
        text = gzip.GzipFile(fileobj=io.BytesIO(content)).read(most + 1)
    except (OSError, EOFError, zlib.error) as error:
        return damaged_archive(where, error)
    if len(text) > most:
        what = f"unpacks to more than {_MOST_UNPACKED} times its size, which no text does"
        return Problem(where, None, what, "Give the file unpacked.")
    return text


def damaged_archive(where: str, error: Exception) -> Problem:
    """The problem of an archive that cannot be unpacked."""
    what = f"cannot be unpacked ({str(error).rstrip('.')})"
    return Problem(where, None, what, "Get the file again: it is damaged or was not fetched whole.")


def sha256(content: bytes) -> str:
    """Hexadecimal SHA-256 of ``content``."""
    return hashlib.sha256(content).hexdigest()


def numbered_lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    r"""Lines of a text file with their numbers from 1, without a byte order mark.

    Lines end with ``\n`` or ``\r\n`` only: texts may hold characters at which ``str.splitlines``
    would cut. A final newline begins no further line.
    """
    lines = content.removeprefix(BYTE_ORDER_MARK).split(b"\n")
    if not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, start=1):
        yield number, line.removesuffix(b"\r")


def decoded(where: str, number: int, line: bytes) -> str | Problem:
    """The text of a line, or what is wrong with its encoding."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"not UTF-8 (byte 0x{line[error.start]:02x} at column {error.start + 1})"
        return Problem(where, number, what, "Save the file as UTF-8.")


def wrong_columns(where: str, number: int, fields: list[str], columns: tuple[str, ...]) -> Problem:
    """The problem of a line that has not the columns it should have."""
    what = f"{len(fields)} columns instead of {len(columns)}"
    return Problem(where, number, what, f"Write {' <tab> '.join(columns)}.")


def read_table(
    folder: Path,
    name: str,
    content: bytes,
    columns: tuple[str, ...],
    problems: list[Problem],
) -> pd.DataFrame:
    """Split a tab-separated file into rows; blank lines are none.

    Args:
        folder: Where the file lies.
        name: Its name.
        content: Its bytes.
        columns: Names of the columns that every line has.
        problems: Takes the lines that cannot be split.

    Returns:
        ``columns`` as strings without surrounding blanks, ``file`` and ``line``.
    """
    where = str(folder / name)
    rows: list[list[str]] = []
    numbers: list[int] = []
    for number, line in numbered_lines(content):
        if not line.strip(b" "):
            continue
        text = decoded(where, number, line)
        if isinstance(text, Problem):
            problems.append(text)
            continue
        fields = [field.strip() for field in text.split("\t")]
        if len(fields) != len(columns):
            problems.append(wrong_columns(where, number, fields, columns))
        elif "" in fields:
            empty = columns[fields.index("")]
            problems.append(
                Problem(where, number, f"empty {empty}", f"Fill in the {empty} or drop the line.")
            )
        elif "\0" in text:
            what = "a NUL character, which no text holds"
            problems.append(Problem(where, number, what, "Take it out or drop the line."))
        else:
            rows.append(fields)
            numbers.append(number)
    for column, fields in zip(columns, zip(*rows, strict=True), strict=False):
        if len(fields) > 1 and all(len(f) > 1 and f[0] == f[-1] == '"' for f in fields):
            what = f"every {column} stands in quotation marks, as spreadsheets write them"
            remedy = "Save the file without: they would be read as part of it."
            problems.append(Problem(where, numbers[0], what, remedy))
    table = pd.DataFrame(rows, columns=list(columns), dtype="str")
    return table.assign(file=name, line=pd.Series(numbers, dtype="int64"))
