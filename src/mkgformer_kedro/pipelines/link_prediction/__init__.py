"""The run ``link_prediction``: from raw files to metrics."""

from kedro.pipeline import Pipeline

from mkgformer_kedro.pipelines.wiring import make_run


def create_pipeline() -> Pipeline:
    """All stages, in order."""
    return make_run("link_prediction")
