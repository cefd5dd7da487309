"""Write down what a task is run with in an environment, as one file that DVC compares.

Usage: python scripts/write_configuration.py <environment> <task>

``data/08_reporting/<dataset>/<task>/configuration.json`` holds the values that the environment,
those that it extends and the base come to: the shared parameters, those of each stage of the
task, and, as ``raw``, where its raw files lie. A DVC stage depends on the values that it takes,
wherever in ``conf/`` they are written.
"""

import json
import sys
from pathlib import Path

from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

ROOT = Path(__file__).parents[1]


def main(environment: str, task: str) -> None:
    """Read and check the configuration as a run does, and write the file."""
    bootstrap_project(ROOT)
    with KedroSession.create(project_path=ROOT, env=environment) as session:
        loader = session.load_context().config_loader
    parameters, names = loader["parameters"], loader["globals"]
    # What is no task's group is shared; globals.yml has a block for each task, too.
    values = {name: value for name, value in parameters.items() if name not in names}
    values |= {"raw": names[task], **parameters[task]}
    file = ROOT / "data/08_reporting" / names["dataset"] / task / "configuration.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
