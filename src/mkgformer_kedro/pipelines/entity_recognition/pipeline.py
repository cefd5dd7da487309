"""The stages that multimodal entity recognition is made of."""

from kedro.pipeline import Pipeline

from mkgformer_kedro.pipelines.wiring import make_run


def create_pipeline() -> Pipeline:
    """All stages, in order."""
    return make_run("entity_recognition")
