"""Candidates take the same steps on the same batches; how long they take is not tested."""

from contextlib import contextmanager

import candidates
import numpy as np
import pytest
import torch
from torch import nn

BATCHES = [np.array([0, 2]), np.array([1]), np.array([3, 4])]
CHANNELS_LAST = torch.channels_last


class Embedding(nn.Conv2d):
    """Notes how the images lie that it is given."""

    def __init__(self):
        super().__init__(3, 1, 2)
        self.last = []

    def forward(self, images):
        self.last.append(images.is_contiguous(memory_format=CHANNELS_LAST))
        return super().forward(images)


class Step:
    """A step that notes its batches instead of learning from them."""

    def __init__(self):
        self.model = Embedding()
        self.seen = []

    def collator(self, rows):
        return {"rows": torch.as_tensor(rows)}

    def __call__(self, rows):
        self.learn(self.collator(rows))

    @contextmanager
    def frozen(self, rows, folder):
        assert rows.tolist() == [0, 2, 1, 3, 4]
        yield

    def learn(self, batch):
        self.seen.append(batch["rows"].tolist())
        self.model(torch.zeros(1, 3, 4, 4))


def test_all_train_on_the_same_batches(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "compile", nn.Sequential)
    step = Step()
    plain = step.model
    jobs = candidates.candidates(step, BATCHES, 1, tmp_path)
    laid = {}
    for name, job in jobs.items():
        step.seen, plain.last = [], []
        job()
        assert step.seen == [[0, 2], [1], [3, 4]], name
        assert step.model is plain
        laid[name] = plain.last
    channels_last = laid.pop("channels-last image embedding")
    assert channels_last == [True] * 3
    assert list(laid.values()) == [[False] * 3] * 4


def test_start_up_is_what_the_first_time_takes_longer():
    clock = iter([0.0, 7.0, 10.0, 12.0])
    assert candidates.start_up(lambda: None, lambda: next(clock)) == 5.0


def test_the_table(monkeypatch, capsys):
    row = {"range": [0.4, 0.6], "share": 0.5}
    found = [
        {"name": "as it stands", "seconds": 2.0, "x": 1.0, "start_up": 0.0, **row},
        {"name": "quicker", "seconds": 1.0, "x": 0.5, "start_up": 30.0, **row},
        {"name": "slower", "seconds": 3.0, "x": 1.5, "start_up": 1.0, **row},
    ]
    monkeypatch.setattr(candidates, "world_of", lambda options, work: None)
    monkeypatch.setattr(candidates, "rows_of", lambda *args, **kwargs: found)
    candidates.main(["--made-up"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == "| quicker | 1.000 | 0.50 | 0.40 - 0.60 | 50% | 30.0 | 30 |"
    assert lines[2].endswith("| - |")
    assert lines[4].endswith("| - |")


def test_the_plain_model_is_set_back_when_a_step_fails():
    step = Step()
    plain = step.model
    with pytest.raises(TypeError):
        candidates.compiled(step, BATCHES, model=None)
    assert step.model is plain
