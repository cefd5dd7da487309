"""The order in which training sees its items."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# Batches of similar length are formed within blocks of this many batches, so that the order of the
# epoch stays random at a larger scale.
_BATCHES_PER_BLOCK = 64


class BatchSampler:
    """Batches of item numbers for one epoch after another.

    Items whose images are the same owner's are kept next to each other in runs of at most
    ``items_per_owner``, so that a batch reads and encodes these images once. Runs are drawn at
    random, then sorted by length within large blocks so that little is spent on padding, and the
    batches are shuffled. The order is a function of seed and epoch alone, which makes a resumed run
    exact.

    Args:
        items: ``(m,)`` item numbers to be seen in each epoch; an item may stand there repeatedly.
        owners: ``(n,)`` owner of every item's images.
        lengths: ``(n,)`` length of every item in tokens.
        batch_size: Items per batch and process.
        items_per_owner: Longest run of items of one owner.
        shuffle: False keeps the order of ``items``.
        seed: Seed of the order.
    """

    def __init__(
        self,
        items: np.ndarray,
        owners: np.ndarray,
        lengths: np.ndarray,
        *,
        batch_size: int,
        items_per_owner: int,
        shuffle: bool,
        seed: int,
    ) -> None:
        self.items = items
        self.owners = owners
        self.lengths = lengths
        self.batch_size = batch_size
        self.items_per_owner = items_per_owner
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
        order = order[np.argsort(self.owners[order], kind="stable")]
        owner = self.owners[order]
        is_first = np.concatenate([[True], owner[1:] != owner[:-1]])
        first = np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))
        starts_run = (np.arange(len(order)) - first) % self.items_per_owner == 0
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
