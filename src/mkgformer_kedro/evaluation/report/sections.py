"""The sections that the pages of all tasks share, each written once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.experts import WITHOUT_IMAGES, Evaluation, Metric, View
from mkgformer_kedro.evaluation.explanations import RANDOM, WAYS, verdicts
from mkgformer_kedro.evaluation.intervals import Interval, Scores
from mkgformer_kedro.evaluation.report.figures import curve_figure, inline_svg
from mkgformer_kedro.evaluation.report.page import (
    DifferenceRow,
    GroupRow,
    Look,
    Published,
    ScoreRow,
    Section,
    ViewRow,
    render_template,
)
from mkgformer_kedro.evaluation.verdicts import percent

_GROUPS_SHOWN = 12
_Value = TypeVar("_Value")


Explain = Callable[[pd.DataFrame], Sequence[Sequence[Look]]]
"""Says of rows of the task's items (queries or posts) what looked at their images."""


def not_explained(items: pd.DataFrame) -> list[list[Look]]:
    """Nothing is known of what looked at the images."""
    return [[] for _ in range(len(items))]


@dataclass(frozen=True)
class Groups:
    """How a page shows groups of answers.

    Attributes:
        heading: Heading above the table.
        rows: Heading of its first column.
        counted: What the groups' counts are counts of.
        count: Column of the counts.
        text: A sentence that explains the groups.
        largest_first: Whether the largest groups come first and small ones are folded away.
    """

    heading: str
    rows: str
    counted: str
    count: str
    text: str = ""
    largest_first: bool = False


@dataclass(frozen=True)
class Layout:
    """What a task's page says and shows beyond what all pages do.

    Attributes:
        title: Name of the task.
        asked: What was asked of each thing tested, as in "each asked for its head".
        how: How answers are scored.
        baseline: What the baseline answers.
        prefix: What the keys of the shown metrics begin with in the scores.
        metrics: The metrics shown, under their keys without the prefix.
        parts: What the views are, in a paragraph.
        groups: How groups are shown, by what they have in common.
        bars: What the bars of groups show.
        curve: Columns of the training curve, by panel title.
        examples: Chooses answers to show: a section, of an evaluation, tables, whether owners have
            images, images by owner, what explains, how many of each kind, and a seed.
        more: Further sections, of an evaluation and the texts of labels.
        figure: The figure that stands for the evaluation, of the same.
        reports: Makes sections of reports of other stages, by the name of the report: of the
            report, what experts are called, and the texts of labels.
    """

    title: str
    asked: Callable[[Any], str]
    how: str
    baseline: str
    prefix: str
    metrics: Sequence[Metric]
    parts: Callable[[Any], str]
    groups: Mapping[str, Groups]
    bars: str
    curve: Mapping[str, str]
    labels: Callable[[Mapping[str, pd.DataFrame]], Mapping[str, str]]
    examples: Callable[..., Section]
    more: Callable[[Any, Mapping[str, str]], Sequence[Section]]
    figure: Callable[[Any], Any]
    reports: Mapping[str, Callable[..., Sequence[Section]]] = field(default_factory=dict)

    @property
    def main(self) -> Metric:
        """The metric of all comparisons."""
        return self.metrics[0]


def render(
    layout: Layout,
    evaluation: Evaluation,
    tables: Mapping[str, pd.DataFrame],
    *,
    data_set: str,
    synthetic: bool,
    published: Sequence[Published],
    curve: pd.DataFrame,
    has_images: np.ndarray,
    images: Callable[[int], Sequence[np.ndarray]],
    explain: Explain = not_explained,
    explanations: Mapping[str, Any] | None = None,
    examples: int,
    seed: int,
    facts: Mapping[str, Any],
    reports: Mapping[str, Mapping[str, Any]] | None = None,
    sections: Sequence[Section] = (),
) -> str:
    """Write the page that a run ends with.

    Args:
        layout: The task's.
        evaluation: What its wing's ``evaluate`` gives.
        tables: Tables of the ingestion by name, those that were evaluated with and those that
            name things.
        data_set: Name of the data set.
        synthetic: Whether the data set is made up, which the page then says.
        published: Published results on the data set.
        curve: Training curve with the column ``step``, and ``seed`` where there are several.
        has_images: Whether an owner of images (entity or post) has any, ``(owners,)``.
        images: Gives the images of an owner: ``uint8`` arrays ``(3, height, width)``.
        explain: Says what looked at the images of the examples.
        explanations: What deletion test and pointing game found; None: they were not made.
        examples: Number of answers of each kind to show.
        seed: Seed of their choice.
        facts: What is known about data and run, by heading: nested mappings, lists and values.
        reports: Reports of other stages that the layout makes sections of, by name.
        sections: Further sections of the caller's.

    Returns:
        A self-contained HTML page.
    """
    labels = layout.labels(tables)
    own = score_rows(layout, evaluation, evaluation.whole)[0]
    every = [
        scores_section(layout, evaluation, published),
        *parts_section(layout, evaluation),
        layout.examples(
            evaluation, tables, has_images, images, explain, number=examples, seed=seed
        ),
        *explanations_section(explanations or {}, labels),
        *layout.more(evaluation, labels),
        groups_section(layout, evaluation, labels),
        *(
            section
            for name, report in (reports or {}).items()
            for section in layout.reports[name](report, evaluation.names, labels)
        ),
        *sections,
        training_section(layout, curve),
        facts_section(facts),
    ]
    content = {
        "title": layout.title,
        "data_set": data_set,
        "synthetic": synthetic,
        "lead": layout.asked(evaluation),
        "metrics": layout.metrics,
        "own": own,
        "sections": every,
    }
    return render_template("page.html.j2", content)


def scores_section(
    layout: Layout, evaluation: Evaluation, published: Sequence[Published]
) -> Section:
    """Every expert in one table, what that means, and how far they are apart."""
    metric = evaluation.metric
    rows = score_rows(layout, evaluation, evaluation.whole)
    values = {name: scores.metrics[metric.key] for name, scores in evaluation.scores.items()}
    comparisons = {
        f"{_capitalised(evaluation.name(evaluation.reference))} minus": evaluation.differences,
        "Mixture minus": evaluation.added,
    }
    return Section.from_template(
        "Scores",
        "scores.html.j2",
        {
            "how": layout.how,
            "baseline": layout.baseline,
            "units": evaluation.units,
            "metrics": layout.metrics,
            "rows": rows,
            "best": _best(layout, rows),
            "several_seeds": any(scores.deviations for scores in evaluation.scores.values()),
            "seed_rows": _seed_rows(layout, evaluation.scores[evaluation.reference]),
            "reference": evaluation.name(evaluation.reference),
            "verdicts": evaluation.verdicts,
            "metric": metric,
            "comparisons": {
                heading: [
                    DifferenceRow(evaluation.name(expert), values[expert], difference)
                    for expert, difference in differences.items()
                ]
                for heading, differences in comparisons.items()
                if differences
            },
            "scale": difference_scale(*comparisons.values()),
            "published": [result.row for result in published],
            "published_metrics": [
                metric
                for metric in layout.metrics
                if any(metric.key in result.metrics for result in published)
            ],
        },
    )


def parts_section(layout: Layout, evaluation: Evaluation) -> list[Section]:
    """The experts on parts of the test set; nothing where there are no parts."""
    views = evaluation.views
    if not views:
        return []
    against = WITHOUT_IMAGES if WITHOUT_IMAGES in evaluation.differences else None
    key = evaluation.metric.key
    rows = [
        ViewRow(
            label=view.name,
            count=view.count,
            scores=[
                (scores.metrics[key], scores.intervals[key]) for scores in view.scores.values()
            ],
            difference=view.differences[against] if against else None,
        )
        for view in (evaluation.whole, *views.values())
    ]
    details = {view.name: score_rows(layout, evaluation, view) for view in views.values()}
    return [
        Section.from_template(
            "Parts of the test set",
            "parts_of_test.html.j2",
            {
                "text": layout.parts(evaluation),
                "units": evaluation.units,
                "metric": evaluation.metric,
                "metrics": layout.metrics,
                "experts": [evaluation.name(expert) for expert in evaluation.experts],
                "against": evaluation.name(against) if against else "",
                "rows": rows,
                "same": _same_answers(evaluation, against),
                "details": details,
                "best": {name: _best(layout, scores) for name, scores in details.items()},
            },
        )
    ]


def explanations_section(
    explanations: Mapping[str, Any], labels: Mapping[str, str]
) -> list[Section]:
    """Whether what the model looks at decides; nothing where that was not measured."""
    deletion, pointing = (explanations.get(name) or [] for name in ("deletion", "pointing"))
    if not deletion and not pointing:
        return []
    return [
        Section.from_template(
            "What the model looks at",
            "explanations.html.j2",
            {
                "verdicts": verdicts(deletion),
                "columns": [*WAYS, RANDOM],
                "deletion": deletion,
                "pointing": [
                    {**row, "relation": labels.get(row["relation"], row["relation"])}
                    for row in pointing
                ],
            },
        )
    ]


def groups_section(layout: Layout, evaluation: Evaluation, labels: Mapping[str, str]) -> Section:
    """Where the score comes from: groups of answers and every expert's score of them."""
    tables = []
    for by, shown in layout.groups.items():
        rows = _group_rows(evaluation, evaluation.groups[by], shown, labels)
        if rows:
            first = _GROUPS_SHOWN if shown.largest_first else len(rows)
            tables.append((shown, rows[:first], rows[first:]))
    return Section.from_template(
        "Where the score comes from",
        "groups.html.j2",
        {
            "bars": layout.bars,
            "metric": evaluation.metric,
            "experts": [evaluation.name(expert) for expert in evaluation.experts],
            "tables": tables,
        },
    )


def training_section(layout: Layout, curve: pd.DataFrame) -> Section:
    """The training curve."""
    panels = {title: column for title, column in layout.curve.items() if column in curve}
    by = "seed" if "seed" in curve else None
    figure = curve_figure(curve, panels, x="step", by=by)
    several = by is not None and curve["seed"].nunique() > 1
    return Section.from_template(
        "Training",
        "figure.html.j2",
        {
            "drawing": inline_svg(figure, f"Training curve: {', '.join(panels)}"),
            "caption": "Logged while training. The model was picked on the dev set."
            + (" One line per seed." if several else ""),
        },
    )


def facts_section(facts: Mapping[str, Any]) -> Section:
    """What is known about data and run, folded."""
    return Section.from_template("Data and run", "facts.html.j2", {"facts": facts})


def score_rows(layout: Layout, evaluation: Evaluation, view: View) -> list[ScoreRow]:
    """Every expert as a row of a score table, the reference first."""
    return [
        ScoreRow(
            name=_capitalised(evaluation.name(expert)),
            values=below(layout.prefix, scores.metrics),
            intervals=below(layout.prefix, scores.intervals),
            deviations=below(layout.prefix, scores.deviations),
            note=_note(evaluation, expert, scores),
            own=expert == evaluation.reference,
        )
        for expert, scores in view.scores.items()
    ]


def below(prefix: str, values: Mapping[str, _Value]) -> dict[str, _Value]:
    """The entries whose key starts with the prefix, without it."""
    return {key.removeprefix(prefix): v for key, v in values.items() if key.startswith(prefix)}


def _best(layout: Layout, rows: Sequence[ScoreRow]) -> dict[str, float]:
    """The best value of each metric; nothing where there is no other."""
    if len(rows) < 2:
        return {}
    values = {
        metric: [row.values[metric.key] for row in rows if metric.key in row.values]
        for metric in layout.metrics
    }
    return {
        metric.key: (max if metric.higher_is_better else min)(found)
        for metric, found in values.items()
        if found
    }


def _note(evaluation: Evaluation, expert: str, scores: Scores) -> str:
    """What a reader should know of an expert before comparing it."""
    notes = []
    if len(scores.by_seed) > 1:
        notes.append(f"mean of {len(scores.by_seed)} seeds")
    if expert in evaluation.answered:
        notes.append(f"has learned to answer {percent(evaluation.answered[expert])} of the queries")
    return ", ".join(notes)


def _seed_rows(layout: Layout, scores: Scores) -> list[ScoreRow]:
    """Scores seed by seed, their mean and deviation; nothing where there is one seed."""
    if not scores.deviations:
        return []
    rows = [
        ScoreRow(
            f"Seed {seed}",
            below(layout.prefix, {str(name): float(value) for name, value in values.items()}),
        )
        for seed, values in scores.by_seed.iterrows()
    ]
    return [
        *rows,
        ScoreRow("Mean", below(layout.prefix, scores.metrics), own=True),
        ScoreRow("Standard deviation", below(layout.prefix, scores.deviations)),
    ]


def difference_scale(*comparisons: Mapping[str, Any]) -> float:
    """Half the width of the axis on which differences are drawn."""
    ends = [
        abs(end)
        for differences in comparisons
        for difference in differences.values()
        for end in (difference.value, *difference.interval)
    ]
    return max([*ends, 1e-9])


def _same_answers(evaluation: Evaluation, against: str | None) -> dict[str, str]:
    """By part of the test set, how often two experts agree, in words."""
    return {
        view.name: percent(view.same_answers[against])
        for view in evaluation.views.values()
        if against is not None and against in view.same_answers
    }


def _group_rows(
    evaluation: Evaluation, table: pd.DataFrame, shown: Groups, labels: Mapping[str, str]
) -> list[GroupRow]:
    """Groups in which the reference has answers, with the scores of the others."""
    column = evaluation.metric.key.rpartition(".")[2]
    if table.empty:
        return []
    scores = table.pivot_table(index="group", columns="expert", values=column)
    own = table[table["expert"] == evaluation.reference]
    if shown.largest_first:
        own = own.sort_values(shown.count, ascending=False, kind="stable")
    return [
        GroupRow(
            label=labels.get(row["group"], row["group"]),
            count=int(row[shown.count]),
            value=row[column],
            interval=Interval(row["low"], row["high"]),
            others=[
                float(scores[expert].get(row["group"], np.nan)) if expert in scores else np.nan
                for expert in evaluation.others
            ],
        )
        for row in own.to_dict("records")
    ]


def _capitalised(name: str) -> str:
    """With a capital at its beginning, and elsewhere as it is."""
    return name[:1].upper() + name[1:]
