"""Rows of different length as flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
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

    @classmethod
    def joined(cls, parts: Sequence[Ragged]) -> Self:
        """The rows of all parts, one below the other."""
        lengths = np.concatenate([np.zeros(1, np.int64), *(part.lengths for part in parts)])
        values = np.concatenate([np.empty(0, np.int64), *(part.values for part in parts)])
        return cls(values, np.cumsum(lengths))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Length of every row, ``(rows,)``."""
        return np.diff(self.offsets)

    def lengths_of(self, rows: np.ndarray) -> np.ndarray:
        """Length of each of the chosen rows, without a look at the others."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def chosen(self, rows: np.ndarray) -> Self:
        """The chosen rows."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths_of(rows))])
        return type(self)(self.flat(rows)[1], offsets)

    def flat(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values of the chosen rows as pairs.

        Returns:
            ``(k,)`` positions within ``rows`` and ``(k,)`` values.
        """
        lengths = self.lengths_of(rows)
        positions = np.repeat(np.arange(len(rows)), lengths)
        ends = np.cumsum(lengths)
        within = np.arange(len(positions)) - np.repeat(ends - lengths, lengths)
        return positions, self.values[self.offsets[:-1][rows][positions] + within]

    def padded(self, rows: np.ndarray, fill: int) -> np.ndarray:
        """The chosen rows as a matrix ``(len(rows), longest)``, padded with ``fill``."""
        lengths = self.lengths_of(rows)
        matrix = np.full((len(rows), int(lengths.max(initial=0))), fill, dtype=np.int64)
        matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = self.flat(rows)[1]
        return matrix
