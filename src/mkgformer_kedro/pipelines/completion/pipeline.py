"""Wiring of the run ``completion``, which is one stage that comes after ``link_prediction``."""

from kedro.pipeline import Node, Pipeline

from mkgformer_kedro.pipelines.completion.nodes import (
    keep_completions,
    plan_completion,
    propose_triples,
    publish_completions,
)

_NODES = [
    Node(
        func=plan_completion,
        inputs=[
            "models",
            "triples",
            "entities",
            "relations",
            "params:completion",
            "params:seed",
        ],
        outputs=["completion_questions", "completion_plan"],
        name="plan_completion",
    ),
    Node(
        func=propose_triples,
        inputs=[
            "mixture",
            "models",
            "structure_models",
            "completion_questions",
            "triples",
            "entities",
            "relations",
            "visual_store",
            "completion_work",
            "params:model",
            "params:asking",
            "params:completion",
            "params:launch",
        ],
        outputs="proposals",
        name="propose_triples",
        tags="gpu",
    ),
    Node(
        func=keep_completions,
        inputs=[
            "proposals",
            "completion_plan",
            "triples",
            "entities",
            "relations",
            "params:completion",
            "params:seed",
        ],
        outputs=["completions", "completions_tsv", "completion_report"],
        name="keep_completions",
    ),
    Node(
        func=publish_completions,
        inputs=[
            "completions",
            "completion_report",
            "triples",
            "entities",
            "relations",
            "visual_store",
            "ingestion_report",
            "params:completion",
        ],
        outputs=["completions_rdf", "completion_page"],
        name="publish_completions",
    ),
]


def create_pipeline() -> Pipeline:
    """Models and a mixture in, completions out."""
    stage = Pipeline(_NODES, namespace="completion", prefix_datasets_with_namespace=False)
    shared = {"params:asking", "params:launch", "params:model", "params:seed"}
    return Pipeline(stage, namespace="link_prediction", parameters=shared)
