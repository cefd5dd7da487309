"""Writing without half-written files, and naming content by its hash."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import logging
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mkgformer_kedro.errors import DataError, Problem

logger = logging.getLogger(__name__)

_DIGEST_BYTES = 32
_NO_SPACE = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
_READ_ONLY = {
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "this folder may not be written to",
    errno.EPERM: "this folder may not be written to",
}
_IN_THE_WAY = {
    errno.EEXIST: "a file stands where a folder is to be",
    errno.ENOTDIR: "a file stands where a folder is to be",
    errno.EISDIR: "a folder stands where a file is to be",
    errno.ELOOP: "links lead round in a circle",
    errno.ENAMETOOLONG: "the name is too long",
}
_GONE = {
    errno.EIO: "the disk answers with an error",
    errno.ESTALE: "the storage of this folder is no longer there",
    errno.ENOTCONN: "the storage of this folder is no longer there",
    errno.ENODEV: "the storage of this folder is no longer there",
}


@contextmanager
def storage_explained(
    path: Path, kept: str = "what stood there before is unchanged"
) -> Iterator[None]:
    """Say plainly what keeps the block from writing to ``path``.

    Args:
        path: What is written.
        kept: What the reader need not worry about.

    Raises:
        DataError: The disk is full, read-only, broken or gone, the folder is not ours, or what is
            there lets nothing have that name.
    """
    try:
        yield
    except OSError as error:
        named = path.parent if error.filename is None else Path(error.filename)
        if not (named.is_relative_to(path.parent) or path.is_relative_to(named)):
            raise  # of another file, which the block reads
        if what := _NO_SPACE.get(error.errno or 0):
            remedy = "Free some space and run the same command again."
        elif what := _READ_ONLY.get(error.errno or 0):
            remedy = "Make it writable, or run in a copy of the project elsewhere."
        elif what := _IN_THE_WAY.get(error.errno or 0):
            remedy = "Choose another name, or move away what is there."
        elif what := _gone(path, error):
            remedy = "Bring the disk or mount back, and run the same command again."
        else:
            raise
        raise DataError(Problem(str(path), None, f"{what}; {kept}", remedy)) from error


def _gone(path: Path, error: OSError) -> str | None:
    if error.errno == errno.ENOENT and not path.parent.exists():
        return "the folder vanished while it was written to"
    return _GONE.get(error.errno or 0)


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; rename it to ``path`` when the block succeeds.

    Args:
        path: Final name of the file. Its folder is made where it is missing.

    Yields:
        The temporary path to write to. It is removed when the block raises.

    Raises:
        DataError: The disk is full or read-only; a file that stood there is unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with storage_explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_what_killed_runs_left(path)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def replace_folder(new: Path, target: Path) -> None:
    """Put the finished folder ``new`` in the place of ``target``, never leaving a half-copied one.

    Args:
        new: Finished folder. On another file system than ``target`` it is copied beside it first.
        target: Final name; a folder that is there already is replaced, and stays where it was if
            that fails.

    Raises:
        DataError: The disk is full or read-only; a folder that stood there is unchanged.
    """
    with storage_explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_what_killed_runs_left(target)
        token = uuid.uuid4().hex[:8]
        aside = target.with_name(f".{target.name}.{token}.old")
        arrived = new
        if new.stat().st_dev != target.parent.stat().st_dev:
            arrived = target.with_name(f".{target.name}.{token}.tmp")
            try:
                shutil.copytree(new, arrived)
            except BaseException:
                shutil.rmtree(arrived, ignore_errors=True)
                raise
        had_one = target.exists()
        if had_one:
            target.replace(aside)
        try:
            arrived.replace(target)
        except BaseException:
            if had_one:
                aside.replace(target)
            raise
    shutil.rmtree(aside, ignore_errors=True)
    if arrived is not new:
        shutil.rmtree(new, ignore_errors=True)


def write_block(path: Path, content: bytes, place: str) -> None:
    """Write a part of a stage's work, from which an interrupted run goes on.

    Args:
        path: The file.
        content: What is written; a digest of it and of its place follows.
        place: Of which part it is.

    Raises:
        DataError: The disk is full or read-only.
    """
    with written_atomically(path) as temporary:
        temporary.write_bytes(content + _block_digest(content, place))


def read_block(path: Path, place: str) -> bytes:
    """Read what :func:`write_block` wrote.

    Raises:
        DataError: It is not there, damaged, or of another part.
    """
    try:
        written = path.read_bytes()
    except OSError as error:
        what = f"the block cannot be read ({error.strerror})"
    else:
        content, digest = written[:-_DIGEST_BYTES], written[-_DIGEST_BYTES:]
        if digest == _block_digest(content, place):
            return content
        what = "the block is damaged, or of other work"
    raise DataError(Problem(str(relative(path)), None, what, "Run the same command again."))


def has_block(path: Path, place: str) -> bool:
    """Whether a part of the work is done; one that is damaged is removed, and that is said."""
    if not path.exists():
        return False
    try:
        read_block(path, place)
    except DataError as error:
        (problem,) = error.problems
        logger.warning("%s: %s; it is made again", problem.where, problem.what)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return False
    return True


def _block_digest(content: bytes, place: str) -> bytes:
    return hashlib.sha256(hashlib.sha256(content).digest() + place.encode()).digest()


def _remove_what_killed_runs_left(path: Path) -> None:
    """Remove what stands beside ``path`` under names that are given to it while it is written."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{8 * '[0-9a-f]'}.*"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def require_file(path: Path) -> None:
    """Refuse what would be read for ever: a named pipe, a device, a socket.

    Raises:
        OSError: There is no such file, nor can be, or it is one of these.
    """
    try:
        mode = path.stat().st_mode
    except ValueError as error:
        raise OSError(errno.EINVAL, "no file has such a name", str(path)) from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "a pipe or device, not a file", str(path))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes as a hexadecimal string, read in blocks."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_LEFT_BY_FILE_MANAGERS = {"thumbs.db", "desktop.ini"}


def is_litter(name: str) -> bool:
    """Whether a file is hidden, or one that file managers leave."""
    return name.startswith(".") or name.lower() in _LEFT_BY_FILE_MANAGERS


def files_within(folder: Path) -> list[Path]:
    """The files of a folder and the folders in it, in order, but for litter and what lies in it."""
    return [
        path
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and not any(map(is_litter, path.relative_to(folder).parts))
    ]


def fingerprint(*values: Any) -> str:
    """SHA-256 that names a combination of plain values: settings, names, digests.

    Args:
        *values: What JSON can hold, and paths; the order of a mapping's keys does not matter.
    """
    content = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def is_utf8(text: str) -> bool:
    """Whether the text can be written as UTF-8: it holds no lone surrogate.

    Python puts such halves of characters where a file's name is no UTF-8, and escapes in JSON or
    Python literals can write them.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def relative(path: Path) -> Path:
    """A path as seen from the working folder, where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
