"""The command ``mkgformer``: what is not a run of a pipeline."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click


@click.group()
def main() -> None:
    """Look after the results of MKGformer pipelines."""


@main.command()
@click.option("--env", "environment", default="", help="Environment of the data set.")
def doctor(environment: str) -> None:
    """Say what lies under data/ of a data set, what is stale, damaged or orphaned, and what to run.

    Ends with code 1 where something is stale or damaged.
    """
    from kedro.framework.project import pipelines
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project
    from kedro.utils import find_kedro_project

    from mkgformer_kedro.doctor import examine
    from mkgformer_kedro.hooks.input import show_plainly

    sys.excepthook = show_plainly
    project = find_kedro_project(Path.cwd())
    if project is None:
        raise click.ClickException(f"{Path.cwd()} lies in no project: go to the project's folder.")
    os.chdir(project)
    bootstrap_project(project)
    with KedroSession.create(project_path=project, env=environment or None) as session:
        context = session.load_context()
        names = {
            name
            for pipeline in pipelines.values()
            for name in pipeline.datasets()
            if not name.startswith("params:") and name != "parameters"
        }
        dataset = str(context.config_loader["globals"]["dataset"])
        findings = examine(context.catalog, names, environment, dataset)
    here = [finding for finding in findings if finding.state != "missing"]
    width = max((len(finding.place) for finding in here), default=0)
    for finding in here:
        click.echo(f"{finding.place:<{width}}  {finding.state}")
        if finding.what:
            click.echo(f"    {finding.what}")
    states = [finding.state for finding in findings]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states)))
    click.echo(f"{dataset}: {counts or 'nothing there'}")
    sys.exit(any(state in ("stale", "damaged") for state in states))
