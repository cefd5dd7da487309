"""Image association: which images each owner has, decoded once into the visual store."""

from mkgformer_kedro.pipelines.image_association.pipeline import create_pipeline

__all__ = ["create_pipeline"]
