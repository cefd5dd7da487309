"""Typed parameters of the model, and what all training stages share.

Fields that are ``None`` in the configuration take the value of the preset: what the paper
describes (``corrected``) or what the authors' code computes (``faithful``). What the preset gives
to the model stands in ``MKGformerConfig``; what it gives to a stage, with that stage's parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from mkgformer_kedro.parameters import Parameters, typed

Preset = Literal["corrected", "faithful"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _distinct(seeds: list[int]) -> list[int]:
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError("seeds needs at least one seed and none twice (null: the run's seed)")
    return seeds


Seeds = Annotated[list[Seed], AfterValidator(_distinct)]

# Fields of MKGformerConfig that have a place of their own.
_SET_ELSEWHERE = {
    "loss": "link_prediction.finetuning.loss",
    "label_smoothing": "link_prediction.finetuning.label_smoothing",
    "answer_exponent": "link_prediction.finetuning.answer_exponent",
    "half_precision_entities": "link_prediction.finetuning.half_precision_entities",
    "representation": "relation_extraction.finetuning.representation",
    "constrain_transitions": "entity_recognition.finetuning.units",
    "classifier_dropout": "finetuning.classifier_dropout of the task",
    "image_sizes": "image_association.slots of the task",
    "image_counts": "image_association.slots of the task",
    "mask_token_id": "the tokenizer",
    "text_config": "model.text_tower",
    "vision_config": "model.vision_config",
    "num_entities": "the graph",
    "num_relations": "the graph",
    "entity_encoder": "the graph",
}


class PresetParameters(Parameters):
    """Parameters some of whose fields may be left to the preset, which ``preset_values`` says."""

    preset_values: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def with_preset(self, preset: Preset) -> Self:
        """Return a copy in which every open field has the preset's value."""
        values = self.preset_values.get(preset, {})
        return self.model_copy(
            update={key: value for key, value in values.items() if getattr(self, key) is None}
        )


Attention = Literal["sdpa", "eager", "flex_attention"]
"""How attention is computed."""


class ImagesParameters(Parameters):
    """Which images a model sees, when it learns and when it is asked: see ``VisualStore``."""

    source: Literal["own", "none", "shuffled", "random"]
    seed: Seed


class ModelParameters(Parameters):
    """Which towers are fused, and how."""

    no_result_depends_on = frozenset({"attention"})

    text_tower: str
    vision_tower: str | None
    vision_config: dict[str, Any]
    images: ImagesParameters
    attention: Attention
    config: dict[str, Any]

    @field_validator("config")
    @classmethod
    def _only_free_fields(cls, config: dict[str, Any]) -> dict[str, Any]:
        if taken := set(config) & _SET_ELSEWHERE.keys():
            places = ", ".join(f"{name} ({_SET_ELSEWHERE[name]})" for name in sorted(taken))
            raise ValueError(f"set elsewhere: {places}")
        return config

    @property
    def least_memory(self) -> int:
        """Bytes of a tower from scratch while it learns: weights, gradients, two moments."""
        width, layers, inner = (
            max(self.vision_config.get(name, 0), 0)
            if isinstance(self.vision_config.get(name, 0), int)
            else 0
            for name in ("hidden_size", "num_hidden_layers", "intermediate_size")
        )
        return 16 * layers * width * (4 * width + 2 * inner)


Precision = Literal["fp32", "bf16"]
"""In which matrix products are computed; parameters and scores are in fp32 all the same."""


class AdamParameters(Parameters):
    """How the authors fit the embeddings of entities."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0, lt=math.inf)


class EntityModelingParameters(PresetParameters):
    """Stage 1: learn one embedding per entity from its description and images."""

    preset_values: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "corrected": {"prompt": "paper", "initialization": "text", "solver": "lbfgs"},
        "faithful": {"prompt": "authors", "initialization": "normal", "solver": "adam"},
    }

    max_length: int = Field(ge=16)
    prompt: Literal["paper", "authors"] | None
    initialization: Literal["text", "normal"] | None
    solver: Literal["lbfgs", "adam"] | None
    ridge: float = Field(gt=0, lt=math.inf)
    closed_form_above: int = Field(ge=0)
    adam: AdamParameters
    encoding_batch_size: int = Field(ge=1)


class TrainSubset(Parameters):
    """A part of the train split: ``shots`` of each relation or type, or a ``share``."""

    shots: int | None = Field(None, ge=1)
    share: float | None = Field(None, gt=0, le=1)

    @model_validator(mode="after")
    def _says_one(self) -> Self:
        if (self.shots is None) == (self.share is None):
            raise ValueError("train_subset is either {shots: 8} or {share: 0.05}")
        return self


class FinetuningParameters(PresetParameters):
    """What fine-tuning for any task shares: a dev set picks the model, and each seed has its own.

    A task adds its own fields, see ``parameters_class`` of its :class:`Task`.
    """

    no_result_depends_on = frozenset({"log_every", "loader_workers"})

    epochs: float = Field(gt=0, le=1e6)
    max_steps: int | None = Field(ge=1)
    min_steps: int | None = Field(ge=1)
    batch_size: int = Field(ge=1)
    gradient_accumulation: int = Field(ge=1)
    learning_rates: dict[str, float]
    weight_decay: dict[str, float]
    warmup_ratio: float = Field(ge=0, lt=1)
    max_length: int = Field(ge=16)
    log_every: int = Field(ge=1)
    evaluations_per_epoch: int = Field(ge=1)
    seeds: Seeds | None
    train_subset: TrainSubset | None
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    freeze: Literal["vision_below_fusion"] | None
    gradient_checkpointing: bool
    patience: int | None = Field(ge=1)
    dev_batch_size: int = Field(ge=1)
    loader_workers: int = Field(ge=0, le=1024)
    processes: int = Field(ge=1, le=1024)

    @field_validator("learning_rates", "weight_decay")
    @classmethod
    def _has_default(cls, values: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        if "default" not in values:
            raise ValueError(f"{info.field_name} needs the key 'default'")
        if not all(0 <= value < math.inf for value in values.values()):
            raise ValueError(f"{info.field_name} must be numbers that are not negative")
        return values

    @model_validator(mode="after")
    def _steps_agree(self) -> Self:
        if self.max_steps and self.min_steps and self.min_steps > self.max_steps:
            raise ValueError(f"min_steps ({self.min_steps}) exceeds max_steps ({self.max_steps})")
        return self


StructureModelName = Literal["complex", "distmult", "transe", "rotate", "rescal", "tucker"]


class StructureModelSettings(Parameters):
    """How one structural model learns."""

    no_result_depends_on = frozenset({"checkpoint_seconds"})

    dimension: int = Field(ge=1)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    optimizer: Literal["adagrad", "adam"]
    learning_rate: float = Field(gt=0, lt=math.inf)
    regularization: float = Field(ge=0, lt=math.inf)
    label_smoothing: float = Field(ge=0, lt=1)
    precision: Precision
    epochs_per_evaluation: int = Field(ge=1)
    patience: int | None = Field(ge=1)
    dev_queries: int | None = Field(ge=1)
    dev_batch_size: int = Field(ge=1)
    checkpoint_seconds: float = Field(ge=0)

    @property
    def least_memory(self) -> int:
        """Bytes of one entity and one relation while they are learned."""
        return 32 * self.dimension


class StructureModelingParameters(StructureModelSettings):
    """Structural experts: which models, and how they learn."""

    models: list[StructureModelName]
    seeds: Seeds | None
    by_model: dict[StructureModelName, dict[str, Any]]

    @field_validator("models")
    @classmethod
    def _named_once(cls, models: list[str]) -> list[str]:
        if len(set(models)) < len(models):
            raise ValueError("models names a model twice")
        return models

    @model_validator(mode="after")
    def _valid_for_each_model(self) -> Self:
        for name in self.by_model.keys() | set(self.models):
            self.of_model(name)
        return self

    def of_model(self, name: str) -> StructureModelSettings:
        """Settings of one model: those of all, and what ``by_model`` says about it.

        Raises:
            ValueError: A setting is unknown or out of bounds, or made for models that multiply
                where the model measures distances.
        """
        common = self.model_dump(include=set(StructureModelSettings.model_fields))
        values = common | self.by_model.get(name, {})
        settings = typed(StructureModelSettings, values, f"by_model.{name}")
        if settings.epochs % settings.epochs_per_evaluation:
            raise ValueError(
                f"epochs ({settings.epochs}) is no multiple of epochs_per_evaluation "
                f"({settings.epochs_per_evaluation}), so the last ones would not be judged"
            )
        if name == "tucker" and settings.batch_size < 2:
            raise ValueError("tucker norms over a batch, which takes a batch_size of at least 2")
        if name in ("transe", "rotate"):
            for key, only in (("regularization", 0), ("precision", "fp32")):
                if getattr(settings, key) != only:
                    raise ValueError(
                        f"{name} measures distances, which take no {key} but {only}; "
                        f"set by_model.{name}.{key}"
                    )
        return settings
