"""Node of the stage ``entity_modeling``."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mkgformer_kedro.training.parameters import EntityModelingParameters, ModelParameters


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
