"""Rows of different length as flat arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Ragged:
    """Rows of different length in two flat arrays.

    Attributes:
        values: All rows, one after the other.
        offsets: ``(rows + 1,)``; row ``i`` is ``values[offsets[i]:offsets[i + 1]]``.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_rows(cls, rows: pd.Series | list) -> Self:
        """Flatten a sequence of integer sequences."""
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        values = (
            np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
            if len(rows)
            else np.empty(0, np.int64)
        )
        return cls(values, np.concatenate([[0], np.cumsum(lengths)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Length of every row, ``(rows,)``."""
        return np.diff(self.offsets)

    def flat(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values of the chosen rows as pairs.

        Returns:
            ``(k,)`` positions within ``rows`` and ``(k,)`` values.
        """
        lengths = self.lengths[rows]
        positions = np.repeat(np.arange(len(rows)), lengths)
        ends = np.cumsum(lengths)
        within = np.arange(len(positions)) - np.repeat(ends - lengths, lengths)
        return positions, self.values[self.offsets[:-1][rows][positions] + within]

    def padded(self, rows: np.ndarray, fill: int) -> np.ndarray:
        """The chosen rows as a matrix ``(len(rows), longest)``, padded with ``fill``."""
        lengths = self.lengths[rows]
        matrix = np.full((len(rows), int(lengths.max(initial=0))), fill, dtype=np.int64)
        matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = self.flat(rows)[1]
        return matrix
