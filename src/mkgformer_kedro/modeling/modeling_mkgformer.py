"""PyTorch MKGformer model.

A text and a vision tower whose last layers exchange information, after "Hybrid Transformer with
Multi-level Fusion for Multimodal Knowledge Graph Completion" (https://arxiv.org/abs/2205.02357).
The paper joins BERT and CLIP; `towers` says which other families can be joined.

Letters in shapes: `B` examples (text), `T` text tokens, `G` distinct sets of images, `P` examples
that have images, `V` visual tokens, `N` entities, `A` answers, `W` words, `C` labels, `d` a
hidden size.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torchcrf import CRF
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.bert.modeling_bert import BertPredictionHeadTransform
from transformers.models.modernbert.modeling_modernbert import ModernBertPredictionHead
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_mkgformer import IMAGE_ROLES, MKGformerConfig
from .towers import (
    TextAttention,
    attend,
    attention_weights,
    bidirectional_mask,
    eager_config,
    load_text_tower,
    load_vision_tower,
    on_host,
    text_family,
    vision_family,
)

# An untrained prediction head starts as this multiple of the identity, see `_init_weights`.
_HEAD_INIT_SCALE = 0.1

# Score of a forbidden transition: finite, so that no difference of two is NaN.
_FORBIDDEN = -1e6

# Rows of a table in half precision that are widened at a time.
_WIDENED = 1 << 14

# Entities that were added after training and are scored in one product.
_ADDED_AT_A_TIME = 256


@dataclass
class MKGformerModelOutput(ModelOutput):
    r"""Output of [`MKGformerModel`].

    What is recorded is there with `output_attentions=True` only. All of it but the attention of the
    text is None where no example has images; of examples without images it says 0.

    Args:
        last_hidden_state (`torch.FloatTensor` of shape `(B, T, d)`):
            States of the text, `(B, K, d)` where `positions` were asked for.
        pooler_output (`torch.FloatTensor` of shape `(B, d)`, *optional*):
            Pooled state, where the text tower has a pooler and all positions were asked for.
        text_attentions (`tuple[torch.FloatTensor, ...]`, *optional*):
            Attention weights of each text layer, `(B, heads, T, T)`.
        vision_attentions (`tuple[torch.FloatTensor, ...]`, *optional*):
            Attention weights of each visual layer, `(B, heads, V, V)`, and in fused layers, which
            read the text first, `(B, heads, V, T + V)`.
        prefix_shares (`tuple[torch.FloatTensor, ...]`, *optional*):
            For each fused layer the share of its attention that each visual token gives to the text
            in each head, `(B, heads, V)`: lambda in section 3.3.1 of the paper.
        correlations (`tuple[torch.FloatTensor, ...]`, *optional*):
            For each fused layer the similarity of each text token with each visual token, as a
            share, `(B, T, V)`: section 3.3.2 of the paper.
        visual_mask (`torch.BoolTensor` of shape `(B, V)`, *optional*):
            True for visual tokens of images that an example has.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    text_attentions: tuple[Tensor, ...] | None = None
    vision_attentions: tuple[Tensor, ...] | None = None
    prefix_shares: tuple[Tensor, ...] | None = None
    correlations: tuple[Tensor, ...] | None = None
    visual_mask: Tensor | None = None

    def recorded(self) -> dict[str, Any]:
        """What was recorded, for the output of a head."""
        return {name: getattr(self, name) for name in _RECORDED}


_RECORDED = (
    "text_attentions",
    "vision_attentions",
    "prefix_shares",
    "correlations",
    "visual_mask",
)


@dataclass
class MKGformerOutput(ModelOutput):
    r"""Output of the models for the three tasks.

    Args:
        loss (`torch.FloatTensor` of shape `(1,)`, *optional*, returned when `labels` is provided):
            Loss of the task, in float32.
        logits (`torch.FloatTensor`):
            Scores, in float32: `(B, N)` of every entity at the mask, `(B, C)` of every relation, or
            `(B, W, C)`, the emissions of a CRF.
        text_attentions (`tuple[torch.FloatTensor, ...]`, *optional*):
            See [`MKGformerModelOutput`], also for the following ones.
        vision_attentions (`tuple[torch.FloatTensor, ...]`, *optional*):
            Attention weights of each visual layer.
        prefix_shares (`tuple[torch.FloatTensor, ...]`, *optional*):
            Lambda of each fused layer.
        correlations (`tuple[torch.FloatTensor, ...]`, *optional*):
            Similarities of tokens and patches of each fused layer.
        visual_mask (`torch.BoolTensor` of shape `(B, V)`, *optional*):
            True for visual tokens of images that an example has.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    text_attentions: tuple[Tensor, ...] | None = None
    vision_attentions: tuple[Tensor, ...] | None = None
    prefix_shares: tuple[Tensor, ...] | None = None
    correlations: tuple[Tensor, ...] | None = None
    visual_mask: Tensor | None = None


def correlation_weights(
    text_context: Tensor,
    visual_states: Tensor,
    visual_mask: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    r"""Similarity of each text token with each patch, `softmax(x_t x_v^T)`, `(P, T, V)`.

    Arguments are those of [`correlation_aware_fusion`].
    """
    similarity = torch.matmul(text_context, visual_states.transpose(1, 2)) * scale
    if visual_mask is not None:
        lowest = torch.finfo(similarity.dtype).min
        similarity = similarity.masked_fill(~visual_mask[:, None], lowest)
    return similarity.softmax(dim=-1, dtype=torch.float32).to(visual_states.dtype)


def correlation_aware_fusion(
    text_context: Tensor,
    visual_states: Tensor,
    visual_mask: Tensor | None = None,
    scale: float = 1.0,
) -> Tensor:
    r"""Sum up for each text token what the patches say that are similar to it.

    `softmax(x_t x_v^T) x_v`, section 3.3.2 of https://arxiv.org/abs/2205.02357.

    Args:
        text_context (`torch.Tensor` of shape `(P, T, d)`):
            Context of the text self-attention, `x_t`.
        visual_states (`torch.Tensor` of shape `(P, V, d)`):
            Output of the visual layer, `x_v`.
        visual_mask (`torch.BoolTensor` of shape `(P, V)`, *optional*):
            True for tokens that take part. Every row needs one.
        scale (`float`, *optional*, defaults to 1.0):
            Factor of the similarity.

    Returns:
        `torch.Tensor` of shape `(P, T, d)`.
    """
    weights = correlation_weights(text_context, visual_states, visual_mask, scale)
    return torch.matmul(weights, visual_states)


def multi_answer_binary_cross_entropy(
    logits: Tensor, labels: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    r"""Mean binary cross-entropy over examples and entities, without a `(B, N)` matrix of targets.

    Smoothing moves each target `y` to `y (1 - smoothing) + smoothing / N`.

    Args:
        logits (`torch.Tensor` of shape `(B, N)`):
            Scores.
        labels (`torch.LongTensor` of shape `(B, A)`):
            Distinct answers of each example, padded with -100.
        label_smoothing (`float`, *optional*, defaults to 0.0):
            Share of the target mass that is spread over all entities.

    Returns:
        `torch.FloatTensor`, a scalar.
    """
    logits = logits.float()
    # log(1 + e^x) - x y, summed: only the answers' logits meet a target other than a constant.
    total = nn.functional.softplus(logits).sum()
    total = total - (1 - label_smoothing) * _answer_logits(logits, labels).sum()
    if label_smoothing:
        total = total - label_smoothing / logits.shape[1] * logits.sum()
    return total / logits.numel()


def multi_answer_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
    answer_exponent: float = 0.0,
    log_counts: Tensor | None = None,
) -> Tensor:
    r"""Mean cross-entropy against the uniform distribution over each example's answers.

    With `answer_exponent` 1 the gradient is that of a row per answer, as in the mean over triples
    by which models of link prediction are judged; with 0 a question with a thousand answers counts
    as much as one with a single answer.

    Args:
        logits (`torch.Tensor` of shape `(B, N)`):
            Scores.
        labels (`torch.LongTensor` of shape `(B, A)`):
            Distinct answers of each example, at least one, padded with -100.
        label_smoothing (`float`, *optional*, defaults to 0.0):
            Share of the target mass that is spread over all entities.
        answer_exponent (`float`, *optional*, defaults to 0.0):
            An example's weight in the mean is its number of answers to this power.
        log_counts (`torch.FloatTensor` of shape `(N,)`, *optional*):
            Where the `N` columns are a sample of the entities, the logarithm of how many of them
            each one stands for: 0 for answers, and minus the logarithm of the probability to be
            drawn for others, which makes the sum of exponentials unbiased (Horvitz and Thompson,
            1952).

    Returns:
        `torch.FloatTensor`, a scalar.
    """
    logits = logits.float()
    counts = (labels >= 0).sum(dim=1)
    expected = _answer_logits(logits, labels).sum(dim=1) / counts
    if label_smoothing:
        mean = logits.mean(dim=1) if log_counts is None else logits @ log_counts.softmax(dim=0)
        expected = (1 - label_smoothing) * expected + label_smoothing * mean
    losses = (logits if log_counts is None else logits + log_counts).logsumexp(dim=1) - expected
    if not answer_exponent:
        return losses.mean()
    weights = counts**answer_exponent
    return losses @ (weights / weights.sum())


def _answer_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits of the answers `(B, A)`, 0 where `labels` is padding."""
    return logits.gather(1, labels.clamp(min=0)).masked_fill(labels < 0, 0.0)


def _keep_untrained(module: nn.Module, *names: str) -> None:
    """Turn parameters that no loss reaches into buffers.

    They keep their names in checkpoints, but neither the optimiser nor gradient synchronisation
    waits for them. (`requires_grad_(False)` would not outlive `from_pretrained`.)
    """
    for name in names:
        value = getattr(module, name).detach()
        delattr(module, name)
        module.register_buffer(name, value)


def _linear_in_float32(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Score classes in float32, whatever the model computes in.

    Of a weight in half precision some rows are widened at a time, lest all of them take the memory
    that it saves.
    """
    with torch.autocast(states.device.type, enabled=False):
        states, bias = states.float(), None if bias is None else bias.float()
        if weight.dtype == torch.float32:
            return nn.functional.linear(states, weight, bias)
        parts = [nn.functional.linear(states, rows.float()) for rows in weight.split(_WIDENED)]
        scores = torch.cat(parts, dim=-1)
        return scores if bias is None else scores.add_(bias)


def _entity_encoder(config: MKGformerConfig) -> nn.Linear:
    """A linear map of states, which is fitted, not trained."""
    width = config.text_config.hidden_size
    encoder = nn.Linear(width, width)
    _keep_untrained(encoder, "weight", "bias")
    return encoder


def _forbidden_transitions(labels: Sequence[str]) -> tuple[Tensor, Tensor]:
    """What IOB2 forbids: at the start of a text `(C,)`, and from one label to the next `(C, C)`.

    Raises:
        ValueError: A label is no IOB2 tag, or `I-x` has no `B-x`.
    """
    known = set(labels)
    if wrong := [
        label
        for label in labels
        if label != "O"
        and (label[:2] not in ("B-", "I-") or not label[2:] or f"B-{label[2:]}" not in known)
    ]:
        raise ValueError(
            f"Labels {', '.join(map(repr, wrong))} cannot be tags of IOB2. These are 'O', 'B-x' "
            "and, where there is 'B-x', 'I-x'. Name the labels in config.id2label, or set "
            "config.constrain_transitions to False."
        )

    def forbidden(label: str, before: str) -> bool:
        return label.startswith("I-") and (before == "O" or before[2:] != label[2:])

    start = torch.tensor([forbidden(label, "O") for label in labels])
    pairs = [[forbidden(label, before) for label in labels] for before in labels]
    return start, torch.tensor(pairs)


def _crf_log_likelihood(
    emissions: Tensor,
    labels: Tensor,
    mask: Tensor,
    *,
    start_transitions: Tensor,
    transitions: Tensor,
    end_transitions: Tensor,
) -> Tensor:
    """Log-likelihood `(B,)` of label sequences, as torchcrf's, for which a host never waits.

    Args:
        emissions: `(B, W, C)`.
        labels: `(B, W)` ids, any id behind the last word.
        mask: `(B, W)`, true for words; these come first in each row.
        start_transitions: `(C,)`.
        transitions: `(C, C)`, from one label to the next.
        end_transitions: `(C,)`.
    """
    last = mask.sum(dim=1, keepdim=True) - 1
    followed = transitions[labels[:, :-1], labels[:, 1:]].where(mask[:, 1:], 0.0)
    emitted = emissions.gather(2, labels[..., None]).squeeze(2).where(mask, 0.0)
    score = (
        start_transitions[labels[:, 0]]
        + emitted.sum(dim=1)
        + followed.sum(dim=1)
        + end_transitions[labels.gather(1, last).squeeze(1)]
    )
    total = start_transitions + emissions[:, 0]
    for word in range(1, mask.shape[1]):
        # From each label before, (B, C, 1), to each of this word, (B, 1, C).
        paths = total[:, :, None] + transitions + emissions[:, word, None]
        total = paths.logsumexp(dim=1).where(mask[:, word, None], total)
    return score - (total + end_transitions).logsumexp(dim=1)


@dataclass
class _Recording:
    """What it takes to record, and what is recorded.

    The weights are computed beside the model's own attention, whose kernels do not tell them.
    """

    text_attention: TextAttention
    """Eager masks of the text's self-attention."""
    prefix_mask: Tensor | None = None
    """Eager mask of the visual self-attention over text and visual tokens."""
    text_attentions: list[Tensor] = field(default_factory=list)
    vision_attentions: list[Tensor] = field(default_factory=list)
    prefix_shares: list[Tensor] = field(default_factory=list)
    correlations: list[Tensor] = field(default_factory=list)


class MKGformerFusionLayer(GradientCheckpointingLayer):
    """What joins one pair of layers of the two towers; the layers themselves stay in the towers.

    The visual self-attention reads the text's keys and values beside its own (prefix-guided
    interaction), and the text's feed-forward network gets the sum of the patches that each token
    correlates with (correlation-aware fusion).

    Args:
        config: Configuration of the model.
    """

    def __init__(self, config: MKGformerConfig):
        super().__init__()
        text, vision = config.text_config, config.vision_config
        width, visual_width = text.hidden_size, vision.hidden_size
        same_width = width == visual_width
        same_heads = text.num_attention_heads == vision.num_attention_heads

        def bridge(inputs: int, outputs: int, needed: bool) -> nn.Module:
            return nn.Linear(inputs, outputs) if needed else nn.Identity()

        self.reads_text = config.prefix_guided_interaction
        crosses = self.reads_text and not (same_width and same_heads)
        self.key_bridge = bridge(width, visual_width, crosses)
        self.value_bridge = bridge(width, visual_width, crosses)
        self.visual_bridge = bridge(visual_width, width, not same_width)
        self.fusion_dense = nn.Linear(width, text.intermediate_size)
        self.scale = width**-0.5 if config.scale_similarity else 1.0
        if not config.correlation_aware_fusion:
            self.scale = 0.0  # all patches are as similar as any other
        self.text_family, self.vision_family = text_family(text), vision_family(vision)

    def forward(
        self,
        text_states: Tensor,
        visual_states: Tensor,
        prefix_key: Tensor | None,
        prefix_value: Tensor | None,
        *,
        text_layer: nn.Module,
        vision_layer: nn.Module,
        text_attention: TextAttention,
        prefix_mask: Any,
        visual_mask: Tensor | None,
        rows: Tensor | None,
        image_index: Tensor | None,
        positions: Tensor | None = None,
        recording: _Recording | None = None,
    ) -> tuple[Any, ...]:
        """Run a pair of layers.

        Args:
            text_states: `(B, T, d_t)`.
            visual_states: `(P, V, d_v)`, or `(G, V, d_v)` with `image_index`.
            prefix_key: Keys of the text, `(B, T, d_t)`; None takes this layer's own.
            prefix_value: Values of the text, likewise.
            text_layer: Layer of the text tower.
            vision_layer: Layer of the vision tower.
            text_attention: How tokens attend to each other.
            prefix_mask: Mask of the visual self-attention over text and visual tokens.
            visual_mask: `(P, V)`, True for tokens of images; None where all are.
            rows: `(P,)` examples that have images; None where all have.
            image_index: `(P,)` row of `visual_states` that each of these examples sees.
            positions: `(B, K)` tokens whose states are asked for; None: all.
            recording: Asks for the weights of what is attended to.

        Returns:
            Text states `(B, T, d_t)` or `(B, K, d_t)`, visual states `(P, V, d_v)`, the text keys
            and values of this layer, and, with `recording`, the weights of the text's attention
            `(B, heads, T, T)`, of the visual attention `(P, heads, V, T + V)` and of the fusion
            `(P, T, V)`, else None.
        """
        family = self.text_family
        query, key, value = family.query_key_value(text_layer, text_states)
        context = family.context(text_layer, query, key, value, text_attention)

        prefix_key = key if prefix_key is None else prefix_key
        prefix_value = value if prefix_value is None else prefix_value
        visible_key = _select(prefix_key, rows)
        weights: tuple[Tensor, ...] | None = None
        if recording is not None:
            weights = (
                family.weights(text_layer, query, key, recording.text_attention),
                self.prefix_weights(
                    vision_layer, visual_states, visible_key, recording.prefix_mask, image_index
                ),
            )
        visual_states = self.read_prefix(
            vision_layer,
            visual_states,
            visible_key,
            _select(prefix_value, rows),
            prefix_mask,
            image_index,
        )
        bridged = self.visual_bridge(visual_states)

        patches = (bridged, visual_mask, self.scale)
        if weights is not None:
            weights = (*weights, correlation_weights(_select(context, rows), *patches))
        text_states, context = _at(text_states, positions), _at(context, positions)
        fused = correlation_aware_fusion(_select(context, rows), *patches)
        fused = self.fusion_dense(fused)

        def fuse(hidden_states: Tensor) -> Tensor:
            if rows is None:
                return hidden_states + fused
            return hidden_states.index_add(0, rows, fused)

        text_states = family.finish(text_layer, text_states, context, fuse)
        return text_states, visual_states, key, value, weights

    def read_prefix(
        self,
        layer: nn.Module,
        states: Tensor,
        prefix_key: Tensor,
        prefix_value: Tensor,
        attention_mask: Any,
        image_index: Tensor | None = None,
    ) -> Tensor:
        """Run a visual layer that attends to text and to itself, section 3.3.1 of the paper.

        Args:
            layer: Layer of the vision tower.
            states: `(P, V, d_v)`, or `(G, V, d_v)` with `image_index`.
            prefix_key: `(P, T, d_t)` keys of the text.
            prefix_value: `(P, T, d_t)` values of the text.
            attention_mask: Mask over the `T + V` tokens.
            image_index: `(P,)` row of `states` that each example sees.

        Returns:
            `(P, V, d_v)`.
        """
        family = self.vision_family
        query, key, value = (
            _select(projected, image_index) for projected in family.query_key_value(layer, states)
        )
        attention = family.attention(layer)
        if self.reads_text:
            key = torch.cat([self.key_bridge(prefix_key), key], dim=1)
            value = torch.cat([self.value_bridge(prefix_value), value], dim=1)
        context = attend(
            attention,
            attention.config._attn_implementation,
            query,
            key,
            value,
            attention_mask,
            num_heads=family.num_heads(layer),
            dropout=family.dropout(layer),
        )
        return family.finish(layer, _select(states, image_index), context)

    def prefix_weights(
        self,
        layer: nn.Module,
        states: Tensor,
        prefix_key: Tensor,
        attention_mask: Tensor | None,
        image_index: Tensor | None = None,
    ) -> Tensor:
        """Attention weights `(P, heads, V, T + V)` of [`read_prefix`], with an eager mask."""
        family = self.vision_family
        query, key, _ = (
            _select(projected, image_index) for projected in family.query_key_value(layer, states)
        )
        if self.reads_text:
            key = torch.cat([self.key_bridge(prefix_key), key], dim=1)
        weights = attention_weights(query, key, attention_mask, family.num_heads(layer))
        unread = 0 if self.reads_text else prefix_key.shape[1]
        return nn.functional.pad(weights, (unread, 0))


class MKGformerGraphEmbeddings(nn.Module):
    """An embedding for each entity and for each relation.

    Their token ids follow those of the vocabulary: first the entities', then the relations'.

    Args:
        config: Configuration of the model.
    """

    def __init__(self, config: MKGformerConfig):
        super().__init__()
        width = config.text_config.hidden_size
        dtype = torch.bfloat16 if config.half_precision_entities else None
        self.entities = nn.Embedding(config.num_entities, width, dtype=dtype)
        self.relations = nn.Embedding(config.num_relations, width)
        # Entities that came after training. They count as the last entities.
        self.added: nn.Embedding | None = None

    def add(self, embeddings: Tensor) -> None:
        """Put entities `(M, d)` behind the others, in memory: they are not saved."""
        rows = embeddings.to(self.entities.weight)
        if self.added is not None:
            rows = torch.cat([self.added.weight, rows])
        self.added = nn.Embedding.from_pretrained(rows)

    def forward(self, input_ids: Tensor, words: nn.Embedding) -> Tensor:
        """Look token ids up, words and those of the graph.

        Args:
            input_ids: `(B, T)`.
            words: Word embeddings.

        Returns:
            `(B, T, d)`.
        """
        states = words(input_ids.clamp(max=words.num_embeddings - 1))
        rows = input_ids - words.num_embeddings
        for table in filter(None, (self.entities, self.added, self.relations)):
            if table.num_embeddings:
                found = table(rows.clamp(0, table.num_embeddings - 1))
                states = torch.where((rows >= 0)[..., None], found, states)
            rows = rows - table.num_embeddings
        return states


def _select(states: Tensor, rows: Tensor | None) -> Tensor:
    return states if rows is None else states.index_select(0, rows)


def _at(states: Tensor, positions: Tensor | None) -> Tensor:
    """States `(B, K, d)` of the tokens at positions `(B, K)`, of `(B, T, d)`; None: all."""
    if positions is None:
        return states
    return states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))


def _scatter(values: Tensor, rows: Tensor | None, batch_size: int) -> Tensor:
    """Give each example its row, and those without images zeros."""
    if rows is None:
        return values
    return values.new_zeros(batch_size, *values.shape[1:]).index_copy(0, rows, values)


class MKGformerPreTrainedModel(PreTrainedModel):
    """Base class: initialisation of weights, and models made of two pretrained towers."""

    config: MKGformerConfig
    task: ClassVar[str] = "link_prediction"  # names the presets, see `MKGformerConfig.preset`
    base_model_prefix = "mkgformer"
    input_modalities = ["text", "image"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @classmethod
    def is_custom_code(cls) -> bool:
        """False: `_init_weights` keeps the rules of `transformers`.

        For code outside the library `transformers` else passes over modules without parameters of
        their own, and the initialisation of CLIP's attention and of the fusion would be lost.
        """
        return False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MKGformerModel):
            scale, shift = module.image_normalization()
            init.copy_(module.image_scale, scale)
            init.copy_(module.image_shift, shift)
        elif isinstance(module, MKGformerFusionLayer):
            if self.config.fusion_init == "zero":
                init.zeros_(module.fusion_dense.weight)
        elif isinstance(module, (BertPredictionHeadTransform, ModernBertPredictionHead)):
            # Without a head from masked language modelling the sane start is the hidden state
            # itself. A GELU is linear near 0 and the layer norm behind it undoes the scale, so that
            # a small multiple of the identity starts as (nearly) a plain layer norm.
            identity = torch.eye(module.dense.in_features, device=module.dense.weight.device)
            init.copy_(module.dense.weight, _HEAD_INIT_SCALE * identity)
        elif isinstance(module, MKGformerForLinkPrediction):
            init.zeros_(module.entity_bias)
        elif isinstance(module, CRF):
            for parameter in module.parameters(recurse=False):
                init.uniform_(parameter, -0.1, 0.1)  # as torchcrf does
        elif isinstance(module, MKGformerForTokenClassification):
            start, transitions = module.forbidden_labels()
            init.copy_(module.forbidden_start, start)
            init.copy_(module.forbidden_transitions, transitions)

    @classmethod
    def from_text_vision_pretrained(
        cls,
        text: Any,
        vision: Any,
        *,
        preset: str = "corrected",
        vision_config: PreTrainedConfig | dict[str, Any] | None = None,
        attn_implementation: str | None = None,
        **overrides: Any,
    ) -> Any:
        r"""Make a model of a pretrained text tower and a vision tower.

        Args:
            text (`str` or `os.PathLike`):
                Hub name or folder of a text tower, see `towers.TEXT_FAMILIES`. Where the checkpoint
                has a prediction head, that is taken too.
            vision (`str` or `os.PathLike`, *optional*):
                Hub name or folder of a vision tower, see `towers.VISION_FAMILIES`, or of a CLIP or
                SigLIP that has one. What its image processor says of mean, standard deviation and
                size of images is taken over. None learns the tower of `vision_config` from scratch.
            preset (`str`, *optional*, defaults to `"corrected"`):
                See [`MKGformerConfig.preset`]; it is that of the task of this class.
            vision_config (`PreTrainedConfig` or `dict`, *optional*):
                Configuration of the vision tower where `vision` is None; a CLIP's, if a `dict` has
                no `model_type`.
            attn_implementation (`str`, *optional*):
                `"sdpa"`, `"eager"` or `"flex_attention"`.
            overrides:
                Further fields of [`MKGformerConfig`]; each overrides the preset. `id2label`,
                `label2id` and `num_labels` are allowed too.

        Raises:
            ValueError: A checkpoint is of another architecture or incomplete, a field does not
                exist, not exactly one of `vision` and `vision_config` is given, or the preset
                `faithful` is asked for of other towers than BERT and CLIP.
        """
        if (vision is None) == (vision_config is None):
            raise ValueError("Give either `vision` (pretrained) or `vision_config` (from scratch).")
        MKGformerConfig.check_names(overrides)

        text_tower = load_text_tower(text, overrides.get("text_pooler", False))
        vision_tower = None if vision is None else load_vision_tower(vision)
        if vision_tower is not None:
            vision_config = vision_tower.config
        settings = {} if vision_tower is None else vision_tower.image_settings
        MKGformerConfig.check_preset(preset, text_tower.config, vision_config)
        config = MKGformerConfig(
            text_config=text_tower.config,
            vision_config=vision_config,
            **{**settings, **MKGformerConfig.preset(preset, cls.task), **overrides},
        )
        model = cls._from_config(config, attn_implementation=attn_implementation)
        base = cast(MKGformerModel, model.base_model)
        base.text_model.load_state_dict(text_tower.state)
        if vision_tower is not None:
            base.vision_model.load_state_dict(vision_tower.state)
        if text_tower.head_state is not None:
            model._load_prediction_head(text_tower.head_state)
        return model

    def _load_prediction_head(self, state: dict[str, Tensor]) -> None:
        """Take over the head of masked language modelling, where the model has one."""

    def lookup_weights(self) -> list[nn.Parameter]:
        """Weights of words and relations, whose gradient reaches only what a batch looks up.

        (Each step reaches all entities, since they are the classes of the loss.)
        """
        graph = cast(MKGformerModel, self.base_model).graph_embeddings
        words = cast(nn.Embedding, self.get_input_embeddings())
        tables = [words] if graph is None else [words, graph.relations]
        return [cast(nn.Parameter, table.weight) for table in tables]


@dataclass
class _Images:
    """Images that are looked at, and who looks at which."""

    given: list[Tensor]
    """For each role `(G, count, channels, size, size)`, normalised; or their states `(G, V, d)`."""
    mask: Tensor | None
    """`(G, slots)`, True where there is an image; None where all take part."""
    index: Tensor | None
    """`(P,)` row of the images that each example sees; None where row i is that of example i."""
    rows: Tensor | None
    """`(P,)` examples that have images; None where all have."""
    are_encoded: bool = False
    """Whether states are given."""


class MKGformerModel(MKGformerPreTrainedModel):
    """The two towers and their fusion, without a head.

    Args:
        config ([`MKGformerConfig`]):
            Configuration of the model.
    """

    image_scale: Tensor
    image_shift: Tensor

    def __init__(self, config: MKGformerConfig):
        super().__init__(config)
        self.text_family = text_family(config.text_config)
        self.vision_family = vision_family(config.vision_config)
        self.text_model = self.text_family.build(config.text_config, config.text_pooler)
        self.graph_embeddings = MKGformerGraphEmbeddings(config) if config.num_entities else None
        self.vision_model = self.vision_family.build(config.vision_config)
        # Set by `transformers`, for layers that cannot checkpoint themselves.
        self.gradient_checkpointing = False
        self.fusion_layers = nn.ModuleList(
            MKGformerFusionLayer(config) for _ in range(config.num_fusion_layers)
        )
        self.crop_position_embeddings = nn.ModuleDict()
        if config.visual_embeddings == "class_and_crops":
            for role in config.image_roles:
                count, size = self._count_and_size(role)
                num_patches = count * (size // config.vision_config.patch_size) ** 2
                self.crop_position_embeddings[role] = nn.Embedding(
                    num_patches, config.vision_config.hidden_size
                )
        scale, shift = self.image_normalization()
        self.register_buffer("image_scale", scale, persistent=False)
        self.register_buffer("image_shift", shift, persistent=False)

        # The tower's pooled output is not used, nor what `visual_embeddings` leaves out.
        for module, name in self.vision_family.unused(self.vision_model):
            _keep_untrained(module, name)
        if config.visual_embeddings == "patches":
            _keep_untrained(self.vision_model.embeddings, "class_embedding")
        if config.visual_embeddings != "class_and_position":
            _keep_untrained(self.vision_model.embeddings.position_embedding, "weight")

        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Word embeddings of the text tower."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings of the text tower."""
        self.text_model.set_input_embeddings(value)

    def keep_pooler_untrained(self) -> None:
        """For heads that do not use BERT's pooler: no loss reaches it."""
        if self.config.text_pooler:
            _keep_untrained(self.text_model.pooler.dense, "weight", "bias")

    def image_normalization(self) -> tuple[Tensor, Tensor]:
        """Scale and shift `(channels, 1, 1)` that make inputs of colours from 0 to 255."""
        mean, std = self.config.image_mean, self.config.image_std
        scale = torch.tensor([1 / (255 * s) for s in std])
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)])
        return scale.view(-1, 1, 1), shift.view(-1, 1, 1)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        grounding_pixel_values: Tensor | None = None,
        detection_pixel_values: Tensor | None = None,
        image_mask: Tensor | None = None,
        image_index: Tensor | None = None,
        image_rows: Tensor | None = None,
        visual_states: Tensor | None = None,
        positions: Tensor | None = None,
        output_attentions: bool = False,
    ) -> MKGformerModelOutput:
        r"""Encode texts in the light of their images.

        Text layers below the fusion run once per example, visual layers below it once per row of
        images that an example looks at. With `config.mask_missing_images` an example without
        images costs no more than its text, and gets exactly the states of the text tower.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`):
                Token ids, of words, entities and relations.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*):
                1 for tokens, 0 for padding.
            token_type_ids (`torch.LongTensor` of shape `(B, T)`, *optional*):
                Segment ids; zeros where left out.
            pixel_values (`torch.Tensor` of shape `(G, count, channels, size, size)`, *optional*):
                Full images: uint8, normalised here, or floats that are normalised already.
            grounding_pixel_values (`torch.Tensor`, *optional*):
                Images of the role `grounding`, likewise.
            detection_pixel_values (`torch.Tensor`, *optional*):
                Images of the role `detection`, likewise.
            image_mask (`torch.BoolTensor` of shape `(G, slots)`, *optional*):
                True where a slot holds an image; slots stand in the order of the three inputs.
            image_index (`torch.LongTensor` of shape `(B,)`, *optional*):
                Row of each example's images, -1 for none. Left out: row i belongs to example i.
            image_rows (`torch.LongTensor` of shape `(P,)`, *optional*):
                The examples that have images, in order, for a caller who knows them: on a GPU the
                host else waits to be told. Every row of images is encoded then.
            visual_states (`torch.FloatTensor` of shape `(G, V, d)`, *optional*):
                In the place of images: their states below the fusion, which [`encode_images`]
                gives. Of attention below it nothing is recorded then.
            positions (`torch.LongTensor` of shape `(B, K)`, *optional*):
                Tokens whose states are asked for: the last layer does no more than these need.
            output_attentions (`bool`, *optional*, defaults to `False`):
                Whether to record who attends to whom, whatever the implementation of attention. It
                is computed beside the model's own attention, whose results stay the same.

        Returns:
            [`MKGformerModelOutput`].

        Raises:
            ValueError: Images do not have the shapes that the configuration gives.
        """
        inputs_embeds = None
        if self.graph_embeddings is not None:
            words = cast(nn.Embedding, self.get_input_embeddings())
            inputs_embeds = self.graph_embeddings(input_ids, words)
        text_states = self.text_family.embed(
            self.text_model, input_ids, token_type_ids, inputs_embeds
        )
        images = self._look_up_images(
            input_ids.shape[0],
            [pixel_values, grounding_pixel_values, detection_pixel_values],
            image_mask,
            image_index,
            image_rows,
            visual_states,
        )
        attention = self.text_family.attention(self.text_model, text_states, attention_mask)
        recording = None
        if output_attentions:
            recording = _Recording(
                self.text_family.attention(self.text_model, text_states, attention_mask, eager=True)
            )
        visual_mask = None
        if images is not None:
            if attention_mask is None:
                attention_mask = torch.ones_like(input_ids)
            text_states, visual_mask = self._encode_fused(
                text_states, attention_mask, attention, images, positions, recording
            )
        else:
            if self.training:
                text_states = self._reach_visual_parameters(text_states)
            *layers, last = self.text_family.layers(self.text_model)
            for layer in layers:
                text_states = self._run_text_layer(layer, text_states, attention, recording)
            text_states = self._run_text_layer(last, text_states, attention, recording, positions)
        text_states = self.text_family.final(self.text_model, text_states)

        recorded: dict[str, Any] = {}
        if recording is not None:
            recorded = {
                name: tuple(getattr(recording, name)) or None
                for name in _RECORDED
                if name != "visual_mask"
            }
            recorded["visual_mask"] = visual_mask
        pools = self.config.text_pooler and positions is None
        return MKGformerModelOutput(
            last_hidden_state=text_states,
            pooler_output=self.text_model.pooler(text_states) if pools else None,
            **recorded,
        )

    def _run_text_layer(
        self,
        layer: nn.Module,
        states: Tensor,
        attention: TextAttention,
        recording: _Recording | None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Run a text layer that is not fused; see [`MKGformerFusionLayer`] for `positions`."""
        family = self.text_family
        if recording is not None:
            query, key, _ = family.query_key_value(layer, states)
            recording.text_attentions.append(
                family.weights(layer, query, key, recording.text_attention)
            )

        def run(states: Tensor) -> Tensor:
            if positions is None:
                return family.run(layer, states, attention)
            context = family.context(layer, *family.query_key_value(layer, states), attention)
            states, context = _at(states, positions), _at(context, positions)
            return family.finish(layer, states, context, lambda hidden_states: hidden_states)

        checkpoints_itself = isinstance(layer, GradientCheckpointingLayer) and positions is None
        if self.gradient_checkpointing and self.training and not checkpoints_itself:
            return self._gradient_checkpointing_func(run, states)
        return run(states)

    def _encode_fused(
        self,
        text_states: Tensor,
        attention_mask: Tensor,
        text_attention: TextAttention,
        images: _Images,
        positions: Tensor | None,
        recording: _Recording | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Text states `(B, T, d)` or `(B, K, d)`; with `recording`, who has images `(B, V)`."""
        depth = self.config.num_fusion_layers
        text_layers = self.text_family.layers(self.text_model)
        vision_layers = self.vision_family.layers(self.vision_model)
        last = text_layers[-1]

        below = text_states
        for layer in text_layers[:-depth]:
            below, text_states = (
                text_states,
                self._run_text_layer(layer, text_states, text_attention, recording),
            )
        reads_previous_layer = self.config.prefix_source == "previous_layer"
        prefix_key = prefix_value = None
        if reads_previous_layer:
            _, prefix_key, prefix_value = self.text_family.query_key_value(
                text_layers[-depth - 1], below
            )

        rows, image_index = images.rows, images.index
        batch_size = len(text_states)
        visual_states, visual_mask = self._encode_images(images, batch_size, recording)
        vision_config = self.vision_model.config
        if visual_mask is not None:
            visual_mask = _select(visual_mask, image_index)
        tokens = _select(attention_mask, rows)
        prefix_mask = self._prefix_mask(tokens, visual_mask, visual_states, vision_config)
        if recording is not None:
            recording.prefix_mask = self._prefix_mask(
                tokens, visual_mask, visual_states, eager_config(vision_config)
            )
        for fusion_layer, text_layer, vision_layer in zip(
            self.fusion_layers, text_layers[-depth:], vision_layers[-depth:], strict=True
        ):
            text_states, visual_states, key, value, weights = fusion_layer(
                text_states,
                visual_states,
                prefix_key,
                prefix_value,
                text_layer=text_layer,
                vision_layer=vision_layer,
                text_attention=text_attention,
                prefix_mask=prefix_mask,
                visual_mask=visual_mask,
                rows=rows,
                image_index=image_index,
                positions=positions if text_layer is last else None,
                recording=recording,
            )
            image_index = None  # from here on there is one row of visual states per example
            if reads_previous_layer:
                prefix_key, prefix_value = key, value
            if recording is not None:
                of_text, of_images, correlations = weights
                share = of_images[..., : attention_mask.shape[1]].sum(dim=-1)
                recording.text_attentions.append(of_text)
                recording.vision_attentions.append(_scatter(of_images, rows, batch_size))
                recording.prefix_shares.append(_scatter(share, rows, batch_size))
                recording.correlations.append(_scatter(correlations, rows, batch_size))
        if recording is None:
            return text_states, None
        if visual_mask is None:
            shape = (len(tokens), visual_states.shape[1])
            visual_mask = torch.ones(shape, dtype=torch.bool, device=tokens.device)
        return text_states, _scatter(visual_mask, rows, batch_size)

    def visual_parameters_below_fusion(self) -> list[nn.Parameter]:
        """Parameters that [`encode_images`] computes with."""
        fused = self.vision_family.layers(self.vision_model)[-self.config.num_fusion_layers :]
        above = {id(parameter) for layer in fused for parameter in layer.parameters()}
        below = (self.vision_model, self.crop_position_embeddings)
        parameters = [parameter for module in below for parameter in module.parameters()]
        return [parameter for parameter in parameters if id(parameter) not in above]

    def encode_images(
        self,
        pixel_values: Tensor | None = None,
        grounding_pixel_values: Tensor | None = None,
        detection_pixel_values: Tensor | None = None,
        image_mask: Tensor | None = None,
    ) -> Tensor:
        """States of rows of images below the fusion, `(G, V, d)`; arguments as of [`forward`].

        Raises:
            ValueError: Images do not have the shapes that the configuration gives, or there are
                none.
        """
        given = [pixel_values, grounding_pixel_values, detection_pixel_values]
        num_rows = max((len(pixels) for pixels in given if pixels is not None), default=0)
        rows = torch.arange(num_rows, device=self.image_scale.device)
        images = self._look_up_images(num_rows, given, image_mask, None, rows)
        if images is None:
            raise ValueError("There are no images to encode.")
        return self._encode_images(images, num_rows)[0]

    def _encode_images(
        self, images: _Images, batch_size: int, recording: _Recording | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """States `(G, V, d)` below the fusion, and which of them are of images `(G, V)`."""
        if images.are_encoded:
            (states,) = images.given
            return states, self._visual_mask(images.mask, states.shape[1])
        states = self._embed_images(images.given)
        visual_mask = self._visual_mask(images.mask, states.shape[1])
        layers = self.vision_family.layers(self.vision_model)[: -self.config.num_fusion_layers]
        layer_mask = bidirectional_mask(self.vision_model.config, states, visual_mask)
        for layer in layers:
            if recording is not None:
                weights = _select(self._visual_weights(layer, states, visual_mask), images.index)
                recording.vision_attentions.append(_scatter(weights, images.rows, batch_size))
            states = layer(states, layer_mask)
        return states, visual_mask

    def _visual_weights(
        self, layer: nn.Module, states: Tensor, visual_mask: Tensor | None
    ) -> Tensor:
        """Attention weights `(G, heads, V, V)` of a visual layer that is not fused."""
        config = eager_config(self.vision_model.config)
        mask = cast(Tensor | None, bidirectional_mask(config, states, visual_mask))
        query, key, _ = self.vision_family.query_key_value(layer, states)
        return attention_weights(query, key, mask, self.vision_family.num_heads(layer))

    def _prefix_mask(
        self,
        attention_mask: Tensor,
        visual_mask: Tensor | None,
        visual_states: Tensor,
        vision_config: PreTrainedConfig,
    ) -> Any:
        """Mask of visual queries over the text tokens that they read, and visual tokens."""
        if not self.config.prefix_guided_interaction:
            attention_mask = attention_mask[:, :0]
        if not self.config.mask_prefix_padding:
            attention_mask = torch.ones_like(attention_mask)
        shape = (attention_mask.shape[0], visual_states.shape[1])
        if visual_mask is None:
            visual_mask = attention_mask.new_ones(shape, dtype=torch.bool)
        return bidirectional_mask(
            vision_config,
            visual_states.new_empty(1).expand(*shape, 1),  # stands for the queries' shape only
            torch.cat([attention_mask.bool(), visual_mask], dim=1),
        )

    def _look_up_images(
        self,
        batch_size: int,
        pixel_values: list[Tensor | None],
        image_mask: Tensor | None,
        image_index: Tensor | None,
        image_rows: Tensor | None,
        visual_states: Tensor | None = None,
    ) -> _Images | None:
        """Check the images and leave out what nobody looks at; None where no image is left."""
        device = self.image_scale.device
        given = self._check_images(batch_size, pixel_values, image_mask, image_index)
        if visual_states is not None:
            given = [visual_states]
            image_mask = image_mask if self.config.mask_missing_images else None
        elif not self.config.mask_missing_images:
            return self._fill_missing_images(batch_size, given, image_mask, image_index)
        if not given or len(given[0]) == 0:
            return None

        if image_index is None:
            image_index = torch.arange(batch_size, device=device)
        if image_mask is not None:
            image_mask = image_mask.bool()
        if image_rows is None:
            looks = image_index >= 0
            if image_mask is not None:
                looks = looks & image_mask.any(dim=1)[image_index.clamp(min=0)]
            image_rows = looks.nonzero().squeeze(1)
            used, index = image_index[image_rows].unique(return_inverse=True)
            given = [pixels.index_select(0, used) for pixels in given]
            image_mask = None if image_mask is None else image_mask.index_select(0, used)
        else:
            index = image_index.index_select(0, image_rows)
        if len(image_rows) == 0:
            return None
        return _Images(
            [self.normalize(pixels) for pixels in given],
            image_mask,
            index,
            None if len(image_rows) == batch_size else image_rows,
            are_encoded=visual_states is not None,
        )

    def _fill_missing_images(
        self,
        batch_size: int,
        given: list[Tensor],
        image_mask: Tensor | None,
        image_index: Tensor | None,
    ) -> _Images:
        """Put an image of zeros wherever one is missing."""
        config, vision_config = self.config, self.vision_model.config
        images = [self.normalize(pixels) for pixels in given]
        if image_mask is not None and images:
            masks = image_mask.bool().split([pixels.shape[1] for pixels in images], dim=1)
            images = [
                pixels.masked_fill(~mask[:, :, None, None, None], 0.0)
                for pixels, mask in zip(images, masks, strict=True)
            ]
        if not images:
            image_index = torch.full((batch_size,), -1, device=self.image_scale.device)
            channels, dtype = vision_config.num_channels, self.image_scale.dtype
            images = [
                image_index.new_empty(0, count, channels, size, size, dtype=dtype)
                for count, size in map(self._count_and_size, config.image_roles)
            ]
        if image_index is None:
            return _Images(images, None, None, None)
        nothing = len(images[0])
        return _Images(
            [torch.cat([pixels, pixels.new_zeros(1, *pixels.shape[1:])]) for pixels in images],
            None,
            image_index.masked_fill(image_index < 0, nothing),
            None,
        )

    def _check_images(
        self,
        batch_size: int,
        pixel_values: list[Tensor | None],
        image_mask: Tensor | None,
        image_index: Tensor | None,
    ) -> list[Tensor]:
        config = self.config
        by_role = dict(zip(IMAGE_ROLES, pixel_values, strict=True))
        given = [role for role, pixels in by_role.items() if pixels is not None]
        if not given:
            return []
        if tuple(given) != config.image_roles:
            raise ValueError(
                f"Images of {', '.join(given)} are given, but the model was configured for "
                f"{', '.join(config.image_roles)}."
            )
        images = [cast(Tensor, by_role[role]) for role in given]
        num_rows, channels = len(images[0]), self.vision_model.config.num_channels
        for role, pixels in zip(given, images, strict=True):
            count, size = self._count_and_size(role)
            expected = (num_rows, count, channels, size, size)
            if pixels.shape != expected:
                raise ValueError(
                    f"Images of {role} have shape {tuple(pixels.shape)}, not {expected}."
                )
        slots = (num_rows, config.num_image_slots)
        if image_mask is not None and image_mask.shape != slots:
            raise ValueError(f"image_mask has shape {tuple(image_mask.shape)}, not {slots}.")
        if image_index is None and num_rows != batch_size:
            raise ValueError(
                f"There are {num_rows} rows of images for {batch_size} texts. Give image_index."
            )
        if image_index is not None and image_index.shape != (batch_size,):
            raise ValueError(
                f"image_index has shape {tuple(image_index.shape)}, not {(batch_size,)}."
            )
        return images

    def _count_and_size(self, role: str) -> tuple[int, int]:
        return self.config.image_counts[role], self.config.image_sizes[role]

    def normalize(self, pixels: Tensor) -> Tensor:
        """Images as the towers see them: uint8 is normalised, floats are believed to be."""
        dtype = self.image_scale.dtype
        if pixels.is_floating_point():
            return pixels.to(dtype)
        return torch.addcmul(self.image_shift, pixels.to(dtype), self.image_scale)

    def patch_positions(self, num_tokens: int) -> list[Tensor]:
        """Where the patches of each image slot stand in the visual sequence.

        Args:
            num_tokens: Length `V` of the sequence, as what is recorded has it. It tells how many
                tokens of other kinds (class, registers) stand before the patches.

        Returns:
            For each slot, in the order of the slots, the positions `(rows, columns)` of its grid.
        """
        sides, start, before_each = self._grids(num_tokens)
        positions = []
        for side in sides:
            start += before_each
            positions.append(torch.arange(start, start + side**2).view(side, side))
            start += side**2
        return positions

    def _grids(self, num_tokens: int) -> tuple[list[int], int, int]:
        """Patches at a side of each slot's image; tokens before all slots, and before each."""
        config = self.config
        patch_size = config.vision_config.patch_size
        sides = [
            size // patch_size
            for count, size in map(self._count_and_size, config.image_roles)
            for _ in range(count)
        ]
        others = num_tokens - sum(side**2 for side in sides)
        shared = config.visual_embeddings == "class_and_crops"
        return (sides, others, 0) if shared else (sides, 0, others // len(sides))

    def _visual_mask(self, mask: Tensor | None, num_tokens: int) -> Tensor | None:
        """Which visual tokens are of images `(G, V)`, given which slots hold one `(G, slots)`."""
        if mask is None:
            return None
        sides, before_all, before_each = self._grids(num_tokens)
        masks = [mask.any(dim=1, keepdim=True).expand(-1, before_all)]
        for slot, side in enumerate(sides):
            masks.append(mask[:, slot, None].expand(-1, before_each + side**2))
        return torch.cat(masks, dim=1)

    def _embed_images(self, pixel_values: list[Tensor]) -> Tensor:
        """Put the tokens of all images of a row side by side: `(G, V, d_v)`."""
        kind = self.config.visual_embeddings
        states = []
        for role, pixels in zip(self.config.image_roles, pixel_values, strict=True):
            flat = pixels.flatten(0, 1)
            if kind == "class_and_position":
                # The position table is interpolated once per call, that is once per image size.
                tokens = self.vision_family.embed(self.vision_model, flat)
            else:  # CLIP's alone
                tokens = self.vision_model.embeddings.patch_embedding(flat).flatten(2)
                tokens = tokens.transpose(1, 2)
            tokens = tokens.unflatten(0, pixels.shape[:2]).flatten(1, 2)
            if kind == "class_and_crops":
                tokens = tokens + cast(nn.Embedding, self.crop_position_embeddings[role]).weight
            states.append(tokens)
        if kind == "class_and_crops":
            class_token = self.vision_model.embeddings.class_embedding
            states.insert(0, class_token.expand(len(states[0]), 1, -1))
        return self.vision_family.normalize(self.vision_model, torch.cat(states, dim=1))

    def _reach_visual_parameters(self, text_states: Tensor) -> Tensor:
        """Make the gradient of visual parameters zero, not None, in a batch without images.

        Processes that train together wait for the gradient of every parameter, and only one of
        them may meet such a batch. Doing so in a single process too keeps the optimiser's steps
        the same however many processes share a batch.
        """
        modules = (self.vision_model, self.fusion_layers, self.crop_position_embeddings)
        visual = [parameter for module in modules for parameter in module.parameters()]
        reached = [parameter.flatten()[0] for parameter in visual if parameter.requires_grad]
        return text_states + 0.0 * sum(reached)


class MKGformerForLinkPrediction(MKGformerPreTrainedModel):
    """The model with a head that scores every entity at the mask of a query.

    The head is the one of masked language modelling; the classes are the embeddings of the
    entities. Nothing is computed for other positions or for words.

    Args:
        config ([`MKGformerConfig`]):
            Configuration of the model.
    """

    # The loss is a mean over the batch: the Trainer must not divide it once more.
    accepts_loss_kwargs = False

    def __init__(self, config: MKGformerConfig):
        super().__init__(config)
        self.mkgformer = MKGformerModel(config)
        self.transform = text_family(config.text_config).head(config.text_config)
        self.entity_bias = nn.Parameter(torch.zeros(config.num_entities))
        self.entity_encoder = _entity_encoder(config) if config.entity_encoder else None
        self.mkgformer.keep_pooler_untrained()
        self.post_init()

    def _load_prediction_head(self, state: dict[str, Tensor]) -> None:
        self.transform.load_state_dict(state)

    def add_graph_tokens(self, num_entities: int, num_relations: int) -> None:
        """Add a token and an embedding for each entity, then for each relation.

        Args:
            num_entities: Number of entities, at least 1.
            num_relations: Number of relations.

        Raises:
            ValueError: The model has such tokens already, or there are no entities.
        """
        if self.config.num_entities:
            raise ValueError(
                f"The model has tokens for {self.config.num_entities} entities already."
            )
        if num_entities < 1 or num_relations < 0:
            raise ValueError(f"{num_entities} entities and {num_relations} relations are no graph.")
        self.config.num_entities, self.config.num_relations = num_entities, num_relations
        embeddings = MKGformerGraphEmbeddings(self.config).to(self.device, self.dtype)
        self.mkgformer.graph_embeddings = embeddings.apply(self._init_weights)
        self.entity_bias = nn.Parameter(self.entity_bias.new_zeros(num_entities))

    def halve_entities(self) -> None:
        """Round the entities' embeddings to bfloat16, from here on and in what is saved.

        They are widened where they are looked up and scored, so that all else is in the precision
        that it had.

        Raises:
            ValueError: The model has no entities.
        """
        self._graph_embeddings().entities.to(torch.bfloat16)
        self.config.half_precision_entities = True

    def set_entity_encoder(self, weight: Tensor, bias: Tensor) -> None:
        """Give the model the map from states to embeddings that [`embed_entities`] takes.

        Args:
            weight: `(d, d)`, multiplied with a state from the left.
            bias: `(d,)`.
        """
        self.config.entity_encoder = True
        encoder = _entity_encoder(self.config)
        encoder.load_state_dict({"weight": weight, "bias": bias})
        self.entity_encoder = encoder.to(self.device, self.dtype)

    def embed_entities(self, states: Tensor) -> Tensor:
        """Make embeddings of entities from the states `(M, d)` at the masks of descriptions.

        Raises:
            ValueError: The model has no encoder of entities.
        """
        if self.entity_encoder is None:
            raise ValueError("The model has no encoder of entities. Call set_entity_encoder first.")
        return self.entity_encoder(states)

    def add_entities(self, embeddings: Tensor) -> None:
        """Add entities behind the others of a trained model, in memory.

        Scores of the others stay the same to the last bit, since those of the new ones are a
        product of their own. Token ids of relations move up.

        Args:
            embeddings: `(M, d)`, one for each new entity.

        Raises:
            ValueError: The model has no entities.
        """
        graph = self.mkgformer.graph_embeddings
        if graph is None:
            raise ValueError("The model has no entities. Call add_graph_tokens first.")
        graph.add(embeddings)
        self.config.num_entities += len(embeddings)

    def encode_mask(self, input_ids: Tensor, **inputs: Any) -> Tensor:
        """Transformed state at the mask, which is compared with the entities' embeddings.

        Args:
            input_ids: `(B, T)`, with exactly one `config.mask_token_id` in each row.
            inputs: Further inputs of [`MKGformerModel.forward`].

        Returns:
            `(B, d)`.

        Raises:
            ValueError: `config.mask_token_id` is not set.
        """
        return self._encode_mask(input_ids, **inputs)[0]

    def _encode_mask(self, input_ids: Tensor, **inputs: Any) -> tuple[Tensor, MKGformerModelOutput]:
        if self.config.mask_token_id is None:
            raise ValueError("config.mask_token_id is not set. Set it to the id of `[MASK]`.")
        # Stays on the device: `nonzero` would make the host wait for it.
        position = (input_ids == self.config.mask_token_id).int().argmax(dim=1, keepdim=True)
        outputs = self.mkgformer(input_ids, **inputs, positions=position, return_dict=True)
        return self.transform(outputs.last_hidden_state[:, 0]), outputs

    def score_entities(self, states: Tensor, entities: Tensor | None = None) -> Tensor:
        """Score entities for the states `(B, d)` of [`encode_mask`].

        Args:
            states: `(B, d)`.
            entities: `(S,)` which of those that the model was trained with; None: all.

        Returns:
            `(B, S)` or `(B, N)`.

        Raises:
            ValueError: The model has no entities.
        """
        embeddings = self._graph_embeddings()
        if entities is not None:
            table = embeddings.entities
            bias = self.entity_bias.gather(0, entities, sparse_grad=table.sparse)
            return _linear_in_float32(states, table(entities), bias)
        # In half precision thousands of entities would tie, which spoils ranks and the loss alike.
        scores = _linear_in_float32(states, embeddings.entities.weight, self.entity_bias)
        if embeddings.added is None:
            return scores
        return torch.cat([scores, self.score_added(states)], dim=1)

    def score_each(self, states: Tensor, entities: Tensor) -> Tensor:
        """Score entities of their own for each of the states `(B, d)`.

        Args:
            states: `(B, d)`.
            entities: `(B, K)`, of those that the model was trained with.

        Returns:
            `(B, K)`.
        """
        embeddings = self._graph_embeddings().entities(entities).float()
        return torch.einsum("bkd,bd->bk", embeddings, states.float()) + self.entity_bias[entities]

    def score_added(self, states: Tensor) -> Tensor:
        """Score the entities that [`add_entities`] added for the states `(B, d)`: `(B, added)`."""
        added = self._graph_embeddings().added
        if added is None:
            return states.new_empty(len(states), 0)
        # Products of one shape, whatever the number of entities: its kernel, and with it the last
        # bit of a score, depends on the shape.
        count = added.num_embeddings
        rows = nn.functional.pad(added.weight, (0, 0, 0, -count % _ADDED_AT_A_TIME))
        scores = [_linear_in_float32(states, each) for each in rows.split(_ADDED_AT_A_TIME)]
        return torch.cat(scores, dim=1)[:, :count]

    def _graph_embeddings(self) -> MKGformerGraphEmbeddings:
        if self.mkgformer.graph_embeddings is None:
            raise ValueError("The model has no entities. Call add_graph_tokens first.")
        return self.mkgformer.graph_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        grounding_pixel_values: Tensor | None = None,
        detection_pixel_values: Tensor | None = None,
        image_mask: Tensor | None = None,
        image_index: Tensor | None = None,
        image_rows: Tensor | None = None,
        visual_states: Tensor | None = None,
        labels: Tensor | None = None,
        candidates: Tensor | None = None,
        log_counts: Tensor | None = None,
        output_attentions: bool = False,
    ) -> MKGformerOutput:
        r"""Score every entity at the mask, or those that are candidates.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`):
                Token ids, with exactly one mask in each row.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*):
                1 for tokens, 0 for padding.
            token_type_ids (`torch.LongTensor` of shape `(B, T)`, *optional*):
                Segment ids.
            pixel_values (`torch.Tensor` of shape `(G, count, channels, size, size)`, *optional*):
                Full images, see [`MKGformerModel.forward`].
            grounding_pixel_values (`torch.Tensor`, *optional*):
                Images of the role `grounding`.
            detection_pixel_values (`torch.Tensor`, *optional*):
                Images of the role `detection`.
            image_mask (`torch.BoolTensor` of shape `(G, slots)`, *optional*):
                True where a slot holds an image.
            image_index (`torch.LongTensor` of shape `(B,)`, *optional*):
                Row of each example's images, -1 for none.
            image_rows (`torch.LongTensor` of shape `(P,)`, *optional*):
                The examples that have images, see [`MKGformerModel.forward`].
            visual_states (`torch.FloatTensor` of shape `(G, V, d)`, *optional*):
                In the place of images, see [`MKGformerModel.forward`].
            labels (`torch.LongTensor` of shape `(B, A)`, *optional*):
                Distinct entities that answer each query, padded with -100. With `candidates` they
                are given by their places among these.
            candidates (`torch.LongTensor` of shape `(S,)`, *optional*):
                Distinct entities to score, all answers of the batch among them. Left out: all.
            log_counts (`torch.FloatTensor` of shape `(S,)`, *optional*):
                How many entities each candidate stands for, see [`multi_answer_cross_entropy`].
            output_attentions (`bool`, *optional*, defaults to `False`):
                Whether to record who attends to whom, see [`MKGformerModel.forward`].

        Returns:
            [`MKGformerOutput`] with `logits` `(B, N)`, or `(B, S)`, before sigmoid or softmax.

        Raises:
            ValueError: The model has no entities, `config.mask_token_id` is not set, or images do
                not have the shapes that the configuration gives.
        """
        states, outputs = self._encode_mask(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            pixel_values=pixel_values,
            grounding_pixel_values=grounding_pixel_values,
            detection_pixel_values=detection_pixel_values,
            image_mask=image_mask,
            image_index=image_index,
            image_rows=image_rows,
            visual_states=visual_states,
            output_attentions=output_attentions,
        )
        logits = self.score_entities(states, candidates)
        loss = None
        if labels is not None:
            loss = self._loss(logits, labels, log_counts)
        return MKGformerOutput(loss=loss, logits=logits, **outputs.recorded())

    def _loss(self, logits: Tensor, labels: Tensor, log_counts: Tensor | None) -> Tensor:
        config = self.config
        if config.loss == "binary_cross_entropy":
            return multi_answer_binary_cross_entropy(logits, labels, config.label_smoothing)
        return multi_answer_cross_entropy(
            logits, labels, config.label_smoothing, config.answer_exponent, log_counts
        )

    def entity_weights(self) -> list[nn.Parameter]:
        """The entities' weights, of which a loss over `candidates` reaches only these."""
        graph = cast(MKGformerGraphEmbeddings, self.mkgformer.graph_embeddings)
        return [cast(nn.Parameter, graph.entities.weight), self.entity_bias]


class MKGformerForRelationExtraction(MKGformerPreTrainedModel):
    """The model with a classifier of the relation between two mentions of a text.

    Args:
        config ([`MKGformerConfig`]):
            Configuration of the model.
    """

    task = "relation_extraction"
    # The loss is a mean over the batch: the Trainer must not divide it once more.
    accepts_loss_kwargs = False

    def __init__(self, config: MKGformerConfig):
        super().__init__(config)
        self.mkgformer = MKGformerModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        width = config.text_config.hidden_size
        if config.representation == "markers":
            width = 2 * width
        self.classifier = nn.Linear(width, cast(int, config.num_labels))
        self.mkgformer.keep_pooler_untrained()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        grounding_pixel_values: Tensor | None = None,
        detection_pixel_values: Tensor | None = None,
        image_mask: Tensor | None = None,
        image_index: Tensor | None = None,
        image_rows: Tensor | None = None,
        visual_states: Tensor | None = None,
        head_index: Tensor | None = None,
        tail_index: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool = False,
    ) -> MKGformerOutput:
        r"""Score every relation of the two mentions.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`):
                Token ids.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*):
                1 for tokens, 0 for padding.
            token_type_ids (`torch.LongTensor` of shape `(B, T)`, *optional*):
                Segment ids.
            pixel_values (`torch.Tensor` of shape `(G, count, channels, size, size)`, *optional*):
                Full images, see [`MKGformerModel.forward`].
            grounding_pixel_values (`torch.Tensor`, *optional*):
                Images of the role `grounding`.
            detection_pixel_values (`torch.Tensor`, *optional*):
                Images of the role `detection`.
            image_mask (`torch.BoolTensor` of shape `(G, slots)`, *optional*):
                True where a slot holds an image.
            image_index (`torch.LongTensor` of shape `(B,)`, *optional*):
                Row of each example's images, -1 for none.
            image_rows (`torch.LongTensor` of shape `(P,)`, *optional*):
                The examples that have images, see [`MKGformerModel.forward`].
            visual_states (`torch.FloatTensor` of shape `(G, V, d)`, *optional*):
                In the place of images, see [`MKGformerModel.forward`].
            head_index (`torch.LongTensor` of shape `(B,)`, *optional*):
                Position of the token that opens the head mention. The representation `markers`
                needs it.
            tail_index (`torch.LongTensor` of shape `(B,)`, *optional*):
                Position of the token that opens the tail mention, likewise.
            labels (`torch.LongTensor` of shape `(B,)`, *optional*):
                Relation of each example.
            output_attentions (`bool`, *optional*, defaults to `False`):
                Whether to record who attends to whom, see [`MKGformerModel.forward`].

        Returns:
            [`MKGformerOutput`] with `logits` `(B, C)` and, with `labels`, `loss`: mean
            cross-entropy. Both are float32.

        Raises:
            ValueError: The representation needs positions that are not given, or images do not
                have the shapes that the configuration gives.
        """
        markers = self.config.representation == "markers"
        if markers and (head_index is None or tail_index is None):
            raise ValueError(
                "The representation 'markers' needs head_index and tail_index, the positions of "
                "the tokens that open the mentions."
            )
        if markers:
            positions = torch.stack([cast(Tensor, head_index), cast(Tensor, tail_index)], dim=1)
        else:
            positions = torch.zeros_like(input_ids[:, :1])
        outputs = self.mkgformer(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            pixel_values=pixel_values,
            grounding_pixel_values=grounding_pixel_values,
            detection_pixel_values=detection_pixel_values,
            image_mask=image_mask,
            image_index=image_index,
            image_rows=image_rows,
            visual_states=visual_states,
            positions=positions,
            output_attentions=output_attentions,
            return_dict=True,
        )
        pooled = outputs.last_hidden_state.flatten(1)
        classifier = self.classifier
        logits = _linear_in_float32(self.dropout(pooled), classifier.weight, classifier.bias)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return MKGformerOutput(loss=loss, logits=logits, **outputs.recorded())


class MKGformerForTokenClassification(MKGformerPreTrainedModel):
    """The model with a linear-chain CRF over the words of a text, for entity recognition.

    A word is represented by its first token. With `config.constrain_transitions` label sequences
    that IOB2 forbids are never decoded and have no probability.

    Args:
        config ([`MKGformerConfig`]):
            Configuration of the model.

    Raises:
        ValueError: Transitions are to be constrained, but the labels are no IOB2 tags.
    """

    task = "entity_recognition"
    # The loss is a mean over the batch: the Trainer must not divide it once more.
    accepts_loss_kwargs = False

    forbidden_start: Tensor
    forbidden_transitions: Tensor

    def __init__(self, config: MKGformerConfig):
        super().__init__(config)
        num_labels = cast(int, config.num_labels)
        self.mkgformer = MKGformerModel(config)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.text_config.hidden_size, num_labels)
        self.crf = CRF(num_labels, batch_first=True)
        start, transitions = self.forbidden_labels()
        self.register_buffer("forbidden_start", start, persistent=False)
        self.register_buffer("forbidden_transitions", transitions, persistent=False)
        self.mkgformer.keep_pooler_untrained()
        self.post_init()

    def forbidden_labels(self) -> tuple[Tensor, Tensor]:
        """True for labels `(C,)` that open no text, and where none follows another `(C, C)`."""
        num_labels = cast(int, self.config.num_labels)
        if not self.config.constrain_transitions:
            shape = (num_labels, num_labels)
            return torch.zeros(num_labels, dtype=torch.bool), torch.zeros(shape, dtype=torch.bool)
        names = cast(dict[int, str], self.config.id2label)
        return _forbidden_transitions([names[i] for i in range(num_labels)])

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        grounding_pixel_values: Tensor | None = None,
        detection_pixel_values: Tensor | None = None,
        image_mask: Tensor | None = None,
        image_index: Tensor | None = None,
        image_rows: Tensor | None = None,
        visual_states: Tensor | None = None,
        word_index: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool = False,
    ) -> MKGformerOutput:
        r"""Score every label of every word.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`):
                Token ids.
            attention_mask (`torch.Tensor` of shape `(B, T)`, *optional*):
                1 for tokens, 0 for padding.
            token_type_ids (`torch.LongTensor` of shape `(B, T)`, *optional*):
                Segment ids.
            pixel_values (`torch.Tensor` of shape `(G, count, channels, size, size)`, *optional*):
                Full images, see [`MKGformerModel.forward`].
            grounding_pixel_values (`torch.Tensor`, *optional*):
                Images of the role `grounding`.
            detection_pixel_values (`torch.Tensor`, *optional*):
                Images of the role `detection`.
            image_mask (`torch.BoolTensor` of shape `(G, slots)`, *optional*):
                True where a slot holds an image.
            image_index (`torch.LongTensor` of shape `(B,)`, *optional*):
                Row of each example's images, -1 for none.
            image_rows (`torch.LongTensor` of shape `(P,)`, *optional*):
                The examples that have images, see [`MKGformerModel.forward`].
            visual_states (`torch.FloatTensor` of shape `(G, V, d)`, *optional*):
                In the place of images, see [`MKGformerModel.forward`].
            word_index (`torch.LongTensor` of shape `(B, W)`, *optional*):
                Position of each word's first token, padded with -1. Left out: every token is a
                word, and `attention_mask` tells which are padding.
            labels (`torch.LongTensor` of shape `(B, W)`, *optional*):
                Label of each word, padded with -100. Columns of padding alone may be left out.
            output_attentions (`bool`, *optional*, defaults to `False`):
                Whether to record who attends to whom, see [`MKGformerModel.forward`].

        Returns:
            [`MKGformerOutput`] with `logits` `(B, W, C)`, the CRF's emissions, and, with
            `labels`, `loss`: the mean over examples of the negative log-likelihood. Both are
            float32. [`decode`] finds the best labels.

        Raises:
            ValueError: `labels` are given and a row has no word, words behind padding, words
                without label, or labels that IOB2 forbids; or images do not have the shapes that
                the configuration gives.
        """
        outputs = self.mkgformer(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            pixel_values=pixel_values,
            grounding_pixel_values=grounding_pixel_values,
            detection_pixel_values=detection_pixel_values,
            image_mask=image_mask,
            image_index=image_index,
            image_rows=image_rows,
            visual_states=visual_states,
            output_attentions=output_attentions,
            return_dict=True,
        )
        states = outputs.last_hidden_state
        if word_index is not None:
            mask = word_index >= 0
            index = word_index.clamp(min=0)[..., None].expand(-1, -1, states.shape[-1])
            states = states.gather(1, index)
        elif attention_mask is not None:
            mask = attention_mask.bool()
        else:
            mask = torch.ones_like(input_ids, dtype=torch.bool)
        classifier = self.classifier
        emissions = _linear_in_float32(self.dropout(states), classifier.weight, classifier.bias)
        loss = None if labels is None else self._negative_log_likelihood(emissions, mask, labels)
        return MKGformerOutput(loss=loss, logits=emissions, **outputs.recorded())

    @torch.no_grad()
    def decode(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """Find the most likely labels of each row by the Viterbi algorithm.

        Args:
            emissions: `(B, W, C)`, the `logits` of [`forward`].
            mask: `(B, W)`, true for words; these come first in each row.

        Returns:
            `(B, W)` label ids on the device of `emissions`, -1 behind the last word.

        Raises:
            ValueError: A row has no word, or words behind padding.
        """
        # The way back is walked number by number, each of which a GPU would have to be waited for.
        words = mask.bool().cpu()
        self._check_words(words)
        crf = deepcopy(self.crf).cpu()
        for name, scores in self._constrained_scores().items():
            getattr(crf, name).data = scores.cpu()
        paths = crf.decode(emissions.float().cpu(), words)
        decoded = torch.full(mask.shape, -1)
        for row, path in zip(decoded, paths, strict=True):
            row[: len(path)] = torch.tensor(path)
        return decoded.to(emissions.device)

    def _negative_log_likelihood(self, emissions: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
        missing_columns = mask.shape[1] - labels.shape[1]
        if len(labels) != len(mask) or missing_columns < 0:
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}, but there are words of shape "
                f"{tuple(mask.shape)}."
            )
        labels = nn.functional.pad(labels, (0, missing_columns), value=-100)
        self._check_words(mask, labels)
        with torch.autocast(emissions.device.type, enabled=False):
            return -_crf_log_likelihood(
                emissions, labels.clamp(min=0), mask, **self._constrained_scores()
            ).mean()

    def _constrained_scores(self) -> dict[str, Tensor]:
        """The CRF's parameters in float32, forbidden ones replaced: no gradient reaches those."""
        crf = self.crf
        return {
            "start_transitions": crf.start_transitions.float().masked_fill(
                self.forbidden_start, _FORBIDDEN
            ),
            "transitions": crf.transitions.float().masked_fill(
                self.forbidden_transitions, _FORBIDDEN
            ),
            "end_transitions": crf.end_transitions.float(),
        }

    def _check_words(self, mask: Tensor, labels: Tensor | None = None) -> None:
        """Check what the CRF takes for granted.

        Labels that lie on a GPU are checked by the GPU, which stops the program when it finds
        something: the host does not wait for the answer.
        """
        mask = mask.bool()
        problems = {
            "a row without a word": ~mask.any(dim=1),
            "words behind padding": (mask[:, 1:] & ~mask[:, :-1]).any(dim=1),
        }
        if labels is not None:
            ids = labels.clamp(min=0)
            forbidden = torch.cat(
                [
                    self.forbidden_start[ids[:, :1]],
                    self.forbidden_transitions[ids[:, :-1], ids[:, 1:]],
                ],
                dim=1,
            )
            problems["words without label"] = (mask & (labels < 0)).any(dim=1)
            problems["labels that IOB2 forbids"] = (mask & forbidden).any(dim=1)
        if labels is not None and not on_host(labels):
            for what, where in problems.items():
                torch._assert_async(~where.any(), f"The batch has {what}.")
            return
        found = torch.stack(list(problems.values())).any(dim=1).tolist()
        if any(found):
            named = [what for what, is_there in zip(problems, found, strict=True) if is_there]
            raise ValueError(f"The batch has {' and '.join(named)}.")


AutoModel.register(MKGformerConfig, MKGformerModel)
# The nearest task that has an Auto class: the mask is filled with an entity.
AutoModelForMaskedLM.register(MKGformerConfig, MKGformerForLinkPrediction)
# The class of a text is the relation of its two mentions.
AutoModelForSequenceClassification.register(MKGformerConfig, MKGformerForRelationExtraction)
AutoModelForTokenClassification.register(MKGformerConfig, MKGformerForTokenClassification)

__all__ = [
    "MKGformerConfig",
    "MKGformerForLinkPrediction",
    "MKGformerForRelationExtraction",
    "MKGformerForTokenClassification",
    "MKGformerGraphEmbeddings",
    "MKGformerModel",
    "MKGformerModelOutput",
    "MKGformerOutput",
    "MKGformerPreTrainedModel",
    "correlation_aware_fusion",
    "correlation_weights",
    "multi_answer_binary_cross_entropy",
    "multi_answer_cross_entropy",
]
