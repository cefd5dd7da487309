"""What the scores of relation extraction and entity recognition share.

Both are micro precision, recall and F1 of what a post holds: its relation, or its entities. They
are computed from a *counts* table, one row per answer of one model:

=============  =====  =====================================================================
``seed``       int    seed of the model
``post``       str    the post
``correct``    int    how much of what was predicted is right
``predicted``  int    how much was predicted
``gold``       int    how much there is to find
``right``      bool   optional: whether the answer as a whole is right; gives the accuracy
``answer``     any    optional: the answer, to compare it with another model's
=============  =====  =====================================================================

Scores are means over seeds. Intervals resample the posts, each with the answers of all seeds: they
say how much another sample of posts would change the scores, not how much another seed would.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.counts import METRICS, micro_scores
from mkgformer_kedro.evaluation.intervals import (
    RESAMPLES,
    Difference,
    Interval,
    Scores,
    interval_of,
    resampled_sums,
)
from mkgformer_kedro.evaluation.verdicts import (
    Verdict,
    baseline_verdict,
    images_figures,
    images_verdict,
)

AMBIGUOUS, CLEAR, MISLEADING = SHARES = ("ambiguous", "clear", "misleading")
_COUNTS = ["correct", "predicted", "gold"]
# Answers that stay the same this often without images come from a model that ignores them.
_HARDLY_LOOKS = 0.8


@dataclass(frozen=True)
class ExtractionScores(Scores):
    """Scores of the models of one or several seeds.

    Attributes:
        metrics: Mean over seeds of ``precision``, ``recall``, ``f1`` and, where the counts say
            which answers are right, ``accuracy``.
        intervals: 95 % intervals of these means, over posts.
        by_seed: The metrics of each seed (the index).
    """

    by_seed: pd.DataFrame

    @property
    def deviations(self) -> dict[str, float]:
        """Sample standard deviation of each metric over seeds; empty where there is one seed."""
        if len(self.by_seed) < 2:
            return {}
        return {str(name): float(value) for name, value in self.by_seed.std(ddof=1).items()}


@dataclass(frozen=True)
class ShareComparison:
    """A model beside itself without images, on a share of the posts.

    Attributes:
        share: Name of the share.
        posts: Number of its posts.
        model: Scores with images.
        without_images: Scores without images.
        difference: F1 of the first minus F1 of the second.
        same_answers: Share of the answers that are the same with images and without.
    """

    share: str
    posts: int
    model: ExtractionScores
    without_images: ExtractionScores
    difference: Difference
    same_answers: float


@dataclass(frozen=True)
class ExtractionEvaluation:
    """The model beside itself without images and beside a baseline.

    Attributes:
        posts: Number of test posts.
        model: The model.
        without_images: The same model, without images.
        baseline: The baseline.
        baseline_name: Its name, as in "the majority baseline".
        against_baseline: F1 of the model minus that of the baseline.
        against_no_images: F1 of the model minus its F1 without images.
        shares: The same comparison on each share of a synthetic sample; empty for other data.
        groups: Tables as :func:`break_down` makes them, for the model, by what they are cut by.
        confusion: Number of cases by what they are (rows) and what they were taken for (columns),
            mean over seeds.
    """

    posts: int
    model: ExtractionScores
    without_images: ExtractionScores
    baseline: ExtractionScores
    baseline_name: str
    against_baseline: Difference
    against_no_images: Difference
    shares: Sequence[ShareComparison]
    groups: Mapping[str, pd.DataFrame]
    confusion: pd.DataFrame

    @property
    def seeds(self) -> list[int]:
        """Seeds of the models."""
        return [int(seed) for seed in self.model.by_seed.index]

    @property
    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds: the key ``test``, and what stands beside it."""
        model = self.model
        metrics = {
            "test": model.metrics,
            "test_interval": {name: ends._asdict() for name, ends in model.intervals.items()},
            "seeds": self.seeds,
            "test_without_images": self.without_images.metrics,
            "test_baseline": self.baseline.metrics,
        }
        if model.deviations:
            metrics["test_std"] = model.deviations
        if self.shares:
            metrics["test_by_group"] = {
                comparison.share: {
                    "model": comparison.model.metrics["f1"],
                    "without_images": comparison.without_images.metrics["f1"],
                    "difference": comparison.difference.value,
                    "interval": comparison.difference.interval._asdict(),
                }
                for comparison in self.shares
            }
        return metrics

    @property
    def drill_down(self) -> pd.DataFrame:
        """The scores of all groups in one table, which names what each is cut by (``cut``)."""
        tables = [table.assign(cut=cut) for cut, table in self.groups.items() if len(table)]
        return pd.concat(tables, ignore_index=True).set_index("cut").reset_index()

    @property
    def verdicts(self) -> list[Verdict]:
        """What the figures say, in sentences."""
        shares = {comparison.share: comparison for comparison in self.shares}
        found = [self.baseline_verdict, self.images_verdict]
        if AMBIGUOUS in shares:
            found.append(ambiguous_verdict(shares[AMBIGUOUS]))
        if MISLEADING in shares:
            found.append(misleading_verdict(shares[MISLEADING]))
        return [*found, seeds_verdict(self.model)]

    @property
    def baseline_verdict(self) -> Verdict:
        """Whether the model beats the baseline on F1."""
        scores = (self.model.metrics["f1"], self.baseline.metrics["f1"])
        return baseline_verdict("F1", self.baseline_name, scores, self.against_baseline)

    @property
    def images_verdict(self) -> Verdict:
        """Whether images help the model."""
        scores = (self.model.metrics["f1"], self.without_images.metrics["f1"])
        return images_verdict("F1", "test posts", scores, self.against_no_images)


def score(counts: pd.DataFrame, *, seed: int, resamples: int = RESAMPLES) -> ExtractionScores:
    """Scores of a counts table with their intervals.

    Args:
        counts: A counts table. Several rows of one seed and post are added up.
        seed: Seed of the resampling.
        resamples: Number of bootstrap samples.

    Returns:
        Means over seeds, their intervals and the scores of each seed.

    Raises:
        ValueError: If the table is empty.
    """
    names = [*METRICS, *(["accuracy"] if "right" in counts else [])]
    seeds, _, summed = _by_post(counts)
    by_seed = pd.DataFrame(_measures(summed.sum(axis=0)), index=seeds, columns=names)
    samples = _resampled(summed, seed, resamples)
    return ExtractionScores(
        metrics={name: float(by_seed[name].mean()) for name in names},
        intervals={name: interval_of(samples[:, i]) for i, name in enumerate(names)},
        by_seed=by_seed,
    )


def f1_difference(
    first: pd.DataFrame, second: pd.DataFrame, *, seed: int, resamples: int = RESAMPLES
) -> Difference:
    """Compare two counts tables of the same posts by F1.

    Args:
        first: Counts table.
        second: Counts table that covers the same posts; its seeds may differ.
        seed: Seed of the resampling.
        resamples: Number of bootstrap samples.

    Returns:
        The paired difference of the means over seeds, first minus second.

    Raises:
        ValueError: If a table is empty or the two do not cover the same posts.
    """
    tables = [_by_post(counts[["seed", "post", *_COUNTS]]) for counts in (first, second)]
    if not tables[0][1].equals(tables[1][1]):
        raise ValueError("the two tables do not cover the same posts")
    f1 = METRICS.index("f1")
    # Equal seeds draw the same posts for both.
    means = [_measures(summed.sum(axis=0))[:, f1].mean() for _, _, summed in tables]
    samples = [_resampled(summed, seed, resamples)[:, f1] for _, _, summed in tables]
    return Difference(float(means[0] - means[1]), interval_of(samples[0] - samples[1]))


def break_down(
    counts: pd.DataFrame, by: str, *, seed: int, resamples: int = RESAMPLES
) -> pd.DataFrame:
    """Score groups of a counts table.

    Args:
        counts: A counts table with the column to group by.
        by: That column; its missing values belong to no group.
        seed: Seed of the resampling; each group is resampled on its own.
        resamples: Number of bootstrap samples.

    Returns:
        One row per group that occurs, in order: ``group``, ``posts`` (those with a row in it),
        ``gold`` (what there is to find), ``precision``, ``recall``, ``f1``, and in ``low`` and
        ``high`` the 95 % interval of F1.
    """
    rows = []
    for group, members in counts.groupby(by, observed=True, sort=True):
        found = score(members[["seed", "post", *_COUNTS]], seed=seed, resamples=resamples)
        rows.append(
            {
                "group": str(group),
                "posts": members["post"].nunique(),
                "gold": int(members.groupby("seed")["gold"].sum().max()),
                **found.metrics,
                **found.intervals["f1"]._asdict(),
            }
        )
    return pd.DataFrame(rows, columns=["group", "posts", "gold", *METRICS, *Interval._fields])


def compare_shares(
    model: pd.DataFrame,
    without_images: pd.DataFrame,
    shares: pd.Series,
    *,
    seed: int,
    resamples: int = RESAMPLES,
) -> list[ShareComparison]:
    """Compare a model with itself without images, share by share.

    Args:
        model: Counts table with the column ``answer``.
        without_images: Counts table of the same seeds and posts, likewise.
        shares: Share of each post (the index); missing where it belongs to none.
        seed: Seed of every resampling.
        resamples: Number of bootstrap samples.

    Returns:
        One comparison per share that occurs: ambiguous, clear, misleading, then others by name.
    """
    names = [*SHARES, *sorted(set(shares.dropna()) - set(SHARES))]
    found = []
    for name in names:
        posts = shares.index[shares == name]
        first, second = (t[t["post"].isin(posts)] for t in (model, without_images))
        if first.empty:
            continue
        answers = first.merge(second, on=["seed", "post"], suffixes=("", "_without"))
        same = [a == b for a, b in zip(answers["answer"], answers["answer_without"], strict=True)]
        found.append(
            ShareComparison(
                share=name,
                posts=first["post"].nunique(),
                model=score(first, seed=seed, resamples=resamples),
                without_images=score(second, seed=seed, resamples=resamples),
                difference=f1_difference(first, second, seed=seed, resamples=resamples),
                same_answers=float(np.mean(same)),
            )
        )
    return found


def share_categories(shares: pd.Series) -> pd.Categorical:
    """Shares in the order in which reports show them."""
    names = [*SHARES, *sorted(set(shares.dropna()) - set(SHARES))]
    return pd.Categorical(shares, categories=names, ordered=True)


def images_categories(has_images: pd.Series) -> pd.Categorical:
    """Posts with images, then posts without, in words."""
    codes = np.where(has_images.to_numpy(np.bool_), 0, 1)
    return pd.Categorical.from_codes(codes, ["with images", "without images"], ordered=True)


def ambiguous_verdict(comparison: ShareComparison) -> Verdict:
    """Whether the model reads the images where the text alone does not decide."""
    scores = (comparison.model.metrics["f1"], comparison.without_images.metrics["f1"])
    figures = images_figures("F1", scores, comparison.difference)
    where = f"In the ambiguous posts ({comparison.posts}), where the image alone decides,"
    if comparison.difference.is_clear and comparison.difference.value > 0:
        return Verdict(f"{where} images help: {figures}.", "good")
    same = f"{100 * comparison.same_answers:.0f}\u00a0%"
    why = (
        f"Without images the model gives the same answer for {same} of them: it hardly "
        "looks at the images."
        if comparison.same_answers >= _HARDLY_LOOKS
        else f"Without images the model gives the same answer for only {same} of them: it "
        "looks at the images and has not learned to read them."
    )
    if comparison.difference.is_clear:
        return Verdict(f"{where} images hurt: {figures}. {why}", "bad")
    return Verdict(f"{where} these posts do not show that images help: {figures}. {why}", "bad")


def misleading_verdict(comparison: ShareComparison) -> Verdict:
    """Whether images that contradict the text do harm."""
    scores = (comparison.model.metrics["f1"], comparison.without_images.metrics["f1"])
    figures = images_figures("F1", scores, comparison.difference)
    where = f"In the posts with a misleading image ({comparison.posts}),"
    if comparison.difference.is_clear and comparison.difference.value < 0:
        return Verdict(f"{where} images hurt: {figures}.", "bad")
    if comparison.difference.is_clear:
        return Verdict(f"{where} images help all the same: {figures}.", "good")
    return Verdict(f"{where} no harm is shown: {figures}.", "open")


def seeds_verdict(scores: ExtractionScores) -> Verdict:
    """How much the scores owe to chance in training."""
    f1 = scores.by_seed["f1"]
    if len(f1) == 1:
        return Verdict(
            f"One training run (seed {f1.index[0]}): how far another seed would be from it is not "
            "known. The intervals speak of the test posts alone.",
            "open",
        )
    seeds = ", ".join(str(seed) for seed in f1.index)
    return Verdict(
        f"{len(f1)} training runs (seeds {seeds}): mean F1 {f1.mean():.3f}, standard deviation "
        f"{scores.deviations['f1']:.3f}, from {f1.min():.3f} to {f1.max():.3f}.",
        "open",
    )


def _by_post(counts: pd.DataFrame) -> tuple[pd.Index, pd.Index, np.ndarray]:
    """Seeds, posts, and counts ``(posts, seeds, columns)``.

    Columns are correct, predicted and gold; with ``right`` also right answers and all answers.
    """
    if counts.empty:
        raise ValueError("no predictions to score")
    columns = counts[["seed", "post", *_COUNTS]]
    if "right" in counts:
        columns = columns.assign(right=counts["right"].astype(np.int64), answers=1)
    summed = columns.groupby(["post", "seed"]).sum()
    seeds, posts = (
        pd.Index(np.unique(counts[name].to_numpy()), name=name) for name in ("seed", "post")
    )
    # A group may hold a post with some seeds only: the others predicted nothing of it.
    every = pd.MultiIndex.from_product([posts, seeds])
    values = summed.reindex(every, fill_value=0).to_numpy(np.float64)
    return seeds, posts, values.reshape(len(posts), len(seeds), -1)


def _measures(sums: np.ndarray) -> np.ndarray:
    """Metrics ``(..., 3 or 4)`` of summed columns ``(..., 3 or 5)``."""
    scores = micro_scores(sums[..., :3])
    if sums.shape[-1] == 3:
        return scores
    accuracy = sums[..., 3:4] / sums[..., 4:5]
    return np.concatenate([scores, accuracy], axis=-1)


def _resampled(summed: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Metrics of bootstrap samples of the posts, means over seeds: ``(resamples, metrics)``."""
    posts, seeds, columns = summed.shape
    sums = resampled_sums(summed.reshape(posts, -1), seed=seed, resamples=resamples)
    return _measures(sums.reshape(resamples, seeds, columns)).mean(axis=1)
