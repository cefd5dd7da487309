"""What a run says, and how it ends, when it is told to stop."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import logging, signal, sys, time
logging.disable()  # Kedro says where it is configured
from pathlib import Path
from types import SimpleNamespace
from kedro.pipeline import Node, Pipeline
from mkgformer_kedro.files import written_atomically
from mkgformer_kedro.hooks.interruption import InterruptionHooks
from mkgformer_kedro.hooks.locks import LockHooks

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
InterruptionHooks().after_context_created()
known = {"globals": {"dataset": "mine", "wait_for_lock": 0}}
LOCKS = LockHooks()
LOCKS.after_context_created(SimpleNamespace(project_path=sys.argv[2], config_loader=known))
LOCKS.before_pipeline_run(Pipeline([Node(abs, "a", "b", namespace="task.ingestion")]))
with written_atomically(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_leaves_nothing_half_written_and_no_lock(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    (tmp_path / "written").mkdir()
    command = [sys.executable, "-c", RUN, str(tmp_path / "written/file"), str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "writing\n"
        assert list((tmp_path / "data/.locks").iterdir())
        run.send_signal(number)
        _, said = run.communicate(timeout=60)
    assert run.returncode == code
    assert said.strip() == f"Stopped by {number.name}. The same command goes on from here."
    assert list((tmp_path / "written").iterdir()) == []
    assert list((tmp_path / "data/.locks").iterdir()) == []


# What was raised to unwind a run does not come out of some native code, such as matplotlib's.
SWALLOWED = """
import logging, signal, sys, time
logging.disable()
from kedro.framework.hooks.manager import _create_hook_manager
from kedro.io import DataCatalog
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner
from mkgformer_kedro.hooks.interruption import InterruptionHooks

signal.signal(signal.SIGINT, signal.default_int_handler)
hooks = _create_hook_manager()
hooks.register(InterruptionHooks())
hooks.hook.after_context_created(context=None)

def draw():
    print("drawing", flush=True)
    try:
        time.sleep(60)
    except SystemExit:
        if sys.argv[1] == "another error":
            raise ValueError("Invalid bounding box") from None
    return "half"

pipeline = Pipeline([Node(draw, None, "page"), Node(print, "page", "printed")])
try:
    SequentialRunner().run(pipeline, DataCatalog(), hook_manager=hooks)
except Exception as error:  # as a session of Kedro does
    hooks.hook.on_pipeline_error(error=error, run_params={}, pipeline=pipeline, catalog=None)
    raise
"""


@pytest.mark.parametrize("comes_out", ["nothing", "another error"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_ends_where_the_stop_is_swallowed(
    comes_out: str, number: signal.Signals, code: int
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SWALLOWED, comes_out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "drawing\n"
        run.send_signal(number)
        out, said = run.communicate(timeout=60)
    assert run.returncode == code
    assert said.strip() == f"Stopped by {number.name}. The same command goes on from here."
    assert out == ""
