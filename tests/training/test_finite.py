"""What is no number is found wherever it stands."""

import pytest
import torch

from mkgformer_kedro.training.finite import is_finite


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_value_spoils_a_table(value, dtype):
    table = torch.full((3, 4), torch.finfo(dtype).max, dtype=dtype)
    table[0] = torch.finfo(dtype).min
    assert is_finite(table)
    table[2, 1] = value
    assert not is_finite(table)


def test_whole_numbers_and_empty_tables_are_finite():
    assert is_finite(torch.arange(3))
    assert is_finite(torch.empty(0, 4))
