"""In which precision matrix products are computed, where a device has it."""

from __future__ import annotations

import logging
import platform
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, TypeVar

import torch

_Named = TypeVar("_Named", bound=str)

logger = logging.getLogger(__name__)


@cache
def has_bf16(device: str) -> bool:
    """Whether devices of a kind compute in bf16 themselves.

    Others can be made to, at a cost: processors with AVX2 alone take some 200 times as long as in
    fp32.

    Args:
        device: ``cpu``, ``cuda``, or another of torch's names, which is taken to.
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return True
    # What torch asks before it leaves a product in bf16 to oneDNN, which on x86 would do with
    # AVX-512 that has no such products.
    there = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if platform.machine().lower() in ("x86_64", "amd64"):
        own = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return bool(there and own)
    return bool(there)


@cache
def precision_on(device: str, precision: _Named) -> _Named | str:
    """``precision``, or ``fp32``, with a warning, in place of ``bf16`` that the device lacks."""
    if precision == "bf16" and not has_bf16(device):
        what = "processor" if device == "cpu" else "GPU"
        logger.warning(
            "This %s does not compute in bf16 and would take far longer than in fp32: fp32 is used",
            what,
        )
        return "fp32"
    return precision


def computing_in(precision: str, device: str) -> AbstractContextManager[Any]:
    """What matrix products are computed in; ``fp32`` leaves what a caller chose, in training."""
    half = precision_on(device, precision) == "bf16"
    return torch.autocast(device, torch.bfloat16) if half else nullcontext()
