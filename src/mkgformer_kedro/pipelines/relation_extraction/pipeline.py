"""The stages that multimodal relation extraction is made of."""

from kedro.pipeline import Pipeline

from mkgformer_kedro.pipelines import evaluation, finetuning, image_association, ingestion


def create_pipeline() -> Pipeline:
    """All four stages, in order; data sets and parameters are those of the namespace."""
    stages = (
        ingestion.create_pipeline("relation_extraction")
        + image_association.create_pipeline("relation_extraction")
        + finetuning.create_pipeline("relation_extraction")
        + evaluation.create_pipeline("relation_extraction")
    )
    shared = {"params:model", "params:preset", "params:seed"}
    return Pipeline(stages, namespace="relation_extraction", parameters=shared)
