"""Images of posts as people have them: folders of whole images, and crops named by maps."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from mkgformer_kedro.datasets.image_folder import REMEDY, ListedImages, files_of, listing
from mkgformer_kedro.datasets.text_files import SPLITS
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import is_utf8
from mkgformer_kedro.parameters import FileName, Folder, Parameters, typed

#: Largest map of crops, in bytes unpacked (MNRE's largest has 1.4 million).
MAX_MAP = 256 * 2**20

_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".avif", ".tif", ".tiff")
_MAP_FORM = "a dictionary from posts or images to lists of file names"

logger = logging.getLogger(__name__)


class SplitFolders(Parameters):
    """Folder of each split's whole images, below the image folder. Splits may share one."""

    train: FileName
    dev: FileName
    test: FileName


class CropFiles(Parameters):
    """Crops that others have made.

    Attributes:
        map: File that ``torch.save`` wrote: which crops belong to which post or image.
        folder: Folder below which the crops' names are looked for; ``.``: the image folder.
    """

    map: FileName
    folder: FileName


class SplitCrops(Parameters):
    """Crops of each split."""

    train: CropFiles
    dev: CropFiles
    test: CropFiles


@dataclass(frozen=True)
class PostImages:
    """The images of a corpus of posts as they lie on the disk.

    Attributes:
        root: The image folder, or None where the corpus is used without images.
        full: Folder of each split's whole images, below ``root``.
        images: One row per whole image, ordered by ``path``: ``folder`` and ``path`` (both
            relative to ``root``, with forward slashes) and ``bytes`` (file size).
        crops: For each role with crops in files, where those of each split lie. Nothing of it
            was looked at yet.
        missing_folders: Folders of ``full`` that do not exist.
    """

    root: Path | None
    full: Mapping[str, str]
    images: pd.DataFrame
    crops: Mapping[str, Mapping[str, CropFiles]] = field(default_factory=dict)
    missing_folders: tuple[str, ...] = ()

    def find(self, splits: pd.Series, images: pd.Series) -> pd.Series:
        """Path of the whole image of each post, null where there is none.

        Args:
            splits: Split of each post.
            images: Name of its image, with or without an extension; null where it names none.
                Only a file of exactly this name is found, or one that differs by extension.
        """
        indexes: dict[str, dict[str, str]] = {}
        for folder, rows in self.images.groupby("folder", sort=False):
            named = {PurePosixPath(path).name: path for path in rows["path"]}
            index: dict[str, str] = {}
            for name, path in named.items():
                index.setdefault(without_suffix(name), path)
            indexes[str(folder)] = index | named
        paths: list[str | None] = []
        for split, image in zip(splits, images, strict=True):
            index = indexes.get(self.full.get(split, ""), {})
            known = isinstance(image, str)
            paths.append(index.get(image) or index.get(without_suffix(image)) if known else None)
        return pd.Series(paths, index=splits.index, dtype="str", name="path")

    def size_of(self, path: str) -> int | None:
        """Bytes of a file below ``root``, None where there is no such file."""
        try:
            return (Path(self.root or "") / path).stat().st_size
        except (OSError, ValueError):  # a name may be too long, or hold what no name can
            return None


class PostImagesDataset(ListedImages):
    """Read-only listing of the images of a corpus of posts. No file is opened.

    Args:
        filepath: The image folder. None means that there are no images at all.
        full: Folder of the whole images of ``train``, ``dev`` and ``test``, below ``filepath``.
        grounding: Crops of noun phrases, for each split ``map`` and ``folder``, or None.
        detection: Crops of detected objects, the same.
        metadata: Kept for plugins; not used by Kedro.
    """

    def __init__(
        self,
        *,
        filepath: str | None,
        full: dict[str, str],
        grounding: dict[str, Any] | None = None,
        detection: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._folder = typed(Folder | None, filepath, "images")
        folders = typed(SplitFolders, full, "full")
        self._full = {split: _normal(getattr(folders, split)) for split in SPLITS}
        self._crops: dict[str, dict[str, CropFiles]] = {}
        for role, files in (("grounding", grounding), ("detection", detection)):
            if files is not None:
                crops = typed(SplitCrops, files, role)
                self._crops[role] = {split: getattr(crops, split) for split in SPLITS}
        self.metadata = metadata

    @property
    def reading(self) -> dict[str, Any]:
        """Where whole images and crops are looked for, below the image folder."""
        return {"full": self._full, **dict.fromkeys(("grounding", "detection")), **self._crops}

    def load(self) -> PostImages:
        """List the folders of whole images.

        A folder that is missing is left out, with a warning.

        Raises:
            DataError: All of them are missing, or one cannot be read, or a name is not UTF-8.
        """
        rows: list[tuple[str, str, int]] = []
        missing: list[str] = []
        problems: list[Problem] = []
        if self._folder is not None:
            folders = sorted(set(self._full.values()))
            for folder in folders:
                if not (self._folder / folder).exists():
                    missing.append(folder)
                    continue
                found = files_of(self._folder / folder, problems)
                prefix = "" if folder == "." else f"{folder}/"
                rows += [(folder, f"{prefix}{name}", size) for name, size in found]
            if len(missing) == len(folders):
                where = [str(self._folder / folder) for folder in folders]
                what = "the image folder does not exist"
                problems += [Problem(each, None, what, REMEDY) for each in where]
        if problems:
            raise DataError(problems)
        for folder in missing:
            logger.warning("There is no folder %s: its images are missing.", folder)
        crops = {} if self._folder is None else self._crops
        return PostImages(self._folder, self._full, listing(rows), crops, tuple(missing))


class CropMap:
    """Which crops belong to a post, as a map says.

    Args:
        names: File names by the number of a post in its split, or by the name of an image, with
            or without its extension.
    """

    def __init__(self, names: Mapping[int | str, tuple[str, ...]]) -> None:
        stems = {without_suffix(key): value for key, value in names.items() if isinstance(key, str)}
        self._names = stems | dict(names)

    def of(self, number: int, image: str | None) -> tuple[str, ...]:
        """Names of a post's crops, best first; empty where the map does not know the post.

        Args:
            number: Number of the post in its split, from 0.
            image: Name of its image, None where it has none.
        """
        keys: list[int | str] = [number]
        if image is not None:
            keys += [image, without_suffix(image)]
        return next((self._names[key] for key in keys if key in self._names), ())


def read_crop_map(path: Path) -> CropMap:
    """Read a map of crops, as plain data only: nothing in the file is ever run.

    Args:
        path: A file that ``torch.save`` wrote, such as MNRE's ``mre_train_dict.pth``.

    Raises:
        DataError: The file is missing, too large, holds anything but a map, or names files
            outside the image folder.
    """
    import torch

    problem = _too_large(path)
    if problem is None:
        try:
            content = torch.load(path, weights_only=True, map_location="cpu")
        except Exception:  # a hostile or damaged file makes the unpickler raise almost anything
            what = "no map of crops: it cannot be read as plain data, and nothing in it was run"
            problem = Problem(str(path), None, what, f"Write {_MAP_FORM} with torch.save.")
    if problem is not None:
        raise DataError(problem)
    if not isinstance(content, dict):
        what = f"no map of crops: it holds a {type(content).__name__}"
        raise DataError(Problem(str(path), None, what, f"Write {_MAP_FORM} with torch.save."))
    problems = [
        Problem(str(path), None, f"the entry {str(key)[:60]!r}: {what}", "Correct the map.")
        for key, names in content.items()
        if (what := _wrong_entry(key, names))
    ]
    if problems:
        raise DataError(problems)
    return CropMap({key: tuple(_normal(name) for name in names) for key, names in content.items()})


def without_suffix(name: str) -> str:
    """An image's name without its extension; any other dot is part of the name."""
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in _SUFFIXES else name


def _normal(path: str) -> str:
    return PurePosixPath(path).as_posix()


def _too_large(path: Path) -> Problem | None:
    if path.exists() and not path.is_file():
        return Problem(str(path), None, "the map is no file", "Get it again.")
    try:
        size = path.stat().st_size
        if size <= MAX_MAP and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
    except FileNotFoundError:
        what = "there is no such map of crops"
        remedy = "See docs/data.md for where it belongs, or set `crops` to detect or none."
        return Problem(str(path), None, what, remedy)
    except Exception as error:  # a damaged archive makes zipfile raise almost anything
        return Problem(str(path), None, f"the map cannot be read ({error})", "Get it again.")
    if size > MAX_MAP:
        what = f"a map of {size:,} bytes, more than the {MAX_MAP:,} that one may take"
        return Problem(str(path), None, what, "Split it by the splits of the corpus.")
    return None


def _wrong_entry(key: Any, names: Any) -> str | None:
    if type(key) is not int and not (isinstance(key, str) and key):
        return "the key is neither a post's number nor an image's name"
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return "the value is no list of file names"
    for name in names:
        path = PurePosixPath(name)
        inside = name and not path.is_absolute() and ".." not in path.parts
        if not inside or "\\" in name or "\0" in name or not is_utf8(name):
            return f"{name[:60]!r} is no file name below the image folder"
    return None
