"""The tasks by name: the one place that lists them."""

from __future__ import annotations

from mkgformer_kedro.training.tasks.base import Task
from mkgformer_kedro.training.tasks.entity_recognition import EntityRecognition
from mkgformer_kedro.training.tasks.link_prediction import LinkPrediction
from mkgformer_kedro.training.tasks.relation_extraction import RelationExtraction

TASKS: dict[str, type[Task]] = {}
"""Every task by its name. Pipelines, hooks and model folders find what they need to know here."""


def register(task: type[Task]) -> type[Task]:
    """Make a task known by its name; also a class decorator.

    Raises:
        ValueError: Another task has the name.
    """
    if TASKS.setdefault(task.name, task) is not task:
        raise ValueError(f"there is a task '{task.name}' already")
    return task


def task_named(name: str) -> type[Task]:
    """The task of that name.

    Raises:
        ValueError: There is none.
    """
    if name not in TASKS:
        raise ValueError(f"no task '{name}'; there are {', '.join(sorted(TASKS))}")
    return TASKS[name]


for _task in (LinkPrediction, RelationExtraction, EntityRecognition):
    register(_task)
