"""The stages that multimodal link prediction is made of."""

from kedro.pipeline import Pipeline

from mkgformer_kedro.pipelines import (
    entity_modeling,
    evaluation,
    finetuning,
    image_association,
    ingestion,
)


def create_pipeline() -> Pipeline:
    """All five stages, in order."""
    return (
        ingestion.create_pipeline("link_prediction")
        + image_association.create_pipeline()
        + entity_modeling.create_pipeline()
        + finetuning.create_pipeline("link_prediction")
        + evaluation.create_pipeline("link_prediction")
    )
