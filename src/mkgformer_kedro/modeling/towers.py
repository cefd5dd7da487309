"""What the M-Encoder needs of a tower, for each family of towers.

A tower is an intact pretrained model of `transformers`, and an adapter knows the way round in it: a
layer's queries, keys and values, and how the layer goes on from its attention's context. A further
family is one adapter, registered in `TEXT_FAMILIES` or `VISION_FAMILIES`. Adapters have no state.

Letters in shapes are those of `modeling_mkgformer`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, ClassVar, cast

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    BertForPreTraining,
    BertModel,
    CLIPVisionModel,
    Dinov2Model,
    ModernBertForMaskedLM,
    ModernBertModel,
    MPNetForMaskedLM,
    MPNetModel,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaForMaskedLM,
    RobertaModel,
    Siglip2VisionModel,
    SiglipVisionModel,
    ViTModel,
    XLMRobertaForMaskedLM,
    XLMRobertaModel,
)
from transformers.image_processing_base import ImageProcessingMixin
from transformers.masking_utils import (
    create_bidirectional_mask,
    create_bidirectional_sliding_window_mask,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert.modeling_bert import BertPredictionHeadTransform
from transformers.models.clip.modeling_clip import eager_attention_forward
from transformers.models.modernbert.modeling_modernbert import (
    ModernBertPredictionHead,
    apply_rotary_pos_emb,
)
from transformers.utils import IMAGE_PROCESSOR_NAME, logging

_FULL, _SLIDING = "full_attention", "sliding_attention"

Fuse = Callable[[Tensor], Tensor]
"""Adds what the images say to `(B, T, intermediate)`, in front of the activation."""


@dataclass(frozen=True)
class TextAttention:
    """How the tokens of a batch attend to each other.

    Attributes:
        implementation: Attention kernels.
        masks: Mask of each kind of layer, as the kernels want it.
        rotations: Cosine and sine of each kind of layer, for towers with rotary positions.
        distances: Bucket `(T, T)` of each pair's distance, for towers with relative positions.
        distance_bias: Table that gives each head a bias for each bucket.
    """

    implementation: str
    masks: Mapping[str, Any]
    rotations: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    distances: Tensor | None = None
    distance_bias: nn.Embedding | None = None


def _kind_of(layer: nn.Module) -> str:
    """Whether a layer of a text tower sees all tokens or a window of them."""
    return cast(str, getattr(layer, "attention_type", _FULL))


def attend(
    module: nn.Module,
    implementation: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    *,
    num_heads: int,
    dropout: float,
) -> Tensor:
    """Multi-head attention of `(B, Q, d)` over `(B, K, d)` through the attention interface."""

    def heads(states: Tensor) -> Tensor:
        return states.unflatten(-1, (num_heads, -1)).transpose(1, 2)

    attention = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
    context, _ = attention(
        module,
        heads(query),
        heads(key),
        heads(value),
        attention_mask,
        dropout=dropout if module.training else 0.0,
        scaling=(query.shape[-1] // num_heads) ** -0.5,
    )
    return context.flatten(2)


def attention_weights(
    query: Tensor, key: Tensor, attention_mask: Tensor | None, num_heads: int
) -> Tensor:
    """Weights `(B, heads, Q, K)` with which queries `(B, Q, d)` attend to keys `(B, K, d)`.

    Args:
        query: Queries.
        key: Keys.
        attention_mask: What is added to the scores, as the implementation `eager` has it.
        num_heads: Number of heads.
    """
    query, key = (
        states.unflatten(-1, (num_heads, -1)).transpose(1, 2).float() for states in (query, key)
    )
    scores = torch.matmul(query, key.transpose(-1, -2)) * query.shape[-1] ** -0.5
    if attention_mask is not None:
        scores = scores + attention_mask.float()
    return scores.softmax(dim=-1)


def on_host(tensor: Tensor) -> bool:
    """Whether values can be looked at for nothing; for those on a GPU the host would wait."""
    return tensor.device.type == "cpu"


def bidirectional_mask(
    config: PreTrainedConfig,
    states: Tensor,
    attention_mask: Tensor | None,
    make: Callable[..., Any] = create_bidirectional_mask,
) -> Any:
    """Mask as a tower's kernels want it; None where it is known that nothing is masked.

    Args:
        config: Configuration of the tower.
        states: `(B, Q, d)` what attends.
        attention_mask: `(B, K)`, true for what is attended to; None: everything is.
        make: Function of `transformers` that makes the mask.
    """
    looked_at = attention_mask is None or on_host(attention_mask)
    return make(config, states, attention_mask, allow_is_bidirectional_skip=looked_at)


def eager_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """A tower's configuration whose masks are tensors that are added to the scores."""
    eager = copy(config)
    eager._attn_implementation = "eager"
    return eager


class TextFamily:
    """Adapter of a family of text towers; this one serves BERT, RoBERTa and XLM-RoBERTa.

    Attributes:
        model_class: The tower.
        pretraining_class: The tower below its head of masked language modelling.
        head_names: Our names of the head's parameters and theirs, as prefixes.
        offset: Whether positions begin behind the number of the padding token.
        has_pooler: Whether the tower can have a pooler.
    """

    def __init__(
        self,
        model_class: Any,
        pretraining_class: Any,
        head_names: Mapping[str, str],
        *,
        offset: bool = False,
        has_pooler: bool = False,
    ) -> None:
        self.model_class = model_class
        self.pretraining_class = pretraining_class
        self.head_names = head_names
        self.offset = offset
        self.has_pooler = has_pooler

    def build(self, config: PreTrainedConfig, pooler: bool) -> Any:
        """The tower, with a pooler or without."""
        return self.model_class(config, add_pooling_layer=pooler)

    def head(self, config: PreTrainedConfig) -> nn.Module:
        """What masked language modelling puts between a state and the words' embeddings."""
        return BertPredictionHeadTransform(config)

    def max_length(self, config: Any) -> int:
        """Longest text in tokens."""
        positions = config.max_position_embeddings
        return positions - config.pad_token_id - 1 if self.offset else positions

    def layers(self, tower: Any) -> Any:
        """The tower's layers, from the bottom up."""
        return tower.encoder.layer

    def embed(
        self,
        tower: Any,
        input_ids: Tensor,
        token_type_ids: Tensor | None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Input of the first layer, `(B, T, d)`.

        Args:
            tower: The tower.
            input_ids: `(B, T)`; some families read positions off the padding.
            token_type_ids: `(B, T)` segments; None for zeros.
            inputs_embeds: `(B, T, d)` embeddings of the tokens; None looks up `input_ids`.
        """
        # By name: of those that know no segments the second is another argument.
        return tower.embeddings(
            input_ids, token_type_ids=token_type_ids, inputs_embeds=inputs_embeds
        )

    def attention(
        self, tower: Any, states: Tensor, attention_mask: Tensor | None, *, eager: bool = False
    ) -> TextAttention:
        """How tokens attend to each other in any of the layers.

        Args:
            tower: The tower.
            states: Output of [`embed`].
            attention_mask: `(B, T)`, 1 for tokens and 0 for padding; None where all are tokens.
            eager: Whether the masks are to be those of the implementation `eager`.
        """
        config = eager_config(tower.config) if eager else tower.config
        mask = bidirectional_mask(config, states, attention_mask)
        return TextAttention(config._attn_implementation, {_FULL: mask})

    def run(self, layer: Any, states: Tensor, attention: TextAttention) -> Tensor:
        """Run a layer that is not fused."""
        return layer(states, attention.masks[_FULL])

    def self_attention(self, layer: Any) -> Any:
        """A layer's self-attention."""
        return layer.attention.self

    def num_heads(self, layer: Any) -> int:
        """Number of heads of a layer."""
        return self.self_attention(layer).num_attention_heads

    def dropout(self, layer: Any) -> float:
        """Dropout of a layer's attention weights."""
        return self.self_attention(layer).dropout.p

    def mask(self, layer: Any, attention: TextAttention) -> Any:
        """Mask of a layer's self-attention."""
        return attention.masks[_kind_of(layer)]

    def rotate(
        self, layer: Any, query: Tensor, key: Tensor, attention: TextAttention
    ) -> tuple[Tensor, Tensor]:
        """Work rotary positions into queries and keys, where the family has any."""
        return query, key

    def query_key_value(self, layer: Any, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `(B, T, d)` of a layer, not rotated."""
        attention = self.self_attention(layer)
        return attention.query(states), attention.key(states), attention.value(states)

    def context(
        self, layer: Any, query: Tensor, key: Tensor, value: Tensor, attention: TextAttention
    ) -> Tensor:
        """Context `(B, T, d)` of a layer's self-attention, before its output projection."""
        query, key = self.rotate(layer, query, key, attention)
        return attend(
            self.self_attention(layer),
            attention.implementation,
            query,
            key,
            value,
            self.mask(layer, attention),
            num_heads=self.num_heads(layer),
            dropout=self.dropout(layer),
        )

    def weights(self, layer: Any, query: Tensor, key: Tensor, attention: TextAttention) -> Tensor:
        """Attention weights `(B, heads, T, T)` of a layer; `attention` is an eager one."""
        query, key = self.rotate(layer, query, key, attention)
        return attention_weights(query, key, self.mask(layer, attention), self.num_heads(layer))

    def finish(self, layer: Any, states: Tensor, context: Tensor, fuse: Fuse) -> Tensor:
        """Run what follows a layer's self-attention.

        Args:
            layer: The layer.
            states: Its input, `(B, T, d)`.
            context: Context of its self-attention, `(B, T, d)`.
            fuse: Adds what the images say inside the feed-forward network.
        """
        attention_output = layer.attention.output(context, states)
        return self._feed_forward(layer, attention_output, fuse)

    def final(self, tower: Any, states: Tensor) -> Tensor:
        """What follows the last layer."""
        return states

    def _feed_forward(self, layer: Any, states: Tensor, fuse: Fuse) -> Tensor:
        hidden_states = fuse(layer.intermediate.dense(states))
        hidden_states = layer.intermediate.intermediate_act_fn(hidden_states)
        return layer.output(hidden_states, states)


class MPNetFamily(TextFamily):
    """MPNet: BERT's layers, whose heads know how far apart two tokens are.

    `transformers` has no other attention for it than the eager one, whatever the model's other
    tower uses.
    """

    def build(self, config: PreTrainedConfig, pooler: bool) -> Any:
        """The tower, with eager attention."""
        config._attn_implementation = "eager"
        return super().build(config, pooler)

    def max_length(self, config: Any) -> int:
        """Longest text in tokens; the padding token of MPNet is number 1 by definition."""
        return config.max_position_embeddings - 2

    def attention(
        self, tower: Any, states: Tensor, attention_mask: Tensor | None, *, eager: bool = False
    ) -> TextAttention:
        """The distances beside the mask.

        The bias is looked up in each layer, and not once for all: the backward pass of a
        checkpointed layer would otherwise run through the same lookup again.
        """
        plain = super().attention(tower, states, attention_mask, eager=True)
        place = torch.arange(states.shape[1], device=states.device)
        distances = tower.encoder.relative_position_bucket(place[None, :] - place[:, None])
        return TextAttention(
            plain.implementation,
            plain.masks,
            distances=distances,
            distance_bias=tower.encoder.relative_attention_bias,
        )

    def run(self, layer: Any, states: Tensor, attention: TextAttention) -> Tensor:
        """Run a layer that is not fused."""
        return layer(states, self.mask(layer, attention))[0]

    def self_attention(self, layer: Any) -> Any:
        """A layer's self-attention."""
        return layer.attention.attn

    def mask(self, layer: Any, attention: TextAttention) -> Any:
        """Mask of a layer's self-attention, with the bias of the distances."""
        table = cast(nn.Embedding, attention.distance_bias)
        bias = table(cast(Tensor, attention.distances)).permute(2, 0, 1)[None]
        mask = super().mask(layer, attention)
        return bias if mask is None else bias + mask

    def query_key_value(self, layer: Any, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `(B, T, d)` of a layer."""
        attention = self.self_attention(layer)
        return attention.q(states), attention.k(states), attention.v(states)

    def finish(self, layer: Any, states: Tensor, context: Tensor, fuse: Fuse) -> Tensor:
        """Run what follows a layer's self-attention."""
        attention = layer.attention
        attention_output = attention.dropout(attention.attn.o(context)) + states
        return self._feed_forward(layer, attention.LayerNorm(attention_output), fuse)


class ModernBertFamily(TextFamily):
    """ModernBERT: normalisation first, rotary positions, windows in most layers, gated units.

    The visual self-attention reads keys without their rotation: patches have no place in the text,
    so that a rotation would tell them nothing but how far a token is from its beginning. In the
    gated feed-forward network `act(input) * gate` what the images say is added to `input`, the half
    that is activated.
    """

    def build(self, config: PreTrainedConfig, pooler: bool) -> Any:
        """The tower; it never has a pooler."""
        return self.model_class(config)

    def head(self, config: Any) -> nn.Module:
        """What masked language modelling puts between a state and the words' embeddings."""
        return ModernBertPredictionHead(config)

    def layers(self, tower: Any) -> Any:
        """The tower's layers, from the bottom up."""
        return tower.layers

    def embed(
        self,
        tower: Any,
        input_ids: Tensor,
        token_type_ids: Tensor | None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """Input of the first layer; the family has no segments."""
        return tower.embeddings(input_ids, inputs_embeds)

    def attention(
        self, tower: Any, states: Tensor, attention_mask: Tensor | None, *, eager: bool = False
    ) -> TextAttention:
        """Masks and rotations of layers that see everything and of those that see a window."""
        config = eager_config(tower.config) if eager else tower.config
        windowed = create_bidirectional_sliding_window_mask
        make = {_FULL: create_bidirectional_mask, _SLIDING: windowed}
        place = torch.arange(states.shape[1], device=states.device)[None]
        kinds = sorted(set(config.layer_types))
        return TextAttention(
            config._attn_implementation,
            {
                kind: bidirectional_mask(config, states, attention_mask, make[kind])
                for kind in kinds
            },
            {kind: tower.rotary_emb(states, place, kind) for kind in kinds},
        )

    def run(self, layer: Any, states: Tensor, attention: TextAttention) -> Tensor:
        """Run a layer that is not fused."""
        rotation = attention.rotations[_kind_of(layer)]
        return layer(states, self.mask(layer, attention), position_embeddings=rotation)

    def self_attention(self, layer: Any) -> Any:
        """A layer's self-attention."""
        return layer.attn

    def num_heads(self, layer: Any) -> int:
        """Number of heads of a layer."""
        return layer.config.num_attention_heads

    def dropout(self, layer: Any) -> float:
        """Dropout of a layer's attention weights."""
        return layer.attn.attention_dropout

    def rotate(
        self, layer: Any, query: Tensor, key: Tensor, attention: TextAttention
    ) -> tuple[Tensor, Tensor]:
        """Work rotary positions into queries and keys."""
        cosine, sine = attention.rotations[_kind_of(layer)]
        split = (states.unflatten(-1, (self.num_heads(layer), -1)) for states in (query, key))
        query, key = apply_rotary_pos_emb(*split, cosine, sine, unsqueeze_dim=2)
        return query.flatten(2), key.flatten(2)

    def query_key_value(self, layer: Any, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `(B, T, d)` of a layer, not rotated."""
        return layer.attn.Wqkv(layer.attn_norm(states)).chunk(3, dim=-1)

    def finish(self, layer: Any, states: Tensor, context: Tensor, fuse: Fuse) -> Tensor:
        """Run what follows a layer's self-attention."""
        states = states + layer.attn.out_drop(layer.attn.Wo(context))
        mlp = layer.mlp
        activated, gate = mlp.Wi(layer.mlp_norm(states)).chunk(2, dim=-1)
        return states + mlp.Wo(mlp.drop(mlp.act(fuse(activated)) * gate))

    def final(self, tower: Any, states: Tensor) -> Tensor:
        """The norm behind the last layer."""
        return tower.final_norm(states)


class VisionFamily:
    """Adapter of a family of vision towers; this one serves CLIP.

    Attributes:
        model_class: The tower.
        build_kwargs: How it is built.
    """

    # What the layers of a family call their parts.
    attention_name: ClassVar[str] = "self_attn"
    first_norm_name: ClassVar[str] = "layer_norm1"

    def __init__(self, model_class: Any, **build_kwargs: Any) -> None:
        self.model_class = model_class
        self.build_kwargs = build_kwargs

    def build(self, config: PreTrainedConfig) -> Any:
        """The tower."""
        return self.model_class(config, **self.build_kwargs)

    def unused(self, tower: Any) -> list[tuple[nn.Module, str]]:
        """Parameters of the tower that no loss reaches: each module and what it calls them."""
        return _parameters_of(tower.post_layernorm)

    def layers(self, tower: Any) -> Any:
        """The tower's layers, from the bottom up."""
        return tower.encoder.layers

    def embed(self, tower: Any, pixel_values: Tensor) -> Tensor:
        """Tokens `(N, n, d)` of square images of any size, with their positions.

        Args:
            tower: The tower.
            pixel_values: `(N, channels, size, size)`; positions are interpolated to the grid.
        """
        return tower.embeddings(pixel_values, interpolate_pos_encoding=True)

    def normalize(self, tower: Any, states: Tensor) -> Tensor:
        """What stands between the tokens and the first layer."""
        return tower.pre_layrnorm(states)

    def attention(self, layer: Any) -> Any:
        """A layer's self-attention."""
        return getattr(layer, self.attention_name)

    def num_heads(self, layer: Any) -> int:
        """Number of heads of a layer."""
        return self.attention(layer).num_heads

    def dropout(self, layer: Any) -> float:
        """Dropout of a layer's attention weights."""
        return self.attention(layer).dropout

    def query_key_value(self, layer: Any, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `(G, V, d)` of a layer."""
        attention = self.attention(layer)
        states = getattr(layer, self.first_norm_name)(states)
        return attention.q_proj(states), attention.k_proj(states), attention.v_proj(states)

    def finish(self, layer: Any, states: Tensor, context: Tensor) -> Tensor:
        """Run what follows a layer's self-attention.

        Args:
            layer: The layer.
            states: Its input, `(P, V, d)`.
            context: Context of its self-attention, `(P, V, d)`.
        """
        states = states + layer.self_attn.out_proj(context)
        return states + layer.mlp(layer.layer_norm2(states))


class SiglipFamily(VisionFamily):
    """SigLIP, and SigLIP 2 of a fixed resolution: CLIP's layers without a class token."""

    def unused(self, tower: Any) -> list[tuple[nn.Module, str]]:
        """The norm behind the last layer, and the pooling head where the tower has one."""
        head = _parameters_of(tower.head) if tower.config.vision_use_head else []
        return _parameters_of(tower.post_layernorm) + head

    def normalize(self, tower: Any, states: Tensor) -> Tensor:
        """Nothing stands between the tokens and the first layer."""
        return states


class Siglip2Family(SiglipFamily):
    """SigLIP 2 of any resolution (NaFlex): takes patches in place of images."""

    def embed(self, tower: Any, pixel_values: Tensor) -> Tensor:
        """Tokens `(N, n, d)` of square images, cut into patches as the family's processor does."""
        size = tower.config.patch_size
        grid = pixel_values.shape[-1] // size
        patches = pixel_values.unfold(2, size, size).unfold(3, size, size)
        patches = patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)
        shapes = torch.full((len(patches), 2), grid)
        # All grids are equal: the positions are resized once, not image by image.
        embeddings = tower.embeddings
        tokens = embeddings.patch_embedding(patches)
        table = embeddings.position_embedding.weight
        side = embeddings.position_embedding_size
        positions = embeddings.resize_positional_embeddings(
            table.reshape(side, side, -1), shapes[:1], max_length=grid**2
        )
        return tokens + positions


class ViTFamily(VisionFamily):
    """ViT."""

    attention_name = "attention"
    first_norm_name = "layernorm_before"

    def unused(self, tower: Any) -> list[tuple[nn.Module, str]]:
        """The norm behind the last layer."""
        return _parameters_of(tower.layernorm)

    def layers(self, tower: Any) -> Any:
        """The tower's layers, from the bottom up."""
        return tower.layers

    def normalize(self, tower: Any, states: Tensor) -> Tensor:
        """Nothing stands between the tokens and the first layer."""
        return states

    def num_heads(self, layer: Any) -> int:
        """Number of heads of a layer."""
        return self.attention(layer).num_attention_heads

    def dropout(self, layer: Any) -> float:
        """Dropout of a layer's attention weights."""
        return self.attention(layer).attention_dropout

    def finish(self, layer: Any, states: Tensor, context: Tensor) -> Tensor:
        """Run what follows a layer's self-attention."""
        states = states + layer.dropout(layer.attention.o_proj(context))
        return states + layer.dropout(layer.mlp(layer.layernorm_after(states)))


class Dinov2Family(ViTFamily):
    """DINOv2: ViT's layers with scaled residuals."""

    first_norm_name = "norm1"

    def unused(self, tower: Any) -> list[tuple[nn.Module, str]]:
        """The norm behind the last layer, and the token that pretraining hides patches behind."""
        mask_token = [(tower.embeddings, "mask_token")] if tower.config.use_mask_token else []
        return super().unused(tower) + mask_token

    def layers(self, tower: Any) -> Any:
        """The tower's layers, from the bottom up."""
        return tower.encoder.layer

    def embed(self, tower: Any, pixel_values: Tensor) -> Tensor:
        """Tokens `(N, n, d)` of square images of any size, with their positions."""
        return tower.embeddings(pixel_values)

    def finish(self, layer: Any, states: Tensor, context: Tensor) -> Tensor:
        """Run what follows a layer's self-attention."""
        attention_output = layer.layer_scale1(layer.attention.o_proj(context))
        states = layer.drop_path(attention_output) + states
        hidden_states = layer.layer_scale2(layer.mlp(layer.norm2(states)))
        return layer.drop_path(hidden_states) + states


def _parameters_of(module: nn.Module) -> list[tuple[nn.Module, str]]:
    return [
        (part, name)
        for part in module.modules()
        for name, _ in part.named_parameters(recurse=False)
    ]


_LM_HEAD = {"dense.": "lm_head.dense.", "LayerNorm.": "lm_head.layer_norm."}

TEXT_FAMILIES: dict[str, TextFamily] = {
    "bert": TextFamily(
        BertModel, BertForPreTraining, {"": "cls.predictions.transform."}, has_pooler=True
    ),
    "roberta": TextFamily(RobertaModel, RobertaForMaskedLM, _LM_HEAD, offset=True),
    "xlm-roberta": TextFamily(XLMRobertaModel, XLMRobertaForMaskedLM, _LM_HEAD, offset=True),
    "mpnet": MPNetFamily(MPNetModel, MPNetForMaskedLM, _LM_HEAD),
    "modernbert": ModernBertFamily(ModernBertModel, ModernBertForMaskedLM, {"": "head."}),
}
"""Adapter of each `model_type` that a text tower may have."""

VISION_FAMILIES: dict[str, VisionFamily] = {
    "clip_vision_model": VisionFamily(CLIPVisionModel),
    "siglip_vision_model": SiglipFamily(SiglipVisionModel),
    "siglip2_vision_model": Siglip2Family(Siglip2VisionModel),
    "vit": ViTFamily(ViTModel, add_pooling_layer=False),
    "dinov2": Dinov2Family(Dinov2Model),
}
"""Adapter of each `model_type` that a vision tower may have."""


def text_family(config: PreTrainedConfig) -> TextFamily:
    """Adapter of a text tower.

    Raises:
        ValueError: There is none for this kind of model.
    """
    return _family(TEXT_FAMILIES, config, "text")


def vision_family(config: PreTrainedConfig) -> VisionFamily:
    """Adapter of a vision tower.

    Raises:
        ValueError: There is none for this kind of model.
    """
    return _family(VISION_FAMILIES, config, "vision")


def _family(
    families: Mapping[str, Any], config: PreTrainedConfig, tower: str, source: Any = None
) -> Any:
    if config.model_type not in families:
        what = f"The {tower} tower is" if source is None else f"{source} holds"
        raise ValueError(
            f"{what} a {config.model_type}. The {tower} tower must be one of {', '.join(families)}."
        )
    return families[config.model_type]


@dataclass(frozen=True)
class LoadedTower:
    """A tower as its checkpoint has it.

    Attributes:
        config: Its configuration.
        state: Its weights, under the tower's own names.
        head_state: Weights of the head of masked language modelling, under our names; None where
            the checkpoint has no such head.
        image_settings: Mean, standard deviation and size of images, as far as the checkpoint's
            image processor says.
    """

    config: PreTrainedConfig
    state: dict[str, Tensor]
    head_state: dict[str, Tensor] | None = None
    image_settings: Mapping[str, Any] = field(default_factory=dict)


def load_text_tower(source: Any, pooler: bool = False) -> LoadedTower:
    """Load a text tower from a hub name or folder.

    Args:
        source: Hub name or folder, of the tower itself or of a model that is built upon it.
        pooler: Whether the tower's pooler is wanted.

    Raises:
        ValueError: The checkpoint is of another architecture, or incomplete.
        OSError: There is no such checkpoint.
    """
    config = AutoConfig.from_pretrained(source)
    family = _family(TEXT_FAMILIES, config, "text", source)
    # Loads a bare tower as well as one below a head; what may be missing is decided below.
    model, missing = _from_pretrained(family.pretraining_class, source, config)
    base = cast(Any, model.base_model)
    if not pooler and family.has_pooler:
        base.pooler = None
    prefix = f"{model.base_model_prefix}."
    _check_complete(source, config, {f"{prefix}{name}" for name in base.state_dict()} & missing)
    head = family.head_names
    weights = model.state_dict()
    head_state = {
        ours + name.removeprefix(theirs): tensor
        for ours, theirs in head.items()
        for name, tensor in weights.items()
        if name.startswith(theirs)
    }
    has_head = not any(name.startswith(tuple(head.values())) for name in missing)
    return LoadedTower(config, base.state_dict(), head_state if has_head else None)


def load_vision_tower(source: Any) -> LoadedTower:
    """Load a vision tower from a hub name or folder, also that of a model for images and texts.

    Raises:
        ValueError: The checkpoint is of another architecture, or incomplete.
        OSError: There is no such checkpoint.
    """
    config = AutoConfig.from_pretrained(source)
    config = getattr(config, "vision_config", config)
    family = _family(VISION_FAMILIES, config, "vision", source)
    tower, missing = _from_pretrained(family.model_class, source, config, **family.build_kwargs)
    _check_complete(source, config, missing)
    return LoadedTower(
        tower.config, tower.state_dict(), image_settings=image_settings(source, config)
    )


def _check_complete(source: Any, config: PreTrainedConfig, missing: set[str]) -> None:
    if missing:
        names = sorted(missing)
        listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if names[8:] else "")
        raise ValueError(f"{source} lacks weights of its {config.model_type}: {listed}.")


def _from_pretrained(
    model_class: Any, source: Any, config: PreTrainedConfig, **kwargs: Any
) -> tuple[PreTrainedModel, set[str]]:
    """Load a tower in float32 and quietly: whoever calls says what missing weights mean."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, report = model_class.from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True, **kwargs
        )
    except SafetensorError as error:
        raise ValueError(f"The weights of {source} are truncated or damaged: {error}") from error
    except UnpicklingError as error:
        raise ValueError(f"The weights of {source} hold more than numbers: not read.") from error
    except RuntimeError as error:
        raise ValueError(f"The weights of {source} do not fit its config.json: {error}") from error
    finally:
        logging.set_verbosity(verbosity)
    return model, set(report["missing_keys"])


def image_settings(source: Any, config: Any) -> dict[str, Any]:
    """What a checkpoint's image processor says of images, in terms of `MKGformerConfig`.

    Args:
        source: Hub name or folder.
        config: The vision tower's configuration.

    Raises:
        ValueError: Its file is damaged.
    """
    try:
        processor, _ = ImageProcessingMixin.get_image_processor_dict(source)
    except OSError as error:
        if (Path(source) / IMAGE_PROCESSOR_NAME).is_file():
            raise ValueError(f"The settings of images cannot be read: {error}") from error
        return {}
    if not isinstance(processor, dict):
        raise ValueError(f"The settings of images in {source} are no group of keys.")
    settings: dict[str, Any] = {
        name: tuple(processor[name])
        for name in ("image_mean", "image_std")
        if processor.get("do_normalize", True) and processor.get(name) is not None
    }
    crop = processor.get("do_center_crop", True) and processor.get("crop_size")
    size = crop or processor.get("size")
    if isinstance(size, Mapping):
        size = size.get("height") or size.get("shortest_edge")
    if isinstance(size, int) and size >= config.patch_size:
        # The crops are to the whole image what they are at CLIP's 224 pixels.
        settings["image_sizes"] = {
            role: max(size * sevenths // 7 // config.patch_size, 1) * config.patch_size
            for role, sevenths in (("full", 7), ("grounding", 4), ("detection", 2))
        }
    return settings


__all__ = [
    "TEXT_FAMILIES",
    "VISION_FAMILIES",
    "LoadedTower",
    "TextAttention",
    "TextFamily",
    "VisionFamily",
    "attend",
    "attention_weights",
    "eager_config",
    "image_settings",
    "load_text_tower",
    "load_vision_tower",
    "text_family",
    "vision_family",
]
