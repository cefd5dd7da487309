"""A knowledge graph as people have it: a folder of text files in one of several layouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pandas as pd
from pydantic import Strict, model_validator

from mkgformer_kedro.datasets.graph_split import SplitParameters, split_triples
from mkgformer_kedro.datasets.numbered_graph import read_numbered
from mkgformer_kedro.datasets.rdf_graph import RdfParameters, read_rdf
from mkgformer_kedro.datasets.text_files import (
    HELP,
    SPLITS,
    TextFolderDataset,
    read_table,
    sha256,
    unpacked,
)
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.parameters import FileName, Parameters, typed

Layout = Literal["tsv", "openke", "pykeen", "rdf"]

_TRIPLE = ("head", "relation", "tail")
_COLUMNS = {
    "entities": ("entity",),
    "relations": ("relation",),
    "entity_texts": ("entity", "text"),
    "entity_long_texts": ("entity", "text"),
    "relation_texts": ("relation", "text"),
    **dict.fromkeys((*SPLITS, "graph"), _TRIPLE),
}
# What files call these columns in a first line that names them.
_HEADERS = {
    "head": {"head", "h", "head_id", "head entity", "subject", "subj", "s", "source", "from"},
    "relation": {"relation", "r", "rel", "relation_id", "predicate", "pred", "p", "property", "id"},
    "tail": {"tail", "t", "tail_id", "tail entity", "object", "obj", "o", "target", "to"},
    "entity": {"entity", "entities", "entity_id", "id", "node", "head", "subject"},
    "text": {"text", "name", "label", "description", "title", "long text", "short text"},
}


class GraphFiles(Parameters):
    """Names of a graph's files inside its folder, by what they hold.

    Attributes:
        graph: All triples, to be split; None: they are split already.
        train: Triples to learn from, ``head<TAB>relation<TAB>tail``.
        dev: Triples to choose a model by.
        test: Triples to report.
        entities: Entity ids, one a line. None: the entities of the triples.
        relations: Relation ids, one a line. None: the relations of the triples.
        entity_texts: ``id<TAB>name`` or ``id<TAB>short text``. None: the ids are the names.
        entity_long_texts: ``id<TAB>description``; the first of these files that is there is read.
        relation_texts: ``id<TAB>text``. None: the ids are the texts.
    """

    graph: FileName | None = None
    train: FileName | None = None
    dev: FileName | None = None
    test: FileName | None = None
    entities: FileName | None = None
    relations: FileName | None = None
    entity_texts: FileName | None = None
    entity_long_texts: Annotated[tuple[FileName, ...], Strict(False)] = ()
    relation_texts: FileName | None = None

    @model_validator(mode="after")
    def _has_triples(self) -> GraphFiles:
        missing = [split for split in SPLITS if getattr(self, split) is None]
        if self.graph is None and missing:
            raise ValueError(
                f"no file for {', '.join(missing)}; name one for each split, or give the whole "
                "graph as 'graph'"
            )
        return self

    def read_in(self, layout: Layout) -> GraphFiles:
        """The files that a layout reads: the graph or its splits, and RDF holds its own texts."""
        unread: dict[str, Any] = dict.fromkeys(SPLITS) if self.graph is not None else {}
        if layout == "rdf":
            unread |= dict.fromkeys(("entities", "relations", "entity_texts", "relation_texts"))
            unread["entity_long_texts"] = ()
        return self.model_copy(update=unread)


@dataclass(frozen=True)
class RawGraph:
    """A graph as its files say it, each row with the ``file`` and the ``line`` it stands on.

    In RDF the ``line`` is the number of the statement.

    Attributes:
        folder: Where the files lie.
        files: Name of the file read for each role of ``GraphFiles`` (roles without a file are
            left out). Of a graph that was split here it is the same file for every split.
        digests: SHA-256 of each file read, by name.
        verified: Names of the files whose digest was compared with a known one.
        triples: ``split``, ``head``, ``relation``, ``tail``.
        entities: ``entity``, or None where no file lists them.
        relations: ``relation``, or None where no file lists them.
        entity_texts: ``entity``, ``text``.
        entity_long_texts: ``entity``, ``text``, or None where there is no such file.
        relation_texts: ``relation``, ``text``.
        problems: Lines that could not be read. They are in none of the tables.
        texts_are_names: Whether ``entity_texts`` holds names for sure, whatever the parameters
            say of the text file.
        image_links: ``entity``, ``path`` (of an image, as the graph names it), or None where the
            layout has none.
        facts: What reading the graph brought to light, for the ingestion report.
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
    texts_are_names: bool = False
    image_links: pd.DataFrame | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class GraphFolderDataset(TextFolderDataset[RawGraph]):
    """Read-only folder of a knowledge graph's text files.

    Files are UTF-8; a byte order mark, CRLF line ends, blank lines and a missing final newline
    are all read alike, and so is a file packed as ``.gz``. Quotation marks mean nothing, and ids
    stay strings.

    Args:
        filepath: The folder.
        files: File names by what they hold, as ``GraphFiles`` names them.
        layout: How triples are written: ``tsv``, by name, one a line; ``openke`` and ``pykeen``,
            by number (:mod:`~.numbered_graph`); ``rdf`` (:mod:`~.rdf_graph`).
        split: How a graph given as ``files.graph`` is split, as ``SplitParameters`` says.
        rdf: What is read of RDF, as ``RdfParameters`` says.
        checksums: SHA-256 by file name, for files that are known. Any other file is accepted.
        metadata: Passed on to plugins such as Kedro-Viz.

    Raises:
        ValueError: A name or value is unknown; the layout lacks a file or its parameters.
    """

    files_class = GraphFiles
    _files: GraphFiles

    def __init__(
        self,
        *,
        filepath: str,
        files: dict[str, Any],
        layout: Layout = "tsv",
        split: dict[str, Any] | None = None,
        rdf: dict[str, Any] | None = None,
        checksums: dict[str, str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath=filepath, files=files, checksums=checksums, metadata=metadata)
        if layout not in get_args(Layout):
            raise self._contradiction(f"layout is {layout!r}; known: {', '.join(get_args(Layout))}")
        self._layout = layout
        self._files = self._files.read_in(layout)
        self._split = None if split is None else typed(SplitParameters, split, "split")
        self._rdf = None if rdf is None else typed(RdfParameters, rdf, "rdf")
        if self._files.graph is not None and self._split is None:
            raise self._contradiction("files.graph is to be split; say how in 'split'")
        if layout == "rdf" and self._rdf is None:
            raise self._contradiction("the layout is rdf; say what to read of it in 'rdf'")
        if layout in ("openke", "pykeen") and None in (self._files.entities, self._files.relations):
            what = f"the layout {layout} needs files.entities and files.relations"
            raise self._contradiction(what)

    @property
    def reading(self) -> dict[str, Any]:
        """Which files are read, and how, of what bears on these files."""
        split = self._split if self._files.graph is not None else None
        rdf = self._rdf if self._layout == "rdf" else None
        return {**super().reading, "layout": self._layout, "split": split, "rdf": rdf}

    def _contradiction(self, what: str) -> DataError:
        remedy = "Correct link_prediction in globals.yml."
        return DataError(Problem(str(self._folder), None, what, remedy))

    def load(self) -> RawGraph:
        """Read every file of the folder.

        Raises:
            DataError: The folder is missing, or files are missing, unreadable or not the known
                ones; all of them are named in the one error. Lines that cannot be read are no
                error yet: they are returned as ``RawGraph.problems``.
        """
        files = self._present_files()
        return self._load_rdf(files) if self._layout == "rdf" else self._load_text(files)

    def _load_text(self, files: dict[str, str]) -> RawGraph:
        packed = self._read(files.values())
        contents = self._unpacked(packed)
        problems: list[Problem] = []
        tables: dict[str, pd.DataFrame] = {}
        plain = files
        if self._layout != "tsv":
            tables = read_numbered(self._layout, self._folder, files, contents, problems)
            plain = {role: name for role, name in files.items() if role not in tables}
        for role, name in plain.items():
            tables[role] = read_table(self._folder, name, contents[name], _COLUMNS[role], problems)
        if self._layout == "tsv":
            _take_out_headers(self._folder, tables, problems)
        return RawGraph(
            folder=self._folder,
            files=_by_split(files),
            digests={name: sha256(content) for name, content in packed.items()},
            verified=self._verified(packed),
            triples=self._splits(tables),
            entities=tables.get("entities"),
            relations=tables.get("relations"),
            entity_texts=tables.get("entity_texts", _no_texts("entity")),
            entity_long_texts=tables.get("entity_long_texts"),
            relation_texts=tables.get("relation_texts", _no_texts("relation")),
            problems=tuple(problems),
            facts=self._facts(),
        )

    def _load_rdf(self, files: dict[str, str]) -> RawGraph:
        digests = self._digests(files.values())
        names = list(dict.fromkeys(files.values()))
        read = read_rdf(self._folder, names, self._rdf)
        tables = {role: read.triples[read.triples["file"] == name] for role, name in files.items()}
        files = _by_split(files)
        texts = dict.fromkeys(("entity_texts", "entity_long_texts", "relation_texts"))
        return RawGraph(
            folder=self._folder,
            files=files | dict.fromkeys(texts, names[0]),
            digests=digests,
            verified=self._verified(digests),
            triples=self._splits(tables),
            entities=None,
            relations=None,
            entity_texts=read.entity_texts,
            entity_long_texts=read.entity_long_texts,
            relation_texts=read.relation_texts,
            problems=tuple(read.problems),
            texts_are_names=True,
            image_links=read.image_links,
            facts=self._facts() | {"rdf": read.counts},
        )

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {} if self._layout == "tsv" else {"layout": self._layout}
        if self._files.graph is not None:
            facts["split_by_this_project"] = self._split.model_dump()
        return facts

    def _splits(self, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
        """The triples of all splits, split by split."""
        if "graph" in tables:
            graph = tables["graph"].reset_index(drop=True)
            split = split_triples(graph, self._split)
            parts = [graph[split == name].assign(split=name) for name in SPLITS]
        else:
            parts = [tables[name].assign(split=name) for name in SPLITS]
        return pd.concat(parts, ignore_index=True)

    def _unpacked(self, packed: dict[str, bytes]) -> dict[str, bytes]:
        contents: dict[str, bytes] = {}
        problems: list[Problem] = []
        for name, content in packed.items():
            where = str(self._folder / name)
            text = unpacked(where, content)
            if isinstance(text, Problem):
                problems.append(text)
            elif not text.strip():
                problems.append(Problem(where, None, "the file is empty", HELP))
            else:
                contents[name] = text
        if problems:
            raise DataError(problems)
        return contents

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


def _by_split(files: dict[str, str]) -> dict[str, str]:
    """File name by role, the whole graph's file for each split."""
    if "graph" not in files:
        return files
    others = {role: name for role, name in files.items() if role != "graph"}
    return dict.fromkeys(SPLITS, files["graph"]) | others


def _no_texts(column: str) -> pd.DataFrame:
    table = pd.DataFrame(columns=[column, "text", "file"], dtype="str")
    return table.assign(line=pd.Series(dtype="int64"))


def _take_out_headers(
    folder: Path, tables: dict[str, pd.DataFrame], problems: list[Problem]
) -> None:
    """Make a problem of each first line that names the columns, and drop it.

    It does where the words are such names and no triple knows them otherwise.
    """
    first = {role: _names_columns(table, _COLUMNS[role]) for role, table in tables.items()}
    triples = pd.concat(
        [tables[role].iloc[int(first[role]) :] for role in tables if _COLUMNS[role] == _TRIPLE]
    )
    for role in [role for role, is_header in first.items() if is_header]:
        table = tables[role]
        words = table.iloc[0][list(_COLUMNS[role])].tolist()
        of_ids = words if _COLUMNS[role] == _TRIPLE else words[:1]
        if not any(triples[column].isin(of_ids).any() for column in _TRIPLE):
            where, line = str(folder / table["file"].iat[0]), int(table["line"].iat[0])
            what = f"a header ({', '.join(words)}) where the first {_ROW[_COLUMNS[role][0]]} stands"
            problems.append(Problem(where, line, what, "Drop the line: the columns are known."))
            tables[role] = table.iloc[1:].reset_index(drop=True)


_ROW = {"head": "triple", "entity": "entity", "relation": "relation"}


def _names_columns(table: pd.DataFrame, columns: Sequence[str]) -> bool:
    if table.empty:
        return False
    first = table.iloc[0]
    return all(first[column].strip(" #").casefold() in _HEADERS[column] for column in columns)
