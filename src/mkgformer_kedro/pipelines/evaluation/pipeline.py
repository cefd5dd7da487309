"""Wiring of the stage ``evaluation``."""

from kedro.pipeline import Pipeline

from mkgformer_kedro.pipelines.wiring import make_stage


def create_pipeline(*tasks: str) -> Pipeline:
    """The stage's nodes for ``tasks``; without any, for every task that has the stage."""
    return make_stage("evaluation", tasks)
