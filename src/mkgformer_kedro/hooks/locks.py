"""Two runs never work on the same stage of a data set at once."""

from __future__ import annotations

import atexit
import logging
import time
from contextlib import ExitStack
from pathlib import Path

from filelock import SoftFileLock, Timeout
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.pipeline import Pipeline

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.progress import seconds_in_words

logger = logging.getLogger(__name__)


class LockHooks:
    """Holds a lock per data set and stage while a run lasts.

    A lock is a file in ``data/.locks`` that names process and host, so that it works on shared
    storage too. One that a killed run left behind is taken over, unless that run was on another
    host.
    """

    def __init__(self) -> None:
        self._held = ExitStack()
        atexit.register(self._held.close)  # a run that is told to stop comes by none of the hooks
        self._folder = Path()
        self._dataset = ""
        self._patience: float = 0

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Know the data set, and how long to wait for another run."""
        known = context.config_loader["globals"]
        self._folder = Path(context.project_path) / "data" / ".locks"
        self._dataset = str(known["dataset"])
        self._patience = known["wait_for_lock"]

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, pipeline: Pipeline) -> None:
        """Take the locks of all stages of the run, in an order that is the same for everybody.

        Raises:
            DataError: Another run holds one of them for longer than ``wait_for_lock``.
        """
        for stage in sorted({node.namespace or node.name for node in pipeline.nodes}):
            self._take(self._folder / f"{self._dataset}.{stage}.lock", stage)

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Let the next run begin."""
        self._held.close()

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Let the next run begin."""
        self._held.close()

    def _take(self, path: Path, stage: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = SoftFileLock(path)
        try:
            try:
                self._held.enter_context(lock.acquire(timeout=0))
            except Timeout:
                if self._patience:
                    logger.info("Waiting for another run of %s (%s)", stage, _owner(path))
                self._held.enter_context(lock.acquire(timeout=self._patience, poll_interval=0.2))
        except Timeout:
            self._held.close()
            what = f"another run works on {stage} of {self._dataset} ({_owner(path)})"
            remedy = (
                "Wait until it is done, or set `wait_for_lock` in globals.yml to so many seconds. "
                "If that run was killed on another host, delete this file."
            )
            raise DataError(Problem(str(path), None, what, remedy)) from None


def _owner(path: Path) -> str:
    try:
        process, host, *_ = path.read_text(encoding="utf-8").split()
        age = seconds_in_words(max(0.0, time.time() - path.stat().st_mtime))
    except (OSError, ValueError):
        return "it has just begun or ended"
    return f"process {process} on {host}, for {age}"
