"""Posts as people have them: the text files of MNRE and of Twitter-2017."""

from __future__ import annotations

import ast
import json
import warnings
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mkgformer_kedro.datasets.text_files import (
    SPLITS,
    TextFolderDataset,
    decoded,
    numbered_lines,
    read_table,
    sha256,
    wrong_columns,
)
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import is_utf8
from mkgformer_kedro.parameters import FileName, Parameters

#: Longest line of posts for relation extraction, in bytes (MNRE's longest has 414). What is longer
#: is no post, and could be made to exhaust the parser.
MAX_LINE = 20_000

_SUBSETS = ("split", "number", "subset")
_COLUMNS = {
    "file": "str",
    "line": "int64",
    "lines": "int64",
    "split": "str",
    "number": "int64",
    "words": "object",
    "image": "str",
}
_MENTIONS = {
    "head_name": "str",
    "head_start": "object",  # any whole number, in range or not
    "head_end": "object",
    "tail_name": "str",
    "tail_start": "object",
    "tail_end": "object",
    "relation": "str",
}
_TAGS = {"tags": "object"}
_IMAGE = b"IMGID:"
_FORM = "{'token': [...], 'h': {'name': ..., 'pos': [start, end]}, 't': {...}, 'img_id': ..., "
_FORM += "'relation': ...}"


class PostFiles(Parameters):
    """Names of the files of a corpus of posts inside its folder, by what they hold.

    Attributes:
        train: Posts to learn from.
        dev: Posts to choose a model by.
        test: Posts to report.
        subsets: ``split<TAB>number<TAB>subset``: the subset of a synthetic sample to which the
            post of that number (from 0) belongs. None: the corpus has no subsets.
    """

    train: FileName
    dev: FileName
    test: FileName
    subsets: FileName | None = None


class RelationPostFiles(PostFiles):
    """Names of the files of a corpus for relation extraction.

    Attributes:
        relations: The relations and their numbers from 0, a JSON object.
    """

    relations: FileName


@dataclass(frozen=True)
class LineCounts:
    """What became of the lines of a split's file.

    Attributes:
        lines: How many there are.
        blank: Blank ones.
        left_out: Lines of posts that could not be read.
        begun: Posts, read or not.
    """

    lines: int
    blank: int
    left_out: int
    begun: int


@dataclass(frozen=True)
class RawPosts:
    """Posts as their files say them.

    Attributes:
        folder: Where the files lie.
        files: Name of the file read for each role of ``PostFiles`` (roles without a file are left
            out).
        digests: SHA-256 of each file read, by name.
        verified: Names of the files whose digest was compared with a known one.
        lines: What became of the lines of each split's file.
        posts: ``file``, ``line`` at which the post begins (from 1), ``lines`` that it takes,
            ``split``, ``number`` in its split (from 0, counting unreadable posts), ``words`` (list
            of str), ``image`` (null where the post names none). For relation extraction also
            ``head_name``, ``head_start``, ``head_end``, the same of the tail, and ``relation``;
            for entity recognition ``tags`` (list of str, as long as ``words``). Spans and tags
            are not checked yet.
        labels: The relations in the order of their numbers, or None where no file lists labels.
        subsets: ``split``, ``number``, ``subset`` (all str), ``file``, ``line``, or None.
        problems: Lines that could not be read. Their posts are not in the table.
    """

    folder: Path
    files: dict[str, str]
    digests: dict[str, str]
    verified: tuple[str, ...]
    lines: dict[str, LineCounts]
    posts: pd.DataFrame
    labels: tuple[str, ...] | None
    subsets: pd.DataFrame | None
    problems: tuple[Problem, ...]


@dataclass
class _Split:
    """What is read of a split's file."""

    posts: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    lines: int = 0
    blank: int = 0
    left_out: int = 0
    begun: int = 0

    def keep(self, line: int, lines: int, **post: Any) -> None:
        self.posts.append({"line": line, "lines": lines, "number": self.begun, **post})
        self.begun += 1

    def leave_out(self, lines: int) -> None:
        self.left_out += lines
        self.begun += 1

    @property
    def counts(self) -> LineCounts:
        return LineCounts(self.lines, self.blank, self.left_out, self.begun)


class PostsDataset(TextFolderDataset[RawPosts]):
    """Read-only folder of posts; a subclass knows the format of the splits' files.

    Files are UTF-8; a byte order mark, CRLF line ends, further blank lines and a missing final
    newline are all read alike.

    Args:
        filepath: The folder.
        files: File names by what they hold, as ``files_class`` names them.
        checksums: SHA-256 by file name, for files that are known. Any other file is accepted.
        metadata: Passed on to plugins such as Kedro-Viz.
    """

    files_class = PostFiles
    _columns: dict[str, str]

    def load(self) -> RawPosts:
        """Read every file of the folder.

        Raises:
            DataError: The folder is missing, or files are missing, unreadable or not the known
                ones, all of them named in the one error; or the file of relations does not number
                them. Posts that cannot be read are no error yet: ``RawPosts.problems`` has them.
        """
        files = self._present_files()
        contents = self._read(files.values())
        problems: list[Problem] = []
        rows: list[dict[str, Any]] = []
        lines: dict[str, LineCounts] = {}
        for split in SPLITS:
            name = files[split]
            parsed = self._parse(str(self._folder / name), contents[name])
            problems += parsed.problems
            lines[split] = parsed.counts
            rows += [{"file": name, "split": split, **post} for post in parsed.posts]
        columns = _COLUMNS | self._columns
        # Column by column: pandas would guess other types for a table without rows.
        posts = {
            column: pd.Series([row[column] for row in rows], dtype=kind)
            for column, kind in columns.items()
        }
        subsets = None
        if "subsets" in files:
            name = files["subsets"]
            subsets = read_table(self._folder, name, contents[name], _SUBSETS, problems)
        return RawPosts(
            folder=self._folder,
            files=files,
            digests={name: sha256(content) for name, content in contents.items()},
            verified=self._verified(contents),
            lines=lines,
            posts=pd.DataFrame(posts),
            labels=self._labels(files, contents),
            subsets=subsets,
            problems=tuple(problems),
        )

    @abstractmethod
    def _parse(self, where: str, content: bytes) -> _Split:
        """Read a split's file."""

    def _labels(self, files: dict[str, str], contents: dict[str, bytes]) -> tuple[str, ...] | None:
        return None


class RelationPostsDataset(PostsDataset):
    """Read-only folder of posts with two mentions each, in MNRE's formats.

    A line of a split's file is a Python dict: ``token`` (list of words), ``h`` and ``t`` (each
    with ``name`` and ``pos``, the first word and the word behind the last), ``img_id`` (empty or
    left out: no image) and ``relation``. Nothing in it is ever run.

    Args:
        filepath: The folder.
        files: File names by what they hold, as ``RelationPostFiles`` names them.
        checksums: SHA-256 by file name, for files that are known. Any other file is accepted.
        metadata: Passed on to plugins such as Kedro-Viz.
    """

    files_class = RelationPostFiles
    _columns = _MENTIONS

    def _parse(self, where: str, content: bytes) -> _Split:
        split = _Split()
        with warnings.catch_warnings():
            # Python would warn of every backslash that escapes nothing.
            warnings.simplefilter("ignore")
            for number, line in numbered_lines(content):
                split.lines += 1
                if not line.strip():
                    split.blank += 1
                    continue
                post = _relation_post(where, number, line)
                if isinstance(post, Problem):
                    split.problems.append(post)
                    split.leave_out(1)
                else:
                    split.keep(number, 1, **post)
        return split

    def _labels(self, files: dict[str, str], contents: dict[str, bytes]) -> tuple[str, ...]:
        name = files["relations"]
        return _relations(str(self._folder / name), contents[name])


class TaggedPostsDataset(PostsDataset):
    """Read-only folder of posts with a tag for every word, in Twitter-2017's format.

    A line ``IMGID:<image>`` opens a post (nothing behind the colon: no image), a line
    ``word<TAB>tag`` follows for every word, and a blank line, the next opening or the end of the
    file ends it. Words are kept as they are: some consist of characters that cannot be seen.

    Args:
        filepath: The folder.
        files: File names by what they hold, as ``PostFiles`` names them.
        checksums: SHA-256 by file name, for files that are known. Any other file is accepted.
        metadata: Passed on to plugins such as Kedro-Viz.
    """

    files_class = PostFiles
    _columns = _TAGS

    def _parse(self, where: str, content: bytes) -> _Split:
        split = _Split()
        post: _TaggedPost | None = None
        for number, line in numbered_lines(content):
            split.lines += 1
            if not line.strip(b" \t"):
                split.blank += 1
                _end(post, where, split)
                post = None
                continue
            # A word may begin like an opening; behind it stands a tab.
            opens = line.startswith(_IMAGE) and b"\t" not in line
            if opens:
                _end(post, where, split)
            if opens or post is None:
                post = _TaggedPost(number)
            post.lines += 1
            problem = post.open(where, line) if opens else post.add(where, number, line)
            if problem is not None:
                split.problems.append(problem)
                post.usable = False
        _end(post, where, split)
        return split


@dataclass
class _TaggedPost:
    """A post while its lines are read."""

    line: int
    lines: int = 0
    usable: bool = True
    image: str | None = None
    words: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)

    def open(self, where: str, line: bytes) -> Problem | None:
        text = decoded(where, self.line, line)
        if isinstance(text, Problem):
            return text
        self.image = text.removeprefix(_IMAGE.decode()).strip() or None
        return None

    def add(self, where: str, number: int, line: bytes) -> Problem | None:
        if number == self.line:
            what = "a post without its line IMGID:"
            remedy = "Write IMGID:<image> before its first word (IMGID: alone: no image)."
            return Problem(where, number, what, remedy)
        text = decoded(where, number, line)
        if isinstance(text, Problem):
            return text
        fields = text.split("\t")
        if len(fields) != 2:
            return wrong_columns(where, number, fields, ("word", "tag"))
        word, tag = fields[0], fields[1].strip()
        for value, name in ((word, "word"), (tag, "tag")):
            if not value:
                remedy = f"Fill in the {name} or drop the line."
                return Problem(where, number, f"empty {name}", remedy)
        self.words.append(word)
        self.tags.append(tag)
        return None


def _end(post: _TaggedPost | None, where: str, split: _Split) -> None:
    if post is None:
        return
    if post.usable and not post.words:
        remedy = "Write its words below its line IMGID:, or drop that line."
        split.problems.append(Problem(where, post.line, "a post without words", remedy))
        post.usable = False
    if post.usable:
        split.keep(post.line, post.lines, words=post.words, image=post.image, tags=post.tags)
    else:
        split.leave_out(post.lines)


def _relation_post(where: str, number: int, line: bytes) -> dict[str, Any] | Problem:
    """The columns of a post, or what is wrong with its line."""
    if len(line) > MAX_LINE:
        what = f"a line of {len(line):,} bytes, more than the {MAX_LINE:,} that a post may take"
        return Problem(where, number, what, f"Write one post a line: {_FORM}.")
    text = decoded(where, number, line)
    if isinstance(text, Problem):
        return text
    try:
        value = ast.literal_eval(text)
    # What literal_eval raises is anything that its parser or a constructor raises.
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, dict):
        return Problem(where, number, "not a Python dict of plain values", f"Write {_FORM}.")
    try:
        return _checked(value)
    except _WrongValueError as error:
        return Problem(where, number, error.what, error.remedy)


class _WrongValueError(Exception):
    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(what)
        self.what, self.remedy = what, remedy


def _checked(post: dict[Any, Any]) -> dict[str, Any]:
    words = _value(post, "token", list, "a list of words")
    if not words:
        raise _WrongValueError("a post without words", "Write its words into token.")
    if not all(isinstance(word, str) and word for word in words):
        raise _WrongValueError("token holds more than words", "Write non-empty strings only.")
    image = post.get("img_id")
    if image is not None and not isinstance(image, str):
        raise _WrongValueError("img_id is not a string", "Write the image's name, or ''.")
    columns: dict[str, Any] = {"words": words, "image": image or None}
    for mention, key in (("head", "h"), ("tail", "t")):
        values = _value(post, key, dict, "a dict with name and pos")
        place = _value(values, "pos", list, "[start, end]", f"{key}.")
        # A number of thousands of digits could not even be printed.
        if len(place) != 2 or not all(type(edge) is int and abs(edge) < 10**100 for edge in place):
            raise _WrongValueError(f"{key}.pos is not two whole numbers", "Write [start, end].")
        columns[f"{mention}_name"] = _value(values, "name", str, "a string", f"{key}.")
        columns[f"{mention}_start"], columns[f"{mention}_end"] = place
    columns["relation"] = _value(post, "relation", str, "a string")
    texts = (*words, image or "", columns["head_name"], columns["tail_name"], columns["relation"])
    if not is_utf8("".join(texts)):
        raise _WrongValueError("a text holds half a character", "Write surrogates in pairs.")
    return columns


def _value(values: dict[Any, Any], key: str, kind: type, form: str, path: str = "") -> Any:
    if key not in values:
        raise _WrongValueError(f"no key '{path}{key}'", f"Add it: {form}.")
    if not isinstance(values[key], kind):
        raise _WrongValueError(f"{path}{key} is not {form}", f"Write {_FORM}.")
    return values[key]


def _relations(where: str, content: bytes) -> tuple[str, ...]:
    """The relations in the order of their numbers."""
    remedy = 'Write {"None": 0, "a relation": 1, ...}: each relation once, numbered from 0.'
    try:
        pairs = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as error:
        what = f"not the JSON object that numbers the relations ({error})"
        raise DataError(Problem(where, None, what, remedy)) from error
    what = _wrong_numbers(pairs)
    if what is not None:
        raise DataError(Problem(where, None, what, remedy))
    return tuple(name for name, _ in sorted(pairs, key=lambda pair: pair[1]))


class _Pairs(list[tuple[str, Any]]):
    """A JSON object, with keys that are there twice."""


def _pairs(pairs: Iterable[tuple[str, Any]]) -> _Pairs:
    return _Pairs(pairs)


def _wrong_numbers(pairs: Any) -> str | None:
    if not isinstance(pairs, _Pairs):
        return "not a JSON object"
    names = [name for name, _ in pairs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        return f"relation '{repeated[0]}' is there twice"
    if not all(names):
        return "a relation without a name"
    if not is_utf8("".join(names)):
        return "a relation's name holds half a character"
    if not all(type(number) is int for _, number in pairs):
        return "a relation's number is not a whole number"
    if sorted(number for _, number in pairs) != list(range(len(pairs))):
        return f"the numbers of {len(pairs)} relations are not 0 to {len(pairs) - 1}"
    return None
