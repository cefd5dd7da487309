"""Stage 1: learn one embedding per entity from its description and images."""

from mkgformer_kedro.pipelines.entity_modeling.pipeline import create_pipeline

__all__ = ["create_pipeline"]
