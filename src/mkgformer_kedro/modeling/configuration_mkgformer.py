"""MKGformer model configuration."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import MISSING, field, fields
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .towers import text_family, vision_family

IMAGE_ROLES = ("full", "grounding", "detection")
"""Kinds of images in the order in which they stand in the visual sequence: the whole image, the
region a phrase was grounded in, and the crop of a detected object."""

_CHOICES = {
    "visual_embeddings": ("class_and_position", "patches", "class_and_crops"),
    "prefix_source": ("same_layer", "previous_layer"),
    "fusion_init": ("zero", "normal"),
    "loss": ("binary_cross_entropy", "cross_entropy"),
    "representation": ("markers", "cls"),
}

# Fields of `PreTrainedConfig` that say what the classes of a classifier are.
_LABELS = {"id2label", "label2id", "num_labels"}

# What the authors' code joins.
_FAITHFUL_TOWERS = ("bert", "clip_vision_model")

# What the authors' released code computes, field by field, where it differs from this project's
# defaults. The defaults of `MKGformerConfig` are the preset "corrected".
_FAITHFUL: dict[str, Any] = {
    # Patch embeddings alone; CLIP was trained with a class token and position embeddings.
    "visual_embeddings": "patches",
    # Fusion from layer index 8 of 12 on; the paper's text says the last three layers.
    "num_fusion_layers": 4,
    # Visual layer i reads what text layer i - 1 computed; the paper's prefix is of the same layer.
    "prefix_source": "previous_layer",
    # Patches also attend to the padding behind the text.
    "mask_prefix_padding": False,
    # A missing image is an image of zeros, which takes part like any other.
    "mask_missing_images": False,
    # Similarity of tokens and patches is a bare dot product, however wide the towers are.
    "scale_similarity": False,
    # The fusion's weights start at random and disturb the pretrained text tower from step one.
    "fusion_init": "normal",
}

# The authors' relation extraction and entity recognition have a visual input of their own.
_FAITHFUL_POSTS: dict[str, Any] = {
    **_FAITHFUL,
    # One class token without its position, then crops with positions of their own.
    "visual_embeddings": "class_and_crops",
    # The whole image is decoded, and then not used.
    "image_counts": {"grounding": 3, "detection": 3},
}

_FAITHFUL_BY_TASK: dict[str, dict[str, Any]] = {
    "link_prediction": _FAITHFUL,
    "relation_extraction": {**_FAITHFUL_POSTS, "classifier_dropout": 0.5},
    # Among the authors' states are those of special tokens, so that every transition is possible.
    "entity_recognition": {**_FAITHFUL_POSTS, "constrain_transitions": False},
}


@strict
class MKGformerConfig(PreTrainedConfig):
    r"""Configuration of a [`MKGformerModel`].

    The defaults are the preset `corrected`: BERT-base, CLIP ViT-B/32 and the method as its paper
    describes it (https://arxiv.org/abs/2205.02357). [`MKGformerConfig.preset`] gives the other one.

    Args:
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Text tower, of one of `towers.TEXT_FAMILIES`; a `dict` without `model_type` is a BERT's.
        vision_config (`PreTrainedConfig` or `dict`, *optional*):
            Vision tower, of one of `towers.VISION_FAMILIES`; a `dict` without `model_type` is a
            CLIP's. It may differ from the text tower in depth, width and number of heads.
        text_pooler (`bool`, *optional*, defaults to `False`):
            Whether the text tower has BERT's pooler. Other families go without.
        num_fusion_layers (`int`, *optional*, defaults to 3):
            Number M of layer pairs, from the top of both towers down, that exchange information.
        prefix_source (`str`, *optional*, defaults to `"same_layer"`):
            Text layer whose keys and values the visual self-attention of a pair reads: the pair's
            own (`"same_layer"`) or the one below it (`"previous_layer"`).
        prefix_guided_interaction (`bool`, *optional*, defaults to `True`):
            Whether the visual self-attention of a pair reads the text. Otherwise patches attend to
            patches alone, for ablations.
        correlation_aware_fusion (`bool`, *optional*, defaults to `True`):
            Whether a token gets from the patches what is similar to it. Otherwise every token gets
            the mean of all patches, for ablations. (Without any fusion no image would reach the
            text.)
        mask_prefix_padding (`bool`, *optional*, defaults to `True`):
            Whether patches are kept from attending to padding tokens of the text.
        mask_missing_images (`bool`, *optional*, defaults to `True`):
            Whether missing images are left out. Otherwise they are zero tensors that are attended
            to.
        scale_similarity (`bool`, *optional*, defaults to `True`):
            Whether the similarity of tokens and patches is divided by the root of the hidden size.
        fusion_init (`str`, *optional*, defaults to `"zero"`):
            How the layers that add the visual sum to the text start: `"zero"` (the model starts as
            the plain text tower) or `"normal"`.
        visual_embeddings (`str`, *optional*, defaults to `"class_and_position"`):
            Visual tokens of one image: class token, where the tower has one, and patches with the
            tower's position embeddings, interpolated to the image's grid (`"class_and_position"`),
            or patch embeddings alone (`"patches"`). `"class_and_crops"` has one class token,
            without a position, for all images of an example, and then patches: those of a role's
            images, side by side, have a table of learned positions. It has no place for the role
            `full`. The latter two are for CLIP only.
        image_sizes (`dict[str, int]`, *optional*, defaults to 224, 128 and 64):
            Edge length in pixels of the images of the roles `full`, `grounding` and `detection`.
        image_counts (`dict[str, int]`, *optional*, defaults to 1, 3 and 3):
            Number of image slots of each role. A role with 0, or left out, does not exist.
        image_mean (`tuple[float, ...]`, *optional*, defaults to CLIP's):
            Mean of each colour channel, for values between 0 and 1; normalises uint8 images.
        image_std (`tuple[float, ...]`, *optional*, defaults to CLIP's):
            Standard deviation of each colour channel, likewise.
        num_entities (`int`, *optional*, defaults to 0):
            Number of entities. Each has a token id and an embedding of its own; these ids follow
            those of the vocabulary.
        num_relations (`int`, *optional*, defaults to 0):
            Number of relations, likewise; their ids follow those of the entities.
        entity_encoder (`bool`, *optional*, defaults to `False`):
            Whether the model makes embeddings of new entities from their descriptions, see
            [`MKGformerForLinkPrediction.embed_entities`].
        half_precision_entities (`bool`, *optional*, defaults to `False`):
            Whether the entities' embeddings are kept in bfloat16, whatever the other weights are,
            see [`MKGformerForLinkPrediction.halve_entities`].
        mask_token_id (`int`, *optional*):
            Token id of `[MASK]`.
        loss (`str`, *optional*, defaults to `"binary_cross_entropy"`):
            Loss of link prediction: `"binary_cross_entropy"` of every entity on its own, or
            `"cross_entropy"` against the uniform distribution over the answers.
        label_smoothing (`float`, *optional*, defaults to 0.0):
            Share of the target mass that is spread evenly over all entities.
        answer_exponent (`float`, *optional*, defaults to 0.0):
            In the mean of the cross-entropy a question weighs its number of answers to this power.
        representation (`str`, *optional*, defaults to `"markers"`):
            What relation extraction classifies: the states of the markers that open the two
            mentions, side by side (`"markers"`), or the state of the first token (`"cls"`).
        classifier_dropout (`float`, *optional*, defaults to 0.1):
            Dropout of the states that relation extraction and entity recognition classify.
        constrain_transitions (`bool`, *optional*, defaults to `True`):
            Whether entity recognition rules out what IOB2 does: a tag `I-x` that follows neither
            `B-x` nor `I-x`. The names in `id2label` must then be IOB2 tags.
    """

    model_type = "mkgformer"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "text_config": SubConfigSpec(AutoConfig, model_type="bert"),
        "vision_config": SubConfigSpec(AutoConfig, model_type="clip_vision_model"),
    }

    text_config: Any = None
    vision_config: Any = None
    text_pooler: bool = False
    num_fusion_layers: int = 3
    prefix_source: str = "same_layer"
    prefix_guided_interaction: bool = True
    correlation_aware_fusion: bool = True
    mask_prefix_padding: bool = True
    mask_missing_images: bool = True
    scale_similarity: bool = True
    fusion_init: str = "zero"
    visual_embeddings: str = "class_and_position"
    image_sizes: dict[str, int] = field(
        default_factory=lambda: {"full": 224, "grounding": 128, "detection": 64}
    )
    image_counts: dict[str, int] = field(
        default_factory=lambda: {"full": 1, "grounding": 3, "detection": 3}
    )
    image_mean: list[float] | tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    image_std: list[float] | tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    num_entities: int = 0
    num_relations: int = 0
    entity_encoder: bool = False
    half_precision_entities: bool = False
    mask_token_id: int | None = None
    loss: str = "binary_cross_entropy"
    label_smoothing: float = 0.0
    answer_exponent: float = 0.0
    representation: str = "markers"
    classifier_dropout: float = 0.1
    constrain_transitions: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if "entity_token_start" in kwargs:
            raise ValueError(
                "The model is of an earlier version, in which entities and relations were rows of "
                "the word embeddings. Train it again."
            )
        self.image_mean, self.image_std = tuple(self.image_mean), tuple(self.image_std)
        super().__post_init__(**kwargs)
        self._check()

    @property
    def entity_token_start(self) -> int:
        """Token id of entity 0: entities follow the vocabulary."""
        return self.text_config.vocab_size

    @property
    def relation_token_start(self) -> int:
        """Token id of relation 0: relations follow the entities."""
        return self.entity_token_start + self.num_entities

    @property
    def max_text_length(self) -> int:
        """Longest text that the text tower can read, in tokens."""
        return text_family(self.text_config).max_length(self.text_config)

    @property
    def image_roles(self) -> tuple[str, ...]:
        """Roles that have slots, in the order of the visual sequence."""
        return tuple(role for role in IMAGE_ROLES if self.image_counts.get(role))

    @property
    def num_image_slots(self) -> int:
        """Number of images one example can have."""
        return sum(self.image_counts[role] for role in self.image_roles)

    @staticmethod
    def preset(name: str, task: str = "link_prediction") -> dict[str, Any]:
        """Values of the fields in which the paper and the authors' code part.

        Args:
            name: `corrected` (what the paper says) or `faithful` (what the authors' code computes,
                so that their checkpoints give their scores).
            task: `link_prediction`, `relation_extraction` or `entity_recognition`; the authors'
                code is not the same for all of them.

        Raises:
            ValueError: There is no preset or no task of that name.
        """
        if task not in _FAITHFUL_BY_TASK:
            raise ValueError(
                f"Unknown task {task!r}. Use {' or '.join(map(repr, _FAITHFUL_BY_TASK))}."
            )
        faithful = _FAITHFUL_BY_TASK[task]
        if name == "faithful":
            return deepcopy(faithful)
        if name == "corrected":
            return {
                f.name: f.default if f.default_factory is MISSING else f.default_factory()
                for f in fields(MKGformerConfig)
                if f.name in faithful
            }
        raise ValueError(f"Unknown preset {name!r}. Use 'corrected' or 'faithful'.")

    @staticmethod
    def check_preset(name: str, text_config: Any, vision_config: Any) -> None:
        """Raise a ValueError if towers are not those of a preset."""
        towers = tuple(
            config.get("model_type", default) if isinstance(config, Mapping) else config.model_type
            for config, default in zip((text_config, vision_config), _FAITHFUL_TOWERS, strict=True)
        )
        if name == "faithful" and towers != _FAITHFUL_TOWERS:
            raise ValueError(
                "The preset 'faithful' is what the authors' code computes, which joins "
                f"{' and '.join(_FAITHFUL_TOWERS)}, not {' and '.join(towers)}. Use 'corrected'."
            )

    @staticmethod
    def check_names(values: Mapping[str, Any]) -> None:
        """Raise a ValueError if `values` names something that is no field of the configuration."""
        known = set(MKGformerConfig.__annotations__) | _LABELS
        if unknown := sorted(set(values) - known):
            raise ValueError(
                f"MKGformerConfig has no {', '.join(unknown)}. It has: {', '.join(sorted(known))}."
            )

    def _check(self) -> None:
        self._check_towers()
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}. Use {' or '.join(map(repr, choices))}."
                )
        self._check_fusion()
        self._check_images()
        if not 0 <= self.answer_exponent <= 1:
            raise ValueError(f"answer_exponent is {self.answer_exponent}. Use a value in [0, 1].")
        for name in ("label_smoothing", "classifier_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}. Use a value in [0, 1).")

    def _check_towers(self) -> None:
        family = text_family(self.text_config)
        vision_family(self.vision_config)
        if self.text_pooler and not family.has_pooler:
            raise ValueError(
                f"text_pooler is BERT's pooler, but the text tower is a "
                f"{self.text_config.model_type}. Leave it at False."
            )
        kind = self.vision_config.model_type
        if self.visual_embeddings != "class_and_position" and kind != _FAITHFUL_TOWERS[1]:
            raise ValueError(
                f"visual_embeddings {self.visual_embeddings!r} is for CLIP only, but the vision "
                f"tower is a {kind}. Use 'class_and_position'."
            )

    def _check_fusion(self) -> None:
        for tower in ("text_config", "vision_config"):
            depth = getattr(self, tower).num_hidden_layers
            if not 1 <= self.num_fusion_layers <= depth:
                raise ValueError(
                    f"num_fusion_layers is {self.num_fusion_layers}, but {tower} has {depth} "
                    f"layers. Use a value from 1 to {depth}."
                )
        text_depth = self.text_config.num_hidden_layers
        if self.prefix_source == "previous_layer" and self.num_fusion_layers == text_depth:
            raise ValueError(
                "prefix_source 'previous_layer' needs a text layer below the fused ones: use at "
                f"most {text_depth - 1} for num_fusion_layers."
            )

    def _check_images(self) -> None:
        for name in ("image_sizes", "image_counts"):
            if unknown := sorted(set(getattr(self, name)) - set(IMAGE_ROLES)):
                raise ValueError(
                    f"{name} names {', '.join(unknown)}. The roles are {', '.join(IMAGE_ROLES)}."
                )
        if not self.image_roles or any(count < 0 for count in self.image_counts.values()):
            raise ValueError(
                f"image_counts is {self.image_counts}. At least one role needs a slot, and no "
                "role may have a negative count."
            )
        if self.visual_embeddings == "class_and_crops" and "full" in self.image_roles:
            raise ValueError(
                "visual_embeddings 'class_and_crops' has no place for full images. Leave full "
                "out of image_counts."
            )
        patch_size = self.vision_config.patch_size
        if not isinstance(patch_size, int):
            raise ValueError(
                f"The vision tower's patch_size is {patch_size}. Patches must be squares: give one "
                "number."
            )
        for role in self.image_roles:
            size = self.image_sizes.get(role, 0)
            if size < 1 or size % patch_size:
                raise ValueError(
                    f"image_sizes gives {size} pixels for {role}. Use a positive multiple of the "
                    f"vision tower's patch_size, {patch_size}."
                )
        channels = self.vision_config.num_channels
        if not len(self.image_mean) == len(self.image_std) == channels:
            raise ValueError(
                f"image_mean and image_std have {len(self.image_mean)} and {len(self.image_std)} "
                f"values, but the vision tower has {channels} channels."
            )


AutoConfig.register(MKGformerConfig.model_type, MKGformerConfig)

__all__ = ["MKGformerConfig"]
