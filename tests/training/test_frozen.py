"""Frozen visual layers give what they gave, and are computed once."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.training import finetuning, frozen
from mkgformer_kedro.training.frozen import frozen_images
from mkgformer_kedro.training.tasks.registry import task_named

BELOW = ("vision_model.embeddings", "pre_layrnorm", "encoder.layers.0.", "crop_position")


@pytest.fixture
def prepare(request, monkeypatch, tmp_path, tables, posts, labels, model_parameters, posts_values):
    """The trainer of a task, as it is before it trains."""

    def make(task="relation_extraction", store="posts_store", preset="corrected", **model):
        kind = task_named(task)
        if task == "link_prediction":
            values = request.getfixturevalue("finetuning_values")
            named = {"queries": tables["queries"]}
        else:
            values, named = posts_values[task], {"posts": posts[task], "labels": labels[task]}
        inputs = {name: str(tmp_path / f"{name}.parquet") for name in named}
        for name, table in named.items():
            table.to_parquet(inputs[name])
        if kind.starts_from:
            inputs[kind.starts_from] = str(request.getfixturevalue(kind.starts_from))
        parameters = kind.parameters_class(**values | {"freeze": "vision_below_fusion"})
        caught = []

        def catch(trainer, *_):
            caught.append(trainer)
            raise StopIteration

        monkeypatch.setattr(finetuning, "train_to_end", catch)
        with pytest.raises(StopIteration):
            finetuning.train_worker(
                {
                    "task": task,
                    "inputs": inputs,
                    "visual_store": str(request.getfixturevalue(store)),
                    "checkpoints": str(tmp_path / "checkpoints_0"),
                    "model_folder": str(tmp_path / "model"),
                    "model": model_parameters | model,
                    "parameters": parameters.with_preset(preset).model_dump(),
                    "preset": preset,
                    "seed": 0,
                }
            )
        return caught[0]

    return make


def step_of(trainer, images):
    """Inputs, loss and gradients of a step on 12 items, half of them with images."""
    model = trainer.model.train()
    model.zero_grad()
    batch = replace(trainer.data_collator, images=images)(np.arange(12))
    torch.manual_seed(0)
    loss = model(**batch).loss
    loss.backward()
    return set(batch), loss, {name: each.grad for name, each in model.named_parameters()}


@pytest.mark.parametrize(
    ("task", "store", "preset"),
    [
        ("link_prediction", "store_folder", "corrected"),
        ("relation_extraction", "posts_store", "corrected"),
        # Missing images are zeros that take part; crops lie behind one class token.
        ("entity_recognition", "crops_store", "faithful"),
    ],
)
def test_a_step_by_states_is_that_by_pixels(request, prepare, task, store, preset):
    trainer = prepare(task, store, preset)
    for layer in trainer.model.base_model.fusion_layers:
        layer.fusion_dense.weight.data.normal_(std=0.1)  # where it starts at zero nothing is seen
    store = VisualStore(request.getfixturevalue(store))
    by_pixels, loss, gradients = step_of(trainer, store)
    by_states, same_loss, same_gradients = step_of(trainer, trainer.data_collator.images)
    pixels = {name for name in by_pixels if name.endswith("pixel_values")}
    assert by_states == by_pixels - pixels | {"visual_states"}
    torch.testing.assert_close(same_loss, loss)
    for name, gradient in gradients.items():
        if any(part in name for part in BELOW):
            assert gradient is None
            assert same_gradients[name] is None
        else:
            largest = gradient.abs().max().item()
            torch.testing.assert_close(
                same_gradients[name], gradient, rtol=1e-4, atol=1e-6 + 1e-5 * largest
            )
            assert largest > 0 or "vision" not in name


def encoded_by(trainer):
    """Counts the owners whose images are encoded from here on."""
    model, owners = trainer.model.base_model, []
    encode = model.encode_images

    def count(**inputs):
        owners.append(len(inputs["image_mask"]))
        return encode(**inputs)

    model.encode_images = count
    return owners


def test_states_are_made_once_of_the_same_images_and_weights(
    prepare, posts_store, tmp_path, monkeypatch
):
    monkeypatch.setattr(frozen, "_BLOCK", 4)
    trainer = prepare()
    encoded = encoded_by(trainer)
    owners, folder = trainer.items.owners, tmp_path / "visual_states"

    own = VisualStore(posts_store)

    def states(images=own, trainer=trainer):
        encoded.clear()
        return frozen_images(trainer, images, owners, folder).read([4, 0, 16])["visual_states"]

    # Those of the first row tell the shape.
    first = states()
    assert encoded == [1]
    (made,) = folder.iterdir()
    assert sorted(path.name for path in made.iterdir()) == ["0.states", "1.states", "2.states"]
    whole = trainer.model.base_model.encode_images(
        **{k: torch.from_numpy(v) for k, v in own.read([4, 0, 16]).items()}
    )
    torch.testing.assert_close(first, whole)

    # What an interrupted run lacks, or left damaged, is made.
    (made / "1.states").unlink()
    (made / "2.states").write_bytes((made / "2.states").read_bytes()[:-1])
    assert torch.equal(states(), first)
    assert encoded == [4, 4, 1]

    shuffled = states(VisualStore(posts_store, source="shuffled"))
    assert not torch.equal(shuffled, first)
    assert not made.exists()
    weight = trainer.model.base_model.vision_model.embeddings.patch_embedding.weight
    weight.data.mul_(2)
    assert not torch.equal(states(), first)
    assert encoded == [4, 4, 4, 1]

    # Each of two processes makes every other file.
    parts = []
    for rank in (1, 0):
        one = SimpleNamespace(
            model=trainer.model,
            args=SimpleNamespace(process_index=rank, world_size=2, bf16=True, fp16=False),
            accelerator=trainer.accelerator,
            is_world_process_zero=lambda rank=rank: rank == 0,
            compute_loss_context_manager=trainer.compute_loss_context_manager,
        )
        if rank == 0:
            both = states(trainer=one)
        else:
            encoded.clear()
            frozen_images(one, own, owners, folder)
        parts.append(list(encoded))
    assert parts == [[4, 1], [4, 4, 1]]
    assert both.dtype == torch.bfloat16


def test_where_nothing_can_be_frozen_that_is_said(prepare, model_parameters):
    none = {"source": "none", "seed": 0}
    with pytest.raises(DataError, match=r"finetuning.freeze: nobody has images .* none"):
        prepare(images=none)
    with pytest.raises(DataError, match="all 2 visual layers are fused"):
        prepare(config={"num_fusion_layers": 2})
    vision = model_parameters["vision_config"] | {"attention_dropout": 0.1}
    with pytest.raises(DataError, match=r"Set model.vision_config.attention_dropout"):
        prepare(vision_config=vision)
