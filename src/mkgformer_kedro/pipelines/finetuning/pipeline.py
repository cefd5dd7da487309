"""Wiring of the stage ``finetuning``."""

from kedro.pipeline import Node, Pipeline

from mkgformer_kedro.pipelines.finetuning.link_prediction import finetune_link_prediction


def create_pipeline(task: str = "link_prediction") -> Pipeline:
    """The stage's nodes for ``task``."""
    nodes = {
        "link_prediction": [
            Node(
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
                outputs=["link_prediction_model", "training_curve"],
                name="finetune_link_prediction",
                tags="gpu",
            )
        ]
    }
    return Pipeline(nodes[task], namespace="finetuning", prefix_datasets_with_namespace=False)
