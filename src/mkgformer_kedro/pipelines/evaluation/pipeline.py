"""Wiring of the stage ``evaluation``."""

from kedro.pipeline import Node, Pipeline

from mkgformer_kedro.pipelines.evaluation import link_prediction

_NODES = {
    "link_prediction": [
        Node(
            func=link_prediction.rank_test_answers,
            inputs=[
                "link_prediction_model",
                "queries",
                "triples",
                "visual_store",
                "params:model",
                "params:evaluation",
                "params:preset",
            ],
            outputs=["predictions", "predictions_pictures_withheld"],
            name="rank_test_answers",
            tags="gpu",
        ),
        Node(
            func=link_prediction.rank_by_popularity,
            inputs=["queries", "triples", "entities", "params:evaluation", "params:preset"],
            outputs="predictions_popularity",
            name="rank_by_popularity",
        ),
    ],
}


def create_pipeline(task: str = "link_prediction") -> Pipeline:
    """The stage's nodes for ``task``."""
    return Pipeline(_NODES[task], namespace="evaluation", prefix_datasets_with_namespace=False)
