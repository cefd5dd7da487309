"""Wiring of the run ``search``."""

from kedro.pipeline import Node, Pipeline

from mkgformer_kedro.pipelines.search.nodes import run_search


def create_pipeline() -> Pipeline:
    """Parameters in, a table of trials out."""
    node = Node(
        func=run_search,
        inputs=["parameters", "params:search", "environment", "search_work"],
        outputs="search",
        name="run_search",
    )
    return Pipeline([node])
