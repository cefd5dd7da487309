"""Run a training worker here, or in one process per device."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from mkgformer_kedro.training.parameters import LaunchParameters

Job = dict[str, Any]


def launch(worker: Callable[[Job], Any], job: Job, parameters: LaunchParameters) -> Any:
    """Call ``worker(job)`` in every training process and return what rank 0 returns.

    One process runs in place; several are started by torch's elastic launcher on this machine.

    Args:
        worker: Top-level function; rebuilds all it needs from ``job``.
        job: Paths and plain values only, since it crosses process boundaries.
        parameters: Number of processes.
    """
    if parameters.processes == 1:
        return worker(job)
    import torch
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if not torch.cuda.is_available():
        os.environ.setdefault(
            "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // parameters.processes))
        )
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=parameters.processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        run_id="mkgformer",
        max_restarts=0,
    )
    return elastic_launch(config, worker)(job)[0]
