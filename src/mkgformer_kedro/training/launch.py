"""Run a training worker here, or on several devices and machines."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from mkgformer_kedro.training.parameters import LaunchParameters

Job = dict[str, Any]


def launch(worker: Callable[[Job], Any], job: Job, parameters: LaunchParameters) -> Any:
    """Call ``worker(job)`` in every training process and return what rank 0 returns.

    One process runs in place. Several are started by torch's elastic launcher; with more than one
    node, the same command is given on each of them and ``rendezvous`` names the meeting point.

    Args:
        worker: Top-level function; rebuilds all it needs from ``job``.
        job: Paths and plain values only, since it crosses process boundaries.
        parameters: Processes per node, nodes, and where they meet.
    """
    if parameters.processes == 1 and parameters.nodes == 1:
        return worker(job)
    import torch
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if not torch.cuda.is_available():
        os.environ.setdefault(
            "OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // parameters.processes))
        )
    config = LaunchConfig(
        min_nodes=parameters.nodes,
        max_nodes=parameters.nodes,
        nproc_per_node=parameters.processes,
        rdzv_backend="c10d",
        rdzv_endpoint=parameters.rendezvous,
        run_id="mkgformer",
        max_restarts=0,
    )
    return elastic_launch(config, worker)(job)[0]
