"""Listing a folder of images, one sub-folder per owner, without opening any of them."""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pandas as pd
from kedro.io import AbstractDataset, DatasetError

from mkgformer_kedro.datasets.lineage import RawData, raw_identity
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import is_litter, is_utf8
from mkgformer_kedro.parameters import Folder, typed

if TYPE_CHECKING:
    from kedro_datasets._typing import TablePreview

REMEDY = "See docs/data.md for where the images belong, or set `images` to null to run without any."


class ListedImages(RawData, AbstractDataset[None, Any]):
    """Raw images: they are known by their listing."""

    _folder: Path | None

    def identity(self, *, hashed_up_to: float = math.inf) -> str | None:
        """Hash of the listing; None where it cannot be made."""
        try:
            return raw_identity(self.load())
        except (DataError, DatasetError):
            return None

    @abstractmethod
    def load(self) -> Any:
        """List the images."""

    def save(self, data: None) -> NoReturn:
        """Refuse: images are put there by people."""
        raise DatasetError(f"{self._folder} is put there by people; nothing is saved to it.")

    def preview(self, nrows: int = 20) -> TablePreview:
        """First rows of the listing, for Kedro-Viz."""
        return self.load().images.head(nrows).to_dict(orient="split")

    def _exists(self) -> bool:
        return self._folder is None or self._folder.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": self._folder}


@dataclass(frozen=True)
class ImageFolder:
    """The images of a data set as they lie on the disk.

    Attributes:
        root: The image folder, or None where the data set is used without images.
        images: One row per file, ordered by ``path``: ``folder`` (name of the owner's folder),
            ``path`` (relative to ``root``, with forward slashes) and ``bytes`` (file size).
        beside: Number of files beside the owners' folders, which are not listed.
        deeper: Number of folders inside the owners' folders, in which nothing is listed.
    """

    root: Path | None
    images: pd.DataFrame
    beside: int = 0
    deeper: int = 0


class ImageFolderDataset(ListedImages):
    """Read-only listing of an image folder that has one sub-folder per owner.

    Files beside the sub-folders, hidden files and the litter of file managers are left out; no
    image is opened.

    Args:
        filepath: The image folder. None means that there are no images at all.
        metadata: Kept for plugins; not used by Kedro.
    """

    def __init__(self, *, filepath: str | None, metadata: dict[str, Any] | None = None) -> None:
        self._folder = typed(Folder | None, filepath, "images")
        self.metadata = metadata

    @property
    def reading(self) -> dict[str, Any]:
        """Nothing: all that lies there is listed."""
        return {}

    def load(self) -> ImageFolder:
        """List the folder.

        Raises:
            DataError: The folder is missing, or it or one of its sub-folders cannot be read, or a
                name is not UTF-8.
        """
        rows: list[tuple[str, str, int]] = []
        beside = deeper = 0
        if self._folder is not None:
            problems: list[Problem] = []
            for folder in _scan(self._folder, problems):
                if not folder.name.startswith(".") and _is_folder(folder):
                    entries = _scan(folder.path, problems)
                    rows += [
                        (folder.name, f"{folder.name}/{file.name}", _size(file))
                        for file in entries
                        if _is_listed(file)
                    ]
                    deeper += sum(entry.is_dir(follow_symlinks=False) for entry in entries)
                else:
                    beside += _is_listed(folder)
            if problems:
                raise DataError(problems)
        return ImageFolder(self._folder, listing(rows), beside, deeper)


def listing(rows: list[tuple[str, str, int]]) -> pd.DataFrame:
    """Folder, path and size in bytes of images as a table, ordered by ``path``."""
    images = pd.DataFrame(rows, columns=["folder", "path", "bytes"])
    images = images.astype({"folder": "str", "path": "str", "bytes": "int64"})
    return images.sort_values("path", ignore_index=True)


def files_of(folder: Path, problems: list[Problem]) -> list[tuple[str, int]]:
    """Name and size in bytes of every file of a folder that may be an image, by name.

    Args:
        folder: The folder.
        problems: Takes what keeps it from being read.
    """
    return [(file.name, _size(file)) for file in _scan(folder, problems) if _is_listed(file)]


def _is_listed(entry: os.DirEntry[str]) -> bool:
    if is_litter(entry.name):
        return False
    # Pipes, devices and links to nowhere are listed, so that they are reported as unreadable.
    return not _is_folder(entry)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except OSError:
        return 0


def _scan(folder: str | Path, problems: list[Problem]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        problems.append(Problem(str(folder), None, "the image folder does not exist", REMEDY))
    except NotADirectoryError:
        problems.append(Problem(str(folder), None, "this is a file, not an image folder", REMEDY))
    except OSError as error:
        what = f"the image folder cannot be read ({error.strerror})"
        problems.append(Problem(str(folder), None, what, "Check its permissions and its disk."))
    else:
        unnameable = [entry for entry in found if not is_utf8(entry.name)]
        for entry in unnameable:
            what = f"the name {os.fsencode(entry.name)!r} is not UTF-8"
            problems.append(Problem(str(folder), None, what, "Rename it."))
        return found
    return []
