"""Wiring of the stage ``finetuning``."""

from kedro.pipeline import Node, Pipeline

from mkgformer_kedro.pipelines.finetuning.nodes import finetune
from mkgformer_kedro.training.tasks.registry import task_named


def create_pipeline(task: str = "link_prediction") -> Pipeline:
    """The stage's node for ``task``: tables and images in, one model folder per seed out."""
    kind = task_named(task)
    node = Node(
        func=finetune(kind),
        inputs=[
            "visual_store",
            "finetuning_work",
            "params:model",
            "params:finetuning",
            "params:preset",
            "params:seed",
            *kind.inputs,
        ],
        outputs=["models", "training_curve"],
        name=f"finetune_{task}",
        tags="gpu",
    )
    return Pipeline([node], namespace="finetuning", prefix_datasets_with_namespace=False)
