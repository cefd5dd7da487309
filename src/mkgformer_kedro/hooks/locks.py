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
from mkgformer_kedro.files import relative, storage_explained
from mkgformer_kedro.progress import seconds_in_words

logger = logging.getLogger(__name__)

_OWNER = 2  # words that name an owner: process and host
_BEGUN = 60  # seconds in which a run that has begun a lock has written its name into it


class LockHooks:
    """Holds a lock per data set and stage while a run lasts.

    A lock is a file in ``data/.locks`` that names process and host, so that it works on shared
    storage too. One that a killed run left behind is taken over, unless that run was on another
    host; one that names nobody, after a minute.
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
            DataError: Another run holds one of them for longer than ``wait_for_lock``, or there
                can be no locks.
        """
        # What another hook refused, in this process, has come by none of the hooks below.
        self._held.close()
        for stage in sorted({node.namespace or node.name for node in pipeline.nodes}):
            path = self._folder / f"{self._dataset}.{stage}.lock"
            try:
                self._take(path, stage)
            except Timeout:
                self._held.close()
                what = f"another run works on {stage} of {self._dataset} ({_owner(path)})"
                remedy = (
                    "Wait until it is done, or set `wait_for_lock` in globals.yml to so many "
                    "seconds. If that run was killed on another host, delete this file."
                )
                raise DataError(Problem(str(path), None, what, remedy)) from None
            except BaseException:
                self._held.close()
                raise

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Let the next run begin."""
        self._held.close()

    @hook_impl
    def on_pipeline_error(self) -> None:
        """Let the next run begin."""
        self._held.close()

    def _take(self, path: Path, stage: str) -> None:
        with storage_explained(self._folder, "nothing was run"):
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError):
                what = "this is a file, and locks need a folder of this name"
                problem = Problem(str(relative(self._folder)), None, what, "Delete it.")
                raise DataError(problem) from None
            if _is_left_over(path):
                logger.info("%s names no run and is old: it was left over", path.name)
                path.unlink(missing_ok=True)
            lock = SoftFileLock(path)
            try:
                self._held.enter_context(lock.acquire(timeout=0))
            except Timeout:
                if self._patience:
                    logger.info("Waiting for another run of %s (%s)", stage, _owner(path))
                self._held.enter_context(lock.acquire(timeout=self._patience, poll_interval=0.2))


def _age(path: Path) -> float:
    return max(0.0, time.time() - path.stat().st_mtime)


def _is_left_over(path: Path) -> bool:
    """Whether a lock names no owner, since a run was killed while it wrote it."""
    try:
        return len(path.read_text(encoding="utf-8").split()) < _OWNER and _age(path) > _BEGUN
    except (OSError, ValueError):
        return False


def _owner(path: Path) -> str:
    try:
        process, host, *_ = path.read_text(encoding="utf-8").split()
        age = seconds_in_words(_age(path))
    except (OSError, ValueError):
        return "it has just begun or ended"
    return f"process {process} on {host}, for {age}"
