"""How stages and runs are put together: each task's nodes live in the namespace of the task."""

from collections.abc import Iterable, Mapping
from types import ModuleType

from kedro.pipeline import Node, Pipeline

SHARED = {"params:model", "params:preset", "params:seed"}
"""Parameters of the whole run; all others belong to a stage of a task."""


def make_stage(name: str, nodes: Mapping[str, Iterable[Node]], tasks: Iterable[str]) -> Pipeline:
    """A stage: each task's nodes in the namespace ``<task>.<name>``.

    Their datasets are ``<task>.<dataset>``, whatever the stage; their parameters ``<task>.<name>``.

    Args:
        name: Name of the stage.
        nodes: The nodes of each task that has the stage.
        tasks: Tasks to make the stage for; none: all that have it.
    """
    stage = Pipeline([])
    for task in tasks or nodes:
        inner = Pipeline(nodes[task], namespace=name, prefix_datasets_with_namespace=False)
        stage += Pipeline(inner, namespace=task, parameters=SHARED & inner.inputs())
    return stage


def make_run(task: str, stages: Iterable[ModuleType]) -> Pipeline:
    """A run: the stages that a task is made of."""
    run = Pipeline([])
    for stage in stages:
        run += stage.create_pipeline(task)
    return run
