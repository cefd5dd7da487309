"""Wiring of image association."""

from kedro.pipeline import Node, Pipeline

from mkgformer_kedro.pipelines.image_association.nodes import (
    draw_contact_sheet,
    report_coverage,
    store_pictures,
)


def create_pipeline() -> Pipeline:
    """Image folder and entities to manifest, visual store, coverage report and contact sheet."""
    nodes = [
        Node(
            store_pictures,
            inputs=[
                "raw_pictures",
                "entities",
                "relations",
                "triples",
                "visual_store_work",
                "params:image_association",
            ],
            outputs=["pictures", "visual_store"],
            name="store_pictures",
        ),
        Node(
            report_coverage,
            inputs=[
                "raw_pictures",
                "entities",
                "triples",
                "pictures",
                "visual_store",
                "params:image_association",
            ],
            outputs="coverage_report",
            name="report_coverage",
        ),
        Node(
            draw_contact_sheet,
            inputs=["pictures", "visual_store", "entities"],
            outputs="contact_sheet",
            name="draw_contact_sheet",
        ),
    ]
    return Pipeline(nodes, namespace="image_association", prefix_datasets_with_namespace=False)
