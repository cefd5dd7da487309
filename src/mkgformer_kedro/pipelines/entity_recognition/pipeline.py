"""The stages that multimodal entity recognition is made of."""

from kedro.pipeline import Pipeline

from mkgformer_kedro.pipelines import evaluation, finetuning, image_association, ingestion


def create_pipeline() -> Pipeline:
    """All four stages, in order; data sets and parameters are those of the namespace."""
    stages = (
        ingestion.create_pipeline("entity_recognition")
        + image_association.create_pipeline("entity_recognition")
        + finetuning.create_pipeline("entity_recognition")
        + evaluation.create_pipeline("entity_recognition")
    )
    shared = {"params:model", "params:preset", "params:seed"}
    return Pipeline(stages, namespace="entity_recognition", parameters=shared)
