"""Wiring of the stage ``evaluation``."""

from kedro.pipeline import Node, Pipeline

from mkgformer_kedro.pipelines.evaluation import link_prediction, posts
from mkgformer_kedro.pipelines.wiring import make_stage

_ON_POSTS = [
    Node(
        func=posts.predict_test_posts,
        inputs=["models", "posts", "visual_store", "params:model", "params:evaluation"],
        outputs=["predictions", "predictions_without_images"],
        name="predict_test_posts",
        tags="gpu",
    ),
    Node(
        func=posts.predict_baseline,
        inputs=["posts", "labels"],
        outputs="predictions_baseline",
        name="predict_baseline",
    ),
    Node(
        func=posts.report_posts,
        inputs=[
            "predictions",
            "predictions_without_images",
            "predictions_baseline",
            "posts",
            "labels",
            "visual_store",
            "training_curve",
            "ingestion_report",
            "coverage_report",
            "params:evaluation",
            "params:preset",
            "params:seed",
        ],
        outputs=["metrics", "drill_down", "plot", "report"],
        name="report_posts",
    ),
]

_NODES = {
    "link_prediction": [
        Node(
            func=link_prediction.rank_test_answers,
            inputs=[
                "models",
                "queries",
                "triples",
                "visual_store",
                "params:model",
                "params:evaluation",
                "params:preset",
            ],
            outputs=["predictions", "predictions_without_images"],
            name="rank_test_answers",
            tags="gpu",
        ),
        Node(
            func=link_prediction.rank_by_popularity,
            inputs=["queries", "triples", "entities", "params:evaluation"],
            outputs="predictions_baseline",
            name="rank_by_popularity",
        ),
        Node(
            func=link_prediction.report_link_prediction,
            inputs=[
                "predictions",
                "predictions_without_images",
                "predictions_baseline",
                "triples",
                "entities",
                "relations",
                "visual_store",
                "training_curve",
                "ingestion_report",
                "coverage_report",
                "params:evaluation",
                "params:preset",
                "params:seed",
            ],
            outputs=["metrics", "drill_down", "plot", "report"],
            name="report_link_prediction",
        ),
    ],
    "relation_extraction": _ON_POSTS,
    "entity_recognition": _ON_POSTS,
}


def create_pipeline(*tasks: str) -> Pipeline:
    """The stage's nodes for ``tasks``; without any, for every task."""
    return make_stage("evaluation", _NODES, tasks)
