import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.ranking.tables import DIRECTIONS, direction_numbers, members


def test_members_are_marked():
    assert members([3, 1, 3], 5).tolist() == [False, True, False, True, False]
    assert members(pd.DataFrame({"head": [0], "tail": [2]}), 3).tolist() == [True, False, True]
    assert not members(np.array([]), 2).any()


def test_directions_have_their_numbers():
    queries = pd.DataFrame({"direction": ["head", "tail"]})
    assert [DIRECTIONS[number] for number in direction_numbers(queries)] == ["head", "tail"]
