"""Structural experts: what the triples alone teach about a graph."""

from mkgformer_kedro.pipelines.structure_modeling.pipeline import create_pipeline

__all__ = ["create_pipeline"]
