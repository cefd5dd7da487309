"""Typed parameters of the model and of both training stages.

Fields that are ``None`` in the configuration take the value of the preset (see ``PRESETS``): what
the paper describes (``corrected``) or what the authors' code computes (``faithful``).
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator

from mkgformer_kedro.parameters import Parameters

Preset = Literal["corrected", "faithful"]

# Values the preset gives to training fields that the configuration leaves open. What it gives to
# the model stands in MKGformerConfig.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "corrected": {
        "entity_modeling": {"prompt": "paper", "initialization": "text"},
        "finetuning": {"prompt": "paper", "item": "query", "shuffle": True},
    },
    "faithful": {
        "entity_modeling": {"prompt": "authors", "initialization": "normal"},
        "finetuning": {"prompt": "authors", "item": "triple", "shuffle": False},
    },
}


class PresetParameters(Parameters):
    """Parameters some of whose fields may be left to the preset."""

    def with_preset(self, stage: str, preset: Preset) -> Self:
        """Return a copy in which every open field has the preset's value."""
        values = PRESETS[preset][stage]
        return self.model_copy(
            update={key: value for key, value in values.items() if getattr(self, key) is None}
        )


class ModelParameters(Parameters):
    """Which towers are fused, and how."""

    text_tower: str
    vision_tower: str | None
    vision_config: dict[str, Any]
    attention: Literal["sdpa", "eager", "flex_attention"]
    config: dict[str, Any]


class LaunchParameters(Parameters):
    """How many training processes run, and where they meet."""

    processes: int = Field(ge=1)
    nodes: int = Field(ge=1)
    rendezvous: str

    @property
    def world_size(self) -> int:
        """Training processes on all nodes together."""
        return self.processes * self.nodes


class OptimizationParameters(PresetParameters):
    """What both training stages share."""

    epochs: float = Field(gt=0)
    max_steps: int | None = Field(ge=1)
    batch_size: int = Field(ge=1)
    gradient_accumulation: int = Field(ge=1)
    learning_rates: dict[str, float]
    weight_decay: float = Field(ge=0)
    warmup_ratio: float = Field(ge=0, lt=1)
    max_length: int = Field(ge=16)
    log_every: int = Field(ge=1)
    evaluations_per_epoch: int = Field(ge=1)
    prompt: Literal["paper", "authors"] | None

    @field_validator("learning_rates")
    @classmethod
    def _has_default(cls, rates: dict[str, float]) -> dict[str, float]:
        if "default" not in rates:
            raise ValueError("learning_rates needs the key 'default'")
        return rates


class EntityModelingParameters(OptimizationParameters):
    """Stage 1: learn one embedding per entity from its description and pictures."""

    initialization: Literal["text", "normal"] | None
    encoding_batch_size: int = Field(ge=1)


class FinetuningParameters(OptimizationParameters):
    """Stage 2: predict the missing entity of a query."""

    precision: Literal["auto", "fp32", "bf16", "fp16"]
    gradient_checkpointing: bool
    loss: Literal["binary_cross_entropy", "cross_entropy"]
    label_smoothing: float = Field(ge=0, lt=1)
    item: Literal["query", "triple"] | None
    shuffle: bool | None
    queries_per_entity: int = Field(ge=1)
    patience: int | None = Field(ge=1)
    dev_queries: int | None = Field(ge=1)
    dev_batch_size: int = Field(ge=1)
    loader_workers: int = Field(ge=0)
    launch: LaunchParameters
