"""Figures of reports, drawn in the palette of the pages."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.figure import Figure

# The light palette of style.css. On a page each colour becomes the style sheet's variable, so that
# a figure follows the page into the dark.
_TEXT, _INK, _GRID = "#1c1f24", "#5a616b", "#dcdfe3"
_SERIES = ("#0b5cad", "#c2571a", "#6b7280", "#7b3fa0", "#0d7d74", "#b0306a")
_VARIABLES = {_TEXT: "--ink", _INK: "--soft", _GRID: "--line"} | {
    colour: f"--series-{i}" for i, colour in enumerate(_SERIES, start=1)
}
# What heat maps are drawn in, and how opaque the hottest patch is, of 255.
_HEAT, _HEAT_OPACITY = (214, 39, 20), 190
_LINES = ("-", "--", ":", "-.")
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "lines.linewidth": 1.8,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
}


def curve_figure(
    curve: pd.DataFrame, panels: Mapping[str, str], *, x: str, by: str | None = None
) -> Figure:
    """Draw columns of a training curve side by side.

    Args:
        curve: One row per logged moment; a column that was not logged then holds NaN.
        panels: Column by panel title.
        x: Column of the horizontal axis.
        by: Column whose values each have a line of their own, such as the seed; None: one line.

    Returns:
        A figure with one panel per column.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(4.2 * len(panels), 2.7), layout="constrained")
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        lines = {"": curve} if by is None else dict(list(curve.groupby(by)))
        for axis, (title, column) in zip(axes, panels.items(), strict=True):
            for number, (name, rows) in enumerate(lines.items()):
                logged = rows[[x, column]].dropna()
                axis.plot(
                    logged[x],
                    logged[column],
                    color=_SERIES[number % len(_SERIES)],
                    linestyle=_LINES[number // len(_SERIES) % len(_LINES)],
                    marker="o" if len(logged) <= 40 else "",
                    markersize=3,
                    label=f"{by} {name}",
                )
            axis.set_title(title, loc="left")
            axis.set_xlabel(x)
        if len(lines) > 1:
            axes[0].legend(loc="best")
    return figure


def hits_figure(ranks: Mapping[str, np.ndarray]) -> Figure:
    """Draw the share of answers found among the first k, for every k.

    Args:
        ranks: Ranks by name of what was ranked.

    Returns:
        A figure with one line per name.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    last = max(values.max() for values in ranks.values())
    k = np.unique(np.geomspace(1, last, 200).round())
    with rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 2.7), layout="constrained")
        axis = figure.subplots()
        for number, (name, values) in enumerate(ranks.items()):
            share = np.searchsorted(np.sort(values), k, side="right") / len(values)
            colour, line = _SERIES[number % len(_SERIES)], _LINES[number % len(_LINES)]
            axis.plot(k, share, color=colour, linestyle=line, label=name)
        axis.set_xscale("log")
        axis.set_ylim(0, 1.02)
        axis.set_title("Hits@k", loc="left")
        axis.set_xlabel("k")
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.legend(loc="upper left")
    return figure


def calibration_figure(
    reliability: Mapping[str, pd.DataFrame], risk_coverage: pd.DataFrame
) -> Figure:
    """Draw how true probabilities are, and how wrong the most confident answers.

    Args:
        reliability: By what was judged, ``probability`` (stated) and ``frequency`` (observed) of
            each bin.
        risk_coverage: ``coverage`` and ``risk``.

    Returns:
        A figure with a reliability diagram and a curve of risk against coverage.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(8.4, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        left.plot([0, 1], [0, 1], color=_GRID, linewidth=1.2)
        for number, (name, bins) in enumerate(reliability.items()):
            left.plot(
                bins["probability"],
                bins["frequency"],
                color=_SERIES[number % len(_SERIES)],
                linestyle=_LINES[number % len(_LINES)],
                marker="o",
                markersize=3,
                label=name,
            )
        left.set_title("Reliability", loc="left")
        left.set_xlabel("stated probability")
        left.set_ylabel("share that is true")
        left.legend(loc="upper left")
        right.plot(
            risk_coverage["coverage"], risk_coverage["risk"], color=_SERIES[0], marker="o",
            markersize=3,
        )  # fmt: skip
        right.set_title("Risk against coverage", loc="left")
        right.set_xlabel("share of queries answered")
        right.set_ylabel("share of answers that are wrong")
        for axis in (left, right):
            axis.set_xlim(0, 1.02)
            axis.set_ylim(0, 1.02)
    return figure


def cells_figure(table: pd.DataFrame, metric: str) -> Figure:
    """Draw the scores of the cells of a study with their intervals, one below the other.

    Args:
        table: A row a cell: ``cell``, ``score``, ``low``, ``high``.
        metric: Name of the metric.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 1.0 + 0.3 * len(table)), layout="constrained")
        axis = figure.subplots()
        places = np.arange(len(table))
        ends = [table["score"] - table["low"], table["high"] - table["score"]]
        axis.errorbar(table["score"], places, xerr=ends, fmt="o", color=_SERIES[0], capsize=3)
        axis.set_yticks(places, [str(name).replace("_", " ") for name in table["cell"]])
        axis.invert_yaxis()
        axis.set_title(f"{metric}, 95 % intervals", loc="left")
        for label in axis.get_yticklabels():
            label.set_parse_math(False)
    return figure


def bands_figure(
    curves: Mapping[str, pd.DataFrame], labels: Mapping[float, str], *, x: str, metric: str
) -> Figure:
    """Draw scores along a parameter, each in a band.

    Args:
        curves: By what was scored, ``x``, ``score``, ``low`` and ``high`` of each point.
        labels: What points are called, by their place on the horizontal axis.
        x: What the horizontal axis shows.
        metric: Name of the metric.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        axis = figure.subplots()
        for number, (name, curve) in enumerate(curves.items()):
            colour, line = _SERIES[number % len(_SERIES)], _LINES[number % len(_LINES)]
            axis.fill_between(curve["x"], curve["low"], curve["high"], color=colour, alpha=0.15)
            axis.plot(
                curve["x"], curve["score"], color=colour, linestyle=line, marker="o", markersize=3,
                label=name,
            )  # fmt: skip
        if min(labels) > 0:
            axis.set_xscale("log")
        axis.set_xticks(list(labels), list(labels.values()))
        axis.minorticks_off()
        axis.set_title(metric, loc="left")
        axis.set_xlabel(x)
        axis.legend(loc="best")
    return figure


def confusion_figure(matrix: pd.DataFrame) -> Figure:
    """Draw a confusion matrix: darker cells hold a larger share of their row.

    Args:
        matrix: Numbers of cases by what they are (index) and what they were taken for (columns).

    Returns:
        A figure in which cells that are not empty name their number.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    rows, columns = matrix.shape
    numbers = matrix.to_numpy(np.float64)
    totals = numbers.sum(axis=1, keepdims=True)
    shares = np.divide(numbers, totals, out=np.zeros_like(numbers), where=totals > 0)
    digits = 0 if (numbers == numbers.round()).all() else 1
    with rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 1.6 + 0.26 * rows), layout="constrained")
        axis = figure.subplots()
        for row, column in zip(*np.nonzero(numbers), strict=True):
            # Light enough for the number to be read on it, in the page's light and dark.
            shade = 0.08 + 0.42 * shares[row, column]
            corner = (column - 0.5, row - 0.5)
            axis.add_patch(Rectangle(corner, 1, 1, facecolor=_SERIES[0], alpha=shade, linewidth=0))
            axis.text(
                column,
                row,
                format_number(numbers[row, column], digits),
                ha="center",
                va="center",
                color=_TEXT,
                fontsize=8 if columns <= 16 else 6,
            )
        axis.set_xlim(-0.5, columns - 0.5)
        axis.set_ylim(rows - 0.5, -0.5)
        axis.set_xticks(range(columns), [str(name) for name in matrix.columns])
        axis.set_yticks(range(rows), [str(name) for name in matrix.index])
        for label in (*axis.get_xticklabels(), *axis.get_yticklabels()):
            # Names are data: a dollar sign in them is no formula.
            label.set_parse_math(False)
        if columns > 6:
            axis.tick_params(axis="x", rotation=90)
        axis.grid(visible=False)
        axis.set_xlabel("predicted")
        axis.set_ylabel("gold")
    return figure


def heat_figure(images: Sequence[np.ndarray], heats: Mapping[str, Sequence[np.ndarray]]) -> Figure:
    """Draw images, and over them how much each patch is looked at.

    Args:
        images: ``uint8`` arrays ``(3, height, width)``.
        heats: By title, for each image a number for each patch ``(rows, columns)``, at least 0.

    Returns:
        A figure with one row for each image: the image itself, then one panel for each title. The
        hottest patch of all images of a title has the full colour, 0 has none.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    columns = 1 + len(heats)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "heat"}):
        figure = Figure(figsize=(1.7 * columns, 0.3 + 1.7 * len(images)), layout="constrained")
        axes = figure.subplots(len(images), columns, squeeze=False)
        for number, (row, pixels) in enumerate(zip(axes, images, strict=True)):
            for axis in row:
                axis.imshow(np.moveaxis(pixels, 0, -1))
                axis.set_axis_off()
            for axis, of_images in zip(row[1:], heats.values(), strict=True):
                axis.set_title(f"up to {of_images[number].max():.2g}", y=-0.13, fontsize=7)
                overlay = heat_colours(of_images)[number]
                height, width = pixels.shape[1:]
                axis.imshow(overlay, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        for axis, title in zip(axes[0, 1:], heats, strict=True):
            # Names are data: a dollar sign in them is no formula.
            axis.text(
                0.5,
                1.03,
                title,
                transform=axis.transAxes,
                ha="center",
                fontsize=9,
                parse_math=False,
            )
    return figure


def heat_colours(heats: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Numbers of patches as colours that lie over images, the more opaque the larger.

    Args:
        heats: For each image ``(rows, columns)``, at least 0.

    Returns:
        uint8 RGBA ``(rows, columns, 4)`` for each image; opacity grows with the number's share of
        the largest one of all images.
    """
    most = max(float(heat.max()) for heat in heats) or 1.0
    colours = []
    for heat in heats:
        overlay = np.empty((*heat.shape, 4), dtype=np.uint8)
        overlay[..., :3] = _HEAT
        overlay[..., 3] = np.round(_HEAT_OPACITY * heat / most)
        colours.append(overlay)
    return colours


def inline_svg(figure: Figure, description: str) -> Markup:
    """A figure as part of a page, in the page's colours and font, the same bytes each time.

    Args:
        figure: A figure drawn in this module's palette.
        description: What a reader who cannot see the figure is told.

    Returns:
        An ``svg`` element.
    """
    from markupsafe import Markup, escape
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": description}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    drawing = file.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    # Group names repeat from figure to figure and nothing refers to them.
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)
    drawing = re.sub(r' (?:width|height)="[^"]*pt"', "", drawing, count=2)
    for colour, variable in _VARIABLES.items():
        drawing = drawing.replace(colour, f"var({variable})")
    opening = f'<svg role="img" aria-label="{escape(description)}"'
    return Markup(drawing.replace("<svg", opening, 1))  # noqa: S704 (matplotlib escapes its texts)


def format_number(value: float, digits: int = 3) -> str:
    """A number with that many decimals and thousands apart; a dash for what is not a number."""
    return "–" if value != value else f"{value:,.{digits}f}".replace(",", "\u202f")
