"""What an artefact was made from, kept inside the artefact.

Every table and every folder that a stage leaves has an *identity*, a hash of its content, and
remembers the identities of what it was made from, and with which settings. So whoever reads several
of them can see that they belong together (:mod:`mkgformer_kedro.hooks.lineage`), whatever was run,
killed, copied or edited in between.

* A Parquet file remembers in its key-value metadata; its identity is the hash of its column data,
  which that metadata is no part of.
* A folder remembers in ``lineage.json``, beside the size and hash of each of its files; its
  identity is the hash of these.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import fingerprint, is_litter, sha256_of, written_atomically
from mkgformer_kedro.parameters import deciding

if TYPE_CHECKING:
    from kedro.io import CatalogProtocol

LINEAGE_FILE = "lineage.json"
_PARQUET_KEY = b"mkgformer_kedro"
_REMEDY = "Run the stage that makes it again."


@dataclass(frozen=True)
class Origin:
    """Where an artefact comes from.

    Attributes:
        made_by: Stage that made it, as ``kedro run --namespaces`` knows it.
        made_from: Identity of each artefact that it was made from, by its name in the catalog.
        settings: Parameters that it depends on, as JSON has them, by their paths.
        version: Version of the project that made it.
    """

    made_by: str = ""
    made_from: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain values, in a fixed order."""
        return {
            "made_by": self.made_by,
            "made_from": dict(sorted(self.made_from.items())),
            "settings": dict(sorted(self.settings.items())),
            "version": self.version,
        }


@dataclass(frozen=True)
class Lineage:
    """An artefact's identity and origin.

    Attributes:
        identity: Hash of the content.
        origin: Where it comes from; None where nobody wrote that down.
    """

    identity: str
    origin: Origin | None


class Artefact(ABC):
    """Mixin of datasets that keep lineage.

    Attributes:
        origin: Set before the dataset saves, by whoever knows what the data were made from.
    """

    origin: Origin | None = None

    @abstractmethod
    def lineage(self, *, hashed_up_to: float = 0) -> Lineage | None:
        """Identity and origin of what lies there; None where they are not known.

        Args:
            hashed_up_to: Files of a folder of up to so many bytes are read, to see whether they are
                what was written; of larger ones the size tells.

        Raises:
            DataError: What lies there is damaged.
        """


class RawData(ABC):
    """Mixin of datasets that read what people put there."""

    @property
    @abstractmethod
    def reading(self) -> dict[str, Any]:
        """What decides how it is read, by its name in the task's block of ``globals.yml``."""

    @abstractmethod
    def identity(self, *, hashed_up_to: float = math.inf) -> str | None:
        """:func:`raw_identity` of what lies there now, wherever that is.

        Args:
            hashed_up_to: Files of up to so many bytes are read.

        Returns:
            None where it cannot be told: something is missing, unreadable or too large.
        """


def raw_identity(data: Any) -> str | None:
    """Hash of what was read of raw files: their digests, or the listing of an image folder."""
    if (digests := getattr(data, "digests", None)) is not None:
        return fingerprint(digests)
    if (listing := getattr(data, "images", None)) is not None and hasattr(data, "root"):
        return fingerprint(listing[["path", "bytes"]].to_numpy().tolist())
    return None


def block_of(name: str) -> str:
    """The block of globals.yml that says how a raw dataset is read."""
    return f"globals:{name.partition('.')[0]}"


def reading_of(name: str, dataset: Any) -> dict[str, Any]:
    """How a raw dataset is read, by the paths of these settings in globals.yml; else nothing."""
    found: dict[str, Any] = {}
    for key, value in dataset.reading.items() if isinstance(dataset, RawData) else ():
        found |= deciding(value, f"{block_of(name)}.{key}")
    return found


def place_of(catalog: CatalogProtocol, name: str) -> Path | None:
    """Where a dataset lies on the disk; None for one that lies nowhere."""
    dataset = catalog.get(name)
    places = (getattr(dataset, name, None) for name in ("_filepath", "_folder", "_path"))
    return next((Path(str(place)) for place in places if place is not None), None)


def parquet_lineage(path: Path) -> Lineage:
    """Lineage of a Parquet file.

    Raises:
        DataError: The file is no Parquet file, or is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as file:
            metadata = pq.read_metadata(file)
            file.seek(-8, 2)
            # Column data, footer, four bytes with the footer's length, four that mark the format.
            content = file.tell() - int.from_bytes(file.read(4), "little")
            file.seek(0)
            digest = hashlib.sha256()
            while content > 0:
                block = file.read(min(content, 1 << 20))
                digest.update(block)
                content -= len(block)
        stored = (metadata.metadata or {}).get(_PARQUET_KEY)
        return Lineage(digest.hexdigest(), None if stored is None else Origin(**json.loads(stored)))
    except (OSError, ValueError, TypeError, pa.ArrowException) as error:
        what = f"the table is damaged ({_first_line(error)})"
        raise DataError(Problem(str(path), None, what, _REMEDY)) from error


def write_parquet(path: Path, data: Any, origin: Origin | None, **options: Any) -> None:
    """Write a pandas table with its origin.

    Args:
        path: File to write.
        data: The table.
        origin: Where it comes from, or None.
        **options: As for :func:`pyarrow.parquet.write_table`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(data)
    if origin is not None:
        stored = json.dumps(origin.to_json()).encode()
        table = table.replace_schema_metadata({**table.schema.metadata, _PARQUET_KEY: stored})
    pq.write_table(table, path, **options)


def write_folder_lineage(folder: Path, origin: Origin | None) -> None:
    """Write down what a finished folder holds and comes from.

    Args:
        folder: The folder; every file in it is read once.
        origin: Where it comes from, or None.
    """
    with written_atomically(folder / LINEAGE_FILE) as temporary:
        files = {
            path.relative_to(folder).as_posix(): [path.stat().st_size, sha256_of(path)]
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path not in (folder / LINEAGE_FILE, temporary)
        }
        content = {"files": files, **(origin or Origin()).to_json()}
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def folder_lineage(folder: Path, *, hashed_up_to: float = 0) -> Lineage | None:
    """Lineage of a folder.

    Args:
        folder: The folder.
        hashed_up_to: Files of up to so many bytes are held to their hashes, not only to their
            sizes.

    Returns:
        None where the folder has no ``lineage.json``: it was not made by a stage.

    Raises:
        DataError: A file is missing, is not what was written, or was put there since.
    """
    if (written := _read(folder)) is None:
        return None
    files, origin = written
    _hold(folder, files, hashed_up_to)
    return Lineage(fingerprint(files), origin if origin.made_by else None)


def origin_of(folder: Path) -> tuple[Path, Origin] | None:
    """Which folder a stage made, the given one or that in which it lies, and where it comes from.

    Raises:
        DataError: What is written there of it is damaged.
    """
    for whole in (folder, folder.parent):
        if (written := _read(whole)) is not None:
            return whole, written[1]
    return None


def check_folder(folder: Path) -> None:
    """Hold all files of a folder to what its lineage says, or that of the folder in which it lies.

    Nothing is known of a folder that no stage made.

    Raises:
        DataError: A file is missing, is not what was written, or was put there since.
    """
    for whole in (folder, folder.parent):
        if (written := _read(whole)) is not None:
            inside = f"{folder.name}/" if whole != folder else ""
            files = {name: each for name, each in written[0].items() if name.startswith(inside)}
            _hold(whole, files, math.inf, inside)


def _read(folder: Path) -> tuple[dict[str, tuple[int, str]], Origin] | None:
    """Size and hash of each file, and the origin, as a folder remembers them."""
    path = folder / LINEAGE_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = {
            name: (int(size), str(sha256)) for name, (size, sha256) in content.pop("files").items()
        }
        return files, Origin(**content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"the file is damaged ({_first_line(error)})"
        raise DataError(Problem(str(path), None, what, _REMEDY)) from error


def _hold(
    folder: Path, files: Mapping[str, tuple[int, str]], hashed_up_to: float, inside: str = ""
) -> None:
    """Hold a folder's files to their sizes and, those that are not too large, to their hashes.

    A library may read a file that nobody wrote, such as further tokens: there must be none.
    """
    problems = []
    for path in sorted((folder / inside).rglob("*")):
        name = path.relative_to(folder).as_posix()
        known = name in files or name == LINEAGE_FILE or is_litter(path.name)
        if not known and (path.is_symlink() or not path.is_dir()):
            what, remedy = "the stage wrote no such file", "Delete it, or move it elsewhere."
            problems.append(Problem(str(path), None, what, remedy))
    for name, (size, sha256) in files.items():
        file = folder / name
        found = file.stat().st_size if file.is_file() else None
        if found is None:
            problems.append(Problem(str(file), None, "the file is missing", _REMEDY))
        elif found != size:
            what = f"the file has {found} bytes, and had {size} when it was written"
            problems.append(Problem(str(file), None, what, _REMEDY))
        elif size <= hashed_up_to and sha256_of(file) != sha256:
            what = "the file is not what was written: its bytes have changed"
            problems.append(Problem(str(file), None, what, _REMEDY))
    if problems:
        raise DataError(problems)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__
