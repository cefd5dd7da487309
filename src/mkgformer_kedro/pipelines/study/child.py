"""The process of one stage of a cell: ``python -m mkgformer_kedro.pipelines.study.child``.

It is told what to do in a line of JSON, and stops when nobody is left who would tell it more. On
Ray it is a job of its own, whose one worker runs the stage, and which ends with this process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from mkgformer_kedro.errors import bad_input_behind, shortened
from mkgformer_kedro.files import written_atomically
from mkgformer_kedro.launch import LaunchParameters, engine_of

_LONGEST = 1000


def run_stage(job: dict[str, Any]) -> None:
    """Run a stage of the pipeline ``cell`` on the results of others.

    Args:
        job: ``environment``, ``runtime`` (parameters of the run), ``namespace`` of the stage,
            ``links`` (where its inputs are to be, and where they lie), and ``reason``: the file in
            which to say why it failed.
    """
    with _reason_told(Path(job["reason"])):
        bootstrap_project(Path.cwd())
        for place, source in job["links"].items():
            link = Path(place)
            link.parent.mkdir(parents=True, exist_ok=True)
            with written_atomically(link) as temporary:
                temporary.symlink_to(os.path.relpath(source, link.parent.resolve()))
        with KedroSession.create(
            project_path=Path.cwd(), env=job["environment"], runtime_params=job["runtime"]
        ) as session:
            session.run(pipeline_names=["cell"], namespaces=[job["namespace"]])


def launch_stage(job: dict[str, Any]) -> None:
    """Run a stage where ``launch`` says, see :func:`run_stage`."""
    with _reason_told(Path(job["reason"])):
        engine = engine_of(LaunchParameters.model_validate(job["launch"]))
        for _ in engine.map("study", partial(map, run_stage), [job]):
            pass


@contextmanager
def _reason_told(file: Path) -> Iterator[None]:
    """Write why the block failed to a file, unless it stands there already."""
    try:
        yield
    except Exception as error:
        if not file.exists():
            said = bad_input_behind(error) or f"{type(error).__name__}: {error}"
            file.write_text(shortened(str(said).strip(), _LONGEST), encoding="utf-8")
        raise


def _stop_with_the_study() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    what = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_with_the_study, daemon=True).start()
    launch_stage(what)
