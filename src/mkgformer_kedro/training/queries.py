"""Queries as flat arrays, and the order in which training sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd

# Batches of similar prompt length are formed within blocks of this many batches, so that the order
# of the epoch stays random at a larger scale.
_BATCHES_PER_BLOCK = 64


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


@dataclass(frozen=True)
class Queries:
    """Link prediction queries; see the dataset ``queries`` in ``docs/architecture.md``.

    Attributes:
        is_tail: ``(n,)`` bool; True asks (entity, relation, ?), False asks (?, relation, entity).
        entity: ``(n,)`` index of the known entity.
        relation: ``(n,)`` index of the relation.
        answers: Answers in the query's own split.
        known: Answers in any split.
    """

    is_tail: np.ndarray
    entity: np.ndarray
    relation: np.ndarray
    answers: Ragged
    known: Ragged

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Self:
        """Read the columns of the table ``queries``."""
        return cls(
            is_tail=(frame["direction"] == "tail").to_numpy(),
            entity=frame["entity"].to_numpy(np.int64),
            relation=frame["relation"].to_numpy(np.int64),
            answers=Ragged.from_rows(frame["answers"]),
            known=Ragged.from_rows(frame["known"]),
        )

    def __len__(self) -> int:
        return len(self.entity)


class QueryBatchSampler:
    """Batches of query numbers for one epoch after another.

    Queries about one entity are kept next to each other in runs of at most ``queries_per_entity``,
    so that a batch reads and encodes that entity's images once. Runs are drawn at random, then
    sorted by prompt length within large blocks so that little is spent on padding, and the batches
    are shuffled. The order is a function of seed and epoch alone, which makes a resumed run exact.

    Args:
        items: ``(m,)`` query numbers to be seen in each epoch; a query may stand there repeatedly.
        entity: ``(n,)`` known entity of every query.
        lengths: ``(n,)`` prompt length of every query in tokens.
        batch_size: Queries per batch and process.
        queries_per_entity: Longest run of queries about one entity.
        shuffle: False keeps the order of ``items``.
        seed: Seed of the order.
    """

    def __init__(
        self,
        items: np.ndarray,
        entity: np.ndarray,
        lengths: np.ndarray,
        *,
        batch_size: int,
        queries_per_entity: int,
        shuffle: bool,
        seed: int,
    ) -> None:
        self.items = items
        self.entity = entity
        self.lengths = lengths
        self.batch_size = batch_size
        self.queries_per_entity = queries_per_entity
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.drop_last = False

    def __len__(self) -> int:
        return -(-len(self.items) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = self._shuffled(rng) if self.shuffle else self.items
        starts = np.arange(0, len(order), self.batch_size)
        if self.shuffle:
            # A short last batch stays last: spread over processes, batches are dealt out in rounds,
            # and a round ends at the first short one.
            rng.shuffle(starts[: len(order) // self.batch_size])
        for start in starts:
            yield order[start : start + self.batch_size].tolist()

    def _shuffled(self, rng: np.random.Generator) -> np.ndarray:
        order = rng.permutation(self.items)
        order = order[np.argsort(self.entity[order], kind="stable")]
        entity = self.entity[order]
        is_first = np.concatenate([[True], entity[1:] != entity[:-1]])
        first = np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))
        starts_run = (np.arange(len(order)) - first) % self.queries_per_entity == 0
        run = np.cumsum(starts_run) - 1

        place = rng.permutation(run[-1] + 1)
        longest = np.maximum.reduceat(self.lengths[order], np.flatnonzero(starts_run))
        runs_per_block = max(
            1, _BATCHES_PER_BLOCK * self.batch_size * len(place) // max(1, len(order))
        )
        block = place // runs_per_block
        # Runs sorted by block, then by length; ties keep the random places.
        rank = np.empty_like(place)
        rank[np.lexsort((place, longest, block))] = np.arange(len(place))
        return order[np.argsort(rank[run], kind="stable")]
