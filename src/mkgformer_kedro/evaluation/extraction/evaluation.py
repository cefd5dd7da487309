"""What is said about experts on posts, whether they extract relations or recognise entities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.experts import (
    WITHOUT_IMAGES,
    Evaluation,
    Metric,
    View,
    added_by_mixture,
    look_at,
)
from mkgformer_kedro.evaluation.extraction.scores import (
    f1_difference,
    same_answers,
    score_counts,
)
from mkgformer_kedro.evaluation.intervals import Difference, Scores
from mkgformer_kedro.evaluation.verdicts import Verdict, images_figures, percent

F1 = Metric("f1", "F1")
AMBIGUOUS, CLEAR, MISLEADING = SUBSETS = ("ambiguous", "clear", "misleading")
# Answers that stay the same this often without images come from a model that ignores them.
_HARDLY_LOOKS = 0.8


@dataclass(frozen=True)
class ExtractionEvaluation(Evaluation):
    """What is known of a task on posts beyond :class:`Evaluation`.

    Views are the subsets of a synthetic sample; other data has none.

    Attributes:
        confusion: Number of cases by what they are (rows) and what the reference took them for
            (columns), mean over seeds.
    """

    confusion: pd.DataFrame

    @property
    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds, with F1 by subset."""
        subsets = {name: self._subset_metrics(view) for name, view in self.views.items()}
        return super().metrics | ({"test_by_subset": subsets} if subsets else {})

    def further_verdicts(self) -> list[Verdict]:
        """Whether images are read where they decide, and whether they do harm where they lie."""
        found = []
        for name, verdict in ((AMBIGUOUS, ambiguous_verdict), (MISLEADING, misleading_verdict)):
            if name in self.views and WITHOUT_IMAGES in self.differences:
                found.append(verdict(self.views[name]))
        return found

    def _subset_metrics(self, view: View) -> dict[str, Any]:
        metrics: dict[str, Any] = {
            expert: scores.metrics["f1"] for expert, scores in view.scores.items()
        }
        if WITHOUT_IMAGES in view.differences:
            difference = view.differences[WITHOUT_IMAGES]
            metrics |= {"difference": difference.value, "interval": difference.interval._asdict()}
        return metrics


def compare_posts(
    counts: Mapping[str, pd.DataFrame], subsets: pd.Series, *, seed: int, resamples: int
) -> dict[str, Any]:
    """The scores and comparisons of an :class:`ExtractionEvaluation`.

    Args:
        counts: Counts tables by expert, the reference first, with the column ``answer``.
        subsets: Subset of each post (the index); missing where it belongs to none.
        seed: Seed of every resampling.
        resamples: Number of bootstrap samples.

    Returns:
        Its attributes ``whole``, ``added`` and ``views``: one per subset that occurs, ambiguous,
        clear and misleading first, then others by name.
    """
    chance = {"seed": seed, "resamples": resamples}

    def score(table: pd.DataFrame) -> Scores:
        return score_counts(table, **chance)

    def compare(first: pd.DataFrame, second: pd.DataFrame) -> Difference:
        return f1_difference(first, second, **chance)

    def view(name: str, parts: Mapping[str, pd.DataFrame]) -> View:
        posts = next(iter(parts.values()))["post"].nunique()
        return look_at(name, parts, posts, score, compare, same_answers)

    views = {}
    for name in subset_names(subsets):
        posts = subsets.index[subsets == name]
        parts = {expert: table[table["post"].isin(posts)] for expert, table in counts.items()}
        if not next(iter(parts.values())).empty:
            views[name] = view(name, parts)
    return {
        "whole": view("all test posts", counts),
        "added": added_by_mixture(counts, compare),
        "views": views,
    }


def subset_names(subsets: pd.Series) -> list[str]:
    """Subsets in the order in which reports show them."""
    return [*SUBSETS, *sorted(set(subsets.dropna()) - set(SUBSETS))]


def subset_categories(subsets: pd.Series) -> pd.Categorical:
    """Subsets as ordered categories."""
    return pd.Categorical(subsets, categories=subset_names(subsets), ordered=True)


def images_categories(has_images: pd.Series) -> pd.Categorical:
    """Posts with images, then posts without, in words."""
    codes = np.where(has_images.to_numpy(np.bool_), 0, 1)
    return pd.Categorical.from_codes(codes, ["with images", "without images"], ordered=True)


def ambiguous_verdict(view: View) -> Verdict:
    """Whether the model reads the images where the text alone does not decide."""
    difference, figures = view.differences[WITHOUT_IMAGES], _figures(view)
    where = f"In the ambiguous posts ({view.count}), where the image alone decides,"
    if difference.is_clear and difference.value > 0:
        return Verdict(f"{where} images help: {figures}.", "good")
    same = view.same_answers[WITHOUT_IMAGES]
    why = (
        f"Without images the model gives the same answer for {percent(same)} of them: it hardly "
        "looks at the images."
        if same >= _HARDLY_LOOKS
        else f"Without images the model gives the same answer for only {percent(same)} of them: it "
        "looks at the images and has not learned to read them."
    )
    if difference.is_clear:
        return Verdict(f"{where} images hurt: {figures}. {why}", "bad")
    return Verdict(f"{where} these posts do not show that images help: {figures}. {why}", "bad")


def misleading_verdict(view: View) -> Verdict:
    """Whether images that contradict the text do harm."""
    difference, figures = view.differences[WITHOUT_IMAGES], _figures(view)
    where = f"In the posts with a misleading image ({view.count}),"
    if difference.is_clear and difference.value < 0:
        return Verdict(f"{where} images hurt: {figures}.", "bad")
    if difference.is_clear:
        return Verdict(f"{where} images help all the same: {figures}.", "good")
    return Verdict(f"{where} no harm is shown: {figures}.", "open")


def _figures(view: View) -> str:
    reference = next(iter(view.scores))
    scores = (view.scores[reference].metrics["f1"], view.scores[WITHOUT_IMAGES].metrics["f1"])
    return images_figures("F1", scores, view.differences[WITHOUT_IMAGES])
