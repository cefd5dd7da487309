"""Wiring of the stage ``entity_modeling``."""

from kedro.pipeline import Node, Pipeline

from mkgformer_kedro.pipelines.entity_modeling.nodes import model_entities
from mkgformer_kedro.pipelines.wiring import make_stage

_NODES = {
    "link_prediction": [
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
    ]
}


def create_pipeline(*tasks: str) -> Pipeline:
    """The stage's nodes for ``tasks``; without any, for every task that has the stage."""
    return make_stage("entity_modeling", _NODES, tasks)
