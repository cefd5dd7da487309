"""Wiring of the stage ``image_association``."""

from kedro.pipeline import Node, Pipeline

from mkgformer_kedro.pipelines.image_association import link_prediction, posts
from mkgformer_kedro.pipelines.wiring import make_stage

_ON_POSTS = [
    Node(
        func=posts.locate_crops,
        inputs=["posts", "raw_images", "crops_work", "params:image_association"],
        outputs="crops",
        name="locate_crops",
        tags="gpu",
    ),
    Node(
        func=posts.store_images,
        inputs=["raw_images", "posts", "crops", "visual_store_work", "params:image_association"],
        outputs=["images", "visual_store"],
        name="store_images",
    ),
    Node(
        func=posts.report_coverage,
        inputs=["raw_images", "posts", "crops", "images", "visual_store"],
        outputs="coverage_report",
        name="report_coverage",
    ),
    Node(
        func=posts.draw_contact_sheet,
        inputs=["images", "visual_store", "posts"],
        outputs="contact_sheet",
        name="draw_contact_sheet",
    ),
]

_NODES = {
    "link_prediction": [
        Node(
            func=link_prediction.store_images,
            inputs=[
                "raw_images",
                "entities",
                "relations",
                "triples",
                "visual_store_work",
                "params:image_association",
            ],
            outputs=["images", "visual_store"],
            name="store_images",
        ),
        Node(
            func=link_prediction.report_coverage,
            inputs=[
                "raw_images",
                "entities",
                "triples",
                "images",
                "visual_store",
                "params:image_association",
            ],
            outputs="coverage_report",
            name="report_coverage",
        ),
        Node(
            func=link_prediction.draw_contact_sheet,
            inputs=["images", "visual_store", "entities"],
            outputs="contact_sheet",
            name="draw_contact_sheet",
        ),
    ],
    "relation_extraction": _ON_POSTS,
    "entity_recognition": _ON_POSTS,
}


def create_pipeline(*tasks: str) -> Pipeline:
    """The stage's nodes for ``tasks``; without any, for every task."""
    return make_stage("image_association", _NODES, tasks)
