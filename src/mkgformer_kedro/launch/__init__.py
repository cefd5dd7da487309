"""Where the work of a run is done: in this process, in some of this machine, or on a Ray cluster.

Stages give their work to an :class:`Engine`, which knows two ways: ``map`` over items that do not
need each other, and a ``group`` of processes that learn together. What is done, and what comes out,
is the same on every engine.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Literal, Protocol, TypeVar

from pydantic import Field

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.parameters import Parameters

T = TypeVar("T")
R = TypeVar("R")

Job = dict[str, Any]
"""Paths and plain values only, since it crosses process boundaries."""
Stage = Literal["image_association", "finetuning", "mixture", "evaluation", "completion", "study"]
"""A stage whose work engines spread."""


class WorkerParameters(Parameters):
    """What one worker takes of its node: cores, GPUs, gigabytes of memory."""

    cpus: float = Field(gt=0, lt=math.inf)
    gpus: float = Field(ge=0, lt=math.inf)
    memory: float = Field(gt=0, lt=math.inf)


class LaunchParameters(Parameters):
    """Which engine does the work; ``conf/base/parameters.yml`` comments each."""

    no_result_depends_on = frozenset({"engine", "address", "at_most", "attempts", "workers"})

    engine: Literal["local", "elastic", "ray"]
    address: str | None
    at_most: int | None = Field(ge=1)
    attempts: int = Field(ge=1)
    workers: dict[Stage, WorkerParameters]


class Engine(Protocol):
    """Does the work of stages."""

    def threads(self, stage: Stage) -> int:
        """Threads that the work of a stage may use, wherever it is done."""

    def map(
        self,
        stage: Stage,
        work: Callable[[Iterable[T]], Iterator[R]],
        items: Sequence[T],
        *,
        at_a_time: int = 1,
    ) -> Generator[R, None, None]:
        """Do the work for all items, and give the results in their order.

        Args:
            stage: Whose work it is.
            work: Called with some of the items, in order, or with all; gives what comes of them.
                It can be pickled, and makes what it needs when it is first called.
            items: What the work is done for.
            at_a_time: Items that a worker elsewhere is given at a time.

        Raises:
            DataError: The work says so, or there is nobody to do it.
        """

    def group(self, stage: Stage, worker: Callable[[Job], Any], job: Job, *, processes: int) -> Any:
        """Call ``worker(job)`` in processes that learn together; returns what rank 0 returns.

        Args:
            stage: Whose work it is.
            worker: Top-level function; rebuilds all it needs from ``job``, goes on from its own
                checkpoints, and finds the others by torch's environment variables.
            job: What it works on.
            processes: How many take part.

        Raises:
            DataError: The work says so, or there is nobody to do it.
        """


class Local:
    """The plain loop, in this process."""

    def threads(self, stage: Stage) -> int:
        """One per core."""
        return os.cpu_count() or 1

    def map(
        self,
        stage: Stage,
        work: Callable[[Iterable[T]], Iterator[R]],
        items: Sequence[T],
        *,
        at_a_time: int = 1,
    ) -> Generator[R, None, None]:
        """See :class:`Engine`; the work is called once, with all items."""
        yield from work(items)

    def group(self, stage: Stage, worker: Callable[[Job], Any], job: Job, *, processes: int) -> Any:
        """See :class:`Engine`.

        Raises:
            DataError: Several processes are asked for.
        """
        if processes > 1:
            what = f"this process cannot be {processes}"
            remedy = "Set launch.engine to elastic (this machine) or ray, or processes to 1."
            raise DataError(Problem(f"{stage}.processes", None, what, remedy))
        return worker(job)


LOCAL: Engine = Local()


def engine_of(parameters: LaunchParameters) -> Engine:
    """The engine that is asked for.

    Raises:
        DataError: It is not installed, or cannot be reached.
    """
    if parameters.engine == "ray":
        from mkgformer_kedro.launch.ray import Ray

        return Ray(parameters)
    if parameters.engine == "elastic":
        from mkgformer_kedro.launch.elastic import Elastic

        return Elastic()
    return LOCAL
