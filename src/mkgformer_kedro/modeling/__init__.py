"""MKGformer as a ``transformers`` model.

Nothing heavy is imported before a name is used; the first use also registers the model with the
Auto classes of ``transformers``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .configuration_mkgformer import MKGformerConfig
    from .modeling_mkgformer import (
        MKGformerForLinkPrediction,
        MKGformerForRelationExtraction,
        MKGformerForTokenClassification,
        MKGformerModel,
        MKGformerModelOutput,
        MKGformerOutput,
        MKGformerPreTrainedModel,
    )
    from .reference_checkpoint import load_reference_checkpoint

__all__ = [
    "MKGformerConfig",
    "MKGformerForLinkPrediction",
    "MKGformerForRelationExtraction",
    "MKGformerForTokenClassification",
    "MKGformerModel",
    "MKGformerModelOutput",
    "MKGformerOutput",
    "MKGformerPreTrainedModel",
    "load_reference_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # The modeling module holds every class, the configuration included.
    module = "reference_checkpoint" if name == "load_reference_checkpoint" else "modeling_mkgformer"
    return getattr(import_module(f"{__name__}.{module}"), name)
