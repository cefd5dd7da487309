"""Wiring of the stage ``finetuning``."""

from collections.abc import Callable
from typing import Any

from kedro.pipeline import Node, Pipeline

from mkgformer_kedro.pipelines.finetuning.entity_recognition import finetune_entity_recognition
from mkgformer_kedro.pipelines.finetuning.link_prediction import finetune_link_prediction
from mkgformer_kedro.pipelines.finetuning.relation_extraction import finetune_relation_extraction
from mkgformer_kedro.pipelines.wiring import make_stage


def _on_posts(finetune: Callable[..., Any]) -> Node:
    return Node(
        func=finetune,
        inputs=[
            "posts",
            "labels",
            "visual_store",
            "finetuning_work",
            "params:model",
            "params:finetuning",
            "params:preset",
            "params:seed",
        ],
        outputs=["models", "training_curve"],
        name=finetune.__name__,
        tags="gpu",
    )


_NODES = {
    "link_prediction": Node(
        func=finetune_link_prediction,
        inputs=[
            "entity_model",
            "queries",
            "visual_store",
            "finetuning_work",
            "params:model",
            "params:finetuning",
            "params:preset",
            "params:seed",
        ],
        outputs=["models", "training_curve"],
        name="finetune_link_prediction",
        tags="gpu",
    ),
    "relation_extraction": _on_posts(finetune_relation_extraction),
    "entity_recognition": _on_posts(finetune_entity_recognition),
}


def create_pipeline(*tasks: str) -> Pipeline:
    """The stage's nodes for ``tasks``; without any, for every task."""
    return make_stage("finetuning", {task: [node] for task, node in _NODES.items()}, tasks)
