"""The pipelines that ``kedro run --pipelines`` knows: every stage and every run."""

from kedro.framework.project import find_pipelines
from kedro.pipeline import Pipeline


def register_pipelines() -> dict[str, Pipeline]:
    """Find the packages under ``pipelines/``; a plain ``kedro run`` is link prediction."""
    pipelines = find_pipelines()
    if "link_prediction" in pipelines:
        pipelines["__default__"] = pipelines["link_prediction"]
    return pipelines
