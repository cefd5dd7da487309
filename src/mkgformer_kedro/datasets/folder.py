"""Folders as datasets: finished ones that move into place whole, and places for work under way."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NoReturn

from kedro.io import AbstractDataset, DatasetError

from mkgformer_kedro.datasets.lineage import (
    Artefact,
    Lineage,
    folder_lineage,
    write_folder_lineage,
)
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import replace_folder


class FolderDataset(Artefact, AbstractDataset[Path, Path]):
    """A finished folder: a saved model, a store of visual features.

    Loading gives its path. Saving takes the path of a finished folder, writes down what it was
    made from, and moves it into place, so that the folder is never seen half-written.

    Args:
        filepath: Where the folder lies.
        metadata: Passed on to plugins such as Kedro-Viz.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._folder = Path(filepath)
        self.metadata = metadata

    def load(self) -> Path:
        """Give the folder's path.

        Raises:
            DataError: There is no such folder.
        """
        if not self._folder.is_dir():
            raise DataError(
                Problem(str(self._folder), None, "no such folder", "Run the stage that makes it.")
            )
        return self._folder

    def save(self, data: Path) -> None:
        """Move the finished folder ``data`` into place; one that stood there is replaced."""
        write_folder_lineage(Path(data), self.origin)
        replace_folder(Path(data), self._folder)

    def lineage(self, *, hashed_up_to: float = 0) -> Lineage | None:
        """Identity and origin of the folder; None where no stage wrote them down."""
        return folder_lineage(self._folder, hashed_up_to=hashed_up_to)

    def _exists(self) -> bool:
        return self._folder.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._folder)}


class WorkFolderDataset(AbstractDataset[NoReturn, Path]):
    """A stage's own place for work that goes on after an interruption.

    Loading gives its path, made where it is missing. It is an input of the node that works
    there, never an output.

    Args:
        filepath: Where the folder lies: on the file system of what is made in it, so that the
            result can be moved and need not be copied.
        clear: Whether nothing in it is of use once all that its node makes is in place.
        metadata: Passed on to plugins such as Kedro-Viz.
    """

    def __init__(
        self, *, filepath: str, clear: bool = False, metadata: dict[str, Any] | None = None
    ) -> None:
        self._folder = Path(filepath)
        self.clear = clear
        self.metadata = metadata

    def load(self) -> Path:
        """Give the folder's path, made where it is missing."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    def save(self, data: NoReturn) -> None:
        """Refuse: a node writes into the folder it was given."""
        raise DatasetError(f"{self._folder} is a place to work in; nothing is saved to it.")

    def remove(self) -> None:
        """Remove the folder and all that is in it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _exists(self) -> bool:
        # The folder is made on demand: as an input it is always there.
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": str(self._folder)}
