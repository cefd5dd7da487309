"""RDF as a graph to learn from: triples of entities, their names, descriptions and images.

Read by pyoxigraph, statement by statement: what is held in memory is the graph, never the file.
Of 200,000 statements of N-Triples (Turtle) it takes 0.2 s (0.3 s), rdflib 5.6 s (11.8 s).
"""

from __future__ import annotations

import gzip
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyoxigraph as ox
from pydantic import model_validator

from mkgformer_kedro.datasets.text_files import BYTE_ORDER_MARK, HELP, damaged_archive
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.parameters import Names, Parameters
from mkgformer_kedro.progress import Progress

MAX_TEXT = 1_000_000
"""Longest name, description or kept literal, in characters; the parser's own limit is 16 MiB."""

_FORMATS = {".nt": "N_TRIPLES", ".nq": "N_QUADS", ".ttl": "TURTLE", ".trig": "TRIG"}
_REPORT_EVERY = 100_000
_DEFAULT_GRAPH = "default"
# Of a file, in bytes, on every usual file system.
_LONGEST_NAME = 255


class RdfParameters(Parameters):
    """What of RDF becomes the graph.

    Predicates are written as IRIs, in full or with a prefix of ``prefixes``.

    Attributes:
        label: Predicates whose texts name entities and relations; the first of them that has one.
        description: Predicates whose texts describe entities, likewise.
        image: Predicates that link entities to images.
        ignored: Predicates that are no relations; their statements are counted and left out.
        languages: Languages of texts by preference; ``""`` is a text without language, ``en``
            also stands for ``en-GB``. Other languages are not read.
        literals: Whether statements whose object is a literal are left out, or kept with the
            literal as an entity.
        blank_nodes: The same of statements about or with blank nodes.
        named_graphs: IRIs of the named graphs to read (``default``: outside of any); None: all.
        base: What relative IRIs are relative to where the file does not say. Image links below
            it are local paths.
        prefixes: Namespace by prefix, for the predicates above.
    """

    label: Names
    description: Names
    image: Names
    ignored: Names
    languages: Names
    literals: Literal["leave_out", "keep"]
    blank_nodes: Literal["leave_out", "keep"]
    named_graphs: Names | None
    base: str | None
    prefixes: dict[str, str]

    @model_validator(mode="after")
    def _knows_prefixes(self) -> RdfParameters:
        for role in ("label", "description", "image", "ignored"):
            for name in getattr(self, role):
                self.iri(name)
        return self

    def iri(self, name: str) -> str:
        """The IRI that a configured name stands for.

        Raises:
            ValueError: It is neither an IRI nor has a known prefix.
        """
        prefix, colon, local = name.partition(":")
        if colon and prefix in self.prefixes:
            return self.prefixes[prefix] + local
        if not re.match(r"[A-Za-z][\w+.-]*:(//|[^/]+:|[^/]*/)", name):
            known = ", ".join(self.prefixes) or "none"
            raise ValueError(
                f"'{name}' is no IRI, and no prefix '{prefix}' is known; prefixes has: {known}"
            )
        return name


@dataclass
class RdfGraph:
    """What was read of the files.

    Attributes:
        triples: ``head``, ``relation``, ``tail``, ``file``, ``line`` (number of the statement).
        entity_texts: ``entity``, ``text``, ``file``, ``line``: names.
        entity_long_texts: The same of descriptions.
        relation_texts: ``relation``, ``text``, ``file``, ``line``.
        image_links: ``entity``, ``path``, ``file``, ``line``.
        problems: Statements that cannot be used.
        counts: Statements by what became of them, and what else was counted.
    """

    triples: pd.DataFrame
    entity_texts: pd.DataFrame
    entity_long_texts: pd.DataFrame
    relation_texts: pd.DataFrame
    image_links: pd.DataFrame
    problems: list[Problem]
    counts: dict[str, int]


def read_rdf(folder: Path, names: Sequence[str], parameters: RdfParameters) -> RdfGraph:
    """Read RDF files as one graph.

    Entities go by their IRIs, blank nodes by ``_:b1``, ``_:b2`` in the order in which they come,
    kept literals as N-Triples write them. An entity or relation without a name is called by the
    last part of its IRI. Statements about a relation are none of the graph.

    Args:
        folder: Where the files lie.
        names: Their names; the suffix says the format (``.nt``, ``.nq``, ``.ttl``, ``.trig``,
            each also ``.gz``).
        parameters: What to read.

    Raises:
        DataError: A file is none of these, damaged, empty or wrong, or no statement is a triple.
    """
    unknown = [_unknown_suffix(folder / name) for name in names if _format(name) is None]
    if unknown:
        raise DataError(unknown)
    reading = _Reading(parameters)
    for name in names:
        reading.read(folder / name, name)
    return reading.graph(folder)


def term(name: str) -> ox.NamedNode | ox.BlankNode | ox.Literal:
    """What :func:`read_rdf` named so."""
    if name.startswith("_:"):
        return ox.BlankNode(name.removeprefix("_:"))
    if name.startswith('"'):
        (quad,) = ox.parse(f"<urn:s> <urn:p> {name} .", format=ox.RdfFormat.N_TRIPLES)
        return quad.object
    return ox.NamedNode(name)


@dataclass
class _Text:
    """The best text so far of an entity or relation, and where it stands."""

    rank: tuple[int, int]
    text: str
    file: int
    line: int


@dataclass
class _Reading:
    """The graph while it is read; ids are numbered as they come."""

    parameters: RdfParameters
    numbers: dict[str, int] = field(default_factory=dict)
    blank: dict[tuple[int, str], str] = field(default_factory=dict)
    columns: list[array] = field(default_factory=lambda: [array("i") for _ in range(5)])
    labels: dict[int, _Text] = field(default_factory=dict)
    descriptions: dict[int, _Text] = field(default_factory=dict)
    images: dict[tuple[int, str], tuple[int, int]] = field(default_factory=dict)
    literal_texts: dict[int, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    files: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        of = self.parameters
        self.label = {of.iri(name): rank for rank, name in enumerate(of.label)}
        self.description = {of.iri(name): rank for rank, name in enumerate(of.description)}
        self.image = {of.iri(name) for name in of.image}
        self.ignored = {of.iri(name) for name in of.ignored}
        self.graphs = None if of.named_graphs is None else set(of.named_graphs)

    def read(self, path: Path, name: str) -> None:
        """Read one file."""
        self.files.append(name)
        before = self.counts["statements"]
        kind = getattr(ox.RdfFormat, _format(name))
        with (
            _errors_of(path),
            Progress(f"Reading {name}", path.stat().st_size, "bytes") as progress,
            _opened(path) as (stream, place),
        ):
            done = 0
            quads = ox.parse(input=stream, format=kind, base_iri=self.parameters.base)
            for line, quad in enumerate(quads, start=1):
                self._take(quad, len(self.files) - 1, line, path)
                if line % _REPORT_EVERY == 0:
                    progress.advance(place() - done)
                    done = place()
        if self.counts["statements"] == before:
            raise DataError(Problem(str(path), None, "the file holds no statement", HELP))

    def _take(self, quad: Any, file: int, line: int, path: Path) -> None:
        """Sort one statement into what it is."""
        self.counts["statements"] += 1
        if self.graphs is not None:
            graph = quad.graph_name
            named = graph.value if isinstance(graph, ox.NamedNode) else _DEFAULT_GRAPH
            if named not in self.graphs:
                self.counts["in_other_graphs"] += 1
                return
        predicate, value = quad.predicate.value, quad.object
        if predicate in self.ignored:
            self.counts["ignored"] += 1
        elif isinstance(value, ox.Triple):
            self.counts["about_statements"] += 1
        elif isinstance(quad.subject, ox.BlankNode) and self.parameters.blank_nodes == "leave_out":
            self.counts["with_blank_nodes"] += 1
        elif predicate in self.label:
            self._text("labels", self.labels, self.label[predicate], quad, file, line, path)
        elif predicate in self.description:
            rank = self.description[predicate]
            self._text("descriptions", self.descriptions, rank, quad, file, line, path)
        elif predicate in self.image:
            self._link(quad, file, line)
        elif isinstance(value, ox.Literal) and self.parameters.literals == "leave_out":
            self.counts["with_literals"] += 1
        elif isinstance(value, ox.BlankNode) and self.parameters.blank_nodes == "leave_out":
            self.counts["with_blank_nodes"] += 1
        elif isinstance(value, ox.Literal) and not self._usable(value.value, line, path):
            return
        else:
            ends = (self._number(quad.subject, file), self._number(value, file))
            row = (ends[0], self._number(quad.predicate, file), ends[1], file, line)
            for column, cell in zip(self.columns, row, strict=True):
                column.append(cell)

    def _number(self, term: Any, file: int) -> int:
        if isinstance(term, ox.BlankNode):
            key = (file, term.value)
            name = self.blank.setdefault(key, f"_:b{len(self.blank) + 1}")
        elif isinstance(term, ox.Literal):
            name = str(term)
        else:
            name = term.value
        number = self.numbers.setdefault(name, len(self.numbers))
        if isinstance(term, ox.Literal):
            self.literal_texts.setdefault(number, _plain(term.value) or name)
        return number

    def _text(
        self,
        what: str,
        texts: dict[int, _Text],
        rank: int,
        quad: Any,
        file: int,
        line: int,
        path: Path,
    ) -> None:
        """Keep a text where it is better than what its subject has."""
        value = quad.object
        self.counts[what] += 1
        if not isinstance(value, ox.Literal) or not _plain(value.value):
            self.counts[f"{what}_that_are_no_text"] += 1
            return
        language = self._preference(value.language or "")
        if language is None:
            self.counts[f"{what}_in_other_languages"] += 1
            return
        if self._usable(value.value, line, path):
            number, text = self._number(quad.subject, file), _plain(value.value)
            best = texts.get(number)
            if best is None or (rank, language) < best.rank:
                texts[number] = _Text((rank, language), text, file, line)

    def _preference(self, language: str) -> int | None:
        language = language.casefold()
        for rank, wanted in enumerate(self.parameters.languages):
            if language == wanted.casefold() or (
                wanted and language.startswith(f"{wanted.casefold()}-")
            ):
                return rank
        return None

    def _usable(self, text: str, line: int, path: Path) -> bool:
        what = None
        if len(text) > MAX_TEXT:
            what = f"a text of {len(text):,} characters, more than the {MAX_TEXT:,} of a long book"
        elif "\0" in text:
            what = "a NUL character, which no text holds"
        if what is not None:
            remedy = "Shorten it or drop the statement."
            self.problems.append(Problem(str(path), None, f"statement {line}: {what}", remedy))
        return what is None

    def _link(self, quad: Any, file: int, line: int) -> None:
        """Keep a link to a local image; count any other."""
        is_node = isinstance(quad.object, ox.BlankNode)
        path = None if is_node else self._local(quad.object.value)
        self.counts["image_links"] += 1
        if path is None:
            self.counts["image_links_elsewhere"] += 1
        else:
            self.images.setdefault((self._number(quad.subject, file), path), (file, line))

    def _local(self, link: str) -> str | None:
        """The relative path that a link is, None where it leads to the net or out of the folder."""
        base = self.parameters.base
        if base and link.startswith(base):
            link = unquote(link.removeprefix(base))
        elif re.match(r"[A-Za-z][\w+.-]*:", link):
            return None
        path = PurePosixPath(link.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or not path.name or "\0" in link:
            return None
        if any(len(part.encode()) > _LONGEST_NAME for part in path.parts):
            return None
        return path.as_posix()

    def graph(self, folder: Path) -> RdfGraph:
        """Put what was read into tables."""
        names = np.array(list(self.numbers), dtype=object)
        head, relation, tail, file, line = (
            np.frombuffer(column, dtype=np.int32) if column else np.zeros(0, np.int32)
            for column in self.columns
        )
        is_relation = np.zeros(len(names), dtype=bool)
        is_relation[relation] = True
        kept = ~(is_relation[head] | is_relation[tail])
        self.counts["about_relations"] += int((~kept).sum())
        self.counts["triples"] += int(kept.sum())
        if not kept.any():
            what = "no statement is a triple of two entities"
            counted = ", ".join(f"{count:,} {name}" for name, count in self.counts.items() if count)
            remedy = f"Set rdf (label, ignored, literals, ...) in globals.yml ({counted})."
            raise DataError(Problem(str(folder / self.files[0]), None, what, remedy))
        files = np.array(self.files, dtype=object)
        triples = pd.DataFrame(
            {
                **{
                    column: pd.array(names[numbers[kept]], dtype="str")
                    for column, numbers in (("head", head), ("relation", relation), ("tail", tail))
                },
                "file": pd.array(files[file[kept]], dtype="str"),
                "line": line[kept].astype("int64"),
            }
        )
        # Only what is in a triple needs a name; whatever else has one may be a candidate.
        of_relations = {
            number: self.labels.pop(number, None) for number in np.unique(relation[kept])
        }
        of_entities: dict[int, _Text | None] = dict.fromkeys(
            np.unique(np.concatenate([head[kept], tail[kept]])).tolist()
        )
        of_entities |= {n: text for n, text in self.labels.items() if not is_relation[n]}
        self.counts["entities_named_by_their_ids"] = _unnamed(of_entities)
        self.counts["relations_named_by_their_ids"] = _unnamed(of_relations)
        described = {n: text for n, text in self.descriptions.items() if not is_relation[n]}
        links = [(names[n], path, *where) for (n, path), where in sorted(self.images.items())]
        return RdfGraph(
            triples=triples,
            entity_texts=self._table("entity", names, of_entities),
            entity_long_texts=self._table("entity", names, described),
            relation_texts=self._table("relation", names, of_relations),
            image_links=self._frame(["entity", "path"], links),
            problems=self.problems,
            counts=dict(self.counts),
        )

    def _table(self, column: str, names: np.ndarray, texts: dict[int, Any]) -> pd.DataFrame:
        rows = []
        for number, text in sorted(texts.items()):
            if text is None:
                name = self.literal_texts.get(number) or _last_part(names[number])
                text = _Text((0, 0), name, 0, 0)
            rows.append((names[number], text.text, text.file, text.line))
        return self._frame([column, "text"], rows)

    def _frame(self, columns: list[str], rows: list[tuple]) -> pd.DataFrame:
        table = pd.DataFrame(rows, columns=[*columns, "file", "line"])
        table["file"] = [self.files[number] for number in table["file"]]
        return table.astype({**dict.fromkeys(columns, "str"), "file": "str", "line": "int64"})


def _unnamed(texts: dict[int, Any]) -> int:
    return sum(text is None for text in texts.values())


def _plain(text: str) -> str:
    """A text on one line, without blanks around it."""
    return " ".join(text.split())


def _last_part(iri: str) -> str:
    """What an IRI says to a reader: its last part, ``birthPlace`` as "birth place"."""
    part = unquote(re.split(r"[/#:]", iri.rstrip("/#:"))[-1])
    part = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", part.replace("_", " ")) if part else ""
    return _plain(part.lower() if " " in part and part[:1].islower() else part) or iri


def _format(name: str) -> str | None:
    return _FORMATS.get(PurePosixPath(name.removesuffix(".gz")).suffix)


def _unknown_suffix(path: Path) -> Problem:
    what = f"the suffix '{path.suffix}' stands for no RDF that is read"
    known = ", ".join(_FORMATS)
    return Problem(
        str(path), None, what, f"Convert the file to one of {known} (also with .gz behind it)."
    )


@contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], Any]]:
    """The unpacked stream of a file behind its byte order mark, and how far the file is read."""
    with path.open("rb") as raw:
        stream: Any = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        if stream.read(len(BYTE_ORDER_MARK)) != BYTE_ORDER_MARK:
            stream.seek(0)
        yield stream, raw.tell


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """One clear error for whatever ends the reading of a file."""
    try:
        yield
    except SyntaxError as error:
        what = re.sub(r"^Parser error at line \d+ ", "", error.msg)
        remedy = "Correct the file, or have it written anew."
        if "No scheme found" in error.msg:
            what = "a relative IRI, and nothing says what it is relative to"
            remedy = "Write @base into the file, or set rdf.base in globals.yml."
        raise DataError(Problem(str(path), error.lineno, what, remedy)) from error
    except MemoryError as error:
        what = "a value longer than 16 MiB"
        raise DataError(
            Problem(str(path), None, what, "Shorten it or drop the statement.")
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(damaged_archive(str(path), error)) from error
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise DataError(Problem(str(path), None, what, "Make it a readable file.")) from error
