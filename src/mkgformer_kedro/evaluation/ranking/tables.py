"""Columns of the tables of a graph, and what is read off them in many places.

``triples`` has a row per triple, ``queries`` one per question: direction ``tail`` asks (entity,
relation, ?), ``head`` asks (?, relation, entity). Both have integer indices and a ``split``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

TRIPLE = ["head", "relation", "tail"]
QUERY = ["direction", "entity", "relation"]
DIRECTIONS = ("tail", "head")
"""The directions in the order of every array that has one entry for each."""


def members(indices: ArrayLike, size: int) -> np.ndarray:
    """Which of the numbers below ``size`` are among some, bool ``(size,)``."""
    found = np.zeros(size, dtype=bool)
    found[np.asarray(indices, dtype=np.int64)] = True
    return found


def direction_numbers(queries: pd.DataFrame) -> np.ndarray:
    """Place of each query's direction in ``DIRECTIONS``, int64 ``(n,)``."""
    return (queries["direction"] == DIRECTIONS[1]).to_numpy().astype(np.int64)
