"""Nodes of the stage ``evaluation``, the same for every task."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from kedro.pipeline import Node

from mkgformer_kedro.evaluation.experts import WITHOUT_IMAGES
from mkgformer_kedro.inference.parameters import AskingParameters
from mkgformer_kedro.launch import Engine, LaunchParameters, engine_of
from mkgformer_kedro.pipelines.evaluation.parameters import (
    EvaluationParameters,
    RankingEvaluationParameters,
)
from mkgformer_kedro.training.parameters import FinetuningParameters, ModelParameters
from mkgformer_kedro.training.tasks.base import Task

if TYPE_CHECKING:
    from mkgformer_kedro.datasets.visual_store import VisualStore
    from mkgformer_kedro.evaluation.report import Look
    from mkgformer_kedro.inference.experts import TrainedModels
    from mkgformer_kedro.inference.explanation import Looker

logger = logging.getLogger(__name__)


def predict_for(task: type[Task]) -> Callable[..., pd.DataFrame]:
    """The node's function that asks every expert of a task about the test split.

    Args:
        task: The task. Kedro reads the type of its parameters from the function's annotations.

    Returns:
        A function of the models, the visual store, parameters, the task's ``tables`` and its
        ``experts``; it returns a predictions table.
    """

    def node(
        models: Path,
        visual_store: Path,
        model: ModelParameters,
        asking: AskingParameters,
        parameters: EvaluationParameters,
        launch: LaunchParameters,
        preset: str,
        *inputs: Any,
    ) -> pd.DataFrame:
        from mkgformer_kedro.inference.experts import TrainedModels

        given = dict(zip((*task.tables, *task.experts), inputs, strict=True))
        trained = TrainedModels.of(models, visual_store, model, asking)
        return ask_test(task, given, trained, parameters, preset, engine_of(launch))

    node.__annotations__["parameters"] = parameters_of(task)
    node.__name__ = f"predict_{task.name}"
    return node


def parameters_of(task: type[Task]) -> type[EvaluationParameters]:
    """The type of the parameters of a task's evaluation."""
    return RankingEvaluationParameters if task.items == "queries" else EvaluationParameters


def ask_test(
    task: type[Task],
    given: Mapping[str, Any],
    trained: TrainedModels,
    parameters: EvaluationParameters,
    preset: str,
    engine: Engine,
) -> pd.DataFrame:
    """Ask the models, and what experts there are besides, about the test split.

    Args:
        task: The task.
        given: Its ``tables``, and folders of its ``experts``, by name.
        trained: The models.
        parameters: Parameters of the evaluation.
        preset: What filters known answers where the parameters do not say.
        engine: Where they are asked.

    Returns:
        A predictions table.
    """
    from mkgformer_kedro.inference.experts import ModelPostsExpert, load_experts
    from mkgformer_kedro.inference.predictions import predict_posts, predict_queries

    if task.items == "posts":
        posts = given["posts"]
        return predict_posts(
            trained.experts(ModelPostsExpert),
            posts[posts["split"] == "test"],
            task.gold,
            batch_size=parameters.batch_size,
            engine=engine,
        )
    return predict_queries(
        load_experts(trained, **{name: given[name] for name in task.experts if name in given}),
        _of_test(given["queries"]),
        _of_test(given["triples"]),
        batch_size=parameters.batch_size,
        known_offset=parameters.offset(preset),
        engine=engine,
    )


def predict_baseline_for(task: type[Task]) -> Callable[..., pd.DataFrame]:
    """The node's function that answers the test split without any model.

    Args:
        task: The task.

    Returns:
        A function of parameters and the task's ``tables``; it returns a predictions table, see
        :func:`ask_baseline`.
    """

    def node(finetuning: FinetuningParameters, seed: int, *tables: pd.DataFrame) -> pd.DataFrame:
        return ask_baseline(task, dict(zip(task.tables, tables, strict=True)), finetuning, seed)

    node.__annotations__["finetuning"] = task.parameters_class
    node.__name__ = f"predict_{task.name}_baseline"
    return node


def ask_baseline(
    task: type[Task],
    tables: Mapping[str, pd.DataFrame],
    finetuning: FinetuningParameters,
    seed: int,
) -> pd.DataFrame:
    """The answers of a task's baseline to the test split.

    Args:
        task: The task.
        tables: Its ``tables`` by name.
        finetuning: How its models are trained.
        seed: Seed of a model, where the parameters name none.

    Returns:
        A predictions table. Where each of the models learns from a part of train that its seed
        draws, there is a baseline of each seed, which learns from the same part.
    """
    if finetuning.train_subset is None:
        return task.predict_baseline(tables)
    parts = []
    for each in finetuning.seeds or [seed]:
        baseline = task.predict_baseline(task.learned_from(tables, finetuning, each))
        parts.append(baseline.assign(seed=each))
    return pd.concat(parts, ignore_index=True)


def explain_for(task: type[Task]) -> Callable[..., dict[str, Any]]:
    """The node's function that measures whether what a model looks at decides.

    Args:
        task: The task. Kedro reads the type of its parameters from the function's annotations.

    Returns:
        A function of the models, of which the one of the first seed is asked, the visual store,
        parameters and the task's ``tables``. It returns the number of ``questions`` and what
        ``deletion`` and ``pointing`` found, see :mod:`mkgformer_kedro.evaluation.explanations`.
    """

    def node(
        models: Path,
        visual_store: Path,
        model: ModelParameters,
        parameters: EvaluationParameters,
        seed: int,
        *tables: pd.DataFrame,
    ) -> dict[str, Any]:
        from mkgformer_kedro.evaluation.explanations import deletion_scores, pointing_scores
        from mkgformer_kedro.inference.experts import TrainedModels
        from mkgformer_kedro.inference.explanation import delete_patches, point

        wanted = parameters.explanations
        trained = TrainedModels.of(models, visual_store, model)
        store = trained.store
        given = dict(zip(task.tables, tables, strict=True))
        asked = _asked_with_images(task, given, store)
        found: dict[str, Any] = {"questions": 0, "deletion": [], "pointing": []}
        if asked.empty or not wanted.questions:
            return found
        looker = _looker(trained)
        resampling = {"seed": seed, "resamples": parameters.resamples}
        drawn = _drawn(asked, wanted.questions, seed)
        changes = delete_patches(
            looker,
            drawn,
            store,
            shares=wanted.shares,
            seed=seed,
            batch_size=parameters.batch_size,
        )
        group = drawn["subset"] if "subset" in drawn else pd.Series(None, index=drawn.index)
        changes["group"] = group.to_numpy()[changes["question"]]
        found |= {"questions": len(drawn), "deletion": deletion_scores(changes, **resampling)}
        if pointing := getattr(wanted, "pointing", {}):
            names = given["relations"]["relation"].to_numpy()[asked["relation"]]
            about = (asked["direction"] == "tail") & np.isin(names, [*pointing])
            drawn = _drawn(asked[about], wanted.questions, seed)
            names = given["relations"]["relation"].to_numpy()[drawn["relation"]]
            quarters = [pointing[name] for name in names]
            hits = point(looker, drawn, store, quarters=quarters, batch_size=parameters.batch_size)
            hits["relation"] = names[hits["question"].to_numpy(int)]
            found["pointing"] = pointing_scores(hits, **resampling) if len(hits) else []
        return found

    node.__annotations__["parameters"] = parameters_of(task)
    node.__name__ = f"explain_{task.name}"
    return node


def report_for(
    task: type[Task],
) -> Callable[..., tuple[dict[str, Any], pd.DataFrame, Any, str]]:
    """The node's function that scores all experts of a task and writes the report.

    Args:
        task: The task. Kedro reads the type of its parameters from the function's annotations.

    Returns:
        A function of both predictions tables, the models, the visual store, what was measured of
        explanations, the training curve, the reports of other stages, parameters, the task's
        ``tables`` and its ``reports``. The model of the first seed is asked what it looked at in
        the examples, and what it learned from is what views and groups take for train. It returns
        the metrics (key ``test`` and what stands beside it), the scores of all groups in one table,
        a figure and the HTML page.
    """

    def node(
        predictions: pd.DataFrame,
        baseline: pd.DataFrame,
        models: Path,
        visual_store: Path,
        explanations: dict[str, Any],
        training_curve: pd.DataFrame,
        ingestion_report: dict[str, Any],
        coverage_report: dict[str, Any],
        model: ModelParameters,
        parameters: EvaluationParameters,
        finetuning: FinetuningParameters,
        preset: str,
        seed: int,
        *inputs: Any,
    ) -> tuple[dict[str, Any], pd.DataFrame, Any, str]:
        from mkgformer_kedro.evaluation.report import Published, render
        from mkgformer_kedro.inference.experts import TrainedModels

        trained = TrainedModels.of(models, visual_store, model)
        store = trained.store
        layout = task.layout()
        given = dict(zip((*task.tables, *task.reports), inputs, strict=True))
        tables = {name: given[name] for name in task.tables}
        if _asked_with_images(task, tables, store).empty:
            # Those answers are the model's own.
            predictions = predictions[predictions["expert"] != WITHOUT_IMAGES]
        evaluation = task.evaluate(
            pd.concat([predictions, baseline], ignore_index=True),
            task.learned_from(tables, finetuning, min(finetuning.seeds or [seed])),
            has_images=store.has_images,
            seed=seed,
            resamples=parameters.resamples,
        )
        for verdict in evaluation.verdicts:
            logger.info(verdict.text)

        def explain(items: pd.DataFrame) -> list[list[Look]]:
            from mkgformer_kedro.inference.explanation import look_at

            return look_at(_looker(trained), items, store) if len(items) else []

        page = render(
            layout,
            evaluation,
            tables,
            data_set=parameters.title or ingestion_report["data_set"],
            synthetic=parameters.synthetic,
            published=[Published(**result.model_dump()) for result in parameters.published],
            curve=training_curve,
            has_images=store.has_images,
            images=store.images,
            explain=explain,
            explanations=explanations,
            examples=parameters.examples,
            seed=seed,
            facts={
                "Data": ingestion_report,
                "Images": coverage_report,
                "Run": {"preset": preset, "seed": seed, "seeds": evaluation.seeds},
            },
            reports={name: given[name] for name in task.reports},
        )
        return evaluation.metrics, evaluation.drill_down, layout.figure(evaluation), page

    node.__annotations__["parameters"] = parameters_of(task)
    node.__annotations__["finetuning"] = task.parameters_class
    node.__name__ = f"report_{task.name}"
    return node


def nodes(task: type[Task]) -> list[Node]:
    """The stage's nodes."""
    return [
        Node(
            func=predict_for(task),
            inputs=[
                "models",
                "visual_store",
                "params:model",
                "params:asking",
                "params:evaluation",
                "params:launch",
                "params:preset",
                *task.tables,
                *task.experts,
            ],
            outputs="predictions",
            name="predict",
            tags="gpu",
        ),
        Node(
            func=predict_baseline_for(task),
            inputs=["params:finetuning", "params:seed", *task.tables],
            outputs="predictions_baseline",
            name="predict_baseline",
        ),
        Node(
            func=explain_for(task),
            inputs=[
                "models",
                "visual_store",
                "params:model",
                "params:evaluation",
                "params:seed",
                *task.tables,
            ],
            outputs="explanations",
            name="explain",
            tags="gpu",
        ),
        Node(
            func=report_for(task),
            inputs=[
                "predictions",
                "predictions_baseline",
                "models",
                "visual_store",
                "explanations",
                "training_curve",
                "ingestion_report",
                "coverage_report",
                "params:model",
                "params:evaluation",
                "params:finetuning",
                "params:preset",
                "params:seed",
                *task.tables,
                *task.reports,
            ],
            outputs=["metrics", "drill_down", "plot", "report"],
            name="report",
        ),
    ]


def _asked_with_images(
    task: type[Task], tables: Mapping[str, pd.DataFrame], store: VisualStore
) -> pd.DataFrame:
    """The queries or posts of the test split whose entity or post has images."""
    rows = tables[task.items]
    owners = rows.index if task.owner == "post" else rows[task.owner]
    return rows[(rows["split"] == "test") & store.has_images[owners]]


def _looker(trained: TrainedModels) -> Looker:
    """The model of the first seed."""
    from mkgformer_kedro.inference.explanation import Looker

    _, model = next(trained.by_seed())
    return Looker(*model.parts)


def _drawn(table: pd.DataFrame, number: int, seed: int) -> pd.DataFrame:
    """So many rows in their order, or all."""
    return table.sample(min(number, len(table)), random_state=seed).sort_index()


def _of_test(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["split"] == "test"].drop(columns="split").reset_index(drop=True)
