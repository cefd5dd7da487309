"""Node of the stage ``entity_modeling``."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from kedro.pipeline import Node

from mkgformer_kedro.training.parameters import EntityModelingParameters, ModelParameters
from mkgformer_kedro.training.tasks.base import Task


def model_entities(
    entities: pd.DataFrame,
    relations: pd.DataFrame,
    visual_store: Path,
    work_folder: Path,
    model: ModelParameters,
    parameters: EntityModelingParameters,
    preset: str,
    seed: int,
) -> tuple[Path, pd.DataFrame]:
    """Join the towers and fit the entity embeddings.

    Returns:
        The finished model folder, and the training curve.
    """
    from mkgformer_kedro.training import entity_modeling

    return entity_modeling.model_entities(
        entities, relations, visual_store, work_folder, model, parameters, preset, seed
    )


def nodes(task: type[Task]) -> list[Node]:
    """Tables and images in, a model folder with an embedding per entity out."""
    return [
        Node(
            func=model_entities,
            inputs=[
                "entities",
                "relations",
                "visual_store",
                "entity_modeling_work",
                "params:model",
                "params:entity_modeling",
                "params:preset",
                "params:seed",
            ],
            outputs=["entity_model", "entity_modeling_curve"],
            name="model_entities",
            tags="gpu",
        )
    ]
