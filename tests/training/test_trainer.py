"""A checkpoint is complete with all of its files."""

import json

import pytest
import torch

from mkgformer_kedro.errors import DataError
from mkgformer_kedro.training import trainer
from mkgformer_kedro.training.tasks.link_prediction import LinkPredictionParameters


def usable(folder):
    trainer._discard_unusable(folder, "job")
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def test_the_newest_is_kept_and_the_one_before(checkpoints):
    assert usable(checkpoints.folder) == ["checkpoint-2", "checkpoint-3"]
    digests = json.loads((checkpoints.folder / "checkpoint-3/complete").read_text())
    assert {"optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json"} <= digests.keys()


def test_what_is_named_like_a_checkpoint_is_none(checkpoints):
    (checkpoints.folder / "checkpoint-x").mkdir()
    (checkpoints.folder / "checkpoint-9").touch()
    assert usable(checkpoints.folder) == [
        "checkpoint-2",
        "checkpoint-3",
        "checkpoint-9",
        "checkpoint-x",
    ]
    assert trainer._newest_checkpoint(checkpoints.folder).name == "checkpoint-3"
    checkpoints.trainer.state.global_step = 4
    checkpoints.trainer._save_checkpoint(checkpoints.trainer.model, None)
    assert trainer._newest_checkpoint(checkpoints.folder).name == "checkpoint-4"


def test_weights_that_are_no_numbers_are_never_saved(checkpoints):
    checkpoints.trainer.state.global_step = 4
    checkpoints.trainer.model.weight.data.fill_(float("nan"))
    with pytest.raises(DataError, match="weight weight is nan at step 4"):
        checkpoints.trainer._save_checkpoint(checkpoints.trainer.model, None)
    assert usable(checkpoints.folder) == ["checkpoint-2", "checkpoint-3"]


def test_there_are_no_more_steps_than_asked_for(tmp_path, finetuning_values):
    values = finetuning_values | {"epochs": 7, "min_steps": 29}  # 29 / 7 * 7 > 29
    parameters = LinkPredictionParameters.model_validate(values)
    arguments = trainer.training_arguments(
        tmp_path, parameters, batches_per_epoch=1, seed=0, metric="eval_score"
    )
    assert arguments.max_steps == 29


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("bf16", [True, False])
def test_bf16_on_a_processor_takes_plain_products_for_attention(device, bf16):
    with trainer.attention_of(device, bf16):
        assert torch.backends.cuda.flash_sdp_enabled() == (device == "cuda" or not bf16)
    assert torch.backends.cuda.flash_sdp_enabled()


def test_the_loss_of_a_step_is_computed_so(checkpoints):
    checkpoints.trainer.args.bf16 = True
    with checkpoints.trainer.compute_loss_context_manager():
        assert not torch.backends.cuda.flash_sdp_enabled()
