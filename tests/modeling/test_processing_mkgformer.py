"""Texts and images as a person has them, and what the model gets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer

from mkgformer_kedro.modeling import MKGformerProcessor
from mkgformer_kedro.modeling.images import decode_image

SIZES, COUNTS = {"full": 24, "grounding": 16, "detection": 8}, {"full": 1, "grounding": 2}


@pytest.fixture(scope="module")
def tokenizer(tiny_towers):
    return AutoTokenizer.from_pretrained(tiny_towers.text("roberta"))


@pytest.fixture(scope="module")
def processor(tokenizer):
    return MKGformerProcessor(tokenizer, SIZES, COUNTS)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A photograph lying on its side, and an icon with transparent parts."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    photo = Image.fromarray(rng.integers(0, 255, (90, 150, 3), dtype=np.uint8))
    exif = photo.getexif()
    exif[0x0112] = 6
    photo.save(folder / "photo.jpg", exif=exif)
    icon = Image.fromarray(rng.integers(0, 255, (40, 30, 4), dtype=np.uint8), "RGBA")
    icon.save(folder / "icon.png")
    (folder / "damaged.png").write_bytes((folder / "icon.png").read_bytes()[:200])
    return folder


def test_images_are_those_of_the_visual_store(processor, files):
    inputs = processor.image_inputs([str(files / "photo.jpg"), None, files / "icon.png"])

    assert [*inputs] == ["pixel_values", "grounding_pixel_values", "image_mask", "image_index"]
    assert inputs["image_index"].tolist() == [0, -1, 1]
    assert inputs["image_mask"].tolist() == [[True, False, False]] * 2
    assert inputs["pixel_values"].shape == (2, 1, 3, 24, 24)
    assert inputs["grounding_pixel_values"].shape == (2, 2, 3, 16, 16)
    assert inputs["pixel_values"].dtype == torch.uint8
    for row, name in enumerate(("photo.jpg", "icon.png")):
        expected = decode_image(files / name, 24)
        np.testing.assert_array_equal(inputs["pixel_values"][row, 0], expected)
    assert not inputs["grounding_pixel_values"].any()


def test_pil_images_are_files_without_a_name(processor, files):
    icon = Image.open(files / "icon.png")

    of_file = processor.image_inputs([files / "icon.png"])
    of_image = processor.image_inputs([icon, icon])

    assert torch.equal(of_image["pixel_values"], of_file["pixel_values"])
    assert of_image["image_index"].tolist() == [0, 0]


def test_several_images_fill_the_slots_in_their_order(processor, files):
    photo, icon = files / "photo.jpg", files / "icon.png"

    in_order = processor.image_inputs([[photo, icon]])
    by_role = processor.image_inputs([{"full": photo, "grounding": [icon]}])
    crops = processor.image_inputs([{"grounding": [photo, icon]}])

    assert all(torch.equal(in_order[name], by_role[name]) for name in in_order)
    assert in_order["image_mask"].tolist() == [[True, True, False]]
    assert crops["image_mask"].tolist() == [[False, True, True]]
    np.testing.assert_array_equal(crops["grounding_pixel_values"][0, 1], decode_image(icon, 16))


def test_texts_and_images(processor, tokenizer, files):
    texts = ["the red bird", "Berlin"]

    batch = processor(texts, [None, files / "icon.png"])

    assert batch["image_index"].tolist() == [-1, 0]
    expected = tokenizer(texts, padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert processor(text="a bird", max_length=3, truncation=True)["input_ids"].shape == (1, 3)
    assert "pixel_values" not in processor(texts, [None, []])


def test_saved_with_the_model_and_loaded(processor, tokenizer, tmp_path):
    tokenizer.add_special_tokens({"extra_special_tokens": ["[HEAD]"]})
    processor.save_pretrained(tmp_path)

    for loaded in (
        MKGformerProcessor.from_pretrained(tmp_path),
        AutoProcessor.from_pretrained(tmp_path),
    ):
        assert isinstance(loaded, MKGformerProcessor)
        assert (loaded.image_sizes, loaded.image_counts) == (SIZES, COUNTS)
        assert loaded.image_roles == ("full", "grounding")
        assert loaded.tokenizer("[HEAD] bird")["input_ids"] == tokenizer("[HEAD] bird")["input_ids"]
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == tokenizer.get_vocab()


def test_made_of_a_configuration(tiny, tokenizer):
    processor = MKGformerProcessor.of(tiny.config(), tokenizer)

    assert processor.image_roles == ("full", "grounding", "detection")
    assert processor.image_sizes == tiny.sizes


def test_images_that_cannot_be_used(processor, files):
    cases = [
        (files / "none.png", r"none\.png: there is no such image file"),
        (files / "damaged.png", r"damaged\.png cannot be read as an image: it is damaged"),
        (7, "7 is no image"),
        ([files / "icon.png"] * 4, "has 4 images for the 3 slots of all roles"),
        ({"full": [files / "icon.png"] * 2}, "has 2 images for the 1 slots of full"),
        ({"detection": files / "icon.png"}, "Images of detection are given, but the model has"),
    ]
    for images, message in cases:
        with pytest.raises(ValueError, match=message):
            processor.image_inputs([images])
    with pytest.raises(ValueError, match="There are 1 texts, but images of 2"):
        processor("a bird", [None, None])
