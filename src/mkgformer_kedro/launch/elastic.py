"""Training in several processes of this machine, by torch's elastic launcher."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from mkgformer_kedro.launch import Job, Local, Stage


class Elastic(Local):
    """As :class:`Local`, but what learns together may be several processes, one per GPU."""

    def group(self, stage: Stage, worker: Callable[[Job], Any], job: Job, *, processes: int) -> Any:
        """See :class:`mkgformer_kedro.launch.Engine`; one process runs in place."""
        if processes == 1:
            return worker(job)
        import torch
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        if not torch.cuda.is_available():
            threads = max(1, (os.cpu_count() or 1) // processes)
            os.environ.setdefault("OMP_NUM_THREADS", str(threads))
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            run_id="mkgformer",
            max_restarts=0,
        )
        return elastic_launch(config, worker)(job)[0]
