"""Node of the stage ``finetuning`` for entity recognition."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mkgformer_kedro.training.parameters import EntityRecognitionParameters, ModelParameters


def finetune_entity_recognition(
    posts: pd.DataFrame,
    labels: pd.DataFrame,
    visual_store: Path,
    work_folder: Path,
    model: ModelParameters,
    parameters: EntityRecognitionParameters,
    preset: str,
    seed: int,
) -> tuple[Path, pd.DataFrame]:
    """Fine-tune on the train posts, once per seed, and keep the models with the best dev F1.

    Returns:
        A folder with one finished model folder per seed, and the training curves.
    """
    from mkgformer_kedro.training.posts import finetune

    return finetune(
        "entity_recognition",
        posts,
        labels,
        visual_store,
        work_folder,
        model,
        parameters,
        preset,
        seed,
    )
