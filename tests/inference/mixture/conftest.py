from __future__ import annotations

import numpy as np
import pytest

from mixing import fit, split


@pytest.fixture(scope="session")
def experts(world):
    """Two that know half each, and one that knows nothing."""
    return [
        world.expert("left", noise=1.5, seed=1),
        world.expert("right", noise=1.5, factor=20.0, seed=2),
        world.expert("useless", noise=1e6, seed=3),
    ]


@pytest.fixture(scope="session")
def mixture(world, experts, parameters, tmp_path_factory):
    return fit(experts, world, tmp_path_factory.mktemp("work"), parameters)


@pytest.fixture(scope="session")
def few(world):
    """Queries with several answers, and with answers that another split knows."""
    rng = np.random.default_rng(0)
    queries = split(world.queries, "dev").head(60).copy()
    queries["known"] = [
        rng.choice(30, size=rng.integers(1, 8), replace=False).astype(np.int32) for _ in range(60)
    ]
    queries["answers"] = [known[: rng.integers(1, len(known) + 1)] for known in queries["known"]]
    return queries
