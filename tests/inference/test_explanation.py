"""What a model looked at: read off it as it is, and whether it decides."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from captum.attr import Saliency

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.evaluation.explanations import RANDOM, WAYS
from mkgformer_kedro.inference import Predictor
from mkgformer_kedro.inference.explanation import Looker, delete_patches, look_at, point


@pytest.fixture(scope="module")
def link(entity_model, store_folder):
    """A link predictor that does not ignore images; entity 2 has two, 4 has one, 1 has none."""
    predictor = Predictor.from_folder(entity_model, store=store_folder)
    for number, layer in enumerate(predictor._model.mkgformer.fusion_layers):
        weight = layer.fusion_dense.weight.data
        weight.copy_(weight.new_tensor(np.random.default_rng(number).normal(size=weight.shape)))
    return predictor


@pytest.fixture
def looker(link):
    return Looker(link._model, link._tokenizer, link.task)


@pytest.fixture
def store(store_folder):
    return VisualStore(store_folder)


@pytest.fixture
def queries():
    """Queries about entities with images."""
    return pd.DataFrame(
        {"direction": ["tail", "head", "tail"], "entity": [2, 4, 6], "relation": [0, 1, 1]}
    )


@pytest.mark.parametrize("by", WAYS)
def test_an_explanation_has_the_answer_and_a_weight_for_each_patch(link, store, by):
    found = link.explain("e2", "next", by=by)
    pd.testing.assert_frame_equal(found.answer, link.predict("e2", "next"), atol=1e-6)
    assert [(image.role, image.slot) for image in found.images] == [("full", 0), ("full", 1)]
    for image, stored in zip(found.images, store.images(2), strict=True):
        np.testing.assert_array_equal(image.pixels, stored)
        layers = max(1, len(found.layers))
        assert image.weights.shape == (layers, len(found.tokens), 2, 2)
        assert (image.weights >= 0).all()
    assert [heat.shape for heat in found.heat()] == [(2, 2)] * 2


def test_tokens_are_those_of_the_prompt_and_the_mask_and_the_relation_look(link):
    found = link.explain("e2", "next", "head")
    assert found.tokens == (
        "[CLS]", "[MASK]", "[SEP]", "next", "next", "[SEP]", "Entity 2", "word2", "[SEP]",
    )  # fmt: skip
    parts = {name: at.tolist() for name, at in found.parts.items()}
    assert parts == {"mask": [1], "relation": [3, 4]}


def test_weights_are_those_that_the_model_records(link, looker, store, queries):
    items = link.task.encode(queries, link._tokenizer, link._model.config)
    seen = looker.see(items, store, np.array([0]))
    recorded = looker.ask(seen, output_attentions=True)
    correlation, attention = (link.explain("e2", "next", by=by) for by in WAYS[:2])

    # Besides its patches each of the two images has a class token.
    of_patches = sum(image.weights.sum(axis=(2, 3)) for image in correlation.images)
    of_classes = recorded.correlations[0][0][:, [0, 5]].sum(dim=1)
    np.testing.assert_allclose(of_patches[0] + of_classes.numpy(), 1, atol=1e-5)

    shares = recorded.prefix_shares[0][0].mean(dim=0).numpy()
    found = np.concatenate([heat.ravel() for heat in attention.heat()])
    np.testing.assert_allclose(found, np.delete(shares, [0, 5]), atol=1e-5)
    by_token = sum(attention.heat(part)[0] for part in attention.parts)
    assert (by_token < attention.heat()[0]).all()


def test_padding_that_is_attended_to_is_among_all_tokens(link, looker, store, queries, monkeypatch):
    monkeypatch.setattr(link._model.config, "mask_prefix_padding", False)
    items = link.task.encode(queries, link._tokenizer, link._model.config)
    seen = looker.see(items, store, np.array([0]))
    recorded = looker.ask(seen, output_attentions=True)
    best = looker.best(items, seen, recorded)
    weights = looker.patch_weights(items, seen, recorded, best, "attention")[0]
    found = link.explain("e2", "next", by="attention")
    assert found.tokens[8] == "[SEP]"
    assert {*found.tokens[9:]} == {"[PAD]"}
    assert len(found.tokens) == seen.inputs["input_ids"].shape[1]
    np.testing.assert_allclose(np.concatenate(found.heat(), axis=None), weights, rtol=1e-5)


def test_an_image_that_is_missing_is_left_out(link):
    assert [image.slot for image in link.explain("e4", "next").images] == [0]
    for question in (("e1", "next"), ("e2", "next")):
        with pytest.raises(DataError, match="has no images, so that there is nothing to look at"):
            link.explain(*question, images=[] if question[0] == "e2" else None)


def test_one_layer_is_that_of_all(link):
    whole, one = link.explain("e2", "next"), link.explain("e2", "next", layer=1)
    assert one.layers == (1,)
    np.testing.assert_array_equal(one.images[1].weights[0], whole.images[1].weights[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "magic"}, "by is 'magic'; it must be correlation, attention, gradient"),
        ({"layer": 2}, "layer is 2; fused layers are numbered from 1 to 1"),
        ({"layer": 1, "by": "gradient"}, "layer is 1, but gradients are of the whole model"),
    ],
)
def test_what_there_is_not_is_refused(link, options, message):
    with pytest.raises(ValueError, match=message):
        link.explain("e2", "next", **options)
    with pytest.raises(DataError, match="Explain one question at a time"):
        link.explain(pd.DataFrame({"entity": ["e2"], "relation": ["next"]}))


def test_gradients_are_captums(link, looker, store, queries):
    items = link.task.encode(queries, link._tokenizer, link._model.config)
    seen = looker.see(items, store, np.arange(3))
    best = looker.best(items, seen, looker.ask(seen))

    def log_odds(pixels):
        probability = link._model(**seen.inputs, pixel_values=pixels).logits.softmax(dim=-1)
        return torch.logit(probability)

    pixels = seen.pixels["pixel_values"].clone()
    saliency = Saliency(log_odds).attribute(pixels, target=torch.from_numpy(best))
    expected = saliency.sum(dim=2).unflatten(3, (2, 8)).unflatten(2, (2, 8)).sum(dim=(3, 5))
    found = looker.weights(seen, None, best, "gradient")
    assert found.shape == (3, 1, 1, 8)
    np.testing.assert_allclose(found[:, 0, 0], expected.flatten(1).numpy(), rtol=1e-4)
    assert (found[1, 0, 0, 4:] == 0).all()  # it has one image


def test_figures_and_arrays_are_saved(link, tmp_path):
    found = link.explain("e2", "next", by="attention")
    titles = [text.get_text() for axis in found.figure().axes for text in axis.texts]
    assert titles == ["all of the text", "mask", "relation"]
    found.save(tmp_path / "a" / "b")
    assert sorted(path.name for path in (tmp_path / "a/b").iterdir()) == [
        "attention.npz", "attention.png", "attention.svg",
    ]  # fmt: skip
    arrays = np.load(tmp_path / "a/b/attention.npz", allow_pickle=False)
    assert tuple(arrays["tokens"]) == found.tokens
    np.testing.assert_array_equal(arrays["weights_full_1"], found.images[1].weights)
    assert arrays["part_mask"].tolist() == found.parts["mask"].tolist()


def test_questions_of_a_page_have_what_looked_at_their_images(looker, store, queries):
    looks = look_at(looker, pd.concat([queries, queries[:1].assign(entity=1)]), store)
    assert [[(each.way, each.part) for each in of_one] for of_one in looks[2:]] == [
        [("correlation", "mask"), ("correlation", "relation"), ("attention", ""), ("gradient", "")],
        [],
    ]
    assert [heat.shape for heat in looks[0][0].heats] == [(1, 2, 2)] * 2


class OnePatch(torch.nn.Module):
    """Answers 1 where the patch below on the right is bright; its tokens say that they look there,
    and its patches that those above on the left read the text."""

    config = SimpleNamespace(
        vision_config=SimpleNamespace(patch_size=4),
        image_roles=("full",),
        image_counts={"full": 1},
        image_sizes={"full": 16},
    )
    device = torch.device("cpu")

    @property
    def base_model(self):
        grid = torch.arange(16).view(4, 4)
        return SimpleNamespace(normalize=torch.Tensor.float, patch_positions=lambda number: [grid])

    def forward(self, input_ids, image_mask, pixel_values, output_attentions=False):
        bright = pixel_values[:, 0, 0, 12:, 12:].mean(dim=(1, 2))
        looked, reads = torch.zeros(2, len(bright), 16)
        looked[:, 15], reads[:, 0] = 1, 1
        attention = torch.cat([reads[..., None], (1 - reads)[..., None].expand(-1, -1, 16) / 16], 2)
        return SimpleNamespace(
            logits=torch.stack([torch.full_like(bright, 10.0), bright], dim=1),
            correlations=[looked[:, None]],
            vision_attentions=[attention[:, None]],
        )


class Items:
    """Questions of one token each, each with images of its own."""

    def __init__(self, number):
        self.owners, self.lengths = np.arange(number), np.ones(number, dtype=int)

    def batch(self, rows):
        return {"input_ids": torch.zeros(len(rows), 1, dtype=torch.long)}


class BrightImages:
    """An image of one colour for everybody."""

    def __init__(self, number):
        self.has_images = np.ones(number, dtype=bool)

    def read(self, owners):
        pixels = np.full((len(owners), 1, 3, 16, 16), 90, dtype=np.uint8)
        return {"pixel_values": pixels, "image_mask": np.ones((len(owners), 1), dtype=bool)}


@pytest.fixture
def one_patch():
    task = SimpleNamespace(
        encode=lambda table, tokenizer, config: Items(len(table)),
        best=lambda model, outputs, items, rows: outputs.logits.argmax(dim=-1),
        tokens=lambda tokenizer, items, row, best: (["?"], {"mask": np.array([0])}),
    )
    return Looker(OnePatch(), None, task)


def test_taking_away_the_patch_that_decides_changes_the_answer(one_patch):
    table = pd.DataFrame({"number": range(40)})
    options = {"shares": [1 / 16, 0.5], "seed": 0, "batch_size": 7}
    changes = delete_patches(one_patch, table, BrightImages(40), **options)
    assert sorted(changes["question"]) == sorted([*range(40)] * 2)
    one, half = (changes[changes["share"] == share] for share in options["shares"])
    for of_share in (one, half):
        assert of_share["correlation"].all()
        assert of_share["gradient"].all()
    assert not one["attention"].any()
    assert one[RANDOM].mean() < 0.3 < half[RANDOM].mean() < 0.7
    again = delete_patches(one_patch, table, BrightImages(40), **options | {"batch_size": 40})
    key = ["share", "question"]
    pd.testing.assert_frame_equal(
        again.sort_values(key, ignore_index=True), changes.sort_values(key, ignore_index=True)
    )


def test_pointing_is_at_the_patch_that_is_looked_at(one_patch):
    quarters = ["lower_right", "upper_left", "lower_left"]
    table = pd.DataFrame({"number": range(3)})
    hits = point(one_patch, table, BrightImages(3), quarters=quarters, batch_size=2)
    hits = hits.sort_values("question")
    assert hits["correlation"].tolist() == hits["gradient"].tolist() == [True, False, False]
    assert hits["attention"].tolist() == [False, True, False]
    assert hits["chance"].tolist() == [0.25] * 3


def test_without_questions_nothing_is_found(one_patch):
    none = pd.DataFrame({"number": []})
    assert delete_patches(
        one_patch, none, BrightImages(0), shares=[0.5], seed=0, batch_size=2
    ).empty
    assert point(one_patch, none, BrightImages(0), quarters=[], batch_size=2).empty


def test_images_of_questions_are_not_shared(link, looker, store, queries):
    """Two queries about one entity: what is taken away for one stays for the other."""
    same = replace(
        link.task.encode(queries, link._tokenizer, link._model.config), owners=np.array([2, 2, 2])
    )
    seen = looker.see(same, store, np.arange(3))
    removed = np.zeros(seen.present.shape, dtype=bool)
    removed[0] = True
    before, after = looker.ask(seen).logits, looker.ask(seen, removed).logits
    assert not torch.allclose(before[0], after[0])
    torch.testing.assert_close(before[1:], after[1:])
