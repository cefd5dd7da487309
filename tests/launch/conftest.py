from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from mkgformer_kedro.launch import LaunchParameters
from tiny_world import LAUNCH


@pytest.fixture(scope="session")
def launch_parameters() -> Callable[..., LaunchParameters]:
    """Maker of parameters whose workers take a core and a tenth of a gigabyte, unless told."""

    def make(engine: str, worker: dict[str, Any] | None = None, **changes: Any) -> LaunchParameters:
        values = LAUNCH.model_dump() | {"engine": engine}
        workers = {stage: own | (worker or {}) for stage, own in values["workers"].items()}
        return LaunchParameters(**values | {"workers": workers} | changes)

    return make


@pytest.fixture(scope="session")
def ray_variables() -> None:
    """What Ray is to find in the environment when it is first imported."""
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # nothing but the loopback
        "RAY_worker_niceness": "0",  # as nice as this process, not more
    }
