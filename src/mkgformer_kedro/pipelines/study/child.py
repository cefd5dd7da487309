"""The process of one stage of a cell: ``python -m mkgformer_kedro.pipelines.study.child``.

It is told what to do in a line of JSON, and stops when nobody is left who would tell it more.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from mkgformer_kedro.errors import shortened
from mkgformer_kedro.files import written_atomically
from mkgformer_kedro.hooks.input import bad_input_behind

_LONGEST = 1000


def run_stage(job: dict[str, Any]) -> None:
    """Run a stage of the pipeline ``cell`` on the results of others.

    Args:
        job: ``environment``, ``runtime`` (parameters of the run), ``namespace`` of the stage,
            ``links`` (where its inputs are to be, and where they lie), and ``reason``: the file in
            which to say why it failed.
    """
    try:
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
    except Exception as error:
        said = bad_input_behind(error) or f"{type(error).__name__}: {error}"
        Path(job["reason"]).write_text(shortened(str(said).strip(), _LONGEST), encoding="utf-8")
        raise


def _stop_with_the_study() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    what = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_with_the_study, daemon=True).start()
    run_stage(what)
