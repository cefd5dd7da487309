"""Columns of the tables of a graph, and what is read off them in many places.

``triples`` has a row per triple, ``queries`` one per question: direction ``tail`` asks (entity,
relation, ?), ``head`` asks (?, relation, entity). Both have integer indices and a ``split``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

TRIPLE = ["head", "relation", "tail"]
QUERY = ["direction", "entity", "relation"]
DIRECTIONS = ("tail", "head")
"""The directions in the order of every array that has one entry for each."""


def direction_numbers(queries: pd.DataFrame) -> np.ndarray:
    """Place of each query's direction in ``DIRECTIONS``, int64 ``(n,)``."""
    return (queries["direction"] == DIRECTIONS[1]).to_numpy().astype(np.int64)
