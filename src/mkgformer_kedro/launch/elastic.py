"""Training in several processes of this machine, by torch's elastic launcher."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.launch import Job, Local, Stage


class Elastic(Local):
    """As :class:`Local`, but what learns together may be several processes, one per GPU."""

    def group(self, stage: Stage, worker: Callable[[Job], Any], job: Job, *, processes: int) -> Any:
        """See :class:`mkgformer_kedro.launch.Engine`; one process runs in place."""
        if processes == 1:
            return worker(job)
        import torch
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            run_id="mkgformer",
            max_restarts=0,
        )
        shared = 1 if torch.cuda.is_available() else processes
        with tempfile.TemporaryDirectory() as folder, _cores_shared_by(shared):
            try:
                return elastic_launch(config, _work)(worker, job, Path(folder))[0]
            except ChildFailedError:
                said = next(Path(folder).glob("*.json"), None)
                if said is None:
                    raise
                problems = json.loads(said.read_text())
        raise DataError([Problem(**each) for each in problems])


@contextmanager
def _cores_shared_by(processes: int) -> Iterator[None]:
    """Begin processes with so few threads that all have a core, unless they are told otherwise."""
    name = "OMP_NUM_THREADS"
    if processes == 1 or name in os.environ:
        yield
        return
    os.environ[name] = str(max(1, (os.cpu_count() or 1) // processes))
    try:
        yield
    finally:
        del os.environ[name]


def _work(worker: Callable[[Job], Any], job: Job, folder: Path) -> Any:
    """Work in a process of its own, which hands over what is wrong as a file in a folder."""
    try:
        return worker(job)
    except DataError as error:
        said = folder / str(os.getpid())
        said.write_text(json.dumps([asdict(problem) for problem in error.problems]))
        said.rename(said.with_suffix(".json"))
        sys.exit(1)  # the others may wait for this one: the launcher ends them
