import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionModel,
    DistilBertConfig,
    DistilBertModel,
)

from mkgformer_kedro.modeling import MKGformerForLinkPrediction, MKGformerModel, modeling_mkgformer
from mkgformer_kedro.modeling.modeling_mkgformer import (
    correlation_aware_fusion,
    multi_answer_binary_cross_entropy,
    multi_answer_cross_entropy,
)

OTHER_TOWER = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 20,
}


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@torch.no_grad()
def states_of(model, **inputs):
    return model.mkgformer(**inputs).last_hidden_state


def real(states, inputs):
    """States of the tokens that are no padding."""
    return states[inputs["attention_mask"].bool()]


# What is fused, and what is not


@pytest.mark.parametrize("preset", ["corrected", "faithful"])
def test_every_image_and_token_matters(tiny, preset):
    model, texts, images = tiny.model(preset), tiny.texts(), tiny.images(4)
    states = states_of(model, **texts, **images)

    for name in images:
        other = {**images, name: 255 - images[name]}
        assert (states_of(model, **texts, **other) - states).abs().max() > 1e-2


@torch.no_grad()
def test_without_images_equals_the_text_tower(tiny):
    model, texts = tiny.model(), tiny.texts()
    expected = model.mkgformer.text_model(**texts).last_hidden_state

    nobody_looks = {**tiny.images(2), "image_index": torch.full((4,), -1)}
    all_masked = {**tiny.images(4), "image_mask": torch.zeros(4, tiny.slots, dtype=torch.bool)}
    no_rows = {**tiny.images(0), "image_index": torch.full((4,), -1)}
    for images in ({}, nobody_looks, all_masked, no_rows):
        assert torch.equal(states_of(model, **texts, **images), expected)


def test_example_without_images_equals_the_text_pass_in_a_mixed_batch(tiny):
    model, texts, images = tiny.model(), tiny.texts(), tiny.images(2)
    text_only = states_of(model, **texts)

    states = states_of(model, **texts, **images, image_index=torch.tensor([1, -1, 0, -1]))

    assert torch.equal(states[[1, 3]], text_only[[1, 3]])
    assert (states[[0, 2]] - text_only[[0, 2]]).abs().amax(dim=(1, 2)).min() > 1e-2


def test_faithful_attends_to_a_missing_image_as_to_zeros(tiny):
    model, texts, images = tiny.model("faithful"), tiny.texts(), tiny.images(2)
    model.mkgformer.image_shift.zero_()  # colour 0 becomes the zero tensor
    shown = {name: torch.cat([p[[1, 0]], torch.zeros_like(p)]) for name, p in images.items()}

    states = states_of(model, **texts, **images, image_index=torch.tensor([1, 0, -1, -1]))

    close(states, states_of(model, **texts, **shown))
    close(states[2:], states_of(model, **texts)[2:])


@pytest.mark.parametrize("fields", [{}, {"vision": OTHER_TOWER}])
@torch.no_grad()
def test_zero_fusion_equals_the_text_tower(tiny, fields):
    model = tiny.model(fusion_init="zero", **fields)
    texts, images = tiny.texts(), tiny.images(4)

    assert torch.equal(
        states_of(model, **texts, **images),
        model.mkgformer.text_model(**texts).last_hidden_state,
    )


def test_padding_and_batch_mates_change_nothing(tiny):
    model, texts, images = tiny.model(), tiny.texts(), tiny.images(4)
    mask = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    together = states_of(model, **texts, **images, image_mask=mask)

    for row, length in enumerate(texts["attention_mask"].sum(dim=1).tolist()):
        alone = states_of(
            model,
            **{name: tensor[row : row + 1, :length] for name, tensor in texts.items()},
            **{name: tensor[row : row + 1] for name, tensor in images.items()},
            image_mask=mask[row : row + 1],
        )
        close(together[row, :length], alone[0])


def test_masked_images_do_not_matter(tiny):
    model, texts, images = tiny.model(), tiny.texts((9, 6)), tiny.images(2)
    mask = torch.tensor([[True, False, True, True], [False, True, True, False]])
    states = states_of(model, **texts, **images, image_mask=mask)

    hidden = dict(zip(images, mask.split([1, 2, 1], dim=1), strict=True))
    other = {
        name: torch.where(hidden[name][..., None, None, None], pixels, 255 - pixels)
        for name, pixels in images.items()
    }

    close(states_of(model, **texts, **other, image_mask=mask), states, atol=0)


@pytest.mark.parametrize("mask_prefix_padding", [True, False])
def test_prefix_padding(tiny, mask_prefix_padding):
    model = tiny.model(mask_prefix_padding=mask_prefix_padding)
    texts, images = tiny.texts((9, 6)), tiny.images(2)
    longer = {name: nn.functional.pad(tensor, (0, 3)) for name, tensor in texts.items()}

    states = states_of(model, **texts, **images)
    with_padding = states_of(model, **longer, **images)[:, :9]

    difference = (real(states, texts) - real(with_padding, texts)).abs().max()
    assert (difference < 1e-5) == mask_prefix_padding


def test_text_is_all_tokens_without_attention_mask(tiny):
    model, texts, images = tiny.model(), tiny.texts((8, 8)), tiny.images(2)
    unmasked = {name: texts[name] for name in ("input_ids", "token_type_ids")}

    close(states_of(model, **unmasked, **images), states_of(model, **texts, **images))


# The two exchanges


def heads(states, num_heads):
    return states.unflatten(-1, (num_heads, -1)).transpose(1, 2)


@torch.no_grad()
def test_prefix_guided_interaction_equals_its_lambda_form(tiny):
    model = tiny.model()
    fusion_layer, layer = (
        model.mkgformer.fusion_layers[0],
        model.mkgformer.vision_model.encoder.layers[2],
    )
    attention = layer.self_attn
    visual, text_key, text_value = (
        torch.randn(3, 5, 32),
        torch.randn(3, 6, 32),
        torch.randn(3, 6, 32),
    )

    normed = layer.layer_norm1(visual)
    query, key, value = (
        heads(projection(normed), 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    scale = 1 / math.sqrt(16)
    over_text = (query @ heads(text_key, 2).mT * scale).exp()
    over_visual = (query @ key.mT * scale).exp()
    share = over_text.sum(-1, keepdim=True) / (
        over_text.sum(-1, keepdim=True) + over_visual.sum(-1, keepdim=True)
    )
    own = over_visual / over_visual.sum(-1, keepdim=True) @ value
    textual = over_text / over_text.sum(-1, keepdim=True) @ heads(text_value, 2)
    context = ((1 - share) * own + share * textual).transpose(1, 2).flatten(2)
    expected = visual + attention.out_proj(context)
    expected = expected + layer.mlp(layer.layer_norm2(expected))

    close(fusion_layer.read_prefix(layer, visual, text_key, text_value, None), expected)


def test_correlation_with_one_patch_is_that_patch():
    context, patch = torch.randn(2, 5, 8), torch.randn(2, 1, 8)

    close(correlation_aware_fusion(context, patch, scale=3.0), patch.expand(2, 5, 8))


def test_correlation_is_softmax_of_similarity_over_unmasked_patches():
    context, patches = torch.randn(2, 5, 8), torch.randn(2, 4, 8)
    mask = torch.tensor([[True, False, True, True], [False, False, True, False]])

    actual = correlation_aware_fusion(context, patches, mask, scale=0.5)

    for row in range(2):
        shown = patches[row, mask[row]]
        close(actual[row], (0.5 * context[row] @ shown.T).softmax(dim=1) @ shown)


@pytest.mark.parametrize("scaled", [True, False])
def test_similarity_scale(tiny, scaled):
    fusion_layer = tiny.model(scale_similarity=scaled).mkgformer.fusion_layers[0]

    assert fusion_layer.scale == (32**-0.5 if scaled else 1.0)


@pytest.mark.parametrize(("source", "number"), [("same_layer", 3), ("previous_layer", 2)])
@torch.no_grad()
def test_prefix_source(tiny, source, number):
    """The prefix is what the text layer of that number computes from its own input."""
    model = tiny.model(prefix_source=source).mkgformer
    seen = {}
    model.fusion_layers[1].register_forward_pre_hook(
        lambda _, args: seen.update(layer_input=args[0])
    )
    model.fusion_layers[0].register_forward_pre_hook(
        lambda _, args: seen.update(input_below=args[0])
    )
    read_prefix = model.fusion_layers[1].read_prefix
    model.fusion_layers[1].read_prefix = lambda *args: (
        seen.update(prefix=args[2:4]) or read_prefix(*args)
    )

    model(**tiny.texts(), **tiny.images(4))

    source_input = seen["layer_input"] if source == "same_layer" else seen["input_below"]
    attention = model.text_model.encoder.layer[number].attention.self
    close(seen["prefix"][0], attention.key(source_input))
    close(seen["prefix"][1], attention.value(source_input))


# Parts that an ablation leaves out


@pytest.mark.parametrize("fields", [{}, {"preset": "faithful"}, {"vision": OTHER_TOWER}])
@torch.no_grad()
def test_without_prefix_guided_interaction_patches_see_patches_alone(tiny, fields):
    model = tiny.model(prefix_guided_interaction=False, **fields).mkgformer
    seen = []
    for layer in model.fusion_layers:
        layer.register_forward_hook(lambda module, args, outputs: seen.append(outputs[1]))
    texts, images = tiny.texts(), tiny.images(4)
    other = {**texts, "input_ids": texts["input_ids"].flip(0)}

    output = model(**texts, **images, output_attentions=True)
    model(**other, **images)

    assert torch.equal(seen[1], seen[3])
    tokens = texts["input_ids"].shape[1]
    for share, weights in zip(output.prefix_shares, output.vision_attentions[-2:], strict=True):
        assert not share.any()
        assert not weights[..., :tokens].any()
        close(weights.sum(dim=-1), torch.ones_like(weights[..., 0]))


@torch.no_grad()
def test_without_prefix_guided_interaction_the_visual_stream_is_the_plain_tower(tiny):
    model = tiny.model(prefix_guided_interaction=False, image_counts={"full": 1}).mkgformer
    seen = []
    model.fusion_layers[-1].register_forward_hook(lambda *args: seen.append(args[2][1]))
    pixels = {"pixel_values": tiny.images(4)["pixel_values"]}

    model(**tiny.texts(), **pixels)

    normalised = model.normalize(pixels["pixel_values"][:, 0])
    plain = model.vision_model(normalised, interpolate_pos_encoding=True, output_hidden_states=True)
    close(seen[0], plain.hidden_states[-1])


@torch.no_grad()
def test_without_correlation_aware_fusion_every_token_gets_the_mean_of_the_shown_patches(tiny):
    model = tiny.model(correlation_aware_fusion=False).mkgformer
    mask = torch.ones(4, tiny.slots, dtype=torch.bool)
    mask[0, 1:] = False

    output = model(**tiny.texts(), **tiny.images(4), image_mask=mask, output_attentions=True)

    shown = output.visual_mask.float()
    for weights in output.correlations:
        close(weights, (shown / shown.sum(1, keepdim=True))[:, None].expand_as(weights))


@pytest.mark.parametrize("part", ["prefix_guided_interaction", "correlation_aware_fusion"])
def test_what_is_left_out_leaves_no_parameter_without_gradient(tiny, part):
    model = tiny.model(vision=OTHER_TOWER, **{part: False}).train()
    texts, images = tiny.texts(), tiny.images(4)

    output = model(**texts, **images, labels=torch.tensor([[1], [2], [3], [4]]))
    output.loss.backward()

    assert all(parameter.grad is not None for parameter in model.parameters())
    whole = model.eval()(**texts, **images).logits
    assert not torch.equal(whole, tiny.model(vision=OTHER_TOWER)(**texts, **images).logits)


# Towers


@pytest.mark.parametrize(
    "vision",
    [
        OTHER_TOWER,
        {"num_attention_heads": 4},
        {"num_hidden_layers": 2},
        {"hidden_size": 48, "num_attention_heads": 2, "num_hidden_layers": 6},
    ],
)
@pytest.mark.parametrize("preset", ["corrected", "faithful"])
def test_towers_of_different_depth_width_and_heads(tiny, vision, preset):
    model = tiny.model(preset, vision=vision).train()
    texts, images = tiny.texts(), tiny.images(4)

    output = model(**texts, **images, labels=torch.tensor([[1], [2], [3], [4]]))
    output.loss.backward()

    assert output.logits.shape == (4, tiny.entities)
    bridged = any(name in vision for name in ("hidden_size", "num_attention_heads"))
    assert bridged == any("bridge" in name for name, _ in model.named_parameters())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_fusion_of_all_layers(tiny):
    model = tiny.model(num_fusion_layers=4)

    assert states_of(model, **tiny.texts(), **tiny.images(4)).isfinite().all()


@torch.no_grad()
def test_visual_tokens(tiny):
    """Class and patches of each image, at CLIP's own positions where the grid is its own."""
    model = tiny.model().mkgformer
    images = tiny.images(2)
    pixels = [model.normalize(p) for p in images.values()]
    seen = []
    model.vision_model.encoder.layers[0].register_forward_pre_hook(
        lambda _, args: seen.append(args[0])
    )

    model(**tiny.texts((5, 5)), **images)

    # 24 pixels: 9 patches, 16: 4 (the table's own grid), 8: 1.
    assert seen[0].shape == (2, (9 + 1) + 2 * (4 + 1) + (1 + 1), 32)
    vision = model.vision_model
    close(seen[0][:, 10:15], vision.pre_layrnorm(vision.embeddings(pixels[1][:, 0])))


# Sharing images between examples


def test_grouped_equals_ungrouped(tiny):
    model, texts = tiny.model(), tiny.texts((9, 6, 9, 7, 8))
    images = tiny.images(3)
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 1, 1]]).bool()
    index = torch.tensor([2, 0, -1, 2, 1])

    grouped = states_of(model, **texts, **images, image_mask=mask, image_index=index)

    ungrouped = states_of(
        model,
        **texts,
        **{name: pixels[index] for name, pixels in images.items()},
        image_mask=mask[index] & (index >= 0)[:, None],
    )
    close(grouped, ungrouped)


def test_lower_visual_layers_see_each_row_once(tiny):
    model, texts, images = tiny.model(), tiny.texts(), tiny.images(3)
    rows = []
    layers = model.mkgformer.vision_model.encoder.layers
    layers[0].register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    layers[2].layer_norm1.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))
    layers[3].layer_norm1.register_forward_pre_hook(lambda _, args: rows.append(len(args[0])))

    # Nobody looks at row 1; the first fused layer still reads rows, the next one examples.
    states_of(model, **texts, **images, image_index=torch.tensor([2, 2, 0, 2]))

    assert rows == [2, 2, 4]


def test_uint8_equals_normalised_floats(tiny):
    model, texts, images = tiny.model(), tiny.texts(), tiny.images(4)
    mean = torch.tensor(model.config.image_mean).view(3, 1, 1)
    std = torch.tensor(model.config.image_std).view(3, 1, 1)
    floats = {name: (pixels / 255 - mean) / std for name, pixels in images.items()}

    close(states_of(model, **texts, **floats), states_of(model, **texts, **images))


# How it is computed


@pytest.mark.parametrize("fields", [{}, {"vision": OTHER_TOWER}])
@pytest.mark.parametrize("preset", ["corrected", "faithful"])
@pytest.mark.parametrize("attention", ["eager", "flex_attention"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_attention_implementations_agree(tiny, attention, preset, fields):
    texts, images = tiny.texts(), tiny.images(3)
    mask = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0], [1, 1, 1, 1]]).bool()
    inputs = {
        **texts,
        **images,
        "image_mask": mask,
        "image_index": torch.tensor([0, 2, 1, -1]),
    }
    # In double precision, in which they agree beyond what the order of sums makes of fp32.
    expected = states_of(tiny.model(preset, **fields).double(), **inputs)

    with torch.compiler.set_stance("force_eager"):  # compiling flex attention takes minutes
        model = tiny.model(preset, attention=attention, **fields).double()
        actual = states_of(model, **inputs)

    close(real(actual, texts), real(expected, texts), atol=5e-6)


@pytest.mark.parametrize("preset", ["corrected", "faithful"])
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointed_gradients_are_the_plain_ones(tiny, preset, use_reentrant):
    inputs = {
        **tiny.texts(),
        **tiny.images(3),
        "image_index": torch.tensor([0, 2, 1, -1]),
        "labels": torch.tensor([[1, 3], [2, -100], [3, -100], [0, 5]]),
    }
    gradients = []
    for checkpointed in (False, True):
        model = tiny.model(preset).train()
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
        torch.manual_seed(0)
        model(**inputs).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})

    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_every_parameter_gets_a_gradient(tiny, tmp_path):
    """Also after loading, so that processes that train together never wait for one in vain."""
    for preset in ("corrected", "faithful"):
        tiny.model(preset, text_pooler=True).save_pretrained(tmp_path / preset)
        model = MKGformerForLinkPrediction.from_pretrained(tmp_path / preset).train()

        model(**tiny.texts(), **tiny.images(4), labels=torch.zeros(4, 1).long()).loss.backward()

        assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_distributed_batch_without_images(tiny, tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1
    )
    try:
        model = nn.parallel.DistributedDataParallel(tiny.model().train())
        labels = torch.zeros(4, 1).long()
        for images in ({}, tiny.images(4), {}):
            model.zero_grad()
            model(**tiny.texts(), **images, labels=labels).loss.backward()
            assert all(parameter.grad is not None for parameter in model.parameters())
        assert not any(p.grad.any() for p in model.module.mkgformer.vision_model.parameters())
        # Behind its group its end may wait for a thread that waits for Python.
        del model
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("preset", ["corrected", "faithful"])
def test_bfloat16(tiny, preset):
    inputs = {**tiny.texts(), **tiny.images(3), "image_index": torch.tensor([0, 2, -1, 1])}
    labels = torch.tensor([[1], [2], [3], [4]])
    model = tiny.model(preset).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**inputs, labels=labels)
    output.loss.backward()

    # Scores in half precision would tie.
    assert output.loss.dtype == output.logits.dtype == torch.float32
    assert output.loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    logits = model.bfloat16()(**inputs).logits
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


# Link prediction


@torch.no_grad()
def test_scores_are_the_masked_language_model_at_the_mask_over_the_entities(tiny):
    model, texts = tiny.model(), tiny.texts(tokens=tiny.vocabulary)
    assert (texts["input_ids"] >= tiny.words).sum(dim=1).any()
    bert = BertForMaskedLM(model.config.text_config).eval()
    bert.bert.load_state_dict(model.mkgformer.text_model.state_dict())
    graph = model.mkgformer.graph_embeddings
    bert.resize_token_embeddings(tiny.vocabulary, mean_resizing=False)
    one_matrix = bert.get_input_embeddings().weight
    one_matrix[tiny.words :] = torch.cat([graph.entities.weight, graph.relations.weight])
    bert.cls.predictions.transform.load_state_dict(model.transform.state_dict())
    model.entity_bias.normal_()
    bert.cls.predictions.bias[tiny.words : tiny.words + tiny.entities] = model.entity_bias

    logits = model(**texts).logits

    close(logits, bert(**texts).logits[:, 2, tiny.words : tiny.words + tiny.entities])
    close(model.score_entities(model.encode_mask(**texts)), logits, atol=0)


def test_mask_may_stand_anywhere(tiny):
    model, texts = tiny.model(), tiny.texts((9, 9))
    texts["input_ids"][1, 2], texts["input_ids"][1, 7] = 9, tiny.mask

    states = model.encode_mask(**texts)

    close(states, model.transform(states_of(model, **texts)[[0, 1], [2, 7]]))


def targets_of(labels, num_entities):
    targets = torch.zeros(len(labels), num_entities)
    for row, answers in zip(targets, labels, strict=True):
        row[answers[answers >= 0]] = 1
    return targets


answers = st.lists(
    st.lists(st.integers(0, 8), min_size=1, max_size=5, unique=True), min_size=1, max_size=4
)


@given(answers, st.sampled_from([0.0, 0.1, 0.5]), st.integers(0, 99))
def test_losses_equal_the_dense_ones(answers, label_smoothing, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(len(answers), 9, generator=generator)
    width = max(map(len, answers))
    labels = torch.tensor([row + [-100] * (width - len(row)) for row in answers])
    targets = targets_of(labels, 9)

    smooth = targets * (1 - label_smoothing) + label_smoothing / 9
    expected = nn.functional.binary_cross_entropy_with_logits(logits, smooth)
    close(multi_answer_binary_cross_entropy(logits, labels, label_smoothing), expected)

    uniform = targets / targets.sum(dim=1, keepdim=True)
    expected = nn.functional.cross_entropy(logits, uniform, label_smoothing=label_smoothing)
    close(multi_answer_cross_entropy(logits, labels, label_smoothing), expected)

    rows, columns = (labels >= 0).nonzero(as_tuple=True)
    expected = nn.functional.cross_entropy(
        logits[rows], labels[rows, columns], label_smoothing=label_smoothing
    )
    close(multi_answer_cross_entropy(logits, labels, label_smoothing, 1.0), expected)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("binary_cross_entropy", multi_answer_binary_cross_entropy),
        ("cross_entropy", multi_answer_cross_entropy),
    ],
)
def test_configured_loss(tiny, name, function):
    model = tiny.model(loss=name, label_smoothing=0.1)
    labels = torch.tensor([[1, 3], [2, -100], [3, -100], [0, 5]])

    output = model(**tiny.texts(), labels=labels)

    assert torch.equal(output.loss, function(output.logits, labels, 0.1))
    assert torch.equal(model(**tiny.texts(), labels=labels, return_dict=False)[0], output.loss)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_loss_over_candidates_looks_at_these_alone(tiny, sparse):
    model = tiny.model(loss="cross_entropy", label_smoothing=0.1)
    with torch.no_grad():
        model.entity_bias.normal_()
    table = model.mkgformer.graph_embeddings.entities
    table.sparse = sparse
    candidates, log_counts = torch.tensor([5, 0, 3]), torch.tensor([0.0, 1.5, 0.0])
    labels = torch.tensor([[2, -100], [0, 2], [0, -100], [2, -100]])

    texts = tiny.texts()
    output = model(**texts, labels=labels, candidates=candidates, log_counts=log_counts)
    output.loss.backward()

    close(output.logits, model(**texts).logits[:, candidates])
    expected = multi_answer_cross_entropy(output.logits, labels, 0.1, 0.0, log_counts)
    assert torch.equal(output.loss, expected)
    for weight, rows in zip(
        model.entity_weights(), (texts["input_ids"] - tiny.words, None), strict=True
    ):
        assert weight.grad.is_sparse == sparse
        reached = weight.grad.to_dense().view(len(weight), -1).any(dim=1).nonzero().flatten()
        looked_up = candidates if rows is None else torch.cat([candidates, rows.flatten()])
        assert set(reached.tolist()) <= set(looked_up.tolist())
        assert set(candidates.tolist()) <= set(reached.tolist())


def test_configured_weight_of_an_example(tiny):
    model = tiny.model(loss="cross_entropy", answer_exponent=0.5)
    labels = torch.tensor([[1, 3], [2, -100], [3, -100], [0, 5]])

    output = model(**tiny.texts(), labels=labels)

    assert torch.equal(output.loss, multi_answer_cross_entropy(output.logits, labels, 0.0, 0.5))


def test_graph_tokens(tiny):
    torch.manual_seed(0)
    model = MKGformerForLinkPrediction(tiny.config(num_entities=0, num_relations=0))
    before = model.get_input_embeddings().weight.detach().clone()

    model.add_graph_tokens(11, 2)

    assert torch.equal(model.get_input_embeddings().weight, before)
    graph = model.mkgformer.graph_embeddings
    assert (len(graph.entities.weight), len(graph.relations.weight)) == (11, 2)
    assert graph.entities.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert model.config.entity_token_start == tiny.words
    assert model.config.relation_token_start == tiny.words + 11
    assert model(**tiny.texts()).logits.shape == (4, 11)
    with pytest.raises(ValueError, match="11 entities already"):
        model.add_graph_tokens(1, 1)


@pytest.mark.parametrize("relations", [0, 3])
def test_token_ids_index_words_then_entities_then_relations(tiny, relations):
    """The tables are looked up as if they were one, and get the gradients of one."""
    model = tiny.model(num_relations=relations)
    words, graph = model.get_input_embeddings(), model.mkgformer.graph_embeddings
    tables = [words.weight, graph.entities.weight, graph.relations.weight]
    one = torch.cat(tables).detach().requires_grad_()
    ids = torch.randint(len(one), (4, 30), generator=torch.Generator().manual_seed(0))
    weights = torch.randn(4, 30, 32)

    found = graph(ids, words)
    (found * weights).sum().backward()

    assert torch.equal(found, one[ids])
    (nn.functional.embedding(ids, one, padding_idx=0) * weights).sum().backward()
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in tables]
    close(torch.cat(gradients), one.grad)


@torch.no_grad()
def test_untrained_head_starts_as_layer_norm(tiny):
    torch.manual_seed(0)
    head = MKGformerForLinkPrediction(tiny.config()).transform
    states = torch.randn(50, 32)
    normed = nn.functional.layer_norm(states, (32,))

    assert nn.functional.cosine_similarity(head(states), normed).min() > 0.98


# Saving, loading, making


def test_save_and_load(tiny, tmp_path):
    model = tiny.model("faithful", text_pooler=True, vision=OTHER_TOWER)
    inputs = {**tiny.texts(), **tiny.images(4)}
    model.save_pretrained(tmp_path)

    loaded = MKGformerForLinkPrediction.from_pretrained(tmp_path)

    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    for (name, buffer), (_, expected) in zip(
        loaded.named_buffers(), model.named_buffers(), strict=True
    ):
        assert torch.equal(buffer, expected), name
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def test_auto_classes(tiny, tmp_path):
    model, inputs = tiny.model(), {**tiny.texts(), **tiny.images(4)}
    model.save_pretrained(tmp_path)

    base = AutoModel.from_pretrained(tmp_path)
    masked = AutoModelForMaskedLM.from_pretrained(tmp_path)

    assert isinstance(base, MKGformerModel)
    assert isinstance(masked, MKGformerForLinkPrediction)
    with torch.no_grad():
        assert torch.equal(base(**inputs).last_hidden_state, states_of(model, **inputs))
        assert torch.equal(masked(**inputs).logits, model(**inputs).logits)


def test_weights_missing_from_a_checkpoint_are_initialised(tiny, tmp_path):
    """`from_pretrained` builds on the meta device: what `_init_weights` forgets is garbage."""
    config = tiny.config(vision=OTHER_TOWER, fusion_init="zero")
    BertModel(config.text_config).save_pretrained(tmp_path)

    model = MKGformerForLinkPrediction.from_pretrained(tmp_path, config=config)

    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        assert tensor.device.type == "cpu", name
        assert tensor.is_floating_point() is False or tensor.abs().max() <= 5, name
    assert not model.entity_bias.any()
    assert not any(layer.fusion_dense.weight.any() for layer in model.mkgformer.fusion_layers)
    close(model.transform.dense.weight, 0.1 * torch.eye(32))
    # CLIP's own rule: 24 ** -0.5
    attention = model.mkgformer.vision_model.encoder.layers[0].self_attn
    assert attention.out_proj.weight.std().item() == pytest.approx(0.204, rel=0.1)
    assert model(**tiny.texts(), **tiny.images(4)).logits.isfinite().all()


@pytest.fixture(scope="module")
def towers(tiny, tmp_path_factory) -> Path:
    """Folders of towers as they are found on a hub."""
    folder = tmp_path_factory.mktemp("towers")
    torch.manual_seed(3)
    config = tiny.config(vision=OTHER_TOWER)
    text = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(config.text_config).save_pretrained(folder / "bert")
    BertForMaskedLM(config.text_config).save_pretrained(folder / "masked_lm")
    CLIPVisionModel(config.vision_config).save_pretrained(folder / "vision")
    clip = CLIPConfig(text_config=text, vision_config=config.vision_config.to_dict())
    CLIPModel(clip).save_pretrained(folder / "clip")
    DistilBertModel(DistilBertConfig(dim=16, n_heads=2, n_layers=1, hidden_dim=8)).save_pretrained(
        folder / "distilbert"
    )
    return folder


@pytest.fixture
def make(tiny):
    def make(text, vision, **fields):
        fields = {"image_sizes": tiny.sizes, "image_counts": tiny.counts, **fields}
        fields = {"num_fusion_layers": 2, "mask_token_id": tiny.mask, **fields}
        return MKGformerForLinkPrediction.from_text_vision_pretrained(text, vision, **fields)

    return make


@pytest.mark.parametrize("text", ["bert", "masked_lm"])
@pytest.mark.parametrize("vision", ["vision", "clip"])
def test_made_of_pretrained_towers(tiny, towers, make, text, vision):
    model = make(towers / text, towers / vision)

    bert = BertModel.from_pretrained(towers / text, add_pooling_layer=False)
    clip = CLIPVisionModel.from_pretrained(towers / vision)
    for ours, theirs in (
        (model.mkgformer.text_model, bert),
        (model.mkgformer.vision_model, clip),
    ):
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], tensor), name
    if text == "masked_lm":
        expected = BertForMaskedLM.from_pretrained(towers / text).cls.predictions.transform
        close(model.transform.dense.weight, expected.dense.weight, atol=0)
    else:
        close(model.transform.dense.weight, 0.1 * torch.eye(32))

    model.add_graph_tokens(3, 1)
    assert model(**tiny.texts(), **tiny.images(4)).logits.shape == (4, 3)


def test_vision_tower_from_scratch(tiny, towers, make):
    vision = {**OTHER_TOWER, "image_size": 16, "patch_size": 8}
    model = make(
        towers / "bert",
        None,
        vision_config=vision,
        preset="faithful",
        attn_implementation="eager",
        scale_similarity=True,
        text_pooler=True,
    )

    assert model.config.vision_config.hidden_size == 24
    assert model.config.visual_embeddings == "patches"
    assert model.config.scale_similarity
    assert model.config._attn_implementation == "eager"
    assert model.mkgformer.vision_model.config._attn_implementation == "eager"
    assert model.mkgformer.text_model.pooler is not None


def test_what_towers_cannot_be_made_of(towers, make):
    vision = {**OTHER_TOWER, "image_size": 16, "patch_size": 8}
    cases = [
        (("bert", None), {}, "either `vision`"),
        (("bert", "clip"), {"vision_config": vision}, "either `vision`"),
        (("distilbert", "clip"), {}, "holds a distilbert. The text tower must be one of"),
        (("bert", "bert"), {}, "holds a bert. The vision tower must be one of"),
        (("masked_lm", "clip"), {"text_pooler": True}, "lacks weights of its bert: bert.pooler"),
        (("bert", "clip"), {"num_fused_layers": 2}, "has no num_fused_layers"),
        (("bert", "clip"), {"preset": "best"}, "Unknown preset 'best'"),
        (("bert", "clip"), {"num_fusion_layers": 4}, "vision_config has 3 layers"),
    ]
    for (text, source), fields, message in cases:
        folder = None if source is None else towers / source
        with pytest.raises(ValueError, match=message):
            make(towers / text, folder, **fields)


def test_what_cannot_be_asked(tiny):
    texts, images = tiny.texts(), tiny.images(4)
    model = tiny.model()
    one_role = {"pixel_values": images["pixel_values"]}
    swapped = {**images, "pixel_values": images["detection_pixel_values"]}
    cases = [
        (one_role, "of full are given, but the model was configured for full, grounding"),
        (swapped, r"of full have shape \(4, 1, 3, 8, 8\), not \(4, 1, 3, 24, 24\)"),
        (tiny.images(3), "3 rows of images for 4 texts"),
        ({**images, "image_mask": torch.ones(4, 7)}, r"image_mask has shape \(4, 7\)"),
        ({**images, "image_index": torch.arange(3)}, r"image_index has shape \(3,\)"),
    ]
    for wrong, message in cases:
        with pytest.raises(ValueError, match=message):
            model(**texts, **wrong)

    with pytest.raises(ValueError, match="no entities"):
        tiny.model(num_entities=0, num_relations=0)(**texts)
    with pytest.raises(ValueError, match="mask_token_id is not set"):
        tiny.model(mask_token_id=None)(**texts)
    with pytest.raises(ValueError, match="0 entities and 1 relations"):
        tiny.model(num_entities=0).add_graph_tokens(0, 1)
    with pytest.raises(ValueError, match="no entities"):
        tiny.model(num_entities=0, num_relations=0).add_entities(torch.zeros(1, 32))
    with pytest.raises(ValueError, match="no encoder of entities"):
        tiny.model().embed_entities(torch.zeros(1, 32))


def test_added_entities_leave_other_scores_as_they_are(tiny):
    model, texts = tiny.model(), tiny.texts()
    before = model(**texts).logits
    new = torch.randn(3, 32)
    model.add_entities(new[:1])
    model.add_entities(new[1:])
    moved = texts["input_ids"] >= tiny.words + tiny.entities  # relations come behind entities
    asked = texts | {"input_ids": texts["input_ids"] + 3 * moved}
    after = model(**asked).logits
    assert torch.equal(after[:, :-3], before)
    close(after[:, -3:], model.encode_mask(**asked) @ new.T)
    table, words = model.mkgformer.graph_embeddings, model.get_input_embeddings()
    assert torch.equal(table.added.weight, new), "one table, however often some are added"
    second = torch.tensor([[tiny.words + tiny.entities + 1]])
    assert torch.equal(table(second, words)[0, 0], new[1])


@torch.no_grad()
def test_scores_of_added_entities_do_not_hang_on_how_many_there_are(tiny, monkeypatch):
    monkeypatch.setattr(modeling_mkgformer, "_ADDED_AT_A_TIME", 4)
    model, states, new = tiny.model(), torch.randn(3, 32), torch.randn(9, 32)
    saved = model.state_dict().keys()
    assert model.score_added(states).shape == (3, 0)
    for count in range(1, 10):
        before = model.score_added(states)
        model.add_entities(new[count - 1 : count])
        after = model.score_added(states)
        assert torch.equal(after[:, :-1], before)
        close(after, states @ new[:count].T)
    assert model.state_dict().keys() - saved == {"mkgformer.graph_embeddings.added.weight"}


@torch.no_grad()
def test_entities_in_half_precision_are_widened_where_they_are_used(tiny, monkeypatch):
    monkeypatch.setattr(modeling_mkgformer, "_WIDENED", 4)
    model, texts = tiny.model(), tiny.texts(tokens=tiny.vocabulary)
    model.entity_bias.normal_()
    table = model.mkgformer.graph_embeddings.entities
    table.weight.copy_(table.weight.bfloat16())
    states, some = model.encode_mask(**texts), torch.tensor([[4, 0]] * len(texts["input_ids"]))
    expected = model.score_entities(states), model.score_each(states, some)

    model.halve_entities()

    assert torch.equal(model.encode_mask(**texts), states)
    close(model.score_entities(states), expected[0])
    close(model.score_entities(states, some[0]), expected[0][:, some[0]])
    assert torch.equal(model.score_each(states, some), expected[1])


def test_text_tower_configs_are_shared(tiny):
    """Resizing and switching the attention reach the towers."""
    model = tiny.model()
    assert model.config.text_config is model.mkgformer.text_model.config
    assert isinstance(model.config.text_config, BertConfig)

    model.set_attn_implementation("eager")

    assert (
        model.mkgformer.vision_model.encoder.layers[0].self_attn.config._attn_implementation
        == "eager"
    )


@pytest.mark.parametrize("kind", ["class_and_position", "patches", "class_and_crops"])
def test_patches_stand_where_their_pixels_are_embedded(tiny, kind):
    model = tiny.model(visual_embeddings=kind).mkgformer
    images = tiny.images(1, crops_only=kind == "class_and_crops")

    def embedded(pixels):
        normalized = [model.normalize(each) for each in pixels.values()]
        return model._embed_images(normalized)[0]

    before = embedded(images)
    slots = [(name, slot) for name, each in images.items() for slot in range(each.shape[1])]
    grids = model.patch_positions(len(before))
    for (name, slot), grid in zip(slots, grids, strict=True):
        side = images[name].shape[-1] // 8
        assert grid.shape == (side, side)
        row, column = side - 1, 0
        changed = {other: each.clone() for other, each in images.items()}
        changed[name][0, slot, :, 8 * row : 8 * row + 8, :8] += 100
        differs = (embedded(changed) != before).any(dim=-1)
        assert differs.nonzero().flatten().tolist() == [int(grid[row, column])]
