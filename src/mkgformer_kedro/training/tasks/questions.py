"""What a person may ask: tables checked as files are, with one clear error for each mistake."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import is_utf8
from mkgformer_kedro.parameters import did_you_mean

# A near miss is looked for among so many ids at most: among more it takes seconds.
_MOST_COMPARED = 20_000
# Words as corpora of posts have them: links, names and tags whole, punctuation on its own. Marks
# and joiners belong to what they follow; what follows a joiner belongs to it.
_MARK, _NON_JOINER, _JOINER = "\u0301", "\u200c", "\u200d"
_ON = _MARK + _NON_JOINER + _JOINER
_WORD = re.compile(
    rf"https?://\S+|[@#]?\w[\w{_ON}]*(?:['’-]\w[\w{_ON}]*)*"
    rf"|[^\w\s][{_ON}]*(?:(?<={_JOINER})[^\w\s][{_ON}]*)*"
)


def wrong(question: Any, what: str, remedy: str) -> DataError:
    """The error for one question, which its index in the table names."""
    return DataError(Problem(f"question {question}", None, what, remedy))


def split_text(text: str) -> list[str]:
    """Split a text into words."""
    # `re` knows no class of marks: one of them stands for all.
    marked = "".join(_MARK if unicodedata.category(each)[0] == "M" else each for each in text)
    return [text[slice(*found.span())] for found in _WORD.finditer(marked)]


def check_columns(
    table: Any,
    needed: Iterable[str],
    known: Sequence[str] | None = None,
    of: tuple[str, str] = ("questions", "a question"),
) -> None:
    """See to it that a table has its columns once, no others, and at least one row.

    Args:
        table: A row for each question, or whatever ``of`` says.
        needed: Columns that it must have.
        known: Columns that it can have; None: any.
        of: What the table holds, and what one of them is called.

    Raises:
        DataError: It is otherwise, or no table.
    """
    many, one = of
    problem = None
    if not isinstance(table, pd.DataFrame):
        problem = f"a {type(table).__name__}, no table", "Give a pandas.DataFrame."
    elif known and (unknown := [name for name in table if name not in known]):
        hint = did_you_mean(unknown[0], known)
        problem = f"no part of {one}: {unknown[0]}", f"{hint} Leave out what is none."
    elif missing := [name for name in needed if name not in table]:
        problem = f"missing: {', '.join(missing)}", f"Give all parts of {one}."
    elif not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        problem = f"the column {twice} is there twice", "Leave out one of them."
    elif table.empty:
        problem = "there are none", "Give at least one."
    if problem:
        raise DataError(Problem(many, None, *problem))


def read_words(table: pd.DataFrame) -> pd.Series:
    """The words of each post: the column ``words``, or ``text`` split into words.

    Raises:
        DataError: Neither is there, both are, or a post has no words.
    """
    given = [name for name in ("words", "text") if name in table]
    if len(given) != 1:
        what = "both `words` and `text` are given" if given else "missing: words, or text"
        raise DataError(Problem("questions", None, what, "Give either words or a text."))
    check_columns(table, given)
    read = _words if given == ["words"] else _words_of_text
    rows = [read(index, value) for index, value in table[given[0]].items()]
    return pd.Series(rows, index=table.index, dtype=object)


def read_span(question: Any, name: str, words: Sequence[str], mention: Any) -> tuple[int, int]:
    """A mention as a span of words.

    Args:
        question: Index of the question.
        name: Which mention it is.
        words: The post's words.
        mention: ``(start, end)``, counted in words from 0, end exclusive; or the mention's text,
            which must occur exactly once.

    Raises:
        DataError: There is no such span.
    """
    if isinstance(mention, str):
        return _find(question, name, words, mention)
    remedy = f"Give {name} as (start, end): its first word, and the word behind its last."
    mention = _plain(mention)
    is_pair = isinstance(mention, Sequence) and len(mention) == 2
    if not is_pair or not all(is_whole(each) for each in mention):
        raise wrong(question, f"{name} is {mention!r}, neither a text nor a span", remedy)
    start, end = map(int, mention)
    if not 0 <= start < end <= len(words):
        what = f"{name} ({start}, {end}) is no span of the post's {len(words)} words"
        raise wrong(question, what, remedy)
    return start, end


def read_rows(table: pd.DataFrame, column: str, known: Mapping[str, int]) -> np.ndarray:
    """The row of each of a column's ids, ``(n,)``, by the rows of all ids that are known.

    Raises:
        DataError: An id is not known, or no text.
    """
    rows = []
    for index, name in table[column].items():
        if not isinstance(name, str):
            remedy = "Give ids as texts, as pandas.read_csv(..., dtype=str) reads them."
            raise wrong(index, f"the model knows no {column} {name!r:.100}", remedy)
        row = known.get(name)
        if row is None:
            compared = known if len(known) <= _MOST_COMPARED else ()
            near = difflib.get_close_matches(name[:100], compared, n=1)
            remedy = f"Did you mean '{near[0]}'?" if near else "Give an id that the model knows."
            raise wrong(index, f"the model knows no {column} {name[:100]!r}", remedy)
        rows.append(row)
    return np.array(rows, dtype=np.int64)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; truth values are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def count(where: str, name: str, value: Any, least: int = 1) -> int:
    """A whole number of things that somebody gave.

    Raises:
        DataError: It is none, or too small.
    """
    if not is_whole(value) or value < least:
        what = f"{name} is {value!r}; it must be a whole number from {least}"
        raise DataError(Problem(where, None, what, "Give such a number."))
    return int(value)  # NumPy's overflow


def is_text(value: Any) -> bool:
    """Whether a value is a text as files hold them: in UTF-8, not blank, without NUL characters."""
    return isinstance(value, str) and bool(value.strip()) and is_utf8(value) and "\0" not in value


def _plain(value: Any) -> Any:
    """Lists in place of arrays; of one without dimensions, its value."""
    return value.tolist() if isinstance(value, np.ndarray) else value


def _words(question: Any, words: Any) -> list[str]:
    words = _plain(words)
    if isinstance(words, str):
        remedy = "Give a list of words, or the text as `text`."
        raise wrong(question, "words is a text", remedy)
    if not isinstance(words, list | tuple):
        what = f"words is {type(words).__name__}, not a list of words"
        raise wrong(question, what, "Give a list of words.")
    words = list(words)
    if not words:
        raise wrong(question, "the post has no words", "Leave it out.")
    for word in words:
        if not is_text(word):
            remedy = "Words are texts in UTF-8 that are not blank."
            raise wrong(question, f"{word!r} is no word", remedy)
    return words


def _words_of_text(question: Any, text: Any) -> list[str]:
    if not isinstance(text, str):
        what = f"text is {type(text).__name__}, not a text"
        raise wrong(question, what, "Give a text, or its words as `words`.")
    return _words(question, split_text(text))


def _find(question: Any, name: str, words: Sequence[str], mention: str) -> tuple[int, int]:
    wanted = split_text(mention) or [mention]
    # Words may have been divided in another way than this module would.
    forms = {tuple(wanted), tuple(mention.split())}
    found = sorted(
        {
            (start, start + len(form))
            for form in forms
            for start in range(len(words) - len(form) + 1)
            if tuple(words[start : start + len(form)]) == form and form
        }
    )
    if len(found) != 1:
        times = f"{len(found)} times" if found else "nowhere"
        what = f"{name} '{mention}' occurs {times} among the words"
        raise wrong(question, what, f"Give {name} as (start, end) in words.")
    return found[0]
