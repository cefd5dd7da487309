"""One run per data set and stage at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from kedro.pipeline import Node, Pipeline

from mkgformer_kedro.errors import DataError
from mkgformer_kedro.hooks.locks import LockHooks

PIPELINE = Pipeline(
    [
        Node(abs, "a", "b", name="one", namespace="task.ingestion"),
        Node(abs, "b", "c", name="two", namespace="task.finetuning"),
    ],
)


def hooks(folder: Path, dataset: str = "mine", wait: float = 0) -> LockHooks:
    made = LockHooks()
    known = {"globals": {"dataset": dataset, "wait_for_lock": wait}}
    made.after_context_created(SimpleNamespace(project_path=folder, config_loader=known))
    return made


def locks(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "data" / ".locks").iterdir())


def test_a_second_run_is_refused_with_the_owner_of_the_lock(tmp_path: Path) -> None:
    first, second = hooks(tmp_path), hooks(tmp_path)
    first.before_pipeline_run(PIPELINE)
    assert locks(tmp_path) == ["mine.task.finetuning.lock", "mine.task.ingestion.lock"]
    with pytest.raises(DataError) as raised:
        second.before_pipeline_run(PIPELINE.only_nodes("task.ingestion.one"))
    assert "another run works on task.ingestion of mine" in str(raised.value)
    assert f"process {os.getpid()} on" in str(raised.value)
    first.after_pipeline_run()
    assert locks(tmp_path) == []
    second.before_pipeline_run(PIPELINE)
    second.on_pipeline_error()
    assert locks(tmp_path) == []


def test_a_refused_run_holds_nothing(tmp_path: Path) -> None:
    first, second = hooks(tmp_path), hooks(tmp_path)
    first.before_pipeline_run(PIPELINE.only_nodes("task.ingestion.one"))
    with pytest.raises(DataError, match=r"task\.ingestion"):
        second.before_pipeline_run(PIPELINE)
    assert locks(tmp_path) == ["mine.task.ingestion.lock"]
    first.after_pipeline_run()


def test_a_run_that_another_hook_refused_is_not_in_the_way_of_the_next(tmp_path: Path) -> None:
    """Kedro calls no hook of a run that was refused before it began."""
    same_process = hooks(tmp_path)
    same_process.before_pipeline_run(PIPELINE)
    same_process.before_pipeline_run(PIPELINE.only_nodes("task.ingestion.one"))
    assert locks(tmp_path) == ["mine.task.ingestion.lock"]
    same_process.after_pipeline_run()


def test_other_data_sets_and_stages_are_free(tmp_path: Path) -> None:
    runs = [hooks(tmp_path), hooks(tmp_path, "other"), hooks(tmp_path)]
    runs[0].before_pipeline_run(PIPELINE.only_nodes("task.ingestion.one"))
    runs[1].before_pipeline_run(PIPELINE)
    runs[2].before_pipeline_run(PIPELINE.only_nodes("task.finetuning.two"))
    assert len(locks(tmp_path)) == 4
    for run in runs:
        run.after_pipeline_run()


def test_who_waits_goes_on_when_the_other_is_done(tmp_path: Path) -> None:
    first, second = hooks(tmp_path), hooks(tmp_path, wait=60)
    first.before_pipeline_run(PIPELINE)
    waiting = threading.Thread(target=second.before_pipeline_run, args=(PIPELINE,))
    waiting.start()
    first.after_pipeline_run()
    waiting.join(30)
    assert not waiting.is_alive()
    second.after_pipeline_run()
    assert locks(tmp_path) == []


@pytest.mark.parametrize("content", ["", "77\n"])
def test_a_lock_that_names_nobody_is_taken_over_when_it_is_old(tmp_path: Path, content) -> None:
    path = tmp_path / "data" / ".locks" / "mine.task.ingestion.lock"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    run = hooks(tmp_path)
    with pytest.raises(DataError, match="it has just begun or ended"):
        run.before_pipeline_run(PIPELINE)
    os.utime(path, (0, 0))
    run.before_pipeline_run(PIPELINE)
    assert str(os.getpid()) in path.read_text()
    run.after_pipeline_run()
    assert locks(tmp_path) == []


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; "
        "from filelock import SoftFileLock; "
        "lock = SoftFileLock(sys.argv[1]); lock.acquire(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = tmp_path / "data" / ".locks" / "mine.task.ingestion.lock"
    path.parent.mkdir(parents=True)
    killed = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.exists()
    run = hooks(tmp_path)
    run.before_pipeline_run(PIPELINE)
    run.after_pipeline_run()
    assert locks(tmp_path) == []
