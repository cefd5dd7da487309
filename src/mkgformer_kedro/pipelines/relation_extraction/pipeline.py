"""The stages that multimodal relation extraction is made of."""

from kedro.pipeline import Pipeline

from mkgformer_kedro.pipelines import evaluation, finetuning, image_association, ingestion
from mkgformer_kedro.pipelines.wiring import make_run


def create_pipeline() -> Pipeline:
    """All stages, in order."""
    stages = (ingestion, image_association, finetuning, evaluation)
    return make_run("relation_extraction", stages)
