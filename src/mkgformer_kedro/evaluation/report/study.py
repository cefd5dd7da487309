"""The page of a study: its cells side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from mkgformer_kedro.evaluation.experts import BASELINE, REFERENCE, WITHOUT_IMAGES
from mkgformer_kedro.evaluation.report.figures import bands_figure, cells_figure
from mkgformer_kedro.evaluation.report.page import DifferenceRow, ScoreRow, Section, render_template
from mkgformer_kedro.evaluation.report.sections import (
    Layout,
    difference_scale,
    facts_section,
    score_rows,
    scores_section,
)
from mkgformer_kedro.evaluation.study import Point
from mkgformer_kedro.evaluation.verdicts import Verdict, control_verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def render_study(
    layout: Layout,
    points: Sequence[Point],
    figure: Figure | None,
    *,
    grid: str,
    reference: str,
    data_set: str,
    synthetic: bool,
    facts: Mapping[str, Any],
) -> str:
    """Write the page of a study.

    Args:
        layout: The task's.
        points: What is known of the cells.
        figure: The study's figure; None where there is nothing to draw.
        grid: Name of the grid.
        reference: The cell with which the others are compared.
        data_set: Name of the data set.
        synthetic: Whether the data set is made up.
        facts: What is known about data and run, by heading.

    Returns:
        A self-contained HTML page.
    """
    sections = []
    for point in points:
        where = f" at {point.label}" if point.label else ""
        if point.together is None:
            text = f"The reference, {_named(reference)}, has no answers: nothing can be compared."
            sections.append(Section.of(f"Scores{where}", text=text))
        else:
            scores = scores_section(layout, point.together, [])
            sections.append(replace(scores, title=f"Scores{where}"))
    if figure is not None:
        caption = "The models of the cells, scored on the test split."
        sections.insert(0, Section.of("Figure", figures={caption: figure}))
    with_answers = [point for point in points if point.alone]
    if with_answers:
        sections.append(_images_section(layout, with_answers, reference))
    sections += [_cells_section(points), facts_section(facts)]
    together = next((point.together for point in reversed(points) if point.together), None)
    own = (
        ScoreRow(f"{_named(reference)}: no answers", {})
        if together is None
        else score_rows(layout, together, together.whole)[0]
    )
    lead = f"Models that differ in what each cell names, compared with {_named(reference)}."
    content = {
        "title": f"{layout.title}: {_named(grid)}",
        "data_set": data_set,
        "synthetic": synthetic,
        "lead": lead,
        "metrics": layout.metrics,
        "own": own,
        "sections": sections,
    }
    return render_template("page.html.j2", content)


def study_figure(points: Sequence[Point], reference: str, along: str | None) -> Figure | None:
    """The figure of a study: cells one below the other, or curves along a parameter.

    A band is the standard deviation over seeds around the mean, or, with one seed, the 95 %
    interval over the test split.

    Args:
        points: What is known of the cells.
        reference: The cell whose model without images and baseline are drawn beside the curves.
        along: The parameter along which the grid is repeated.

    Returns:
        None where no cell has answers.
    """
    first = next((each for point in points for each in point.alone.values()), None)
    if first is None:
        return None
    rows = []
    places, labels = _places(points)
    for point, place in zip(points, places, strict=True):
        for name, evaluation in point.alone.items():
            shown = {_named(name): REFERENCE}
            if along is not None and name == reference:
                shown |= {f"{_named(name)}, without images": WITHOUT_IMAGES}
                shown |= {evaluation.name(BASELINE): BASELINE}
            for label, expert in shown.items():
                scores, key = evaluation.scores[expert], evaluation.metric.key
                value, (low, high) = scores.metrics[key], scores.intervals[key]
                if along is not None and key in scores.deviations:
                    low, high = value - scores.deviations[key], value + scores.deviations[key]
                rows.append((label, place, value, low, high))
    table = pd.DataFrame(rows, columns=["cell", "x", "score", "low", "high"])
    if along is None:
        return cells_figure(table, first.metric.label)
    curves = {str(name): of_cell for name, of_cell in table.groupby("cell", sort=False)}
    by_items = len(labels) > 1 and min(labels) > 0
    x = f"learned from ({along})" if by_items else along
    return bands_figure(curves, labels, x=x, metric=first.metric.label)


def _places(points: Sequence[Point]) -> tuple[list[float], dict[float, str]]:
    """Where points stand: at the number of things learned from, where that is what differs."""
    items = [max((cell.items or 0 for cell in point.cells), default=0) for point in points]
    if len(set(items)) == len(points) > 1 and min(items) > 0:
        return [*map(float, items)], {float(number): f"{number:,}" for number in sorted(items)}
    places = [float(number) for number in range(len(points))]
    return places, dict(zip(places, (point.label for point in points), strict=True))


def _images_section(layout: Layout, points: Sequence[Point], reference: str) -> Section:
    tables: dict[str, list[DifferenceRow]] = {}
    verdicts: list[Verdict] = []
    for point in points:
        heading = f"Cell at {point.label}" if point.label else "Cell"
        tables[heading] = [
            DifferenceRow(
                _named(name),
                evaluation.scores[WITHOUT_IMAGES].metrics[evaluation.metric.key],
                evaluation.differences[WITHOUT_IMAGES],
            )
            for name, evaluation in point.alone.items()
        ]
        if (together := point.together) is None:
            continue
        scores = {name: of.metrics[together.metric.key] for name, of in together.scores.items()}
        for cell in point.cells:
            if cell.control is not None and cell.name in together.differences:
                pair = (scores[reference], scores[cell.name])
                difference = together.differences[cell.name]
                label = together.metric.label
                verdicts.append(control_verdict(label, cell.control, pair, difference))
    some = next(iter(points[0].alone.values()))
    differences = [
        {str(number): row.difference for number, row in enumerate(rows)} for rows in tables.values()
    ]
    return Section.from_template(
        "Images",
        "study_images.html.j2",
        {
            "metric": some.metric,
            "units": some.units,
            "tables": tables,
            "verdicts": verdicts,
            "scale": difference_scale(*differences),
        },
    )


def _cells_section(points: Sequence[Point]) -> Section:
    rows = [
        {
            "name": _named(cell.name) + (f" at {point.label}" if point.label else ""),
            "differs": [f"{path}: {value}" for path, value in cell.overrides.items()],
            "learned_from": cell.items,
            "seeds": 0 if cell.predictions is None else len(point.alone[cell.name].seeds),
            "failed": [f"seed {seed}: {why}" for seed, why in cell.failures.items()],
        }
        for point in points
        for cell in point.cells
    ]
    return Section.from_template("Cells", "study_cells.html.j2", {"rows": rows})


def _named(name: str) -> str:
    return name.replace("_", " ")
