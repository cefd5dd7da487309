"""Towers of every family: each does what it does alone, and any two can be joined."""

from __future__ import annotations

import itertools
import json
import shutil
from copy import deepcopy
from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
)

from mkgformer_kedro.modeling import (
    MKGformerConfig,
    MKGformerForLinkPrediction,
    MKGformerForTokenClassification,
    MKGformerModel,
)
from mkgformer_kedro.modeling.towers import (
    TEXT_FAMILIES,
    VISION_FAMILIES,
    load_text_tower,
    load_vision_tower,
)

TEXT, VISION = tuple(TEXT_FAMILIES), tuple(VISION_FAMILIES)
PAIRS = tuple(itertools.product(TEXT, VISION))
# Each family once on either side.
SOME_PAIRS = tuple(zip(TEXT, VISION, strict=True))
SIZES, COUNTS = {"full": 24, "detection": 8}, {"full": 1, "detection": 2}
MASKS = {"bert": 4, "roberta": 4, "xlm-roberta": 114, "mpnet": 155, "modernbert": 4}
SENTENCES = (
    "the red bird is a kind of animal , said Ann's friend Bob in Germany",
    "Berlin lies in Germany",
    "a bird",
)


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@pytest.fixture(scope="module")
def inputs_of(tiny_towers):
    """Texts as a family's tokenizer has them, the last word of each masked."""

    @cache
    def inputs(text: str, sentences=SENTENCES):
        tokenizer = AutoTokenizer.from_pretrained(tiny_towers.text(text))
        batch = tokenizer(list(sentences), padding=True, return_tensors="pt")
        lengths = batch["attention_mask"].sum(dim=1)
        batch["input_ids"][torch.arange(len(lengths)), lengths - 2] = tokenizer.mask_token_id
        assert tokenizer.mask_token_id == MASKS[text]
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    return inputs


@pytest.fixture(scope="module")
def make(tiny_towers):
    """Make a model of two towers, with weights so large that every part matters."""

    made: dict[str, tuple] = {}

    def make(text, vision, model_class=MKGformerForLinkPrediction, large=True, **fields):
        fields = {
            "image_sizes": SIZES,
            "image_counts": COUNTS,
            "num_fusion_layers": 2,
            "mask_token_id": MASKS[text],
            "fusion_init": "normal",
            **fields,
        }
        key = repr((text, vision, model_class, large, fields))
        if key not in made:
            towers = tiny_towers.text(text), tiny_towers.vision(vision)
            torch.manual_seed(0)
            model = model_class.from_text_vision_pretrained(*towers, **fields)
            if model_class is MKGformerForLinkPrediction:
                model.add_graph_tokens(5, 2)
            for name, parameter in model.named_parameters():
                if large and parameter.ndim > 1 and "fusion_dense" not in name:
                    parameter.data.normal_(std=0.2)
                elif large and "fusion_dense" in name and fields["fusion_init"] == "normal":
                    parameter.data.normal_(std=0.4)
            made[key] = model.eval()
        return deepcopy(made[key])

    return make


def images(rows=3):
    generator = torch.Generator().manual_seed(2)
    pixels = {
        name: torch.randint(256, (rows, COUNTS[role], 3, size, size), generator=generator)
        for name, (role, size) in zip(
            ("pixel_values", "detection_pixel_values"), SIZES.items(), strict=True
        )
    }
    return {name: tensor.to(torch.uint8) for name, tensor in pixels.items()}


@torch.no_grad()
def states_of(model, **inputs):
    return model.mkgformer(**inputs).last_hidden_state


@torch.no_grad()
def text_states(model, inputs):
    return model.mkgformer.text_model(**inputs).last_hidden_state


def real(states, inputs):
    return states[inputs["attention_mask"].bool()]


def test_every_family_is_tried(tiny_towers):
    assert tiny_towers.recipes.TEXT_TYPES == TEXT
    assert tiny_towers.recipes.VISION_TYPES == VISION


# Each layer of a tower, taken apart and put together


@pytest.mark.parametrize("text", TEXT)
@torch.no_grad()
def test_text_layers_in_parts(make, inputs_of, text):
    base, inputs = make(text, "clip_vision_model").mkgformer, inputs_of(text)
    family, tower = base.text_family, base.text_model
    states = family.embed(tower, inputs["input_ids"], None)
    attention = family.attention(tower, states, inputs["attention_mask"])

    for layer in family.layers(tower):
        query_key_value = family.query_key_value(layer, states)
        context = family.context(layer, *query_key_value, attention)
        in_parts = family.finish(layer, states, context, lambda hidden: hidden)
        states = family.run(layer, states, attention)
        close(real(in_parts, inputs), real(states, inputs))

    last = family.final(tower, states)
    close(real(last, inputs), real(tower(**inputs).last_hidden_state, inputs))


@pytest.mark.parametrize("vision", VISION)
@torch.no_grad()
def test_vision_layers_in_parts(make, vision):
    """A layer whose prefix is empty is the tower's own."""
    base = make("bert", vision).mkgformer
    family, tower = base.vision_family, base.vision_model
    states, nothing = torch.randn(3, 7, 24), torch.empty(3, 0, 32)

    for layer in family.layers(tower):
        expected = layer(states, None)
        actual = base.fusion_layers[0].read_prefix(layer, states, nothing, nothing, None)
        close(actual, expected)
        states = expected


@pytest.mark.parametrize("vision", VISION)
@torch.no_grad()
def test_what_a_vision_family_reads_is_the_tower(make, vision):
    """Embedding, all layers and the norm behind them give the tower's own states."""
    base = make("bert", vision).mkgformer
    family, tower = base.vision_family, base.vision_model
    pixels = torch.randn(2, 3, 16, 16)

    states = family.normalize(tower, family.embed(tower, pixels))
    for layer in family.layers(tower):
        states = layer(states, None)

    if vision == "siglip2_vision_model":
        patches = pixels.unflatten(2, (2, 8)).unflatten(4, (2, 8)).permute(0, 2, 4, 3, 5, 1)
        expected = tower(
            patches.flatten(3).flatten(1, 2), torch.ones(2, 4), torch.full((2, 2), 2)
        ).last_hidden_state
    else:
        expected = tower(pixels).last_hidden_state
    norm = getattr(tower, "layernorm", getattr(tower, "post_layernorm", None))
    close(states if vision == "clip_vision_model" else norm(states), expected)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("size", [8, 24, 40])
@torch.no_grad()
def test_positions_are_interpolated_to_any_size(make, vision, size):
    base = make("bert", vision).mkgformer
    family, tower = base.vision_family, base.vision_model
    pixels = torch.randn(2, 3, size, size)

    tokens = family.embed(tower, pixels)
    other = family.embed(tower, torch.zeros_like(pixels))

    has_class = vision in ("clip_vision_model", "vit", "dinov2")
    assert tokens.shape == (2, (size // 8) ** 2 + has_class, 24)
    assert tokens.isfinite().all()
    # Of a black image the positions remain: those of different patches differ.
    positions = other[0, int(has_class) :]
    assert size == 8 or (positions[0] - positions[-1]).abs().max() > 1e-2


# Joined


@pytest.mark.parametrize(("text", "vision"), PAIRS)
def test_nothing_is_fused(make, inputs_of, text, vision):
    """Neither without images, nor where the fusion is zero."""
    model, inputs = make(text, vision, fusion_init="zero"), inputs_of(text)
    expected = real(text_states(model, inputs), inputs)

    close(real(states_of(model, **inputs), inputs), expected)
    close(real(states_of(model, **inputs, **images()), inputs), expected)


@pytest.mark.parametrize(("text", "vision"), PAIRS)
def test_images_matter_to_those_who_have_them(make, inputs_of, text, vision):
    model, inputs = make(text, vision), inputs_of(text)
    text_only = states_of(model, **inputs)
    index = torch.tensor([1, -1, 0])

    states = states_of(model, **inputs, **images(), image_index=index)
    other = {name: 255 - pixels for name, pixels in images().items()}
    with_others = states_of(model, **inputs, **other, image_index=index)

    close(real(states[1:2], {"attention_mask": inputs["attention_mask"][1:2]}),
          real(text_only[1:2], {"attention_mask": inputs["attention_mask"][1:2]}))  # fmt: skip
    assert (states - text_only)[[0, 2]].abs().amax(dim=(1, 2)).min() > 1e-2
    assert (states - with_others)[[0, 2]].abs().amax(dim=(1, 2)).min() > 1e-3


@pytest.mark.parametrize(("text", "vision"), PAIRS)
def test_save_load_and_a_gradient_for_every_parameter(make, inputs_of, text, vision, tmp_path):
    model, inputs = make(text, vision), {**inputs_of(text), **images()}
    model.save_pretrained(tmp_path)

    loaded = MKGformerForLinkPrediction.from_pretrained(tmp_path)

    tensors = dict(itertools.chain(loaded.named_parameters(), loaded.named_buffers()))
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        assert torch.equal(tensors[name], tensor), name
    assert type(loaded.config.text_config) is type(model.config.text_config)
    assert type(loaded.config.vision_config) is type(model.config.vision_config)
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)

    loaded.train()(**inputs, labels=torch.tensor([[1], [2], [3]])).loss.backward()
    assert [name for name, p in loaded.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("text", "vision"), SOME_PAIRS)
def test_weights_missing_from_a_checkpoint_are_initialised(make, inputs_of, text, vision, tmp_path):
    """`from_pretrained` builds on the meta device: what is forgotten is garbage."""
    model = make(text, vision, large=False)
    model.save_pretrained(tmp_path)
    kept = {
        name: tensor
        for name, tensor in load_file(tmp_path / "model.safetensors").items()
        if name.endswith("word_embeddings.weight")
    }
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})

    loaded = MKGformerForLinkPrediction.from_pretrained(tmp_path)

    for name, tensor in itertools.chain(loaded.named_parameters(), loaded.named_buffers()):
        assert tensor.device.type == "cpu", name
        if tensor.is_floating_point():
            assert tensor.isfinite().all(), name
            assert tensor.abs().max() <= 6, name
    close(loaded.transform.dense.weight, 0.1 * torch.eye(32))
    assert loaded(**inputs_of(text), **images()).logits.isfinite().all()


@pytest.mark.parametrize(("text", "vision"), PAIRS)
def test_eager_equals_sdpa(make, inputs_of, text, vision):
    inputs = {**inputs_of(text), **images(), "image_index": torch.tensor([0, 2, -1])}
    mask = {"image_mask": torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 1]]).bool()}
    sdpa, eager = (
        make(text, vision, attn_implementation=attention) for attention in ("sdpa", "eager")
    )

    assert eager.mkgformer.vision_model.config._attn_implementation == "eager"
    assert sdpa.mkgformer.vision_model.config._attn_implementation == "sdpa"
    close(
        real(states_of(eager, **inputs, **mask), inputs),
        real(states_of(sdpa, **inputs, **mask), inputs),
        atol=1e-4,
    )


@pytest.mark.parametrize("text", TEXT)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_equals_sdpa(make, inputs_of, text):
    inputs = {**inputs_of(text), **images(), "image_index": torch.tensor([0, 2, -1])}
    expected = states_of(make(text, "dinov2"), **inputs)

    with torch.compiler.set_stance("force_eager"):  # compiling flex attention takes minutes
        model = make(text, "dinov2", attn_implementation="flex_attention")
        actual = states_of(model, **inputs)

    close(real(actual, inputs), real(expected, inputs), atol=1e-4)


@pytest.mark.parametrize(
    ("text", "vision", "use_reentrant"),
    [(*pair, reentrant) for pair in SOME_PAIRS for reentrant in (True, False)],
)
def test_checkpointed_gradients_are_the_plain_ones(make, inputs_of, text, vision, use_reentrant):
    inputs = {**inputs_of(text), **images(), "image_index": torch.tensor([0, 2, -1])}
    gradients = []
    for checkpointed in (False, True):
        model = make(text, vision).train()
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": use_reentrant})
        torch.manual_seed(0)
        model(**inputs, labels=torch.tensor([[1], [2], [3]])).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})

    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.parametrize(("text", "vision"), PAIRS)
def test_padding_and_batch_mates_change_nothing(make, inputs_of, text, vision):
    model, inputs, pixels = make(text, vision), inputs_of(text), images()
    mask = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 0, 0]])
    together = states_of(model, **inputs, **pixels, image_mask=mask)

    for row, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
        alone = states_of(
            model,
            **{name: tensor[row : row + 1, :length] for name, tensor in inputs.items()},
            **{name: tensor[row : row + 1] for name, tensor in pixels.items()},
            image_mask=mask[row : row + 1],
        )
        close(together[row, :length], alone[0], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("text", TEXT)
def test_segments_of_zeros_are_none(make, inputs_of, text):
    model = make(text, "vit")
    inputs = {name: each for name, each in inputs_of(text).items() if name != "token_type_ids"}
    zeros = torch.zeros_like(inputs["input_ids"])
    close(states_of(model, **inputs), states_of(model, **inputs, token_type_ids=zeros), atol=0)


@pytest.mark.parametrize("text", TEXT)
def test_longest_text(make, text):
    model = make(text, "vit")
    length = model.config.max_text_length

    assert length == (128 if text in ("roberta", "xlm-roberta", "mpnet") else 130)
    longest = torch.full((1, length), 7)
    assert states_of(model, input_ids=longest).shape == (1, length, 32)
    if text != "modernbert":  # whose positions have no end
        with pytest.raises((IndexError, RuntimeError)):
            states_of(model, input_ids=torch.full((1, length + 1), 7))


@torch.no_grad()
def test_modernbert_reads_unrotated_keys_and_activates_what_images_say(make, inputs_of):
    base, inputs = make("modernbert", "vit").mkgformer, inputs_of("modernbert")
    family, tower = base.text_family, base.text_model
    states = family.embed(tower, inputs["input_ids"], None)
    layer = family.layers(tower)[2]

    _, key, _ = family.query_key_value(layer, states)
    qkv = layer.attn.Wqkv(layer.attn_norm(states))
    assert torch.equal(key, qkv[..., 32:64])

    context, added = torch.randn_like(states), torch.randn(*states.shape[:2], 48)
    after = states + layer.attn.Wo(context)
    activated, gate = layer.mlp.Wi(layer.mlp_norm(after)).chunk(2, dim=-1)
    expected = after + layer.mlp.Wo(torch.nn.functional.gelu(activated + added) * gate)
    close(family.finish(layer, states, context, lambda hidden: hidden + added), expected)


# Pretrained


@pytest.mark.parametrize("text", TEXT)
@torch.no_grad()
def test_the_head_of_masked_language_modelling_is_taken_over(tiny_towers, make, inputs_of, text):
    model, inputs = make(text, "vit", large=False), inputs_of(text)
    theirs = AutoModelForMaskedLM.from_pretrained(tiny_towers.text(text)).eval()

    states = model.encode_mask(**inputs)

    row, column = (inputs["input_ids"] == model.config.mask_token_id).nonzero().T
    embeddings = theirs.get_input_embeddings().weight
    close(states @ embeddings.T, theirs(**inputs).logits[row, column])


@pytest.mark.parametrize("text", TEXT)
def test_a_tower_without_head(tiny_towers, text, tmp_path):
    AutoModel.from_pretrained(tiny_towers.text(text)).save_pretrained(tmp_path)

    tower = load_text_tower(tmp_path)

    assert tower.head_state is None
    expected = load_text_tower(tiny_towers.text(text))
    assert tower.state.keys() == expected.state.keys()
    assert all(torch.equal(tower.state[name], expected.state[name]) for name in tower.state)


@pytest.mark.parametrize(
    ("vision", "config_class", "model_class"),
    [
        ("clip_vision_model", CLIPConfig, CLIPModel),
        ("siglip_vision_model", SiglipConfig, SiglipModel),
        ("siglip2_vision_model", Siglip2Config, Siglip2Model),
    ],
)
def test_the_vision_tower_of_a_model_for_images_and_texts(
    tiny_towers, vision, config_class, model_class, tmp_path
):
    own = AutoConfig.from_pretrained(tiny_towers.vision(vision))
    text = {"vocab_size": 20, "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(1)
    whole = model_class(config_class(text_config=text, vision_config=own.to_dict()))
    whole.save_pretrained(tmp_path)

    tower = load_vision_tower(tmp_path)

    assert tower.config.model_type == vision
    expected = whole.vision_model.state_dict()
    assert tower.state.keys() == expected.keys()
    assert all(torch.equal(tower.state[name], expected[name]) for name in expected)


@pytest.mark.parametrize("vision", VISION)
def test_images_are_normalised_as_the_tower_has_learned(tiny_towers, make, vision):
    sizes = {"full": 16, "grounding": 8, "detection": 8}
    defaults = {"image_counts": dict.fromkeys(sizes, 1)}
    model = MKGformerForTokenClassification.from_text_vision_pretrained(
        tiny_towers.text("bert"),
        tiny_towers.vision(vision),
        **defaults,
        constrain_transitions=False,
    )

    assert model.config.image_mean == tiny_towers.recipes.MEAN
    assert model.config.image_std == tiny_towers.recipes.STD
    assert model.config.image_sizes == sizes
    named = make("bert", vision, image_mean=(0.5, 0.5, 0.5))
    assert named.config.image_mean == (0.5, 0.5, 0.5)
    assert named.config.image_sizes == SIZES


@pytest.mark.parametrize(
    ("settings", "sizes"),
    [
        ({"size": {"shortest_edge": 32}, "crop_size": {"height": 24, "width": 24}}, (24, 8, 8)),
        ({"size": {"shortest_edge": 60}}, (56, 32, 16)),
        ({"size": 16}, (16, 8, 8)),
        ({"size": {"longest_edge": 60}}, None),
    ],
)
def test_size_of_the_image_processor(tiny_towers, settings, sizes, tmp_path):
    folder = shutil.copytree(tiny_towers.vision("vit"), tmp_path / "vit")
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))

    found = load_vision_tower(folder).image_settings

    assert "image_mean" not in found
    assert tuple(found.get("image_sizes", {}).values()) == (sizes or ())


def test_settings_in_a_processor_config(tiny_towers, tmp_path):
    """As `transformers` 5 writes them, and the towers of models without any."""
    folder = shutil.copytree(tiny_towers.vision("vit"), tmp_path / "vit")
    own = folder / "preprocessor_config.json"
    settings = json.loads(own.read_text())
    own.unlink()
    assert load_vision_tower(folder).image_settings == {}

    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))

    assert load_vision_tower(folder).image_settings["image_mean"] == tiny_towers.recipes.MEAN


# What cannot be joined


def test_what_cannot_be_joined(tiny_towers, make):
    cases = [
        (("roberta", "clip_vision_model", "faithful"), {}, "joins bert and clip_vision_model, not"),
        (("bert", "vit", "corrected"), {"visual_embeddings": "patches"}, "is for CLIP only"),
        (("mpnet", "vit", "corrected"), {"text_pooler": True}, "is BERT's pooler, but the text"),
    ]
    for (text, vision, preset), fields, message in cases:
        with pytest.raises(ValueError, match=message):
            make(text, vision, preset=preset, **fields)
    with pytest.raises(ValueError, match=r"holds a vit\. The text tower must be one of bert, rob"):
        load_text_tower(tiny_towers.vision("vit"))
    with pytest.raises(ValueError, match=r"holds a mpnet\. The vision tower must be one of clip"):
        load_vision_tower(tiny_towers.text("mpnet"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_config": {"model_type": "gpt2"}}, "text tower is a gpt2"),
        ({"vision_config": {"model_type": "clip"}}, "vision tower is a clip"),
        ({"vision_config": {"model_type": "vit", "patch_size": [16, 16]}}, "Patches must be"),
    ],
)
def test_configurations_that_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        MKGformerConfig(**fields)


def test_incomplete_towers(tiny_towers, tmp_path):
    for source, load, lost in (
        (tiny_towers.text("roberta"), load_text_tower, "roberta.encoder.layer.0"),
        (tiny_towers.vision("dinov2"), load_vision_tower, "encoder.layer.0"),
    ):
        folder = shutil.copytree(source, tmp_path / source.name)
        weights = load_file(folder / "model.safetensors")
        kept = {name: tensor for name, tensor in weights.items() if lost not in name}
        assert len(kept) < len(weights)
        save_file(kept, folder / "model.safetensors", {"format": "pt"})

        with pytest.raises(ValueError, match=rf"lacks weights of its {source.name}: .* more\."):
            load(folder)


# What is computed at some tokens alone


@pytest.mark.parametrize(("text", "vision"), SOME_PAIRS)
def test_states_at_positions_are_those_of_all(make, inputs_of, text, vision):
    model, inputs = make(text, vision), inputs_of(text)
    positions = torch.tensor([[1, 3], [0, 0], [2, 1]])
    batch = torch.arange(len(positions))[:, None]
    for seen in ({}, {**images(2), "image_index": torch.tensor([1, -1, 0])}):
        expected = model.mkgformer(**inputs, **seen).last_hidden_state[batch, positions]
        plain = model.mkgformer(**inputs, **seen, positions=positions).last_hidden_state
        close(plain, expected)


@pytest.mark.parametrize(("text", "vision"), SOME_PAIRS)
def test_checkpointing_them_changes_nothing(make, inputs_of, text, vision):
    model, inputs = make(text, vision).train(), inputs_of(text)
    positions = torch.tensor([[1, 3], [0, 0], [2, 1]])
    for seen in ({}, {**images(2), "image_index": torch.tensor([1, -1, 0])}):
        found = []
        for enable in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
            enable()
            torch.manual_seed(0)
            found.append(model.mkgformer(**inputs, **seen, positions=positions).last_hidden_state)
        close(*found)


# What can be recorded


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(("text", "vision"), SOME_PAIRS)
@torch.no_grad()
def test_recording_changes_nothing_and_tells_the_weights(make, inputs_of, text, vision, attention):
    model, inputs = make(text, vision, attn_implementation=attention), inputs_of(text)
    seen = {**inputs, **images(2), "image_index": torch.tensor([1, -1, 0])}
    seen["image_mask"] = torch.tensor([[1, 0, 1], [1, 1, 1]]).bool()

    output = model(**seen, output_attentions=True)
    plain = model(**seen)

    assert torch.equal(output.logits, plain.logits)
    assert [*plain] == ["logits"]
    length, heads = inputs["input_ids"].shape[1], 2
    tokens = output.visual_mask.shape[1]
    assert [tuple(w.shape) for w in output.text_attentions] == [(3, heads, length, length)] * 4
    assert [tuple(w.shape) for w in output.vision_attentions] == [
        (3, 3, tokens, tokens),
        *[(3, 3, tokens, length + tokens)] * 2,
    ]
    assert [tuple(s.shape) for s in output.prefix_shares] == [(3, 3, tokens)] * 2
    assert [tuple(c.shape) for c in output.correlations] == [(3, length, tokens)] * 2
    with_images = [0, 2]
    for weights in (*output.text_attentions, *output.vision_attentions, *output.correlations):
        close(weights[with_images].sum(dim=-1), torch.ones_like(weights[with_images].sum(dim=-1)))
    for weights, share in zip(output.vision_attentions[1:], output.prefix_shares, strict=True):
        close(share, weights[..., :length].sum(dim=-1))
        # Nobody attends to padding, nor to missing images.
        padding = ~inputs["attention_mask"].bool()
        assert not weights[..., :length].masked_select(padding[:, None, None]).any()
        missing = ~output.visual_mask
        assert not weights[..., length:].masked_select(missing[:, None, None]).any()
    assert not output.visual_mask[1].any()
    assert not any(weights[1].any() for weights in output.vision_attentions)
    assert not any(share[1].any() for share in output.prefix_shares)


@pytest.mark.parametrize("text", TEXT)
@torch.no_grad()
def test_recorded_attentions_are_the_text_towers_own(make, inputs_of, text):
    model = make(text, "vit", MKGformerModel, attn_implementation="eager")
    inputs = inputs_of(text)

    output = model(**inputs, output_attentions=True)

    expected = model.text_model(**inputs, output_attentions=True).attentions
    for actual, theirs in zip(output.text_attentions, expected, strict=True):
        close(actual, theirs)
    assert output.vision_attentions is output.prefix_shares is output.correlations is None
    assert output.visual_mask is None


@torch.no_grad()
def test_the_prefix_share_is_the_lambda_of_the_paper(make, inputs_of):
    """Attention over both equals (1 - lambda) visual attention + lambda attention to the text."""
    model, inputs = make("bert", "clip_vision_model", MKGformerModel), inputs_of("bert")
    seen = {}
    layer = model.fusion_layers[0]
    read_prefix = layer.read_prefix
    layer.read_prefix = lambda *args: seen.update(args=args) or read_prefix(*args)

    share = model(**inputs, **images(), output_attentions=True).prefix_shares[0]

    vision_layer, states, key, value, _, index = seen["args"]
    family = model.vision_family
    query, own_key, own_value = (
        projected[index] for projected in family.query_key_value(vision_layer, states)
    )
    key, value = layer.key_bridge(key), layer.value_bridge(value)

    def heads(projected):
        return projected.unflatten(-1, (3, -1)).transpose(1, 2)

    def attend(keys, values, mask=None):
        return torch.nn.functional.scaled_dot_product_attention(
            heads(query), heads(keys), heads(values), attn_mask=mask
        )

    mask = inputs["attention_mask"].bool()[:, None, None]
    mixed = (1 - share)[..., None] * attend(own_key, own_value)
    mixed = mixed + share[..., None] * attend(key, value, mask)
    everything = torch.cat([mask, torch.ones(3, 1, 1, own_key.shape[1], dtype=torch.bool)], dim=-1)
    both = attend(
        torch.cat([key, own_key], dim=1), torch.cat([value, own_value], dim=1), everything
    )
    close(mixed, both)


def test_recording_under_checkpointing(make, inputs_of):
    model = make("mpnet", "dinov2").train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    inputs = {**inputs_of("mpnet"), **images(), "labels": torch.tensor([[1], [2], [3]])}

    output = model(**inputs, output_attentions=True)
    output.loss.backward()

    assert len(output.text_attentions) == 4
    assert len(output.prefix_shares) == 2
