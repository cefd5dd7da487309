"""The stages that multimodal link prediction is made of."""

from kedro.pipeline import Pipeline

from mkgformer_kedro.pipelines import (
    entity_modeling,
    evaluation,
    finetuning,
    image_association,
    ingestion,
)
from mkgformer_kedro.pipelines.wiring import make_run


def create_pipeline() -> Pipeline:
    """All stages, in order."""
    stages = (ingestion, image_association, entity_modeling, finetuning, evaluation)
    return make_run("link_prediction", stages)
