"""Node of the stage ``finetuning`` for link prediction."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mkgformer_kedro.training.parameters import FinetuningParameters, ModelParameters


def finetune_link_prediction(
    entity_model: Path,
    queries: pd.DataFrame,
    visual_store: Path,
    work_folder: Path,
    model: ModelParameters,
    parameters: FinetuningParameters,
    preset: str,
    seed: int,
) -> tuple[Path, pd.DataFrame]:
    """Fine-tune on the train queries and keep the model with the best dev MRR.

    Returns:
        The finished model folder, and the training curve.
    """
    from mkgformer_kedro.training.link_prediction import finetune

    return finetune(
        entity_model,
        queries,
        visual_store,
        work_folder,
        parameters,
        model.attention,
        preset,
        seed,
    )
