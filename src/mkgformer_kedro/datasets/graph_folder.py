"""A knowledge graph as people have it: a folder of tab-separated text files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
from kedro.io import AbstractDataset, DatasetError

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.parameters import Parameters

SPLITS = ("train", "dev", "test")

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_HELP = "docs/data.md says where the files come from and where to put them."
_COLUMNS = {
    "entities": ("entity",),
    "relations": ("relation",),
    "entity_texts": ("entity", "text"),
    "entity_long_texts": ("entity", "text"),
    "relation_texts": ("relation", "text"),
    **dict.fromkeys(SPLITS, ("head", "relation", "tail")),
}


class GraphFiles(Parameters):
    """Names of a graph's files inside its folder, by what they hold.

    Attributes:
        train: Triples to learn from, ``head<TAB>relation<TAB>tail``.
        dev: Triples to choose a model by.
        test: Triples to report.
        entities: Entity ids, one a line. None: the entities of the triples.
        relations: Relation ids, one a line. None: the relations of the triples.
        entity_texts: ``id<TAB>name`` or ``id<TAB>short text``.
        entity_long_texts: ``id<TAB>description``; the first of these files that is there is read.
        relation_texts: ``id<TAB>text``.
    """

    train: str
    dev: str
    test: str
    entities: str | None = None
    relations: str | None = None
    entity_texts: str
    entity_long_texts: tuple[str, ...] = ()
    relation_texts: str


@dataclass(frozen=True)
class RawGraph:
    """A graph as its files say it, each row with the ``file`` and the ``line`` it stands on.

    Attributes:
        folder: Where the files lie.
        files: Name of the file read for each role of ``GraphFiles`` (roles without a file are
            left out).
        digests: SHA-256 of each file read, by name.
        verified: Names of the files whose digest was compared with a known one.
        triples: ``split``, ``head``, ``relation``, ``tail``.
        entities: ``entity``, or None where no file lists them.
        relations: ``relation``, or None where no file lists them.
        entity_texts: ``entity``, ``text``.
        entity_long_texts: ``entity``, ``text``, or None where there is no such file.
        relation_texts: ``relation``, ``text``.
        problems: Lines that could not be read. They are in none of the tables.
    """

    folder: Path
    files: dict[str, str]
    digests: dict[str, str]
    verified: tuple[str, ...]
    triples: pd.DataFrame
    entities: pd.DataFrame | None
    relations: pd.DataFrame | None
    entity_texts: pd.DataFrame
    entity_long_texts: pd.DataFrame | None
    relation_texts: pd.DataFrame
    problems: tuple[Problem, ...]


class GraphFolderDataset(AbstractDataset[NoReturn, RawGraph]):
    """Read-only folder of a knowledge graph's text files.

    Files are UTF-8; a byte order mark, CRLF line ends, blank lines and a missing final newline
    are all read alike. Quotation marks mean nothing, and ids stay strings.

    Args:
        filepath: The folder.
        files: File names by what they hold, as ``GraphFiles`` names them.
        checksums: SHA-256 by file name, for files that are known. Any other file is accepted.
        metadata: Passed on to plugins such as Kedro-Viz.
    """

    def __init__(
        self,
        *,
        filepath: str,
        files: dict[str, Any],
        checksums: dict[str, str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._folder = Path(filepath)
        self._files = GraphFiles(**files)
        self._checksums = checksums or {}
        self.metadata = metadata

    def load(self) -> RawGraph:
        """Read every file of the folder.

        Raises:
            DataError: The folder is missing, or files are missing, unreadable or not the known
                ones; all of them are named in the one error. Lines that cannot be read are no
                error yet: they are returned as ``RawGraph.problems``.
        """
        files = self._present_files()
        contents = self._read(files.values())
        problems: list[Problem] = []
        tables = {
            role: _parse(self._folder, name, contents[name], _COLUMNS[role], problems)
            for role, name in files.items()
        }
        triples = [tables[split].assign(split=split) for split in SPLITS]
        return RawGraph(
            folder=self._folder,
            files=files,
            digests={name: _sha256(content) for name, content in contents.items()},
            verified=tuple(name for name in contents if self._checksums.get(name)),
            triples=pd.concat(triples, ignore_index=True),
            entities=tables.get("entities"),
            relations=tables.get("relations"),
            entity_texts=tables["entity_texts"],
            entity_long_texts=tables.get("entity_long_texts"),
            relation_texts=tables["relation_texts"],
            problems=tuple(problems),
        )

    def save(self, data: NoReturn) -> None:
        """Refuse: raw data is put there by people."""
        raise DatasetError(f"{self._folder} holds raw data, which is read and never written.")

    def _exists(self) -> bool:
        return self._folder.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._folder)}

    def _present_files(self) -> dict[str, str]:
        """The file to read for each role."""
        if not self._folder.is_dir():
            raise DataError(Problem(str(self._folder), None, "no such folder", _HELP))
        files: dict[str, str] = {}
        for role, names in self._files.model_dump(exclude_none=True).items():
            choices = [names] if isinstance(names, str) else names
            there = [name for name in choices if (self._folder / name).exists()]
            if choices:
                files[role] = (there or choices)[0]
        return files

    def _read(self, names: Iterable[str]) -> dict[str, bytes]:
        """The bytes of each file, once every one of them is known to be usable."""
        contents: dict[str, bytes] = {}
        problems: list[Problem] = []
        for name in names:
            path = self._folder / name
            try:
                contents[name] = path.read_bytes()
            except FileNotFoundError:
                problems.append(self._missing(name))
            except OSError as error:
                what = f"cannot be read ({error.strerror})"
                problems.append(Problem(str(path), None, what, "Make it a readable file."))
            else:
                problems += self._unusable(name, contents[name])
        if problems:
            raise DataError(problems)
        return contents

    def _unusable(self, name: str, content: bytes) -> list[Problem]:
        path = str(self._folder / name)
        if not content.strip():
            return [Problem(path, None, "the file is empty", _HELP)]
        expected, found = self._checksums.get(name), _sha256(content)
        if not expected or found == expected:
            return []
        what = f"differs from the published file (SHA-256 {found} instead of {expected})"
        remedy = f"{_HELP} To use this one all the same, set its checksum to null in globals.yml."
        return [Problem(path, None, what, remedy)]

    def _missing(self, name: str) -> Problem:
        long_texts = self._files.entity_long_texts
        if name not in long_texts:
            return Problem(str(self._folder / name), None, "no such file", _HELP)
        return Problem(
            str(self._folder / name),
            None,
            "no such file" + "".join(f", nor {other}" for other in long_texts[1:]),
            f"{_HELP} To go without descriptions, set entity_long_texts to [].",
        )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _parse(
    folder: Path,
    name: str,
    content: bytes,
    columns: tuple[str, ...],
    problems: list[Problem],
) -> pd.DataFrame:
    """Split a file into rows; add the lines that cannot be split to ``problems``."""
    where = str(folder / name)
    rows: list[list[str]] = []
    numbers: list[int] = []
    # Lines end with \n or \r\n only: texts may hold characters that str.splitlines would cut at.
    for number, raw in enumerate(content.removeprefix(_BYTE_ORDER_MARK).split(b"\n"), start=1):
        line = raw.removesuffix(b"\r")
        if not line:
            continue
        try:
            fields = [field.strip() for field in line.decode("utf-8").split("\t")]
        except UnicodeDecodeError as error:
            what = f"not UTF-8 (byte 0x{line[error.start]:02x} at column {error.start + 1})"
            problems.append(Problem(where, number, what, "Save the file as UTF-8."))
            continue
        if len(fields) != len(columns):
            what = f"{len(fields)} columns instead of {len(columns)}"
            remedy = f"Write {' <tab> '.join(columns)}."
            problems.append(Problem(where, number, what, remedy))
        elif "" in fields:
            empty = columns[fields.index("")]
            problems.append(
                Problem(where, number, f"empty {empty}", f"Fill in the {empty} or drop the line.")
            )
        else:
            rows.append(fields)
            numbers.append(number)
    table = pd.DataFrame(rows, columns=list(columns), dtype="str")
    return table.assign(file=name, line=pd.Series(numbers, dtype="int64"))
