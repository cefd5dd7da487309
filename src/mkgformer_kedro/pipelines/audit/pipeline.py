"""The audit of a benchmark graph."""

from kedro.pipeline import Node, Pipeline

from mkgformer_kedro.pipelines.audit.nodes import audit_graph


def create_pipeline() -> Pipeline:
    """The audit, from raw files alone: no other stage needs to run, or to let the graph pass."""
    node = Node(
        func=audit_graph,
        inputs=[
            "raw_graph",
            "raw_images",
            "params:ingestion",
            "params:image_association",
            "params:audit",
        ],
        outputs=["audit", "audit_page"],
        name="audit_graph",
    )
    inner = Pipeline([node], namespace="audit", prefix_datasets_with_namespace=False)
    return Pipeline(inner, namespace="link_prediction")
