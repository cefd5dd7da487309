"""Files that are whole or not there: the datasets of ``kedro_datasets``, written atomically.

Use them in a catalog by their full name, for example
``type: mkgformer_kedro.datasets.tables.ParquetDataset``. They take what their originals take,
for files on a local disk, and keep their previews in Kedro-Viz.
"""

from __future__ import annotations

import copy
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from kedro.io import DatasetError
from kedro_datasets.json import JSONDataset as _JSONDataset
from kedro_datasets.pandas import CSVDataset as _CSVDataset
from kedro_datasets.pandas import ParquetDataset as _ParquetDataset
from kedro_datasets.text import TextDataset as _TextDataset

from mkgformer_kedro.datasets.lineage import Artefact, Lineage, parquet_lineage, write_parquet
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import relative, require_file, written_atomically

if TYPE_CHECKING:
    from kedro_datasets._typing import TablePreview


class AtomicSave:
    """Mixin before a file dataset: saves to a temporary name, then renames."""

    _filepath: PurePosixPath

    def save(self, data: Any) -> None:
        """Write ``data`` to the dataset's file, or leave the file as it was.

        Args:
            data: What the original dataset saves.

        Raises:
            DataError: The disk is full or read-only.
        """
        with written_atomically(Path(self._filepath)) as temporary:
            self._write(temporary, data)

    def load(self) -> Any:
        """Read the file.

        Raises:
            DataError: It is not there, or damaged.
        """
        path = Path(self._filepath)
        try:
            require_file(path)
            if path.is_dir():
                raise DatasetError("a folder instead of a file")
            return super().load()  # type: ignore[misc]
        except FileNotFoundError as error:
            raise self._unread("no such file") from error
        except (DatasetError, OSError) as error:
            reason = error.__cause__ or error
            said = getattr(reason, "strerror", None) or str(reason)
            raise self._unread(f"damaged ({said.splitlines()[0].rstrip('.')})") from error

    def _unread(self, what: str) -> DataError:
        remedy = "Run the stage that makes it."
        return DataError(Problem(str(relative(Path(self._filepath))), None, what, remedy))

    def _write(self, path: Path, data: Any) -> None:
        writer = copy.copy(self)
        writer._filepath = PurePosixPath(path)
        # Past Kedro's wrapper, whose messages would name the temporary file.
        super(AtomicSave, writer).save.__wrapped__(writer, data)  # type: ignore[misc]


class ParquetDataset(Artefact, AtomicSave, _ParquetDataset):
    """A pandas table as Parquet, which remembers what it was made from."""

    def lineage(self, *, hashed_up_to: float = 0) -> Lineage | None:
        """Identity and origin of the file; None where there is none."""
        path = Path(self._filepath)
        return parquet_lineage(path) if path.is_file() else None

    def _write(self, path: Path, data: Any) -> None:
        write_parquet(path, data, self.origin, **self._save_args)

    def preview(self, nrows: int = 5) -> TablePreview:
        """First rows of the table, for Kedro-Viz; arrays in its cells become lists."""
        table = super().preview(nrows)
        table["data"] = [
            [cell.tolist() if isinstance(cell, np.ndarray) else cell for cell in row]
            for row in table["data"]
        ]
        return table


class CSVDataset(AtomicSave, _CSVDataset):
    """A pandas table as CSV."""


class JSONDataset(AtomicSave, _JSONDataset):
    """Plain values as JSON."""


class TextDataset(AtomicSave, _TextDataset):
    """A string as a text file, for example a page of HTML."""
