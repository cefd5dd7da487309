"""Queries as arrays."""

import numpy as np
import pandas as pd

from mkgformer_kedro.training.queries import Queries


def test_queries_are_read_from_the_table():
    frame = pd.DataFrame(
        {
            "direction": ["tail", "head"],
            "entity": np.array([3, 1], np.int32),
            "relation": np.array([0, 1], np.int32),
            "answers": [np.array([1, 2], np.int32), np.array([0], np.int32)],
            "known": [np.array([1, 2, 4], np.int32), np.array([0], np.int32)],
        }
    )
    queries = Queries.from_frame(frame)
    assert queries.is_tail.tolist() == [True, False]
    assert queries.entity.tolist() == [3, 1]
    assert queries.answers[0].tolist() == [1, 2]
    assert queries.known[0].tolist() == [1, 2, 4]
