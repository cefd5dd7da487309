"""The last stage: rank, score and report."""

from mkgformer_kedro.pipelines.evaluation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
