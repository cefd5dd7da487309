"""Whether numbers are numbers, without a copy of a table that may be large."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_NAMED = 3


def is_finite(values: Tensor) -> bool:
    """Whether all values are finite. Extremes carry NaN on, and cost no mask of all cells."""
    if not values.is_floating_point() or not values.numel():
        return True
    lowest, highest = values.aminmax()
    return bool(lowest.isfinite() & highest.isfinite())


def fault_of_weights(model: Any, loading: Mapping[str, Any]) -> str | None:
    """What is wrong with the weights of a model that was just read; None: nothing.

    Args:
        model: The model.
        loading: What ``from_pretrained`` says of missing, unexpected and mismatched weights.
    """
    faults: dict[str, Iterable[str]] = {
        "missing from the file": loading["missing_keys"],
        "of no weight of the model": loading["unexpected_keys"],
        "of another shape": [key for key, *_ in loading["mismatched_keys"]],
        "not finite": [
            name for name, weight in model.state_dict().items() if not is_finite(weight)
        ],
    }
    for what, faulty in faults.items():
        if names := sorted(faulty):
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            return f"{', '.join(names[:_NAMED])}{more} {what}"
    return None
