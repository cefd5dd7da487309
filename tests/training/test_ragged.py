"""Ragged rows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mkgformer_kedro.training.ragged import Ragged

ROWS = st.lists(st.lists(st.integers(0, 99), max_size=5), min_size=1, max_size=12)


@given(rows=ROWS, data=st.data())
def test_ragged_gives_back_its_rows(rows, data):
    ragged = Ragged.from_rows(rows)
    chosen = np.array(
        data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=8)), dtype=np.int64
    )
    assert [ragged[i].tolist() for i in range(len(ragged))] == rows

    positions, values = ragged.flat(chosen)
    expected = [(k, value) for k, row in enumerate(chosen) for value in rows[row]]
    assert list(zip(positions.tolist(), values.tolist(), strict=True)) == expected

    padded = ragged.padded(chosen, -1)
    longest = max((len(rows[row]) for row in chosen), default=0)
    assert padded.tolist() == [rows[row] + [-1] * (longest - len(rows[row])) for row in chosen]
