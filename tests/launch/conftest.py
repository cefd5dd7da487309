from __future__ import annotations

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
