"""Graphs whose triples are numbers, with lists that say what each number stands for.

OpenKE's files begin with a line that counts the others; a triple is ``head tail relation``, in
this order, an entity or relation ``name number``, parted by blanks. PyKEEN's
(``TriplesFactory.to_path_binary``) are tab-separated with a header; a triple is ``head relation
tail``, an entity or relation ``id label``. PyKEEN's pickle ``base.pth`` is never opened.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from mkgformer_kedro.datasets.text_files import (
    SPLITS,
    decoded,
    numbered_lines,
    wrong_columns,
)
from mkgformer_kedro.errors import Problem

_TRIPLE = ("head", "relation", "tail")
_ID = ("name", "number")
_LISTS = {"entities": "entity", "relations": "relation"}
_PLURALS = {"entity": "entities", "relation": "relations"}

Row = tuple[int, list[str]]


def read_numbered(
    layout: Literal["openke", "pykeen"],
    folder: Path,
    files: dict[str, str],
    contents: dict[str, bytes],
    problems: list[Problem],
) -> dict[str, pd.DataFrame]:
    """Read the triples and the lists of entities and relations, and put names for numbers.

    Args:
        layout: Whose files they are.
        folder: Where they lie.
        files: File name by role; the roles are those of splits (or ``graph``), ``entities`` and
            ``relations``.
        contents: Their unpacked bytes by name.
        problems: Takes the lines that cannot be used.

    Returns:
        By role, tables as :func:`~.text_files.read_table` returns them: triples by name, and
        entities and relations in the order of their numbers.
    """
    read = _READERS[layout]
    names: dict[str, pd.Series] = {}
    tables = {}
    for role, column in _LISTS.items():
        table = _table(folder, files[role], _ID, read, contents, problems)
        ids = _distinct_numbers(folder, table, problems)
        ids = ids.sort_values("number", key=lambda numbers: numbers.astype("int64"))
        names[column] = ids.set_index("number")["name"]
        tables[role] = ids[["name", "file", "line"]].rename(columns={"name": column})
    names["head"] = names["tail"] = names["entity"]
    for role in (*SPLITS, "graph"):
        if role in files:
            table = _table(folder, files[role], _TRIPLE, read, contents, problems)
            tables[role] = _named(folder, table, names, problems)
    return {role: table.reset_index(drop=True) for role, table in tables.items()}


def _counted(
    where: str, content: bytes, columns: tuple[str, ...], problems: list[Problem]
) -> Iterator[Row]:
    """Rows of a file of OpenKE's."""
    lines = (line for line in _texts(where, content, problems) if line[1].strip())
    number, first = next(lines, (1, ""))
    count = first.strip()
    if not _is_number(count):
        what = f"'{count}' is not the number of the lines below"
        problems.append(Problem(where, number, what, "Begin the file with their number."))
    found = 0
    for number, line in lines:
        found += 1
        if columns == _ID:
            fields = [field.strip() for field in line.rsplit(None, 1)]
        else:
            fields = line.split()
            if len(fields) == len(columns):
                head, tail, relation = fields
                fields = [head, relation, tail]
        yield number, fields
    if _is_number(count) and int(count) != found:
        what = f"the first line says {int(count):,} lines, and {found:,} follow"
        problems.append(Problem(where, 1, what, "Get the whole file, or correct the number."))


def _with_header(
    where: str, content: bytes, columns: tuple[str, ...], problems: list[Problem]
) -> Iterator[Row]:
    """Rows of a file of PyKEEN's."""
    lines = _texts(where, content, problems)
    rows = csv.reader((line for _, line in lines), delimiter="\t")
    header = _next_row(rows, where, problems) or []
    wanted = ["label", "id"] if columns == _ID else list(columns)
    if sorted(header) != sorted(wanted):
        what = f"the first line is no header of the columns {', '.join(sorted(wanted))}"
        problems.append(Problem(where, 1, what, "Get the file as PyKEEN wrote it."))
        return
    order = [header.index(column) for column in wanted]
    while (row := _next_row(rows, where, problems)) is not None:
        if row:
            yield rows.line_num, [row[i] for i in order] if len(row) == len(order) else row


_Reader = Callable[[str, bytes, tuple[str, ...], list[Problem]], Iterator[Row]]
_READERS: dict[str, _Reader] = {"openke": _counted, "pykeen": _with_header}


def _texts(where: str, content: bytes, problems: list[Problem]) -> Iterator[tuple[int, str]]:
    for number, line in numbered_lines(content):
        text = decoded(where, number, line)
        if isinstance(text, Problem):
            problems.append(text)
        elif "\0" in text:
            what = "a NUL character, which no text holds"
            problems.append(Problem(where, number, what, "Take it out or drop the line."))
        else:
            yield number, text


def _next_row(rows: Any, where: str, problems: list[Problem]) -> list[str] | None:
    try:
        return next(rows, None)
    except csv.Error as error:
        what = f"not a line of tab-separated values ({error})"
        problems.append(Problem(where, rows.line_num, what, "Get the file as PyKEEN wrote it."))
        return None


def _table(
    folder: Path,
    name: str,
    columns: tuple[str, ...],
    read: _Reader,
    contents: dict[str, bytes],
    problems: list[Problem],
) -> pd.DataFrame:
    where = str(folder / name)
    rows: list[list[str]] = []
    numbers: list[int] = []
    for number, fields in read(where, contents[name], columns, problems):
        numeric = fields[1:] if columns == _ID else fields
        if len(fields) != len(columns):
            problems.append(wrong_columns(where, number, fields, columns))
        elif not fields[0]:
            what = f"empty {columns[0]}"
            problems.append(Problem(where, number, what, "Fill it in or drop the line."))
        elif not all(map(_is_number, numeric)):
            wrong = next(field for field in numeric if not _is_number(field))
            remedy = "Correct or drop the line; docs/rdf.md shows the layouts."
            problems.append(Problem(where, number, f"'{wrong}' is not a number", remedy))
        else:
            rows.append(fields)
            numbers.append(number)
    table = pd.DataFrame(rows, columns=list(columns), dtype="str")
    return table.assign(file=name, line=pd.Series(numbers, dtype="int64"))


def _distinct_numbers(folder: Path, ids: pd.DataFrame, problems: list[Problem]) -> pd.DataFrame:
    repeats = ids.duplicated("number")
    for row in ids[repeats].itertuples():
        what = f"the number {row.number} is given twice"
        problems.append(Problem(str(folder / row.file), row.line, what, "Number each id once."))
    return ids[~repeats]


def _named(
    folder: Path, triples: pd.DataFrame, names: dict[str, pd.Series], problems: list[Problem]
) -> pd.DataFrame:
    """The triples with names for numbers; those with a number that has none are left out."""
    named = triples.assign(**{column: triples[column].map(names[column]) for column in _TRIPLE})
    unknown = named[list(_TRIPLE)].isna()
    for position in unknown.index[unknown.any(axis=1)]:
        column = next(column for column in _TRIPLE if unknown.at[position, column])
        row = triples.loc[position]
        kind = "relation" if column == "relation" else "entity"
        what = f"no {kind} has the number {row[column]}"
        remedy = f"Add it to the list of {_PLURALS[kind]}, or correct or drop the triple."
        problems.append(Problem(str(folder / row["file"]), int(row["line"]), what, remedy))
    return named[~unknown.any(axis=1)]


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10 and text == str(int(text))
