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
    from .processing_mkgformer import MKGformerProcessor
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
    "MKGformerProcessor",
    "load_reference_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Model and processor register themselves with the Auto classes, the configuration included.
    modules = [
        import_module(f"{__name__}.{module}")
        for module in ("modeling_mkgformer", "processing_mkgformer")
    ]
    if name == "load_reference_checkpoint":
        modules = [import_module(f"{__name__}.reference_checkpoint")]
    return next(getattr(module, name) for module in modules if name in module.__all__)
