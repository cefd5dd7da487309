"""Kill runs at random moments, run them again, and hold their end to what undisturbed runs left.

    kedro run --pipelines link_prediction,relation_extraction --env ci
    kedro run --pipelines completion --env ci
    python scripts/kill_runs.py --env ci --kills 100

What was run in the project is run again in a copy, stage by stage: over its results or over
nothing, killed or told to stop at a moment drawn from the life of its nodes, then the same command
again, killed up to four times before it is left alone. Then ``data/`` of the copy must hold what it
holds in the project, byte for byte, and nothing beside it. A run that is told to stop must say so
in one line, leave no lock and nothing half-written, and end with the code that shells expect.

Runs are forked from this process, which imports what the runs before have imported, so that moments
fall into what runs do and not into what they import.
"""

from __future__ import annotations

import argparse
import csv
import gc
import hashlib
import importlib
import io
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kedro.framework.startup import bootstrap_project

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MOST_KILLS = 4  # of one run, before it is left alone
PATIENCE = 300  # seconds in which a run that was told to stop has stopped

# What differs between undisturbed runs too: how long things took.
TIMES = {"training_curve.csv": ("seconds", "examples_per_second", "data_wait_share")}
LOGS = ".work/logs"  # of a study's processes
MODULES = Path("modules")  # what the last run had imported


@dataclass(frozen=True)
class Run:
    """A run that is killed.

    Attributes:
        name: Its stage, or its pipeline.
        arguments: Those of ``kedro``.
        makes: Where its results lie.
        over: What may lie there when it begins.
    """

    name: str
    arguments: tuple[str, ...]
    makes: tuple[Path, ...]
    over: tuple[str, ...] = ("results", "nothing")


@dataclass(frozen=True)
class Kill:
    """What a run was doing when it was killed, and how that ended.

    Attributes:
        run: Its stage, or its pipeline.
        node: The node that had begun last.
        over: What lay in its place before: ``results`` or ``nothing``.
        second: Seconds since its first node began.
        of: Seconds that its nodes take undisturbed.
        signal: The signal.
        code: Its exit code, or minus the signal that ended it.
        stopped: Seconds until it had ended.
        end: ``identical``, or what was wrong.
    """

    run: str
    node: str
    over: str
    second: float
    of: float
    signal: str
    code: int
    stopped: float
    end: str

    def __str__(self) -> str:
        moment = f"{self.second:.2f} of {self.of:.2f} s"
        return (
            f"{self.run} ({self.node}), over {self.over}, at {moment}: {self.signal}, "
            f"code {self.code} in {self.stopped:.2f} s: {self.end}"
        )


class Forked(BaseException):
    """Unwinds a forked process, which then becomes a run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Kill as many runs as asked for, and print each; gives the number of bad ends."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", required=True, help="Kedro environment of the runs")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", default="", help="pattern of the names of runs to kill")
    parser.add_argument("--work", type=Path, help="folder for the copy; default: a temporary one")
    parser.add_argument("--table", type=Path, help="CSV file for the list of moments")
    options = parser.parse_args(arguments)

    project, table = Path.cwd(), options.table and options.table.absolute()
    work = Path(tempfile.mkdtemp(dir=options.work))
    for name in ("conf", "data", "src"):
        shutil.copytree(project / name, work / name, symlinks=True)
    shutil.copy(project / "pyproject.toml", work)
    os.chdir(work)
    bootstrap_project(work)  # from here on the project's code is that of the copy
    drawn = random.Random(options.seed)  # noqa: S311 - nothing secret
    runs = [run for run in runs_of(options.env) if re.search(options.only, run.name)]
    killer = Killer(contents(project / "data"), work / "run.log", drawn)
    kills: list[Kill] = []
    deck: list[Run] = []
    while len(kills) < options.kills:
        if not deck:
            deck = drawn.sample(runs, len(runs))
        most = min(drawn.randint(1, MOST_KILLS), options.kills - len(kills))
        for kill in killer.attack(deck.pop(), most):
            print(kill, flush=True)
            kills.append(kill)
        if table and kills:
            with table.open("w", encoding="utf-8", newline="") as file:
                rows = csv.DictWriter(file, asdict(kills[0]))
                rows.writeheader()
                rows.writerows(asdict(kill) for kill in kills)
    bad = sum(kill.end != "identical" for kill in kills)
    print(f"{len(kills)} kills, {len(kills) - bad} identical ends")
    for name, count in sorted(Counter(kill.signal for kill in kills).items()):
        print(f"{name}: {count}")
    if not bad:
        shutil.rmtree(work)
    return bad


def runs_of(environment: str) -> list[Run]:
    """The stages that were run in the working folder, and its study."""
    from kedro.framework.project import pipelines

    import mkgformer_kedro.inference.mixture
    import mkgformer_kedro.training.finetuning  # noqa: F401 - not in the first run and then here
    from mkgformer_kedro.datasets.lineage import place_of
    from mkgformer_kedro.pipelines.study.stages import Workplace
    from mkgformer_kedro.training.tasks.registry import TASKS

    workplace = Workplace.of(environment, {})
    runs = []
    for pipeline in (*TASKS, "completion"):
        for stage in sorted({str(node.namespace) for node in pipelines[pipeline].nodes}):
            names = pipelines[pipeline].filter(node_namespaces=[stage]).all_outputs()
            places = [place_of(workplace.own, name) for name in sorted(names)]
            makes = tuple(place for place in places if place is not None)
            if all(path.exists() for path in makes):
                options = ("--pipelines", pipeline, "--namespaces", stage, "--env", environment)
                runs.append(Run(stage, options, makes))
    makes = tuple(Path("data").glob(f"*/{workplace.dataset}-study"))
    if makes:
        # Over its results it has nothing to do.
        options = ("--pipelines", "study", "--env", environment)
        runs.append(Run("study", options, makes, ("nothing",)))
    return runs


class Killer:
    """Runs, kills and compares, in the working folder.

    Args:
        expected: What undisturbed runs left.
        log: File for what runs say.
        drawn: Where random numbers come from.
    """

    def __init__(self, expected: dict[str, str], log: Path, drawn: random.Random) -> None:
        self.expected = expected
        self.log = log
        self.drawn = drawn
        self.takes: dict[str, float] = {}

    def attack(self, run: Run, kills: int) -> Iterator[Kill]:
        """Kill a run so many times, unless it ends before, let it end, and compare."""
        over = self.drawn.choice(run.over)
        if run.name not in self.takes:
            self.takes[run.name] = self.life(run)
        if over == "nothing":
            _remove(run.makes)
        found: dict[int, Kill] = {}
        for _ in range(kills):
            process, kill = self.kill(run, over)
            if kill is None:
                break
            found[process] = kill
        else:
            self.undisturbed(run)
        different = self.differences()
        if alive := [process for process in found if _is_alive(process)]:
            different = f"processes of {alive} still run"
        for kill in found.values():
            yield replace(kill, end=different or kill.end)

    def kill(self, run: Run, over: str) -> tuple[int, Kill | None]:
        """Run, and kill at a random moment; gives the process, and None where it was over."""
        takes, number = self.takes[run.name], self.drawn.choice(SIGNALS)
        second, before = self.drawn.random() * takes, half_written()
        process = self.begin(run)
        self.wait_until_it_works(process)
        time.sleep(second)
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            self.require_success(run, os.waitstatus_to_exitcode(status))
            return process, None
        # Ctrl-C reaches all processes of a run.
        (os.killpg if number == signal.SIGINT else os.kill)(process, number)
        told = time.monotonic()
        code = self.code_of(process)
        stopped = time.monotonic() - told
        said = self.said()
        if not code:  # it was all but over
            return process, None
        node = (re.findall(r"Running node: (\w+)", said) or ["-"])[-1]
        end = self.badly_stopped(number, code, said, half_written() - before) or "identical"
        return process, Kill(
            run.name, node, over, round(second, 2), round(takes, 2), number.name, code,
            round(stopped, 2), end,
        )  # fmt: skip

    def undisturbed(self, run: Run) -> float:
        """Run to the end; gives the seconds that it took."""
        process = self.begin(run)
        self.wait_until_it_works(process)
        started = time.monotonic()
        self.require_success(run, self.code_of(process, patience=10 * PATIENCE))
        return time.monotonic() - started

    def life(self, run: Run) -> float:
        """Seconds that a run over nothing takes, when it has nothing to import."""
        while True:
            _remove(run.makes)
            took = self.undisturbed(run)
            if not import_all(MODULES.read_text(encoding="utf-8").split()):
                return took

    def require_success(self, run: Run, code: int) -> None:
        """See to it that a run that was left alone has not failed.

        Raises:
            RuntimeError: It has.
        """
        if code:
            raise RuntimeError(f"{run.name} ended with code {code}:\n{self.said()}")

    def begin(self, run: Run) -> int:
        """Fork a process that becomes a run; gives its id, which is that of its group too."""
        sys.stdout.flush()
        self.log.unlink(missing_ok=True)
        if process := os.fork():
            return process
        os.setsid()
        for number in SIGNALS[1:]:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        output = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
            os.dup2(descriptor, target)
        sys.argv = ["kedro", "run", *run.arguments]
        raise Forked

    def wait_until_it_works(self, process: int) -> None:
        """Wait until a run has begun its first node, or has ended."""
        status = Path(f"/proc/{process}/status")
        while "Running node" not in self.said() and "State:\tZ" not in status.read_text():
            time.sleep(0.001)

    def said(self) -> str:
        """What the run has said so far."""
        if not self.log.exists():
            return ""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def code_of(self, process: int, patience: float = PATIENCE) -> int:
        """Wait for a process, but not for ever; gives its exit code, or minus its signal."""
        until = time.monotonic() + patience
        while time.monotonic() < until:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.killpg(process, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])

    def badly_stopped(
        self, number: signal.Signals, code: int, said: str, left: frozenset[str]
    ) -> str:
        """What is wrong with how a run stopped, or nothing."""
        if number == signal.SIGKILL:
            return "" if code == -number else f"ended with code {code}"
        if code != 128 + number:
            return f"ended with code {code}: {said[-300:]}"
        if "Traceback" in said or said.count(f"Stopped by {number.name}") != 1:
            return f"did not say in one line that it stopped: {said[-300:]}"
        return f"left {', '.join(sorted(left))}" if left else ""

    def differences(self) -> str:
        """What lies elsewhere than, or differs from, what undisturbed runs left."""
        here = contents(Path("data"))
        names = sorted(here.keys() | self.expected.keys())
        return ", ".join(name for name in names if here.get(name) != self.expected.get(name))


def import_all(names: Iterable[str]) -> bool:
    """Import what runs have imported, and keep the garbage collector of forks away from it.

    Returns:
        Whether any of it was not there yet.
    """
    before = len(sys.modules)
    for name in names:
        if name not in sys.modules:
            with suppress(Exception):  # some can only be imported by others
                importlib.import_module(name)
    gc.freeze()
    return len(sys.modules) > before


def half_written() -> frozenset[str]:
    """Locks and temporary names below ``data/``."""
    names = ("*.lock", "*.tmp", "*.old")
    return frozenset(str(path) for name in names for path in Path("data").rglob(name))


def contents(folder: Path) -> dict[str, str]:
    """Hash of each file below a folder but raw data and logs; folders and links are there too."""
    found = {}
    layers = (path for path in folder.iterdir() if path.name != "01_raw")
    for path in sorted(path for layer in layers for path in layer.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if LOGS in name:
            continue
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_dir():
            found[name] = "folder"
        else:
            content = path.read_bytes()
            if times := TIMES.get(path.name):
                content = _without_columns(content, times)
            found[name] = hashlib.sha256(content).hexdigest()
    return found


def _without_columns(table: bytes, columns: Sequence[str]) -> bytes:
    rows = list(csv.DictReader(io.StringIO(table.decode())))
    return str([{name: row[name] for name in row if name not in columns} for row in rows]).encode()


def _remove(places: Sequence[Path]) -> None:
    for path in places:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _is_alive(group: int) -> bool:
    """Whether a process group has a process that still runs."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, number = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue  # it has just ended
        if int(number) == group and state != "Z":
            return True
    return False


if __name__ == "__main__":
    try:
        sys.exit(min(main(), 1))
    except Forked:
        from kedro.framework.cli.cli import main as kedro
    try:
        kedro()
    except SystemExit as end:
        if end.code:
            raise
        MODULES.write_text("\n".join(sys.modules), encoding="utf-8")
        os._exit(0)  # nothing is left to do but to take Python apart
