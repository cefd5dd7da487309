"""The node of the stage ``finetuning``, the same for every task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from kedro.pipeline import Node

from mkgformer_kedro.launch import LaunchParameters, engine_of
from mkgformer_kedro.training.parameters import FinetuningParameters, ModelParameters
from mkgformer_kedro.training.tasks.base import Task


def finetune_for(task: type[Task]) -> Callable[..., tuple[Path, pd.DataFrame]]:
    """The node's function for a task.

    Args:
        task: The task. Kedro reads the type of its parameters from the function's annotations.

    Returns:
        A function of the visual store, the work folder, parameters, and the task's ``inputs``; it
        returns a folder with one finished model folder per seed, and the training curves.
    """

    def node(
        visual_store: Path,
        work_folder: Path,
        model: ModelParameters,
        parameters: FinetuningParameters,
        launch: LaunchParameters,
        preset: str,
        seed: int,
        *inputs: Any,
    ) -> tuple[Path, pd.DataFrame]:
        from mkgformer_kedro.training.finetuning import finetune

        named = dict(zip(task.inputs, inputs, strict=True))
        return finetune(
            task.name,
            named,
            visual_store,
            work_folder,
            model,
            parameters,
            preset,
            seed,
            engine_of(launch),
        )

    node.__annotations__["parameters"] = task.parameters_class
    node.__name__ = f"finetune_{task.name}"
    return node


def nodes(task: type[Task]) -> list[Node]:
    """Tables and images in, one model folder per seed out."""
    return [
        Node(
            func=finetune_for(task),
            inputs=[
                "visual_store",
                "finetuning_work",
                "params:model",
                "params:finetuning",
                "params:launch",
                "params:preset",
                "params:seed",
                *task.inputs,
            ],
            outputs=["models", "training_curve"],
            name=f"finetune_{task.name}",
            tags="gpu",
        )
    ]
