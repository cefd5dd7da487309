"""Stage runs in processes of their own, each as soon as what it needs is there."""

from __future__ import annotations

import heapq
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from graphlib import TopologicalSorter
from pathlib import Path

from mkgformer_kedro.datasets.lineage import place_of
from mkgformer_kedro.pipelines.study.stages import StageRun, Workplace
from mkgformer_kedro.progress import seconds_in_words

logger = logging.getLogger(__name__)

_LOOKS_EVERY = 5.0  # seconds

Run = Callable[[StageRun], str | None]
"""Runs a stage; says why it failed, or None."""


def missing_runs(
    targets: Iterable[StageRun], is_done: Callable[[StageRun], bool]
) -> list[StageRun]:
    """The runs that the targets still need, those that come first first.

    Of what a finished run was made of nothing is needed.

    Args:
        targets: What is wanted in the end.
        is_done: Whether the result of a run is there.
    """
    missing: dict[str, StageRun] = {}
    done: dict[str, bool] = {}

    def look_at(run: StageRun) -> None:
        if run.key not in done:
            done[run.key] = is_done(run)
            if not done[run.key]:
                for source in run.sources.values():
                    look_at(source)
                missing[run.key] = run

    for target in targets:
        look_at(target)
    return list(missing.values())


def run_all(runs: Iterable[StageRun], run: Run, processes: int) -> dict[str, str]:
    """Run stages, as many at a time as may be, the first of those that can begin first.

    Args:
        runs: The runs; what they need and is not among them is there.
        run: Runs one. It is called in threads.
        processes: How many run at a time.

    Returns:
        Why runs failed, by their key. What needs a failed run is not run, and fails for its reason.
    """
    ordered = {each.key: each for each in runs}
    place = {key: number for number, key in enumerate(ordered)}
    sorter = TopologicalSorter(
        {
            key: {source.key for source in each.sources.values()} & ordered.keys()
            for key, each in ordered.items()
        }
    )
    sorter.prepare()
    failed: dict[str, str] = {}
    ready: list[tuple[int, str]] = []
    running: dict[Future[str | None], str] = {}
    pool = ThreadPoolExecutor(processes)
    try:
        while True:
            for key in sorter.get_ready():
                heapq.heappush(ready, (place[key], key))
            while ready and len(running) < processes:
                _, key = heapq.heappop(ready)
                running[pool.submit(run, ordered[key])] = key
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                key = running.pop(future)
                reason = future.result()
                if reason is None:
                    sorter.done(key)
                else:
                    failed[key] = reason
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    for key, each in ordered.items():
        reasons = [failed[source.key] for source in each.sources.values() if source.key in failed]
        if reasons and key not in failed:
            failed[key] = reasons[0]
    return failed


class Processes:
    """Runs stages in processes that end with this one.

    Args:
        workplace: Where the study runs.
        folder: Folder for what the processes say.
        runs: The stages that there are to run.
        at_a_time: How many run at a time: they share the cores, unless OMP_NUM_THREADS says more.
        keep_models: Whether models stay when the last of the cells that ask them is done.
        stop: Is asked now and then whether a stage under way is to be stopped.
    """

    def __init__(
        self,
        workplace: Workplace,
        folder: Path,
        runs: Sequence[StageRun],
        *,
        at_a_time: int = 1,
        keep_models: bool = True,
        stop: Callable[[StageRun], bool] | None = None,
    ) -> None:
        self.workplace = workplace
        self.folder = folder
        self.total = len(runs)
        self.keep_models = keep_models
        self.stop = stop
        self._threads = max(1, (os.cpu_count() or 1) // at_a_time)
        self._begun = 0
        self._to_ask = Counter(_models_of(run).key for run in runs if run.stage == "cell")
        self._asked = threading.Lock()
        self._alive: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Processes:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        alive = list(self._alive)
        for process in alive:
            process.terminate()
        for process in alive:
            process.wait()

    def __call__(self, run: StageRun) -> str | None:
        """Run a stage; says why it failed, or None."""
        self._begun += 1
        what = f"stage {self._begun} of {self.total}, {run.task}.{run.stage} ({run.name})"
        log, reason = (self.folder / f"{run.name}.{kind}" for kind in ("log", "reason"))
        reason.unlink(missing_ok=True)
        job = {
            "environment": self.workplace.environment,
            "runtime": self.workplace.runtime(run),
            "namespace": f"{run.task}.{run.stage}",
            "links": self._links(run),
            "launch": run.parameters["launch"],
            "reason": str(reason),
        }
        logger.info("Begins: %s", what)
        started = time.monotonic()
        with log.open("w", encoding="utf-8") as said:
            process = subprocess.Popen(
                [sys.executable, "-m", "mkgformer_kedro.pipelines.study.child"],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=subprocess.STDOUT,
                text=True,
                env={"OMP_NUM_THREADS": str(self._threads), **os.environ},
            )
            self._alive.append(process)
            if process.stdin is not None:
                # It stays open: its end tells the process that this one is gone.
                with suppress(BrokenPipeError):
                    process.stdin.write(json.dumps(job) + "\n")
                    process.stdin.flush()
            code = self._wait(process, run)
            self._alive.remove(process)
        if code is None:
            logger.info("Stopped: %s", what)
            return "it was stopped"
        if code == 0:
            logger.info("Done in %s: %s", seconds_in_words(time.monotonic() - started), what)
            if run.stage == "cell" and not self.keep_models:
                self._forget_models_of(run)
            return None
        why = _said(reason, code)
        logger.warning("Failed: %s: %s (%s)", what, why, log)
        return why

    def _wait(self, process: subprocess.Popen[str], run: StageRun) -> int | None:
        """Code with which the process ended; None where it was told to stop."""
        while True:
            try:
                return process.wait(None if self.stop is None else _LOOKS_EVERY)
            except subprocess.TimeoutExpired:
                if self.stop is not None and self.stop(run):
                    process.terminate()
                    process.wait()
                    return None

    def _forget_models_of(self, cell: StageRun) -> None:
        models = _models_of(cell)
        with self._asked:
            self._to_ask[models.key] -= 1
            if not self._to_ask[models.key]:
                shutil.rmtree(self._place(models, f"{cell.task}.models"))

    def _links(self, run: StageRun) -> Mapping[str, str]:
        """Where the stage's inputs are to be, and where they lie."""
        return {
            str(self._place(run, name)): str(self._place(source, name))
            for name, source in run.sources.items()
        }

    def _place(self, run: StageRun, name: str) -> Path:
        place = place_of(self.workplace.catalog_of(run), name)
        if place is None:
            raise ValueError(f"{name} lies nowhere")
        return place.absolute()


def _models_of(cell: StageRun) -> StageRun:
    return cell.sources[f"{cell.task}.models"]


def _said(reason: Path, code: int) -> str:
    if reason.exists():
        return reason.read_text(encoding="utf-8")
    if code < 0:
        return f"its process was killed by {signal.Signals(-code).name}"
    return f"its process ended with code {code}"
