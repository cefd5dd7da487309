"""What Ray costs beside this process: the sample's stages, run whole on both engines in turns.

    python benchmarks/engines.py --work FOLDER

The reduced sample (``--env ci``) is run stage by stage, each with ``kedro run`` in a process of its
own: on the engine ``local``, then on a Ray cluster that this script begins on the loopback, whose
workers take a core each. Both must leave the same model and predictions.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from worlds import PROJECT

# In the order of the pipeline; those that engines spread are timed.
STAGES = {
    "ingestion": False,
    "image_association": True,
    "entity_modeling": False,
    "structure_modeling": False,
    "finetuning": True,
    "mixture": True,
    "evaluation": True,
    "completion": True,
}
SAMPLE = "data/01_raw/wordnet_emoji"
RESULTS = ("model.safetensors", "predictions.parquet", "completions.parquet")
SECONDS_BETWEEN_LOOKS = 0.1


class Taken(NamedTuple):
    """What a stage took: seconds, and seconds of a core of all processes together."""

    seconds: float
    cpu_seconds: float


class Cores:
    """Seconds of a core that the processes below this one have used, those that ended included.

    What a process uses between the last look and its end is lost, a tenth of a second at most.
    """

    def __init__(self) -> None:
        self._used: dict[tuple[int, float], float] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, daemon=True).start()

    def total(self) -> float:
        """Seconds until now."""
        with self._lock:
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    self._used[process.pid, process.create_time()] = times.user + times.system
            return sum(self._used.values())

    def _watch(self) -> None:
        while True:
            self.total()
            time.sleep(SECONDS_BETWEEN_LOOKS)


@contextmanager
def cluster(work: Path) -> Iterator[str]:
    """A head with two cores, for the time of a round; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = Path(sys.executable).with_name("ray")
    command = [ray, "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={port}"]
    command += ["--num-cpus=2", "--include-dashboard=false", "--object-store-memory=100000000"]
    with (work / "ray.log").open("w") as log:
        head = subprocess.Popen(command, env=variables(work), stdout=log, stderr=log)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            if head.poll() is not None:
                raise SystemExit((work / "ray.log").read_text()[-4000:])
            time.sleep(0.2)
        time.sleep(5)  # until its processes have begun
        yield f"127.0.0.1:{port}"
    finally:
        head.terminate()
        head.wait()


def variables(work: Path) -> dict[str, str]:
    """The environment of all processes: one thread each, none nicer than this one."""
    return os.environ | {
        "PYTHONPATH": str(work / "src"),
        "DO_NOT_TRACK": "true",
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_worker_niceness": "0",
    }


def make_project(work: Path) -> Path:
    """A project folder of its own: this one's code and configuration, and the sample."""
    shutil.rmtree(work, ignore_errors=True)
    (work / "conf/local").mkdir(parents=True)
    for name in ("src", "conf/base", "conf/ci", SAMPLE):
        shutil.copytree(PROJECT / name, work / name)
    for name in ("pyproject.toml", "conf/logging.yml"):
        shutil.copy(PROJECT / name, work / name)
    return work


def run_stage(work: Path, stage: str, launch: str, cores: Cores) -> Taken:
    """Run one stage as a user does."""
    command = [sys.executable, "-m", "kedro", "run", "--env", "ci", "--params", launch]
    pipeline = "completion" if stage == "completion" else "link_prediction"
    command += ["--pipelines", pipeline, "--namespaces", f"link_prediction.{stage}"]
    began, used = time.perf_counter(), cores.total()
    with (work / f"{stage}.log").open("w") as log:
        done = subprocess.run(command, cwd=work, env=variables(work), stdout=log, stderr=log)
    if done.returncode:
        raise SystemExit((work / f"{stage}.log").read_text()[-4000:])
    return Taken(time.perf_counter() - began, cores.total() - used)


def run_sample(work: Path, launch: str, cores: Cores) -> dict[str, Taken]:
    """Run all stages; what those took that are timed."""
    taken = {stage: run_stage(work, stage, launch, cores) for stage in STAGES}
    return {stage: each for stage, each in taken.items() if STAGES[stage]}


def results_of(work: Path) -> dict[str, str]:
    """Digests of what a run is for, by path."""
    return {
        str(path.relative_to(work)): hashlib.sha256(path.read_bytes()).hexdigest()
        for name in RESULTS
        for path in (work / "data").rglob(name)
    }


def table(rounds: dict[str, list[dict[str, Taken]]]) -> str:
    """Medians of the rounds by stage, and by what Ray exceeds them."""
    lines = [
        "| stage | local, s | Ray, s | more | x | local, CPU s | Ray, CPU s | more | x |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]

    def line(stage: str, values: list[list[float]]) -> str:
        cells = "".join(
            f" {here:.1f} | {there:.1f} | {there - here:.1f} | {there / here:.2f} |"
            for here, there in values
        )
        return f"| {stage} |{cells}"

    def median(engine: str, stage: str, what: int) -> float:
        return statistics.median(each[stage][what] for each in rounds[engine])

    stages = {
        stage: [[median(engine, stage, what) for engine in rounds] for what in (0, 1)]
        for stage in rounds["local"][0]
    }
    stages["together"] = np.sum([*stages.values()], axis=0).tolist()
    return "\n".join([*lines, *(line(*each) for each in stages.items())])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the sample on both engines in turns, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--work", type=Path, required=True, help="folder for what is made")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    cores, rounds = Cores(), {"local": [], "ray": []}
    here, there = (options.work.resolve() / engine for engine in rounds)
    for _ in range(options.rounds):
        rounds["local"].append(run_sample(make_project(here), "launch.engine=local", cores))
        make_project(there)
        with cluster(there) as address:
            launch = f"launch.engine=ray,launch.address={address}"
            rounds["ray"].append(run_sample(there, launch, cores))
        found = results_of(here)
        if not found or results_of(there) != found:
            raise SystemExit("The engines left different results.")
        print(*(dict(rounds[engine][-1]) for engine in rounds), sep="\n", file=sys.stderr)
    print(table(rounds))


if __name__ == "__main__":
    main()
