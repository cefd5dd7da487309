"""Wiring of the run ``study``."""

from kedro.pipeline import Node, Pipeline

from mkgformer_kedro.pipelines.study.nodes import run_study


def create_pipeline() -> Pipeline:
    """Parameters in, a folder with table, figure and page out."""
    node = Node(
        func=run_study,
        inputs=["parameters", "params:study", "environment", "study_work"],
        outputs="study",
        name="run_study",
    )
    return Pipeline([node])
