"""What a run says, and how it ends, when it is told to stop."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

RUN = """
import signal, sys, time
from pathlib import Path
from mkgformer_kedro.files import written_atomically
from mkgformer_kedro.hooks.interruption import InterruptionHooks

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
InterruptionHooks().after_context_created()
with written_atomically(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_leaves_nothing_half_written(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = [sys.executable, "-c", RUN, str(tmp_path / "file")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "writing\n"
        run.send_signal(number)
        _, said = run.communicate(timeout=60)
    assert run.returncode == code
    assert said.strip() == f"Stopped by {number.name}. The same command goes on from here."
    assert list(tmp_path.iterdir()) == []
