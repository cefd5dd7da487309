"""A cell of a study: one model, and its answers to the test split."""

from mkgformer_kedro.pipelines.cell.pipeline import create_pipeline

__all__ = ["create_pipeline"]
