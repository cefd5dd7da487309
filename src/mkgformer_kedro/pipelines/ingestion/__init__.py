"""Ingestion: raw files in, validated tables and a report of what the data is like out."""

from mkgformer_kedro.pipelines.ingestion.pipeline import create_pipeline

__all__ = ["create_pipeline"]
