"""Node of the stage ``structure_modeling``."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from kedro.pipeline import Node

from mkgformer_kedro.training.parameters import StructureModelingParameters
from mkgformer_kedro.training.tasks.base import Task


def model_structure(
    queries: pd.DataFrame,
    entities: pd.DataFrame,
    relations: pd.DataFrame,
    work_folder: Path,
    parameters: StructureModelingParameters,
    seed: int,
) -> tuple[Path, pd.DataFrame]:
    """Fit the structural models that the parameters name.

    Returns:
        A folder with one expert ``<model>/seed_<seed>`` each, and their training curves.
    """
    from mkgformer_kedro.training import structure_modeling

    return structure_modeling.model_structure(
        queries, entities, relations, work_folder, parameters, seed
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
                "params:seed",
            ],
            outputs=["structure_models", "structure_modeling_curve"],
            name="model_structure",
            tags="gpu",
        )
    ]
