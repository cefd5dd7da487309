"""Asking what was learned: a predictor for people, experts, their mixture, and completions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkgformer_kedro.inference.predictor import Predictor

__all__ = ["Predictor"]


def __getattr__(name: str) -> Any:
    # On demand: the wiring of pipelines reads parameters here, and must not bring in torch.
    if name == "Predictor":
        from mkgformer_kedro.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
