"""A checkpoint is complete with all of its files."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch

from mkgformer_kedro.errors import DataError
from mkgformer_kedro.files import sha256_of
from mkgformer_kedro.training import trainer
from mkgformer_kedro.training.tasks.link_prediction import LinkPredictionParameters


@pytest.fixture
def training(tmp_path, finetuning_values):
    """A Trainer of two weights that has made checkpoints at the steps 1, 2 and 3."""
    parameters = LinkPredictionParameters.model_validate(finetuning_values)
    arguments = trainer.training_arguments(
        tmp_path, parameters, batches_per_epoch=1, seed=0, metric="eval_score"
    )
    made = trainer.StageTrainer(
        model=torch.nn.Linear(2, 2),
        args=arguments,
        batch_sampler=[],
        eval_dataset=[0],
        learning_rates={"default": 0.1},
        weight_decay={"default": 0.0},
    )
    made.create_optimizer_and_scheduler(3)
    for made.state.global_step in (1, 2, 3):
        made._save_checkpoint(made.model, None)
    (tmp_path / "job.json").write_text(json.dumps({"fingerprint": "job"}))
    return SimpleNamespace(trainer=made, folder=tmp_path)


def changed(content):
    """The same number of bytes, one of them another."""
    return content[:-1] + bytes([content[-1] ^ 1])


def usable(folder):
    trainer._discard_unusable(folder, "job")
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def test_the_newest_is_kept_and_the_one_before(training):
    assert usable(training.folder) == ["checkpoint-2", "checkpoint-3"]
    digests = json.loads((training.folder / "checkpoint-3/complete").read_text())
    assert {"optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json"} <= digests.keys()


@pytest.mark.parametrize(
    "name", ["optimizer.pt", "rng_state.pth", "trainer_state.json", "complete"]
)
@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_without_one_of_its_files_the_one_before_is_taken(training, caplog, name, damage):
    file = training.folder / "checkpoint-3" / name
    if damage == "missing":
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes(content[:5] if damage == "truncated" else changed(content))
    with caplog.at_level(logging.INFO):
        assert usable(training.folder) == ["checkpoint-2"]
    assert len(caplog.messages) == 1
    assert "checkpoint-3 is not complete (" in caplog.messages[0]
    assert trainer._newest_checkpoint(training.folder).name == "checkpoint-2"


def test_without_the_best_until_then_it_is_not_complete(training):
    state = training.folder / "checkpoint-3/trainer_state.json"
    text = state.read_text().replace(
        '"best_model_checkpoint": null', '"best_model_checkpoint": "elsewhere/checkpoint-1"'
    )
    state.write_text(text)
    mark = training.folder / "checkpoint-3/complete"
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {state.name: sha256_of(state)}))
    assert usable(training.folder) == ["checkpoint-2"]


@pytest.mark.parametrize("mark", ["{}", "[]", '{"trainer_state.json": ""}'])
def test_a_mark_that_names_too_little_is_none(training, mark):
    (training.folder / "checkpoint-3/complete").write_text(mark)
    assert usable(training.folder) == ["checkpoint-2"]


def test_what_is_named_like_a_checkpoint_is_none(training):
    (training.folder / "checkpoint-x").mkdir()
    (training.folder / "checkpoint-9").touch()
    assert usable(training.folder) == [
        "checkpoint-2",
        "checkpoint-3",
        "checkpoint-9",
        "checkpoint-x",
    ]
    assert trainer._newest_checkpoint(training.folder).name == "checkpoint-3"
    training.trainer.state.global_step = 4
    training.trainer._save_checkpoint(training.trainer.model, None)
    assert trainer._newest_checkpoint(training.folder).name == "checkpoint-4"


def test_weights_that_are_no_numbers_are_never_saved(training):
    training.trainer.state.global_step = 4
    training.trainer.model.weight.data.fill_(float("nan"))
    with pytest.raises(DataError, match="weight weight is nan at step 4"):
        training.trainer._save_checkpoint(training.trainer.model, None)
    assert usable(training.folder) == ["checkpoint-2", "checkpoint-3"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("bf16", [True, False])
def test_bf16_on_a_processor_takes_plain_products_for_attention(device, bf16):
    with trainer.attention_of(device, bf16):
        assert torch.backends.cuda.flash_sdp_enabled() == (device == "cuda" or not bf16)
    assert torch.backends.cuda.flash_sdp_enabled()


def test_the_loss_of_a_step_is_computed_so(training):
    training.trainer.args.bf16 = True
    with training.trainer.compute_loss_context_manager():
        assert not torch.backends.cuda.flash_sdp_enabled()
