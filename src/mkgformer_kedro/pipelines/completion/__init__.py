"""The stage and run ``completion``: the links that a graph is missing."""

from mkgformer_kedro.pipelines.completion.pipeline import create_pipeline

__all__ = ["create_pipeline"]
