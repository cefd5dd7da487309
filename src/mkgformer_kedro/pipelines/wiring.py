"""How stages and runs are put together: each task's nodes live in the namespace of the task."""

from collections.abc import Iterable
from importlib import import_module

from kedro.pipeline import Pipeline

from mkgformer_kedro.training.tasks.registry import TASKS, task_named

SHARED = {"params:asking", "params:launch", "params:model", "params:preset", "params:seed"}
"""Parameters of the whole run; all others belong to a stage of a task."""


def make_stage(name: str, tasks: Iterable[str]) -> Pipeline:
    """A stage: each task's nodes in the namespace ``<task>.<name>``.

    Their datasets are ``<task>.<dataset>``, whatever the stage; their parameters ``<task>.<name>``.

    Args:
        name: Name of the stage.
        tasks: Tasks to make the stage for; none: all that have it.
    """
    stage = Pipeline([])
    for task in tasks or [task for task, kind in TASKS.items() if name in kind.stages]:
        kind = task_named(task)
        nodes = import_module(kind.stages[name]).nodes(kind)
        inner = Pipeline(nodes, namespace=name, prefix_datasets_with_namespace=False)
        stage += Pipeline(inner, namespace=task, parameters=SHARED & inner.inputs())
    return stage


def make_run(task: str) -> Pipeline:
    """A run: the stages that a task is made of."""
    run = Pipeline([])
    for stage in task_named(task).stages:
        run += make_stage(stage, [task])
    return run
