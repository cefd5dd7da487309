"""Relation extraction and entity recognition: their visual input, their heads, and the CRF."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertModel,
)

from mkgformer_kedro.modeling import (
    MKGformerConfig,
    MKGformerForRelationExtraction,
    MKGformerForTokenClassification,
)
from mkgformer_kedro.modeling.modeling_mkgformer import _crf_log_likelihood

OTHER_TOWER = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 20,
}
CROPS = {"visual_embeddings": "class_and_crops"}
HEADS = (MKGformerForRelationExtraction, MKGformerForTokenClassification)
RELATIONS = {"num_labels": 5}


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


@pytest.fixture(scope="module")
def make(tiny):
    """Make a tiny model with a head; the labels of entity recognition are IOB2 tags."""

    def make(model_class, *args, **fields):
        labels = RELATIONS
        if model_class is MKGformerForTokenClassification:
            labels = {"id2label": dict(enumerate(tiny.tags))}
        return tiny.model(*args, model_class=model_class, **{**labels, **fields})

    return make


def images_for(tiny, model, rows):
    return tiny.images(rows, crops_only=model.config.visual_embeddings == "class_and_crops")


def inputs_for(tiny, model_class):
    """Texts, and what the head needs to know about them; the last row of words is the longest."""
    texts = tiny.texts()
    if model_class is MKGformerForRelationExtraction:
        return {
            **texts,
            "head_index": torch.tensor([1, 4, 7, 2]),
            "tail_index": torch.tensor([5, 1, 3, 6]),
        }
    words = [[1, 3, 4], [1], [2, 5], [1, 2, 3, 5]]
    return {**texts, "word_index": torch.tensor([row + [-1] * (4 - len(row)) for row in words])}


def labelled(tiny, model_class):
    inputs = inputs_for(tiny, model_class)
    if model_class is MKGformerForTokenClassification:
        labels = torch.tensor([[0, 1, 2, -100], [3, -100, -100, -100], [3, 4, -100, -100]])
        return {**inputs, "labels": torch.cat([labels, torch.tensor([[1, 2, 1, 0]])])}
    return {**inputs, "labels": torch.tensor([0, 4, 2, 2])}


# Class token and crops


@torch.no_grad()
def test_visual_tokens_are_a_class_and_crops_with_their_own_positions(tiny, make):
    model = make(MKGformerForRelationExtraction, **CROPS).mkgformer
    images = tiny.images(2, crops_only=True)
    seen = []
    model.vision_model.encoder.layers[0].register_forward_pre_hook(
        lambda _, args: seen.append(args[0])
    )

    model(**tiny.texts((5, 5)), **images)

    vision = model.vision_model
    grounding, detection = (
        torch.stack(
            [
                vision.embeddings.patch_embedding(crops).flatten(2).mT.flatten(0, 1)
                for crops in model.normalize(pixels)
            ]
        )
        for pixels in images.values()
    )
    tables = model.crop_position_embeddings
    # Two crops of 16 pixels have 4 patches each, one of 8 pixels has 1.
    assert tables.grounding.weight.shape == (8, 32)
    assert tables.detection.weight.shape == (1, 32)
    tokens = torch.cat(
        [
            vision.embeddings.class_embedding.expand(2, 1, -1),
            grounding + tables.grounding.weight,
            detection + tables.detection.weight,
        ],
        dim=1,
    )
    close(seen[0], vision.pre_layrnorm(tokens))


def test_only_crops_have_position_tables_of_their_own(tiny, make):
    assert not len(make(MKGformerForRelationExtraction).mkgformer.crop_position_embeddings)
    model = make(MKGformerForRelationExtraction, **CROPS, image_counts={"grounding": 2})

    assert [*model.mkgformer.crop_position_embeddings] == ["grounding"]
    # CLIP's own table is kept, but not trained.
    names = [name for name, _ in model.named_parameters() if "position_embedding" in name]
    assert not any("vision_model" in name for name in names)


@torch.no_grad()
def test_missing_crops_do_not_matter(tiny, make):
    model, texts = make(MKGformerForRelationExtraction, **CROPS).mkgformer, tiny.texts()
    images = tiny.images(4, crops_only=True)
    mask = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 0, 0], [1, 1, 0]]).bool()
    states = model(**texts, **images, image_mask=mask).last_hidden_state

    hidden = dict(zip(images, mask.split([2, 1], dim=1), strict=True))
    other = {
        name: torch.where(hidden[name][..., None, None, None], pixels, 255 - pixels)
        for name, pixels in images.items()
    }
    with_others = model(**texts, **other, image_mask=mask).last_hidden_state
    all_shown = model(**texts, **images).last_hidden_state

    close(with_others, states, atol=0)
    assert (all_shown - states).abs().amax(dim=(1, 2)).min() > 1e-2
    # Without any crop there is no class token either.
    assert torch.equal(states[2], model.text_model(**texts).last_hidden_state[2])


@torch.no_grad()
def test_class_token_of_a_row_with_images_is_seen(tiny, make):
    model, texts = make(MKGformerForRelationExtraction, **CROPS).mkgformer, tiny.texts()
    images = tiny.images(4, crops_only=True)
    mask = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 0, 0], [1, 1, 0]]).bool()
    before = model(**texts, **images, image_mask=mask).last_hidden_state

    model.vision_model.embeddings.class_embedding.neg_()

    after = model(**texts, **images, image_mask=mask).last_hidden_state
    changed = (after - before).abs().amax(dim=(1, 2))
    assert changed[[0, 1, 3]].min() > 1e-3
    assert changed[2] == 0


def test_full_images_have_no_place_beside_crops(tiny, make):
    model = make(MKGformerForRelationExtraction, "faithful")

    with pytest.raises(ValueError, match="of full, grounding, detection are given, but the model"):
        model(**inputs_for(tiny, MKGformerForRelationExtraction), **tiny.images(4))


# What both heads have in common


@pytest.mark.parametrize("model_class", HEADS)
@pytest.mark.parametrize(
    ("preset", "fields"), [("corrected", {}), ("faithful", {}), ("corrected", CROPS)]
)
@torch.no_grad()
def test_images_reach_the_logits(tiny, make, model_class, preset, fields):
    model = make(model_class, preset, **fields)
    inputs, images = inputs_for(tiny, model_class), images_for(tiny, model, 4)
    logits = model(**inputs, **images).logits

    for name in images:
        other = {**images, name: 255 - images[name]}
        assert (model(**inputs, **other).logits - logits).abs().max() > 1e-2


@pytest.mark.parametrize("model_class", HEADS)
@pytest.mark.parametrize("fields", [{}, CROPS])
@torch.no_grad()
def test_without_images_equals_a_text_only_pass(tiny, make, model_class, fields):
    model = make(model_class, **fields)
    inputs, images = inputs_for(tiny, model_class), images_for(tiny, model, 2)
    text_only = model(**inputs).logits

    nobody_looks = model(**inputs, **images, image_index=torch.full((4,), -1)).logits
    mixed = model(**inputs, **images, image_index=torch.tensor([1, -1, 0, -1])).logits

    assert torch.equal(nobody_looks, text_only)
    close(mixed[[1, 3]], text_only[[1, 3]])
    assert (mixed[[0, 2]] - text_only[[0, 2]]).abs().max() > 1e-2


@pytest.mark.parametrize("model_class", HEADS)
@pytest.mark.parametrize("fields", [{}, CROPS])
@torch.no_grad()
def test_padding_and_batch_mates_change_nothing(tiny, make, model_class, fields):
    model = make(model_class, **fields)
    inputs, images = labelled(tiny, model_class), images_for(tiny, model, 4)
    slots = model.config.num_image_slots
    mask = torch.tensor([[1, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])[:, -slots:]
    together = model(**inputs, **images, image_mask=mask)

    losses = []
    for row, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
        alone = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
        alone |= {name: alone[name][:, :length] for name in tiny.texts()}
        if "word_index" in alone:
            words = int((alone["word_index"] >= 0).sum())
            alone |= {name: alone[name][:, :words] for name in ("word_index", "labels")}
        output = model(
            **alone,
            **{name: tensor[row : row + 1] for name, tensor in images.items()},
            image_mask=mask[row : row + 1],
        )
        losses.append(output.loss)
        expected = output.logits[0]
        actual = together.logits[row]
        close(actual[: len(expected)] if "word_index" in alone else actual, expected)
    close(together.loss, torch.stack(losses).mean())


@pytest.mark.parametrize("model_class", HEADS)
@pytest.mark.parametrize("preset", ["corrected", "faithful"])
@torch.no_grad()
def test_attention_implementations_agree(tiny, make, model_class, preset):
    inputs = labelled(tiny, model_class)
    outputs = []
    for attention in ("sdpa", "eager"):
        model = make(model_class, preset, attention=attention)
        images = images_for(tiny, model, 3)
        index = torch.tensor([0, 2, 1, -1])
        outputs.append(model(**inputs, **images, image_index=index))

    close(outputs[1].logits, outputs[0].logits)
    close(outputs[1].loss, outputs[0].loss, atol=1e-4)


@pytest.mark.parametrize("model_class", HEADS)
@pytest.mark.parametrize("preset", ["corrected", "faithful"])
def test_towers_of_different_width_and_a_gradient_for_every_parameter(
    tiny, make, model_class, preset, tmp_path
):
    """Also after loading, so that processes that train together never wait for one in vain."""
    make(model_class, preset, vision=OTHER_TOWER, text_pooler=True).save_pretrained(tmp_path)
    model = model_class.from_pretrained(tmp_path).train()

    output = model(**labelled(tiny, model_class), **images_for(tiny, model, 4))
    output.loss.backward()

    assert output.loss.shape == ()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert model.classifier.weight.grad.abs().max() > 0


@pytest.mark.parametrize("model_class", HEADS)
@pytest.mark.parametrize("fields", [{}, CROPS])
def test_batch_without_images_reaches_every_parameter(tiny, make, model_class, fields):
    model = make(model_class, **fields).train()

    model(**labelled(tiny, model_class)).loss.backward()

    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    base = model.mkgformer
    for part in (base.vision_model, base.crop_position_embeddings):
        assert not any(parameter.grad.any() for parameter in part.parameters())


@pytest.mark.parametrize("model_class", HEADS)
@pytest.mark.parametrize("preset", ["corrected", "faithful"])
def test_bfloat16(tiny, make, model_class, preset):
    model = make(model_class, preset).train()
    inputs = {**labelled(tiny, model_class), **images_for(tiny, model, 3)}
    inputs["image_index"] = torch.tensor([0, 2, -1, 1])
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**inputs)
    output.loss.backward()

    assert output.loss.dtype == output.logits.dtype == torch.float32
    assert output.loss.isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())

    output = model.bfloat16()(**inputs)
    assert output.loss.dtype == output.logits.dtype == torch.float32
    assert output.loss.isfinite()
    if model_class is MKGformerForTokenClassification:
        assert model.decode(output.logits, inputs["word_index"] >= 0).shape == (4, 4)


@pytest.mark.parametrize(
    ("model_class", "auto_class"),
    zip(HEADS, (AutoModelForSequenceClassification, AutoModelForTokenClassification), strict=True),
)
@pytest.mark.parametrize("preset", ["corrected", "faithful"])
@torch.no_grad()
def test_save_and_load(tiny, make, model_class, auto_class, preset, tmp_path):
    model = make(model_class, preset, vision=OTHER_TOWER, text_pooler=True)
    inputs = {**labelled(tiny, model_class), **images_for(tiny, model, 4)}
    model.save_pretrained(tmp_path)

    for loader in (model_class, auto_class):
        loaded = loader.from_pretrained(tmp_path)

        assert isinstance(loaded, model_class)
        for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
            own = dict(itertools.chain(loaded.named_parameters(), loaded.named_buffers()))
            assert torch.equal(own[name], tensor), name
        output, expected = loaded(**inputs), model(**inputs)
        assert torch.equal(output.logits, expected.logits)
        assert torch.equal(output.loss, expected.loss)
        assert loaded.config.id2label == model.config.id2label


@pytest.mark.parametrize("model_class", HEADS)
def test_weights_missing_from_a_checkpoint_are_initialised(tiny, model_class, tmp_path):
    """`from_pretrained` builds on the meta device: what `_init_weights` forgets is garbage."""
    labels = {"id2label": dict(enumerate(tiny.tags))}
    config = tiny.config("corrected", model_class.task, **labels, **CROPS)
    BertModel(config.text_config).save_pretrained(tmp_path)

    model = model_class.from_pretrained(tmp_path, config=config)

    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        assert tensor.device.type == "cpu", name
        assert tensor.is_floating_point() is False or tensor.abs().max() <= 5, name
    table = model.mkgformer.crop_position_embeddings.grounding.weight
    for weight in (model.classifier.weight, table):
        assert weight.std().item() == pytest.approx(0.02, rel=0.25)
    assert not model.classifier.bias.any()
    if model_class is MKGformerForTokenClassification:
        for parameter in model.crf.parameters():
            assert 0.02 < parameter.abs().max() <= 0.1
        start, transitions = model.forbidden_labels()
        assert torch.equal(model.forbidden_start, start)
        assert torch.equal(model.forbidden_transitions, transitions)


@pytest.mark.parametrize("model_class", HEADS)
def test_made_of_a_pretrained_tower(tiny, model_class, tmp_path):
    bert = BertModel(tiny.config().text_config)
    bert.save_pretrained(tmp_path)
    labels = dict(enumerate(tiny.tags))
    fields = {
        "vision_config": {**OTHER_TOWER, "image_size": 16, "patch_size": 8},
        "image_sizes": tiny.sizes,
        "num_fusion_layers": 2,
        "id2label": labels,
        "label2id": {name: i for i, name in labels.items()},
        "classifier_dropout": 0.25,
    }

    model = model_class.from_text_vision_pretrained(tmp_path, None, preset="faithful", **fields)

    assert model.config.visual_embeddings == "class_and_crops"
    assert model.config.image_roles == ("grounding", "detection")
    assert model.config.id2label == labels
    assert model.config.num_labels == model.classifier.out_features == 5
    assert model.dropout.p == 0.25
    for name, tensor in bert.state_dict().items():
        if not name.startswith("pooler."):
            assert torch.equal(model.mkgformer.text_model.state_dict()[name], tensor), name

    fields |= {"id2label": None, "label2id": None, "num_labels": 3, "constrain_transitions": False}
    model = model_class.from_text_vision_pretrained(tmp_path, None, **fields)

    assert model.config.visual_embeddings == "class_and_position"
    assert model.classifier.out_features == 3


@pytest.mark.parametrize("model_class", HEADS)
def test_new_tokens(tiny, make, model_class):
    model = make(model_class)
    before = model.get_input_embeddings().weight.detach().clone()

    model.resize_token_embeddings(len(before) + 4, mean_resizing=False)

    embeddings = model.get_input_embeddings().weight
    assert torch.equal(embeddings[: len(before)], before)
    assert len(embeddings) == len(before) + 4 == model.config.text_config.vocab_size


@pytest.mark.parametrize("model_class", HEADS)
def test_loss_is_a_mean_that_the_trainer_leaves_alone(model_class):
    assert model_class.accepts_loss_kwargs is False


# Relation extraction


@torch.no_grad()
def test_markers_classify_the_states_of_both_positions(tiny, make):
    model = make(MKGformerForRelationExtraction)
    inputs = labelled(tiny, MKGformerForRelationExtraction)
    states = model.mkgformer(**tiny.texts()).last_hidden_state

    output = model(**inputs)

    rows = range(4)
    pooled = torch.cat(
        [states[rows, inputs["head_index"]], states[rows, inputs["tail_index"]]], dim=1
    )
    expected = pooled @ model.classifier.weight.T + model.classifier.bias
    close(output.logits, expected)
    log_probability = expected.log_softmax(dim=1)[rows, inputs["labels"]]
    close(output.loss, -log_probability.mean())
    assert torch.equal(model(**inputs, return_dict=False)[0], output.loss)


@torch.no_grad()
def test_cls_classifies_the_first_state(tiny, make):
    model = make(MKGformerForRelationExtraction, representation="cls")
    states = model.mkgformer(**tiny.texts()).last_hidden_state

    logits = model(**tiny.texts()).logits

    close(logits, states[:, 0] @ model.classifier.weight.T + model.classifier.bias)
    assert torch.equal(model(**inputs_for(tiny, MKGformerForRelationExtraction)).logits, logits)


@pytest.mark.parametrize("missing", ["head_index", "tail_index"])
def test_markers_need_positions(tiny, make, missing):
    inputs = inputs_for(tiny, MKGformerForRelationExtraction)
    del inputs[missing]

    with pytest.raises(ValueError, match="'markers' needs head_index and tail_index"):
        make(MKGformerForRelationExtraction)(**inputs)


def test_classifier_dropout(tiny, make):
    model = make(MKGformerForRelationExtraction, classifier_dropout=0.5).train()
    for module in model.mkgformer.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    inputs = inputs_for(tiny, MKGformerForRelationExtraction)

    assert not torch.equal(model(**inputs).logits, model(**inputs).logits)


# Entity recognition


def sequences(num_labels, length):
    return torch.tensor([*itertools.product(range(num_labels), repeat=length)])


def scores_of(model, emissions, paths):
    """Score of each label sequence of one row, by the definition of a linear-chain CRF."""
    crf = model.crf
    scores = crf.start_transitions[paths[:, 0]] + crf.end_transitions[paths[:, -1]]
    scores = scores + emissions[range(paths.shape[1]), paths].sum(dim=1)
    return scores + crf.transitions[paths[:, :-1], paths[:, 1:]].sum(dim=1)


def is_iob2(tags):
    return all(
        not tag.startswith("I-") or before[2:] == tag[2:]
        for before, tag in itertools.pairwise(["O", *tags])
    )


@pytest.mark.parametrize("constrained", [True, False])
@torch.no_grad()
def test_loss_and_path_are_those_of_all_label_sequences(tiny, make, constrained):
    model = make(MKGformerForTokenClassification, constrain_transitions=constrained)
    for parameter in model.crf.parameters():
        parameter.normal_()
    inputs = labelled(tiny, MKGformerForTokenClassification)

    output = model(**inputs)
    decoded = model.decode(output.logits, inputs["word_index"] >= 0)

    expected = []
    for emissions, labels, path in zip(output.logits, inputs["labels"], decoded, strict=True):
        gold = labels[labels >= 0]
        paths = sequences(5, len(gold))
        if constrained:
            allowed = [is_iob2([tiny.tags[i] for i in row]) for row in paths.tolist()]
            paths = paths[torch.tensor(allowed)]
        scores = scores_of(model, emissions, paths)
        of_gold = scores_of(model, emissions, gold[None])[0]
        expected.append(scores.logsumexp(dim=0) - of_gold)
        assert torch.equal(path[: len(gold)], paths[scores.argmax()])
        assert (path[len(gold) :] == -1).all()
    close(output.loss, torch.stack(expected).mean(), atol=1e-4)
    assert torch.equal(model(**inputs, return_dict=False)[0], output.loss)


@torch.no_grad()
def test_the_crf_looks_at_no_value_and_mixes_no_devices(make):
    """The device ``meta`` has no values: whoever would wait for one on a GPU fails on it."""

    class OneDevice(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            for each in pytree.tree_leaves([args, found]):
                assert not isinstance(each, torch.Tensor) or each.device.type == "meta", function
            return found

    model = make(MKGformerForTokenClassification).to("meta")
    words = torch.empty(2, 4, dtype=torch.long, device="meta")
    emissions = torch.empty(2, 4, 5, device="meta")
    with OneDevice():
        model._check_words(words >= 0, words)
        scores = model._constrained_scores()
        found = _crf_log_likelihood(emissions, words, words >= 0, **scores)
    assert found.shape == (2,)


@torch.no_grad()
def test_emissions_are_those_of_first_tokens(tiny, make):
    model = make(MKGformerForTokenClassification)
    inputs = inputs_for(tiny, MKGformerForTokenClassification)
    of_tokens = model(**tiny.texts()).logits

    emissions = model(**inputs).logits

    assert of_tokens.shape == (4, 9, 5)
    assert emissions.shape == (4, 4, 5)
    for row, index in enumerate(inputs["word_index"]):
        close(emissions[row, index >= 0], of_tokens[row, index[index >= 0]])


@torch.no_grad()
def test_every_token_is_a_word_without_word_index(tiny, make):
    model, texts = make(MKGformerForTokenClassification), tiny.texts()
    labels = torch.zeros(4, 9, dtype=torch.long).masked_fill(~texts["attention_mask"].bool(), -100)
    everything = torch.arange(9).masked_fill(~texts["attention_mask"].bool(), -1)

    output = model(**texts, labels=labels)
    expected = model(**texts, word_index=everything, labels=labels)

    close(output.loss, expected.loss)
    texts = {name: texts[name][:1] for name in ("input_ids", "token_type_ids")}
    assert model(**texts, labels=labels[:1]).loss.isfinite()


@torch.no_grad()
def test_columns_of_padding_may_be_left_out_of_the_labels(tiny, make):
    model = make(MKGformerForTokenClassification)
    inputs = labelled(tiny, MKGformerForTokenClassification)
    padded = {
        **inputs,
        "word_index": nn.functional.pad(inputs["word_index"], (0, 2), value=-1),
    }

    assert torch.equal(model(**padded).loss, model(**inputs).loss)


TYPES = st.lists(st.sampled_from(["PER", "LOC", "ORG", "MISC"]), unique=True, max_size=3)


@given(TYPES, st.integers(1, 6), st.integers(0, 10_000), st.sampled_from([1.0, 30.0, 1000.0]))
def test_constrained_paths_are_iob2(types, length, seed, spread):
    """Whatever the emissions and the learned scores say."""
    names = ["O", *(f"{prefix}-{name}" for name in types for prefix in "BI")]
    model = _bare_crf(tuple(names))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.crf.parameters():
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    emissions = spread * torch.randn(2, length, len(names), generator=generator)
    mask = torch.arange(length) < torch.tensor([[length], [(length + 1) // 2]])

    decoded = model.decode(emissions, mask)

    for path, words in zip(decoded.tolist(), mask.sum(dim=1).tolist(), strict=True):
        assert all(label >= 0 for label in path[:words])
        assert path[words:] == [-1] * (length - words)
        assert is_iob2([names[label] for label in path[:words]])


_MODELS = {}


def _bare_crf(names):
    """One model per set of labels: making one takes longer than decoding."""
    if names not in _MODELS:
        size = {
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "intermediate_size": 8,
        }
        config = MKGformerConfig(
            text_config={**size, "vocab_size": 10},
            vision_config={**size, "image_size": 32},
            num_fusion_layers=1,
            id2label=dict(enumerate(names)),
        )
        _MODELS[names] = MKGformerForTokenClassification(config)
    return _MODELS[names]


def test_forbidden_transitions_have_no_probability_and_no_gradient(tiny, make):
    model = make(MKGformerForTokenClassification).train()
    forbidden = {
        ("O", "I-PER"), ("O", "I-LOC"),
        ("B-PER", "I-LOC"), ("I-PER", "I-LOC"),
        ("B-LOC", "I-PER"), ("I-LOC", "I-PER"),
    }  # fmt: skip
    pairs = {
        (tiny.tags[i], tiny.tags[j]) for i, j in model.forbidden_transitions.nonzero().tolist()
    }
    assert pairs == forbidden
    assert [tiny.tags[i] for i in model.forbidden_start.nonzero()] == ["I-PER", "I-LOC"]

    inputs = labelled(tiny, MKGformerForTokenClassification)
    output = model.eval()(**inputs)
    output.loss.backward()
    with torch.no_grad():
        model.crf.transitions[model.forbidden_transitions] = 500.0
        model.crf.start_transitions[model.forbidden_start] = 500.0

    assert torch.equal(model(**inputs).loss, output.loss)
    crf = model.crf
    assert not crf.transitions.grad[model.forbidden_transitions].any()
    assert not crf.start_transitions.grad[model.forbidden_start].any()
    # O, B-PER and B-LOC may begin, and everything may end.
    assert crf.start_transitions.grad[~model.forbidden_start].abs().min() > 0
    assert crf.transitions.grad[~model.forbidden_transitions].abs().max() > 0
    assert crf.end_transitions.grad.abs().max() > 0


@torch.no_grad()
def test_probabilities_of_what_iob2_allows_sum_to_one(tiny, make):
    model = make(MKGformerForTokenClassification)
    paths = [row for row in sequences(5, 3).tolist() if is_iob2([tiny.tags[i] for i in row])]
    one = {name: tensor[:1] for name, tensor in inputs_for(tiny, type(model)).items()}

    total = sum(math.exp(-model(**one, labels=torch.tensor([[*row, -100]])).loss) for row in paths)

    assert total == pytest.approx(1, abs=1e-4)


def test_crf_is_left_as_it_is_by_use(tiny, make):
    model = make(MKGformerForTokenClassification)
    before = {name: tensor.clone() for name, tensor in model.crf.state_dict().items()}
    inputs = labelled(tiny, MKGformerForTokenClassification)

    model.decode(model(**inputs).logits, inputs["word_index"] >= 0)

    assert all(torch.equal(model.crf.state_dict()[name], before[name]) for name in before)
    assert all(parameter.requires_grad for parameter in model.crf.parameters())


@pytest.mark.parametrize(
    "names",
    [
        ["LABEL_0", "LABEL_1"],
        ["O", "B-PER", "X"],
        ["O", "B-"],
        ["O", "B-PER", "I-LOC"],
        ["O", "B_PER"],
    ],
)
def test_constrained_labels_are_iob2(tiny, make, names):
    labels = {"id2label": dict(enumerate(names))}

    with pytest.raises(ValueError, match=rf"{names[-1]}' cannot be tags of IOB2"):
        make(MKGformerForTokenClassification, **labels)
    model = make(MKGformerForTokenClassification, constrain_transitions=False, **labels)
    assert not model.forbidden_transitions.any()


def test_what_cannot_be_recognised(tiny, make):
    model = make(MKGformerForTokenClassification)
    inputs = labelled(tiny, MKGformerForTokenClassification)

    def changed(name, row, *values):
        tensor = inputs[name].clone()
        tensor[row] = torch.tensor(values)
        return {**inputs, name: tensor}

    no_columns = torch.empty(4, 0, dtype=torch.long)
    cases = [
        (changed("word_index", 1, -1, -1, -1, -1), "has a row without a word"),
        ({**inputs, "word_index": no_columns, "labels": no_columns}, "has a row without a word"),
        (changed("word_index", 0, 1, -1, 3, 4), "has words behind padding"),
        (changed("labels", 0, 0, 1, -100, -100), "has words without label"),
        ({**inputs, "labels": inputs["labels"][:, :2]}, "has words without label"),
        (changed("labels", 0, 0, 1, 4, -100), "has labels that IOB2 forbids"),
        (changed("labels", 0, 2, 0, 0, -100), "has labels that IOB2 forbids"),
        ({**inputs, "labels": inputs["labels"].repeat(1, 2)}, r"labels have shape \(4, 8\)"),
        ({**inputs, "labels": inputs["labels"][:2]}, r"labels have shape \(2, 4\)"),
    ]
    for wrong, message in cases:
        with pytest.raises(ValueError, match=message):
            model(**wrong)
    emissions = torch.zeros(2, 3, 5)
    with pytest.raises(ValueError, match="without a word"):
        model.decode(emissions, torch.tensor([[True, True, False], [False, False, False]]))
    with pytest.raises(ValueError, match="behind padding"):
        model.decode(emissions, torch.tensor([[True, False, True], [True, False, False]]))
