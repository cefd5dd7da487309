"""The node that asks the models of a cell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from kedro.pipeline import Node

from mkgformer_kedro.inference.parameters import AskingParameters
from mkgformer_kedro.launch import LaunchParameters, engine_of
from mkgformer_kedro.pipelines.evaluation.nodes import ask_baseline, ask_test, parameters_of
from mkgformer_kedro.pipelines.evaluation.parameters import EvaluationParameters
from mkgformer_kedro.training.parameters import FinetuningParameters, ModelParameters
from mkgformer_kedro.training.tasks.base import Task


def predict_cell_for(task: type[Task]) -> Callable[..., pd.DataFrame]:
    """The node's function that asks a task's models and its baseline about the test split.

    Args:
        task: The task. Kedro reads the type of its parameters from the function's annotations.

    Returns:
        A function of the models, the visual store, parameters, and the task's ``tables``; it
        returns a predictions table.
    """

    def node(
        models: Path,
        visual_store: Path,
        model: ModelParameters,
        asking: AskingParameters,
        parameters: EvaluationParameters,
        finetuning: FinetuningParameters,
        launch: LaunchParameters,
        preset: str,
        seed: int,
        *inputs: pd.DataFrame,
    ) -> pd.DataFrame:
        from mkgformer_kedro.inference.experts import TrainedModels

        tables = dict(zip(task.tables, inputs, strict=True))
        trained = TrainedModels.of(models, visual_store, model, asking)
        answers = ask_test(task, tables, trained, parameters, preset, engine_of(launch))
        baseline = ask_baseline(task, tables, finetuning, seed)
        return pd.concat([answers, baseline], ignore_index=True)

    node.__annotations__["parameters"] = parameters_of(task)
    node.__annotations__["finetuning"] = task.parameters_class
    node.__name__ = f"predict_{task.name}_cell"
    return node


def nodes(task: type[Task]) -> list[Node]:
    """Models and tables in, answers to the test split out."""
    return [
        Node(
            func=predict_cell_for(task),
            inputs=[
                "models",
                "visual_store",
                "params:model",
                "params:asking",
                "params:evaluation",
                "params:finetuning",
                "params:launch",
                "params:preset",
                "params:seed",
                *task.tables,
            ],
            outputs="cell_predictions",
            name="predict",
            tags="gpu",
        )
    ]
