"""Files that are whole or not there: the datasets of ``kedro_datasets``, written atomically.

Use them in a catalog by their full name, for example
``type: mkgformer_kedro.datasets.tables.ParquetDataset``. They take what their originals take,
for files on a local disk, and keep their previews in Kedro-Viz.
"""

from __future__ import annotations

import copy
import errno
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from kedro_datasets.json import JSONDataset as _JSONDataset
from kedro_datasets.pandas import CSVDataset as _CSVDataset
from kedro_datasets.pandas import ParquetDataset as _ParquetDataset
from kedro_datasets.text import TextDataset as _TextDataset

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import written_atomically

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
            DataError: The disk is full.
        """
        path = Path(self._filepath)
        try:
            with written_atomically(path) as temporary:
                writer = copy.copy(self)
                writer._filepath = PurePosixPath(temporary)
                # Past Kedro's wrapper, whose messages would name the temporary file.
                super(AtomicSave, writer).save.__wrapped__(writer, data)  # type: ignore[misc]
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise DataError(
                Problem(
                    str(path),
                    None,
                    "no space left on the disk; what stood there before is unchanged",
                    "Free some space and run the same command again.",
                )
            ) from error


class ParquetDataset(AtomicSave, _ParquetDataset):
    """A pandas table as Parquet."""

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
