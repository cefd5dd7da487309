from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mkgformer_kedro.launch import LaunchParameters

WORKER = {"cpus": 1, "gpus": 0, "memory": 0.1}


@pytest.fixture(scope="session")
def launch_parameters() -> Callable[..., LaunchParameters]:
    """Maker of parameters whose workers take a core and a tenth of a gigabyte, unless told."""

    def make(engine: str, worker: dict[str, Any] | None = None, **changes: Any) -> LaunchParameters:
        stages = ("image_association", "finetuning", "mixture", "evaluation", "completion", "study")
        values = {
            "engine": engine,
            "address": None,
            "at_most": None,
            "attempts": 3,
            "workers": dict.fromkeys(stages, WORKER | (worker or {})),
        }
        return LaunchParameters(**values | changes)

    return make
