"""What is said of experts, whatever the task: scores, differences, views, verdicts.

A predictions table holds the answers of any number of experts, one below the other, told apart by
the column ``expert``; ``seed`` tells apart the trainings of one expert, over which scores are
means. An optional bool column ``answered`` says where an expert had learned to answer at all; every
query is answered and scored all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from mkgformer_kedro.evaluation.intervals import Difference, Scores
from mkgformer_kedro.evaluation.verdicts import (
    Verdict,
    baseline_verdict,
    images_verdict,
    mixture_verdict,
    seeds_verdict,
)

REFERENCE = "model"
"""The expert with which the others are compared."""
WITHOUT_IMAGES = "without_images"
"""The same model, images left out: the comparison says whether images help."""
BASELINE = "baseline"
"""What a model has to beat."""
MIXTURE = "mixture"
"""What is compared with each of the experts that it is made of."""


@dataclass(frozen=True)
class Metric:
    """A metric as tables show it.

    Attributes:
        key: Its key in the scores.
        label: What people call it.
        digits: Decimals shown.
        higher_is_better: Direction of improvement.
    """

    key: str
    label: str
    digits: int = 3
    higher_is_better: bool = True


@dataclass(frozen=True)
class View:
    """A part of the test set, looked at on its own.

    Attributes:
        name: Its name.
        count: Number of its triples or posts.
        scores: Scores by expert, the reference first.
        differences: By every other expert, the reference's score minus its own.
        same_answers: By every other expert, the share of the reference's answers that it gives,
            too; empty where that was not asked.
    """

    name: str
    count: int
    scores: Mapping[str, Scores]
    differences: Mapping[str, Difference]
    same_answers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What is known of the experts of a task.

    Attributes:
        reference: Name of the expert with which the others are compared.
        names: What experts are called, where their names with blanks for underscores do not do.
        metric: The metric of all comparisons.
        units: What was tested, as in "test triples".
        has_images: Whether any of these has an image.
        predictions: Answers of all experts.
        whole: The view of the whole test set.
        added: By every other expert, the mixture's score minus its own; empty where there is no
            mixture.
        views: Views of parts of the test set by key.
        groups: By what they have in common, one table of groups of answers with the scores of
            every expert (column ``expert``) in each ``group``.
    """

    reference: str
    names: Mapping[str, str]
    metric: Metric
    units: str
    has_images: bool
    predictions: pd.DataFrame
    whole: View
    added: Mapping[str, Difference]
    views: Mapping[str, View]
    groups: Mapping[str, pd.DataFrame]

    @property
    def experts(self) -> list[str]:
        """Names of the experts, the reference first."""
        return list(self.whole.scores)

    @property
    def others(self) -> list[str]:
        """Names of the experts other than the reference."""
        return self.experts[1:]

    @property
    def scores(self) -> Mapping[str, Scores]:
        """Scores of the whole test set by expert, the reference first."""
        return self.whole.scores

    @property
    def differences(self) -> Mapping[str, Difference]:
        """By every other expert, the reference's score minus its own."""
        return self.whole.differences

    @property
    def seeds(self) -> list[int]:
        """Seeds of the reference."""
        return [int(seed) for seed in self.scores[self.reference].by_seed.index]

    def name(self, expert: str) -> str:
        """What an expert is called in a sentence."""
        return self.names.get(expert, expert.replace("_", " "))

    def of(self, expert: str) -> pd.DataFrame:
        """The answers of one expert."""
        return self.predictions[self.predictions["expert"] == expert]

    @cached_property
    def answered(self) -> dict[str, float]:
        """Share of the queries that an expert had learned to answer, where it is below one."""
        if "answered" not in self.predictions:
            return {}
        answered = self.predictions["answered"].astype("boolean").fillna(True).astype(float)
        shares = answered.groupby(self.predictions["expert"]).mean()
        return {name: float(shares[name]) for name in self.experts if shares[name] < 1}

    @property
    def drill_down(self) -> pd.DataFrame:
        """The scores of all groups in one table, which says what each has in common (``by``)."""
        tables = [table.assign(by=by) for by, table in self.groups.items() if len(table)]
        return pd.concat(tables, ignore_index=True).set_index(["expert", "by"]).reset_index()

    @property
    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds: ``test`` of the reference and what stands beside it."""
        reference = self.scores[self.reference]
        metrics: dict[str, Any] = {
            "test": reference.metrics,
            "test_interval": {
                key: ends._asdict() for key, ends in self.headline(reference.intervals).items()
            },
            "experts": self.experts,
            "seeds": self.seeds,
        }
        if reference.deviations:
            metrics["test_std"] = self.headline(reference.deviations)
        for expert in self.others:
            metrics[f"test_{expert}"] = self.headline(self.scores[expert].metrics)
        if self.answered:
            metrics["test_answered"] = self.answered
        metrics["test_difference"] = _described(self.differences)
        if self.added:
            metrics["test_added_by_mixture"] = _described(self.added)
        return metrics

    def headline(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Of many metrics, those that are told of every expert."""
        return dict(metrics)

    @property
    def verdicts(self) -> list[Verdict]:
        """What the figures say, in sentences."""
        reference = self.reference
        label = self.metric.label
        values = {name: scores.metrics[self.metric.key] for name, scores in self.scores.items()}
        found = []
        if BASELINE in self.differences:
            found.append(
                baseline_verdict(
                    label,
                    self.name(reference),
                    f"the {self.name(BASELINE)}",
                    (values[reference], values[BASELINE]),
                    self.differences[BASELINE],
                )
            )
        if not self.has_images:
            text = f"None of these {self.units} has an image: whether images help is not known."
            found.append(Verdict(text, "open"))
        elif WITHOUT_IMAGES in self.differences and reference == REFERENCE:
            found.append(
                images_verdict(
                    label,
                    self.units,
                    (values[reference], values[WITHOUT_IMAGES]),
                    self.differences[WITHOUT_IMAGES],
                )
            )
        if self.added:
            best = max(self.added, key=lambda name: values[name])
            found.append(
                mixture_verdict(
                    label, self.name(best), (values[MIXTURE], values[best]), self.added[best]
                )
            )
        return [*found, *self.further_verdicts(), self.seeds_verdict]

    def further_verdicts(self) -> list[Verdict]:
        """What this task's views say, in sentences."""
        return []

    @property
    def seeds_verdict(self) -> Verdict:
        """How much the reference's score owes to chance in training."""
        by_seed = self.scores[self.reference].by_seed[self.metric.key]
        return seeds_verdict(self.metric.label, self.units, by_seed)


def look_at(
    name: str,
    tables: Mapping[str, pd.DataFrame],
    count: int,
    score: Callable[[pd.DataFrame], Scores],
    compare: Callable[[pd.DataFrame, pd.DataFrame], Difference],
    same_answers: Callable[[pd.DataFrame, pd.DataFrame], float] | None = None,
) -> View:
    """Score every expert on a part of the test set and compare the first with the others.

    Args:
        name: The view's name.
        tables: By expert, the reference first, what is scored.
        count: Number of triples or posts.
        score: Scores one expert.
        compare: Compares two.
        same_answers: Says how many answers two have in common; None: not asked.
    """
    reference, *others = tables
    first = tables[reference]
    return View(
        name=name,
        count=count,
        scores={expert: score(table) for expert, table in tables.items()},
        differences={expert: compare(first, tables[expert]) for expert in others},
        same_answers=(
            {expert: same_answers(first, tables[expert]) for expert in others}
            if same_answers
            else {}
        ),
    )


def by_expert(predictions: pd.DataFrame, reference: str) -> dict[str, pd.DataFrame]:
    """One table per expert, the reference first and the others as they come.

    Raises:
        ValueError: If the reference has not answered.
    """
    found = list(predictions["expert"].unique())
    if reference not in found:
        raise ValueError(
            f"there are no predictions of '{reference}', only of: {', '.join(found) or 'nobody'}"
        )
    ordered = [reference, *(name for name in found if name != reference)]
    return {name: predictions[predictions["expert"] == name] for name in ordered}


def added_by_mixture(
    tables: Mapping[str, pd.DataFrame],
    compare: Callable[[pd.DataFrame, pd.DataFrame], Difference],
) -> dict[str, Difference]:
    """How far the mixture, where there is one, is ahead of every other expert."""
    if MIXTURE not in tables:
        return {}
    return {
        expert: compare(tables[MIXTURE], table)
        for expert, table in tables.items()
        if expert != MIXTURE
    }


def groups_of_all(
    experts: Iterable[str], break_down: Callable[[str], Mapping[str, pd.DataFrame]]
) -> dict[str, pd.DataFrame]:
    """Tables of groups with the scores of every expert, one below the other.

    Args:
        experts: Names of the experts.
        break_down: Gives one expert's tables, by what the groups have in common.
    """
    broken = {expert: break_down(expert) for expert in experts}
    return {
        by: pd.concat(
            [found[by].assign(expert=expert) for expert, found in broken.items()],
            ignore_index=True,
        )
        for by in next(iter(broken.values()))
    }


def _described(differences: Mapping[str, Difference]) -> dict[str, Any]:
    return {
        expert: {"value": difference.value, "interval": difference.interval._asdict()}
        for expert, difference in differences.items()
    }
