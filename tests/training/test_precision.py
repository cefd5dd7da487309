"""In which precision products are computed, where a device has it."""

import logging

import pytest
import torch

from mkgformer_kedro.training import precision
from mkgformer_kedro.training.precision import computing_in, has_bf16, precision_on
from mkgformer_kedro.training.tasks.link_prediction import LinkPredictionParameters
from mkgformer_kedro.training.trainer import training_arguments


@pytest.fixture(autouse=True)
def _forgotten():
    """What was found out of devices is found out anew."""
    for each in (has_bf16, precision_on):
        each.cache_clear()
    yield
    for each in (has_bf16, precision_on):
        each.cache_clear()


@pytest.fixture
def lacking(monkeypatch):
    monkeypatch.setattr(precision, "has_bf16", lambda device: False)


def test_a_processor_is_asked_what_torch_asks(monkeypatch):
    """AVX-512 without products in bf16 will not do; other architectures know nothing of it."""
    asked = [
        (torch.ops.mkldnn, "_is_mkldnn_bf16_supported"),
        (torch.cpu, "_is_avx512_bf16_supported"),
        (torch.cpu, "_is_amx_tile_supported"),
        (torch.backends.mkldnn, "is_available"),
    ]
    for machine, answers, has in (
        ("x86_64", (True, True, False, True), True),
        ("AMD64", (True, False, True, True), True),
        ("x86_64", (True, False, False, True), False),
        ("x86_64", (False, False, False, True), False),
        ("aarch64", (True, False, False, True), True),
        ("aarch64", (False, False, False, True), False),
        ("arm64", (True, False, False, False), False),
    ):
        monkeypatch.setattr(precision.platform, "machine", lambda machine=machine: machine)
        for (where, name), answer in zip(asked, answers, strict=True):
            monkeypatch.setattr(where, name, lambda answer=answer: answer)
        has_bf16.cache_clear()
        assert has_bf16("cpu") is has, (machine, answers)


@pytest.mark.parametrize("has", [True, False])
def test_a_gpu_that_would_emulate_it_has_it_not(monkeypatch, has):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **how: asked.append(how) or has)
    assert has_bf16("cuda") is has
    assert asked == [{"including_emulation": False}]
    assert has_bf16("xpu")


def test_without_it_products_are_in_fp32_which_is_said_once(lacking, caplog):
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with computing_in("bf16", "cpu"):
                assert not torch.is_autocast_enabled("cpu")
    (said,) = caplog.messages
    assert said.startswith("This processor does not compute in bf16")
    assert precision_on("cuda", "bf16") == "fp32"
    assert "This GPU does not" in caplog.messages[1]
    for other in ("fp32", "fp16"):
        assert precision_on("cpu", other) == other
    assert len(caplog.messages) == 2


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_with_it_they_are_in_bf16(monkeypatch, caplog, device):
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    assert precision_on(device, "bf16") == "bf16"
    assert caplog.messages == []


def test_training_falls_back_likewise(lacking, tmp_path, finetuning_values):
    arguments = training_arguments(
        tmp_path,
        LinkPredictionParameters.model_validate(finetuning_values),
        batches_per_epoch=1,
        seed=0,
        metric="eval_score",
        precision="bf16",
    )
    assert not arguments.bf16
    assert not arguments.fp16
