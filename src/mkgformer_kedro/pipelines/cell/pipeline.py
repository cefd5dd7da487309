"""Wiring of the run ``cell``: what a model needs, and what it answers."""

from functools import cache

from kedro.pipeline import Pipeline

from mkgformer_kedro.pipelines.cell.nodes import nodes
from mkgformer_kedro.pipelines.wiring import SHARED, make_run
from mkgformer_kedro.training.tasks.registry import TASKS, task_named


def create_pipeline(*tasks: str) -> Pipeline:
    """The cell of each of ``tasks``; without any, of every task."""
    return sum((make_cell(task) for task in tasks or TASKS), Pipeline([]))


@cache
def make_cell(task: str) -> Pipeline:
    """The nodes of the task's run that lead to its models, and one that asks these."""
    inner = Pipeline(
        nodes(task_named(task)), namespace="cell", prefix_datasets_with_namespace=False
    )
    asking = Pipeline(inner, namespace=task, parameters=SHARED & inner.inputs())
    return make_run(task).to_outputs(f"{task}.models") + asking
