"""The run ``relation_extraction``: from raw files to metrics."""

from mkgformer_kedro.pipelines.relation_extraction.pipeline import create_pipeline

__all__ = ["create_pipeline"]
