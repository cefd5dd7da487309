"""A run that evaluated ends with its scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline

from mkgformer_kedro.evaluation.experts import WITHOUT_IMAGES
from mkgformer_kedro.files import relative
from mkgformer_kedro.training.tasks.base import Task
from mkgformer_kedro.training.tasks.registry import TASKS

_COMPLETIONS_SHOWN = 10
_OF_COMPLETIONS = ("completions", "entities", "relations", "completion_report")


class ScoreSummaryHooks:
    """Ends a run with what it found, in short, and where the rest lies."""

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Print scores of every task that was evaluated, and the best completions of a graph."""
        made = pipeline.all_outputs()
        for name, task in TASKS.items():
            if {f"{name}.metrics", f"{name}.report"} <= made:
                print("\n" + score_table(task, catalog.load(f"{name}.metrics")))
                report = relative(Path(catalog[f"{name}.report"]._filepath))
                print(f"Report, metrics and plots: {report.parent}/ (open {report.name})")
            if {f"{name}.completions", f"{name}.completion_page"} <= made:
                found = (catalog.load(f"{name}.{each}") for each in _OF_COMPLETIONS)
                print("\n" + completions_table(*found))
                page = relative(Path(catalog[f"{name}.completion_page"]._filepath))
                print(f"The page to review them: {page}")


def completions_table(
    completions: pd.DataFrame,
    entities: pd.DataFrame,
    relations: pd.DataFrame,
    report: Mapping[str, Any],
) -> str:
    """The most probable completions in words.

    Args:
        completions: Table ``completions``, in any order.
        entities: Table ``entities``, for their names.
        relations: Table ``relations``, for their texts.
        report: What was asked for, and how probable the best was, where none is kept.
    """
    if completions.empty:
        from mkgformer_kedro.evaluation.report.completions import none_kept

        return none_kept(report)
    ranked = completions.sort_values("probability", ascending=False, kind="stable")
    names = entities.set_index("entity")["name"]
    texts = relations.set_index("relation")["text"]
    lines = [f"{len(ranked)} links that the graph lacks; the most probable:"]
    lines += [
        f"{row.probability:6.2f}  {names[row.head]} | {texts[row.relation]} | {names[row.tail]}"
        for row in ranked.head(_COMPLETIONS_SHOWN).itertuples()
    ]
    return "\n".join(lines)


def score_table(task: type[Task], metrics: dict[str, Any]) -> str:
    """Scores of every expert on the test set, and of the model on parts of it, as text.

    Args:
        task: Says which scores.
        metrics: What ``metrics.json`` holds: ``experts`` in order, the scores of the first as
            ``test``, those of another as ``test_<expert>``, and those on parts of the test set
            as ``test_by_<kind>``, by part and expert (all, or the score that picks models).
    """
    first, *others = metrics["experts"]
    rows = {first: metrics["test"]} | {expert: metrics[f"test_{expert}"] for expert in others}
    for key, parts in metrics.items():
        for part, by_expert in parts.items() if key.startswith("test_by_") else ():
            for expert in (first, WITHOUT_IMAGES):
                if expert in by_expert:
                    found = by_expert[expert]
                    found = found if isinstance(found, dict) else {task.dev_metric: found}
                    rows[f"{expert}, {part}"] = found
    labels = [row.replace("_", " ") for row in rows]
    width = max(map(len, labels))
    lines = [
        f"Test scores ({task.scored})",
        " " * width + "".join(f"{column:>11}" for column in task.columns),
    ]
    for label, scores in zip(labels, rows.values(), strict=True):
        values = (scores.get(key) for key in task.columns.values())
        lines.append(label.ljust(width) + "".join(map(_cell, values)))
    return "\n".join(lines)


def _cell(value: float | None) -> str:
    if value is None:
        return " " * 11
    return f"{value:11.3f}" if abs(value) <= 1 else f"{value:11.1f}"
