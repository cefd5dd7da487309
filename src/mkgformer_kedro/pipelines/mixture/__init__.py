"""The stage `mixture` of link prediction: combine experts, and make their scores probabilities."""

from mkgformer_kedro.pipelines.mixture.pipeline import create_pipeline

__all__ = ["create_pipeline"]
