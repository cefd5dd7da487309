"""The run ``link_prediction``: from raw files to metrics."""

from mkgformer_kedro.pipelines.link_prediction.pipeline import create_pipeline

__all__ = ["create_pipeline"]
