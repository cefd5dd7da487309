"""Whether numbers are numbers, without a copy of a table that may be large."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def is_finite(values: Tensor) -> bool:
    """Whether all values are finite. Extremes carry NaN on, and cost no mask of all cells."""
    if not values.is_floating_point() or not values.numel():
        return True
    lowest, highest = values.aminmax()
    return bool(lowest.isfinite() & highest.isfinite())
