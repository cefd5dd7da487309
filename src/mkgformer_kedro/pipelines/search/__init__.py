"""Search: which values of parameters give the best dev score."""

from mkgformer_kedro.pipelines.search.pipeline import create_pipeline

__all__ = ["create_pipeline"]
