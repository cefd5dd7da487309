"""A knowledge graph as people have it: a folder of tab-separated text files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mkgformer_kedro.datasets.text_files import (
    HELP,
    SPLITS,
    TextFolderDataset,
    read_table,
    sha256,
)
from mkgformer_kedro.errors import Problem
from mkgformer_kedro.parameters import Parameters

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


class GraphFolderDataset(TextFolderDataset[RawGraph]):
    """Read-only folder of a knowledge graph's text files.

    Files are UTF-8; a byte order mark, CRLF line ends, blank lines and a missing final newline
    are all read alike. Quotation marks mean nothing, and ids stay strings.

    Args:
        filepath: The folder.
        files: File names by what they hold, as ``GraphFiles`` names them.
        checksums: SHA-256 by file name, for files that are known. Any other file is accepted.
        metadata: Passed on to plugins such as Kedro-Viz.
    """

    files_class = GraphFiles
    _files: GraphFiles

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
            role: read_table(self._folder, name, contents[name], _COLUMNS[role], problems)
            for role, name in files.items()
        }
        triples = [tables[split].assign(split=split) for split in SPLITS]
        return RawGraph(
            folder=self._folder,
            files=files,
            digests={name: sha256(content) for name, content in contents.items()},
            verified=self._verified(contents),
            triples=pd.concat(triples, ignore_index=True),
            entities=tables.get("entities"),
            relations=tables.get("relations"),
            entity_texts=tables["entity_texts"],
            entity_long_texts=tables.get("entity_long_texts"),
            relation_texts=tables["relation_texts"],
            problems=tuple(problems),
        )

    def _missing(self, name: str) -> Problem:
        long_texts = self._files.entity_long_texts
        if name not in long_texts:
            return super()._missing(name)
        return Problem(
            str(self._folder / name),
            None,
            "no such file" + "".join(f", nor {other}" for other in long_texts[1:]),
            f"{HELP} To go without descriptions, set entity_long_texts to [].",
        )
