"""The audit of a benchmark graph."""

from kedro.pipeline import Node, Pipeline

from mkgformer_kedro.pipelines.audit.nodes import audit_graph
from mkgformer_kedro.pipelines.wiring import make_stage

_NODES = {
    "link_prediction": [
        Node(
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
    ]
}


def create_pipeline(*tasks: str) -> Pipeline:
    """The audit, from raw files alone: no other stage needs to run, or to let the graph pass."""
    return make_stage("audit", _NODES, tasks)
