"""What is known of the cells of a study, point by point: one table of all.

A study compares models that were trained in different ways, as an evaluation compares experts: the
model of each cell is an expert with the cell's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from mkgformer_kedro.evaluation.experts import BASELINE, REFERENCE, WITHOUT_IMAGES, Evaluation

_FIRST = ("at", "cell", "seeds", "items")
_OF_METRIC = (
    *("deviation", "low", "high", "difference", "difference_low", "difference_high"),
    *("without_images", "by_images", "by_images_low", "by_images_high", "baseline"),
)

Evaluate = Callable[[pd.DataFrame, str], Evaluation]
"""Scores experts: of a predictions table and the name of the reference."""


@dataclass(frozen=True)
class Cell:
    """What became of a cell.

    Attributes:
        name: Its name.
        overrides: Values of parameters by path.
        predictions: Answers of its model, of the same without images, and of its baseline, with
            all seeds that were done; None where none was.
        failures: Why seeds have no answers.
        items: Number of things that it learned from; None where that is not known.
    """

    name: str
    overrides: Mapping[str, Any]
    predictions: pd.DataFrame | None
    failures: Mapping[int, str]
    items: int | None

    @property
    def control(self) -> str | None:
        """What images it learned from, if not each one's own: ``shuffled`` or ``random``."""
        source = self.overrides.get("model.images.source")
        return source if source in ("shuffled", "random") else None


@dataclass(frozen=True)
class Point:
    """The grid at one value of the parameter along which it is repeated.

    Attributes:
        label: That value, in words; empty where the grid is not repeated.
        cells: Its cells.
        alone: Of each cell that has answers, what is known of its model by itself.
        together: What is known of the models of all cells side by side; None where the reference
            has no answers.
    """

    label: str
    cells: Sequence[Cell]
    alone: Mapping[str, Evaluation]
    together: Evaluation | None


def evaluate_point(label: str, cells: Sequence[Cell], reference: str, evaluate: Evaluate) -> Point:
    """Score the cells of a point, each alone and all side by side with the reference's baseline.

    Args:
        label: The point.
        cells: Its cells.
        reference: Name of the cell with which the others are compared.
        evaluate: Scores experts.
    """
    answered = {cell.name: cell.predictions for cell in cells if cell.predictions is not None}
    alone = {name: evaluate(predictions, REFERENCE) for name, predictions in answered.items()}
    if reference not in answered:
        return Point(label, cells, alone, None)
    side_by_side = [
        predictions[predictions["expert"] == REFERENCE].assign(expert=name)
        for name, predictions in answered.items()
    ]
    baseline = answered[reference]
    side_by_side.append(baseline[baseline["expert"] == BASELINE])
    together = evaluate(pd.concat(side_by_side, ignore_index=True), reference)
    return Point(label, cells, alone, together)


def study_table(points: Iterable[Point], metrics: Mapping[str, str]) -> pd.DataFrame:
    """One row a cell and point.

    Args:
        points: The points.
        metrics: Keys of metrics in the scores, by column.

    Returns:
        ``at`` (the point), ``cell``, ``seeds`` (number of those that were done), ``items``, each
        metric (mean over seeds), ``deviation`` of the first, ``low`` and ``high``: its 95 %
        interval; ``difference`` to the reference, with ``difference_low`` and ``difference_high``
        (paired); ``without_images`` (the same model), ``by_images``: what images add to it, with
        ``by_images_low`` and ``by_images_high``; ``baseline``; ``failed``: why seeds failed.
    """
    rows = [_row(point, cell, metrics) for point in points for cell in point.cells]
    columns = [*_FIRST, *metrics, *_OF_METRIC, "failed"]
    return pd.DataFrame(rows, columns=columns).astype({"items": "Int64"})


def _row(point: Point, cell: Cell, metrics: Mapping[str, str]) -> dict[str, Any]:
    row: dict[str, Any] = {"at": point.label, "cell": cell.name, "seeds": 0, "items": cell.items}
    if (alone := point.alone.get(cell.name)) is not None:
        scores, key = alone.scores[REFERENCE], alone.metric.key
        row["seeds"] = len(alone.seeds)
        row |= {name: scores.metrics[metric] for name, metric in metrics.items()}
        row |= {"deviation": scores.deviations.get(key), **scores.intervals[key]._asdict()}
        if point.together is not None and cell.name in point.together.differences:
            difference = point.together.differences[cell.name]
            row |= {
                "difference": 0.0 - difference.value,
                "difference_low": 0.0 - difference.interval.high,
                "difference_high": 0.0 - difference.interval.low,
            }
        row["without_images"] = alone.scores[WITHOUT_IMAGES].metrics[key]
        by_images = alone.differences[WITHOUT_IMAGES]
        row |= {
            "by_images": by_images.value,
            "by_images_low": by_images.interval.low,
            "by_images_high": by_images.interval.high,
            "baseline": alone.scores[BASELINE].metrics[key],
        }
    row["failed"] = "; ".join(f"seed {seed}: {why}" for seed, why in cell.failures.items())
    return row
