"""Wiring of the stage ``entity_modeling``."""

from kedro.pipeline import Node, Pipeline

from mkgformer_kedro.pipelines.entity_modeling.nodes import model_entities


def create_pipeline() -> Pipeline:
    """Tables and images in, a model folder with one token per entity out."""
    return Pipeline(
        [
            Node(
                func=model_entities,
                inputs=[
                    "entities",
                    "relations",
                    "visual_store",
                    "entity_modeling_work",
                    "params:model",
                    "params:entity_modeling",
                    "params:preset",
                    "params:seed",
                ],
                outputs=["entity_model", "entity_modeling_curve"],
                name="model_entities",
                tags="gpu",
            )
        ],
        namespace="entity_modeling",
        prefix_datasets_with_namespace=False,
    )
