"""The run ``entity_recognition``: from raw files to metrics."""

from mkgformer_kedro.pipelines.entity_recognition.pipeline import create_pipeline

__all__ = ["create_pipeline"]
