"""The ingestion stage."""

from kedro.pipeline import Node, Pipeline

from mkgformer_kedro.pipelines.ingestion import link_prediction

_NODES = {
    "link_prediction": [
        Node(
            func=link_prediction.index_graph,
            inputs=["raw_graph", "params:ingestion"],
            outputs=["entities", "relations", "triples", "quarantine"],
            name="index_graph",
        ),
        Node(
            func=link_prediction.group_queries,
            inputs="triples",
            outputs="queries",
            name="group_queries",
        ),
        Node(
            func=link_prediction.report_ingestion,
            inputs=[
                "raw_graph",
                "entities",
                "relations",
                "triples",
                "queries",
                "quarantine",
                "params:ingestion",
            ],
            outputs="ingestion_report",
            name="report_ingestion",
        ),
    ],
}


def create_pipeline(task: str = "link_prediction") -> Pipeline:
    """Wire the stage for a task: from its raw files to validated tables and a report.

    Args:
        task: Name of the task the tables are for.
    """
    return Pipeline(_NODES[task], namespace="ingestion", prefix_datasets_with_namespace=False)
