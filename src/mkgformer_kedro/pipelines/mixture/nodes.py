"""Nodes of the stage ``mixture``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pandas as pd
from kedro.pipeline import Node

from mkgformer_kedro.inference.parameters import AskingParameters, MixtureParameters
from mkgformer_kedro.launch import LaunchParameters, engine_of
from mkgformer_kedro.training.parameters import ModelParameters
from mkgformer_kedro.training.tasks.base import Task

logger = logging.getLogger(__name__)


def mix_experts(
    models: Path,
    structure_models: Path,
    queries: pd.DataFrame,
    entities: pd.DataFrame,
    relations: pd.DataFrame,
    visual_store: Path,
    work_folder: Path,
    model: ModelParameters,
    asking: AskingParameters,
    parameters: MixtureParameters,
    launch: LaunchParameters,
    seed: int,
) -> Path:
    """Fit a mixture of experts on the dev queries.

    Returns:
        The finished folder of the mixture.
    """
    from mkgformer_kedro.evaluation.experts import WITHOUT_IMAGES
    from mkgformer_kedro.inference.experts import TrainedModels, load_experts
    from mkgformer_kedro.inference.mixture import choose_experts, fit_mixture

    trained = TrainedModels.of(models, visual_store, model, asking)
    experts = load_experts(trained, structure_models)
    if parameters.experts is None and not trained.store.has_images.any():
        # It would say what the model says.
        experts = [expert for expert in experts if expert.name != WITHOUT_IMAGES]
    mixture = fit_mixture(
        choose_experts(experts, parameters.experts),
        queries,
        work_folder,
        parameters,
        entities=len(entities),
        relations=len(relations),
        seed=seed,
        engine=engine_of(launch),
    )
    return mixture.save(work_folder / "mixture")


def report_calibration(
    mixture: Path,
    models: Path,
    structure_models: Path,
    queries: pd.DataFrame,
    relations: pd.DataFrame,
    visual_store: Path,
    model: ModelParameters,
    asking: AskingParameters,
    parameters: MixtureParameters,
    seed: int,
) -> dict[str, Any]:
    """Hold the mixture's probabilities and answer sets against the answers of test.

    Returns:
        The calibration report.
    """
    from mkgformer_kedro.inference.experts import TrainedModels, load_experts
    from mkgformer_kedro.inference.mixture import judge_calibration, unlike_splits

    trained = TrainedModels.of(models, visual_store, model, asking)
    *_, mixed = load_experts(trained, structure_models, mixture)
    report = judge_calibration(mixed, queries, relations["relation"].tolist(), parameters, seed)
    if report["unlike"]:
        logger.warning("%s", unlike_splits(report["answers_per_query"]))
    if (test := report["test"]) is not None:
        logger.info(
            "Calibration error on test: %.3f; %.0f %% answer sets hold %.1f %% of the answers",
            test["proposals"]["expected_calibration_error"],
            100 * test["answer_sets"]["level"],
            100 * test["answer_sets"]["coverage"],
        )
    return report


def nodes(task: type[Task]) -> list[Node]:
    """The stage's nodes for link prediction."""
    experts = ["models", "structure_models"]
    return [
        Node(
            func=mix_experts,
            inputs=[
                *experts,
                "queries",
                "entities",
                "relations",
                "visual_store",
                "mixture_work",
                "params:model",
                "params:asking",
                "params:mixture",
                "params:launch",
                "params:seed",
            ],
            outputs="mixture",
            name="mix_experts",
            tags="gpu",
        ),
        Node(
            func=report_calibration,
            inputs=[
                "mixture",
                *experts,
                "queries",
                "relations",
                "visual_store",
                "params:model",
                "params:asking",
                "params:mixture",
                "params:seed",
            ],
            outputs="calibration_report",
            name="report_calibration",
            tags="gpu",
        ),
    ]
