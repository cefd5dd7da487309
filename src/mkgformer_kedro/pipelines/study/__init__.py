"""Studies: a grid of parameters crossed with seeds, in one table, one figure, one page."""

from mkgformer_kedro.pipelines.study.pipeline import create_pipeline

__all__ = ["create_pipeline"]
