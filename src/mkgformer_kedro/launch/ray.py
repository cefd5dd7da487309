"""Work on a Ray cluster, whose nodes share the project's folder."""

from __future__ import annotations

import logging
import math
import os
import platform
import shutil
import socket
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mkgformer_kedro.errors import DataError, Problem, lacks_memory
from mkgformer_kedro.launch import Job, LaunchParameters, Stage
from mkgformer_kedro.progress import Progress

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger(__name__)

# Blocks that a worker holds, so that it need not wait for this process.
_AT_A_WORKER = 2
# Blocks per worker that may be begun before the results that are due are taken.
_AHEAD = 4
_SECONDS_TO_CONNECT = 5
_SECONDS_TO_LOOK = 5
# Until a lost node is back, or another in its place.
_SECONDS_FOR_NODES = 300
# So set, Ray listens on the loopback alone, whatever the system.
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_INSTALL = "Install it with `pip install -c constraints.txt -e '.[ray]'`, on every node."
_GOES_ON = "Run the same command again: what is done is kept."


class Ray:
    """Does the work in workers on the nodes of a cluster, see ``launch.Engine``.

    A worker that dies, with its node or for lack of memory, is replaced where there is room, and
    what it had begun is begun again, ``attempts`` times in all.

    Args:
        parameters: Address of the cluster, and what workers take.

    Raises:
        DataError: Ray is not installed, or no cluster answers at the address.
    """

    def __init__(self, parameters: LaunchParameters) -> None:
        self.parameters = parameters
        self._ray = _connected(parameters.address)

    def threads(self, stage: Stage) -> int:
        """One per core that a worker has."""
        return math.ceil(self.parameters.workers[stage].cpus)

    def map(
        self,
        stage: Stage,
        work: Callable[[Iterable[T]], Iterator[R]],
        items: Sequence[T],
        *,
        at_a_time: int = 1,
    ) -> Generator[R, None, None]:
        """See ``launch.Engine``; blocks of items are done at once, in as many workers as may be.

        Memory here is that of the results of a few blocks per worker.
        """
        blocks = [items[at : at + at_a_time] for at in range(0, len(items), at_a_time)]
        if not blocks:
            return
        most = self.parameters.at_most or len(blocks)
        size = min(max(1, self._room(stage)), most, len(blocks))
        pool = _Pool(self._ray, self._options(stage), self._ray.put(work))
        attempts: Counter[int] = Counter()
        waiting, done, due = list(range(len(blocks)))[::-1], {}, 0
        try:
            with Progress(f"{stage} on Ray", len(blocks), "blocks") as progress:
                while due < len(blocks):
                    pool.grow(min(size, self._require_room(stage, 1, again=bool(attempts))))
                    ahead = due + _AHEAD * size
                    while waiting and waiting[-1] < ahead and pool.has_room:
                        pool.begin(waiting[-1], blocks[waiting.pop()])
                    for number, found, error in pool.ended():
                        if error is None:
                            done[number] = found
                            progress.advance(1)
                            continue
                        attempts[number] += 1
                        if attempts[number] == self.parameters.attempts:
                            raise self._given_up(stage, error)
                        logger.warning("A worker of %s is lost: %s", stage, _first_line(error))
                        if number is not None:
                            waiting = sorted([*waiting, number], reverse=True)
                    while due in done:
                        yield from done.pop(due)
                        due += 1
        finally:
            pool.close()

    def group(self, stage: Stage, worker: Callable[[Job], Any], job: Job, *, processes: int) -> Any:
        """See ``launch.Engine``; several processes are Ray Train's, and find each other by it."""
        if processes == 1:
            (result,) = self.map(stage, partial(map, worker), [job])
            return result
        for attempt in range(1, self.parameters.attempts + 1):
            self._require_room(stage, processes, again=attempt > 1)
            try:
                return self._train(stage, worker, job, processes)
            except _FailedError as failed:
                # Where one process dies, the others fail for want of it.
                lost = [e for e in failed.errors if isinstance(e, self._ray.exceptions.RayError)]
                if attempt == self.parameters.attempts:
                    raise self._given_up(stage, lost[0]) if lost else failed.errors[0] from None
                logger.warning("A process of %s failed: %s", stage, _first_line(failed.errors[0]))

    def _train(self, stage: Stage, worker: Callable[[Job], Any], job: Job, processes: int) -> Any:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
        from ray.train.v2.api.exceptions import WorkerGroupError

        options = self._options(stage)
        resources = {"CPU": options["num_cpus"], "memory": options["memory"]}
        if options["num_gpus"]:
            resources["GPU"] = options["num_gpus"]
        # Ray Train wants a folder that all nodes see, though nothing of value is left there.
        scratch = Path.cwd() / "data" / ".ray" / uuid.uuid4().hex[:8]
        scratch.mkdir(parents=True)
        trainer = TorchTrainer(
            _in_project(worker, Path.cwd()),
            train_loop_config=job,
            scaling_config=ScalingConfig(
                num_workers=processes,
                use_gpu=bool(options["num_gpus"]),
                resources_per_worker=resources,
            ),
            run_config=RunConfig(
                name=stage,
                storage_path=str(scratch),
                failure_config=FailureConfig(max_failures=0),
            ),
        )
        try:
            return trainer.fit().return_value
        except WorkerGroupError as error:
            errors = [*error.worker_failures.values()]
            plain = [each for each in errors if isinstance(each, DataError)]
            raise plain[0] if plain else _FailedError(errors) from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _options(self, stage: Stage) -> dict[str, Any]:
        wanted = self.parameters.workers[stage]
        memory = round(wanted.memory * 1e9)
        return {"num_cpus": wanted.cpus, "num_gpus": wanted.gpus, "memory": memory}

    def _room(self, stage: Stage) -> int:
        """Workers of a stage for which the cluster has room when nothing else runs."""
        wanted = dict(zip(("CPU", "GPU", "memory"), self._options(stage).values(), strict=True))
        return sum(
            min(int(node["Resources"].get(name, 0) / each) for name, each in wanted.items() if each)
            for node in self._ray.nodes()
            if node["Alive"]
        )

    def _require_room(self, stage: Stage, workers: int, *, again: bool) -> int:
        """The same, at least so many; where some were lost, nodes are waited for."""
        patience = time.monotonic() + _SECONDS_FOR_NODES * again
        while (room := self._room(stage)) < workers:
            if time.monotonic() >= patience:
                each = self.parameters.workers[stage]
                what = (
                    f"the cluster has room for {room} of {workers} workers that take "
                    f"{each.cpus:g} cores, {each.gpus:g} GPUs and {each.memory:g} GB"
                )
                remedy = f"Ask for less, or add nodes (see `ray status`). {_GOES_ON}"
                raise DataError(Problem(f"launch.workers.{stage}", None, what, remedy))
            time.sleep(1)
        return room

    def _given_up(self, stage: Stage, error: BaseException) -> DataError:
        what = f"its workers died {self.parameters.attempts} times ({_first_line(error)})"
        remedy = f"If they had too little memory, ask for more, or for smaller batches. {_GOES_ON}"
        return DataError(Problem(f"launch.workers.{stage}", None, what, remedy))


class _FailedError(Exception):
    """Processes of a group failed, for these reasons."""

    def __init__(self, errors: Sequence[BaseException]) -> None:
        super().__init__(errors)
        self.errors = errors


class _Worker:
    """An actor that does one stage's work on a node."""

    def __init__(self, work: Callable[[Iterable[Any]], Iterator[Any]]) -> None:
        self.work = work

    def enter(self, project: Path) -> None:
        _enter(project)

    def do(self, items: Sequence[Any]) -> list[Any]:
        return list(self.work(items))


class _Pool:
    """Workers that come and go.

    Args:
        ray: The module.
        options: What each takes of its node.
        work: Reference to the work.
    """

    def __init__(self, ray: Any, options: dict[str, Any], work: Any) -> None:
        self._ray = ray
        self._kind = ray.remote(_Worker).options(scheduling_strategy="SPREAD", **options)
        self._work = work
        self._starting: dict[Any, Any] = {}
        self._load: dict[Any, int] = {}
        self._busy: dict[Any, tuple[Any, int]] = {}

    def grow(self, size: int) -> None:
        """Have so many workers at least, some of which may not have begun yet."""
        for _ in range(size - len(self._starting) - len(self._load)):
            worker = self._kind.remote(self._work)
            self._starting[worker.enter.remote(Path.cwd())] = worker

    @property
    def has_room(self) -> bool:
        """Whether a worker could take a block."""
        return min(self._load.values(), default=_AT_A_WORKER) < _AT_A_WORKER

    def begin(self, number: int, block: Sequence[Any]) -> None:
        """Give a block to the worker that has least to do."""
        worker = min(self._load, key=self._load.__getitem__)
        self._load[worker] += 1
        self._busy[worker.do.remote(block)] = worker, number

    def ended(self) -> Iterator[tuple[int | None, list[Any], BaseException | None]]:
        """Wait a while for blocks to end: their number, and the results or why the worker died.

        The number is None for a worker that died before it had a block.
        """
        references = [*self._starting, *self._busy]
        ready, _ = self._ray.wait(references, timeout=_SECONDS_TO_LOOK)
        for reference in ready:
            number = None
            if reference in self._starting:
                worker = self._starting.pop(reference)
            else:
                worker, number = self._busy.pop(reference)
            try:
                found = self._ray.get(reference)
            except self._ray.exceptions.RayTaskError as error:
                if not lacks_memory(error.cause):
                    raise _told(error) from None
                self._lose(worker)
                yield number, [], error.cause
            except self._ray.exceptions.RayError as error:
                self._lose(worker)
                yield number, [], error
            else:
                if number is None:
                    self._load[worker] = 0
                elif worker in self._load:
                    self._load[worker] -= 1
                if number is not None:
                    yield number, found, None

    def _lose(self, worker: Any) -> None:
        self._load.pop(worker, None)
        self._ray.kill(worker)

    def close(self) -> None:
        """End all workers."""
        for worker in [*self._starting.values(), *self._load]:
            self._ray.kill(worker)


def _connected(address: str | None) -> Any:
    """Ray, connected to a cluster: by address, else RAY_ADDRESS, else one of this machine alone."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        os.environ.setdefault(_LOOPBACK, "0")
    try:
        import ray
    except ImportError:
        what = "launch.engine is ray, which is not installed"
        raise DataError(Problem("launch.engine", None, what, _INSTALL)) from None
    if not ray.is_initialized():
        quiet = {"logging_level": logging.WARNING}
        if address is None:
            ray.init("local", include_dashboard=False, **quiet)
            # For the processes that this one begins, such as the stages of a study.
            os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        else:
            _require_head(address)
            try:
                ray.init(address, **quiet)
            except ConnectionError:
                raise _no_head(address, "no Ray cluster answers there") from None
    return ray


def _require_head(address: str) -> None:
    """Refuse an address where Ray would look for a cluster for minutes."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if "/" in host or not port.isdecimal():
        kind = "this is no address of a cluster, such as 10.0.0.1:6379 (not that of Ray Client)"
        raise _no_head(address, kind)
    try:
        socket.create_connection((host, int(port)), _SECONDS_TO_CONNECT).close()
    except (OSError, OverflowError):
        raise _no_head(address, "no Ray cluster answers there") from None


def _no_head(address: str, what: str) -> DataError:
    remedy = "Begin Ray there (`ray start --head`), or correct launch.address or RAY_ADDRESS."
    return DataError(Problem(address, None, what, remedy))


def _enter(project: Path) -> None:
    """Work where the run does, so that its paths hold."""
    try:
        os.chdir(project)
    except OSError as error:
        what = f"the node {platform.node()} does not see this folder ({error.strerror})"
        remedy = "The project lies on storage that all nodes share, at the same path."
        raise DataError(Problem(str(project), None, what, remedy)) from None


def _in_project(worker: Callable[[Job], Any], project: Path) -> Callable[[Job], Any]:
    def enter_and_work(job: Job) -> Any:
        _enter(project)
        return worker(job)

    return enter_and_work


def _told(error: Any) -> BaseException:
    """What the work itself said, if that is plain; else with the traceback from where it was."""
    return error.cause if isinstance(error.cause, DataError) else error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
