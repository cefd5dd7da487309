"""Progress of whatever takes longer than a few seconds."""

from __future__ import annotations

import logging
import sys
import time
from typing import Self

from tqdm import tqdm

logger = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """A bar on a terminal; elsewhere a log line every ten seconds, with speed and time left.

    Args:
        what: What is done, such as "Ranking test queries".
        total: Number of units.
        unit: What is counted, in the plural.
    """

    def __init__(self, what: str, total: int, unit: str) -> None:
        self._bar = tqdm(
            desc=what, total=total, unit=f" {unit}", disable=not sys.stderr.isatty(), leave=False
        )
        self._what, self._total, self._unit = what, total, unit
        self._done = 0
        self._start = self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def advance(self, units: int) -> None:
        """Count units that were done."""
        self._bar.update(units)
        self._done += units
        now = time.monotonic()
        if self._bar.disable and now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            rate = self._done / (now - self._start)
            left = seconds_in_words((self._total - self._done) / rate)
            logger.info(
                "%s: %d of %d %s, %.0f %s/s, %s left",
                self._what,
                self._done,
                self._total,
                self._unit,
                rate,
                self._unit,
                left,
            )


def seconds_in_words(seconds: float) -> str:
    """A duration as people say it: ``45 s``, ``12 min``."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
