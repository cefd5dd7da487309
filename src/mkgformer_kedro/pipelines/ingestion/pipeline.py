"""The ingestion stage."""

from collections.abc import Callable
from typing import Any

from kedro.pipeline import Node, Pipeline

from mkgformer_kedro.pipelines.ingestion import (
    entity_recognition,
    link_prediction,
    relation_extraction,
)
from mkgformer_kedro.pipelines.wiring import make_stage


def _on_posts(index: Callable[..., Any], report: Callable[..., Any]) -> list[Node]:
    return [
        Node(
            func=index,
            inputs=["raw_posts", "params:ingestion"],
            outputs=["posts", "labels", "quarantine"],
            name="index_posts",
        ),
        Node(
            func=report,
            inputs=["raw_posts", "posts", "labels", "quarantine", "params:ingestion"],
            outputs="ingestion_report",
            name="report_ingestion",
        ),
    ]


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
    "relation_extraction": _on_posts(
        relation_extraction.index_posts,
        relation_extraction.report_ingestion,
    ),
    "entity_recognition": _on_posts(
        entity_recognition.index_posts,
        entity_recognition.report_ingestion,
    ),
}


def create_pipeline(*tasks: str) -> Pipeline:
    """The stage's nodes for ``tasks``; without any, for every task."""
    return make_stage("ingestion", _NODES, tasks)
