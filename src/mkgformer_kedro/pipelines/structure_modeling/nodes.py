"""Node of the stage ``structure_modeling``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from kedro.pipeline import Node

from mkgformer_kedro.parameters import typed
from mkgformer_kedro.training.parameters import StructureModelingParameters, TrainSubset

if TYPE_CHECKING:
    from mkgformer_kedro.training.tasks.base import Task


def model_structure(
    queries: pd.DataFrame,
    entities: pd.DataFrame,
    relations: pd.DataFrame,
    work_folder: Path,
    parameters: StructureModelingParameters,
    train_subset: Any,
    seed: int,
) -> tuple[Path, pd.DataFrame]:
    """Fit the structural models that the parameters name, to that part of train that is learned.

    Returns:
        A folder with one expert ``<model>/seed_<seed>`` each, and their training curves.
    """
    from mkgformer_kedro.training import structure_modeling

    # Kedro gives what lies inside a group its type only where another node takes the group.
    subset = typed(TrainSubset | None, train_subset, "finetuning.train_subset")
    return structure_modeling.model_structure(
        queries, entities, relations, work_folder, parameters, seed, subset
    )


def nodes(task: type[Task]) -> list[Node]:
    """Queries in, structural experts out."""
    return [
        Node(
            func=model_structure,
            inputs=[
                "queries",
                "entities",
                "relations",
                "structure_modeling_work",
                "params:structure_modeling",
                "params:finetuning.train_subset",
                "params:seed",
            ],
            outputs=["structure_models", "structure_modeling_curve"],
            name="model_structure",
            tags="gpu",
        )
    ]
