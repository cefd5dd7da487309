"""Probabilities that mean what they say, and answer sets with a guarantee.

A *case* is one proposed answer: its log-odds, the group it belongs to (such as the direction that
was asked) and its relation. It is true where the answer is one that was held out. What nobody wrote
down counts as false, so that a probability is a lower bound where the graph has gaps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

BINS = 15
"""Bins of a reliability diagram and of the expected calibration error."""

_STRENGTHS = (1.0, 10.0, 100.0)
_FOLDS = 5
# Cases that decide between forms. Of proposed triples one in three hundred is true: with a tenth as
# many, isotonic steps that halve the calibration error were no clear gain.
_JUDGES = 500_000
_STEEPEST = 30.0


def log_odds(log_probability: np.ndarray) -> np.ndarray:
    """``log(p / (1 - p))`` of ``log(p)``, within float64."""
    log_probability = np.minimum(np.asarray(log_probability, dtype=np.float64), -1e-12)
    return log_probability - np.log(-np.expm1(log_probability))


def reliability(probability: np.ndarray, truth: np.ndarray, bins: int = BINS) -> pd.DataFrame:
    """Compare stated with observed frequencies, in bins of equal width.

    Args:
        probability: ``(n,)``, between 0 and 1.
        truth: ``(n,)`` bool.
        bins: Number of bins.

    Returns:
        A row per bin that holds a case: ``low``, ``high``, ``count``, ``probability`` (mean of
        those stated), ``frequency`` (share that is true).
    """
    number = np.clip(np.ceil(np.asarray(probability) * bins).astype(int) - 1, 0, bins - 1)
    count = np.bincount(number, minlength=bins)
    kept = np.flatnonzero(count)
    stated = np.bincount(number, weights=probability, minlength=bins)
    true = np.bincount(number, weights=truth, minlength=bins)
    return pd.DataFrame(
        {
            "low": kept / bins,
            "high": (kept + 1) / bins,
            "count": count[kept],
            "probability": stated[kept] / count[kept],
            "frequency": true[kept] / count[kept],
        }
    )


def expected_calibration_error(
    probability: np.ndarray, truth: np.ndarray, bins: int = BINS
) -> float:
    """Mean gap between stated and observed frequency, weighted by the cases of each bin.

    Naeini et al. (2015), "Obtaining well calibrated probabilities using Bayesian binning", with
    bins of equal width as in Guo et al. (2017), "On calibration of modern neural networks".

    Returns:
        Between 0 and 1; NaN where there is no case.
    """
    table = reliability(probability, truth, bins)
    if table.empty:
        return math.nan
    gaps = (table["probability"] - table["frequency"]).abs()
    return float(np.average(gaps, weights=table["count"]))


def brier_score(probability: np.ndarray, truth: np.ndarray) -> float:
    """Mean squared difference between probability and truth; NaN where there is no case."""
    return float(np.mean((probability - truth) ** 2)) if len(truth) else math.nan


def risk_coverage(
    confidence: np.ndarray,
    correct: np.ndarray,
    coverages: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
) -> pd.DataFrame:
    """How often the answers given are wrong, if only the most confident ones are given.

    El-Yaniv and Wiener (2010), "On the foundations of noise-free selective classification".

    Args:
        confidence: ``(n,)``; the least confident are abstained from first.
        correct: ``(n,)`` bool.
        coverages: Shares of the cases that are answered.

    Returns:
        A row per coverage: ``coverage``, ``risk`` (share of wrong answers; cases that are equally
        confident are answered in any order), ``confidence`` (of the last case that is answered).
        Empty where there is no case.
    """
    order = np.argsort(-np.asarray(confidence), kind="stable")
    if not len(order):
        return pd.DataFrame({"coverage": [], "risk": [], "confidence": []})
    _, first, count = np.unique(
        -np.asarray(confidence)[order], return_index=True, return_counts=True
    )
    of_group = np.add.reduceat(~np.asarray(correct, dtype=bool)[order], first, dtype=np.float64)
    wrong = np.cumsum(np.repeat(of_group / count, count))
    answered = np.array([max(1, round(share * len(order))) for share in coverages])
    return pd.DataFrame(
        {
            "coverage": coverages,
            "risk": wrong[answered - 1] / answered,
            "confidence": np.asarray(confidence)[order][answered - 1],
        }
    )


@dataclass(frozen=True)
class Calibrator:
    """Turns log-odds into probabilities: ``sigmoid(slope * log-odds + prior)``, or steps of it.

    The prior is the group's, and the relation's within the group, which is drawn towards zero the
    more, the fewer cases the relation has. Isotonic steps follow where they judged better.

    Attributes:
        slope: Inverse temperature.
        group: Prior of each group, ``(groups,)``.
        relation: What a relation adds to it, ``(relations, groups)``.
        steps: Ends of an isotonic regression, probabilities before ``(s,)`` and after ``(s,)``;
            None leaves it out.
    """

    slope: float
    group: np.ndarray
    relation: np.ndarray
    steps: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def fit(
        cls,
        log_odds: np.ndarray,
        truth: np.ndarray,
        group: np.ndarray,
        relation: np.ndarray,
        *,
        groups: int,
        relations: int,
        blocks: np.ndarray,
        seed: int,
    ) -> Self:
        """Fit by likelihood; how strongly priors are drawn, and isotonic or not, by held-out cases.

        Cross-validation over blocks of cases picks what has the smallest Brier score; isotonic
        regression has to beat the simpler form by more than one standard error.

        Args:
            log_odds: ``(n,)``.
            truth: ``(n,)`` bool.
            group: ``(n,)`` number of the group.
            relation: ``(n,)`` number of the relation.
            groups: Number of groups.
            relations: Number of relations.
            blocks: ``(n,)`` numbers of what must not be torn apart, such as a query.
            seed: Seed of the folds.

        Returns:
            A calibrator fitted on all cases.
        """
        cases = _Cases(
            np.clip(log_odds, -_STEEPEST, _STEEPEST),
            np.asarray(truth, dtype=float),
            np.asarray(group),
            np.asarray(relation),
        )
        _, block = np.unique(blocks, return_inverse=True)
        order = np.random.default_rng(seed).permutation(int(block.max(initial=-1)) + 1)
        judges = order[block] < len(order) * min(1, _JUDGES / max(1, len(block)))
        some, fold = cases.where(judges), order[block][judges] % _FOLDS
        squares = {strength: np.zeros((2, len(some.truth))) for strength in _STRENGTHS}
        for number in range(_FOLDS):
            learned, held_out = some.where(fold != number), some.where(fold == number)
            for strength, errors in squares.items():
                smooth = cls._fit(learned, groups, relations, strength)
                for row, rule in zip(errors, (smooth, smooth._with_steps(learned)), strict=True):
                    row[fold == number] = (rule._of(held_out) - held_out.truth) ** 2
        # Of equals the stronger prior. Steps have to be better by more than one standard error.
        strength = min(squares, key=lambda value: (squares[value][0].sum(), -value))
        smooth_errors, step_errors = squares[strength]
        _, of_block = np.unique(block[judges], return_inverse=True)
        gain = np.bincount(of_block, weights=smooth_errors - step_errors)
        fitted = cls._fit(cases, groups, relations, strength)
        clear = len(gain) > 1 and gain.sum() > gain.std() * math.sqrt(len(gain))
        return fitted._with_steps(cases) if clear else fitted

    @classmethod
    def _fit(cls, cases: _Cases, groups: int, relations: int, strength: float) -> Self:
        from scipy.optimize import minimize
        from scipy.special import expit

        cell = cases.relation * groups + cases.group
        cells = relations * groups

        def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
            slope, group, relation = values[0], values[1 : 1 + groups], values[1 + groups :]
            logit = slope * cases.log_odds + group[cases.group] + relation[cell]
            loss = np.logaddexp(0, logit).sum() - (cases.truth * logit).sum()
            error = expit(logit) - cases.truth
            gradient = np.concatenate(
                [
                    [error @ cases.log_odds + slope - 1],
                    np.bincount(cases.group, weights=error, minlength=groups) + 0.01 * group,
                    np.bincount(cell, weights=error, minlength=cells) + strength * relation,
                ]
            )
            # A slope of one and no prior are what no case would leave.
            loss += 0.5 * ((slope - 1) ** 2 + 0.01 * group @ group + strength * relation @ relation)
            return float(loss), gradient

        start = np.concatenate([[1.0], np.zeros(groups + cells)])
        bounds = [(0.01, None)] + [(None, None)] * (groups + cells)
        found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x
        priors = found[1 : 1 + groups], found[1 + groups :].reshape(relations, groups)
        return cls(float(found[0]), *priors)

    def _with_steps(self, cases: _Cases) -> Self:
        from sklearn.isotonic import IsotonicRegression

        if not len(cases.truth):
            return self
        regression = IsotonicRegression(out_of_bounds="clip").fit(self._of(cases), cases.truth)
        # A step whose cases all agree is no certainty: Laplace's rule keeps it off 0 and 1, as far
        # as the next step.
        said, after = regression.predict(self._of(cases)), regression.y_thresholds_
        never, always = (1 / ((said == end).sum() + 2) for end in (0, 1))
        between = after[(after > 0) & (after < 1)]
        after = np.clip(after, min([never, *between]), max([1 - always, *between]))
        return type(self)(
            self.slope, self.group, self.relation, (regression.X_thresholds_.astype(float), after)
        )

    def _of(self, cases: _Cases) -> np.ndarray:
        return self.probabilities(cases.log_odds, cases.group, cases.relation)

    def probabilities(
        self, log_odds: np.ndarray, group: np.ndarray, relation: np.ndarray
    ) -> np.ndarray:
        """Probability that each case is true, ``(n,)``."""
        from scipy.special import expit

        clipped = np.clip(log_odds, -_STEEPEST, _STEEPEST)
        probability = expit(
            self.slope * clipped + self.group[group] + self.relation[relation, group]
        )
        return probability if self.steps is None else np.interp(probability, *self.steps)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it as named float64 arrays, for a file."""
        before, after = self.steps or (np.empty(0), np.empty(0))
        return {
            "slope": np.array([self.slope]),
            "group": np.ascontiguousarray(self.group),
            "relation": np.ascontiguousarray(self.relation),
            "steps_before": np.ascontiguousarray(before),
            "steps_after": np.ascontiguousarray(after),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Undo :meth:`arrays`."""
        before, after = arrays["steps_before"], arrays["steps_after"]
        steps = (before, after) if len(before) else None
        return cls(float(arrays["slope"][0]), arrays["group"], arrays["relation"], steps)


@dataclass(frozen=True)
class _Cases:
    log_odds: np.ndarray
    truth: np.ndarray
    group: np.ndarray
    relation: np.ndarray

    def where(self, chosen: np.ndarray) -> _Cases:
        return _Cases(
            self.log_odds[chosen], self.truth[chosen], self.group[chosen], self.relation[chosen]
        )


def conformal_threshold(strangeness: np.ndarray, level: float) -> float:
    """The strangeness that a new answer stays below with probability ``level``.

    Vovk et al. (2005), "Algorithmic learning in a random world": of ``n`` exchangeable cases the
    one in place ``ceil((n + 1) level)``.

    Args:
        strangeness: ``(n,)`` of true answers; higher is stranger.
        level: Wanted coverage.

    Returns:
        The threshold; infinite where there are too few cases to say.
    """
    place = math.ceil((len(strangeness) + 1) * level)
    if place > len(strangeness):
        return math.inf
    return float(np.partition(strangeness, place - 1)[place - 1])


def conformal_thresholds(
    strangeness: np.ndarray,
    relation: np.ndarray,
    group: np.ndarray,
    *,
    relations: int,
    groups: int,
    level: float,
    least: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Split-conformal thresholds by relation and group (Mondrian categories).

    Zhu et al. (2024), "Conformalized answer set prediction for knowledge graph embedding"
    (arXiv 2408.08248), by relation as in arXiv 2505.16877. A relation with few answers takes the
    threshold of its whole group, and a group with few that of all answers, which hold on average
    over these.

    Args:
        strangeness: ``(n,)`` of true answers.
        relation: ``(n,)``.
        group: ``(n,)``.
        relations: Number of relations.
        groups: Number of groups.
        level: Wanted coverage.
        least: Answers that a threshold of one's own takes.

    Returns:
        Thresholds ``(relations, groups)``, and whether they are the relation's own.
    """
    everywhere = conformal_threshold(strangeness, level)
    thresholds = np.full((relations, groups), everywhere)
    own = np.zeros((relations, groups), dtype=bool)
    for number in range(groups):
        inside = group == number
        if inside.sum() >= least:
            thresholds[:, number] = conformal_threshold(strangeness[inside], level)
        counts = np.bincount(relation[inside], minlength=relations)
        for at in np.flatnonzero(counts >= least):
            thresholds[at, number] = conformal_threshold(
                strangeness[inside & (relation == at)], level
            )
            own[at, number] = True
    return thresholds, own


def times_odds(probability: np.ndarray, factor: float) -> np.ndarray:
    """Probabilities of cases whose odds are ``factor`` times as high, ``(n,)``."""
    return factor * probability / (1 + (factor - 1) * probability)


def calibration_summary(probability: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """ECE, Brier score, and the table of a reliability diagram, as plain values.

    Both are None where there is no case.
    """
    error, brier = expected_calibration_error(probability, truth), brier_score(probability, truth)
    return {
        "cases": len(truth),
        "true": int(np.sum(truth)),
        "expected_calibration_error": error if len(truth) else None,
        "brier_score": brier if len(truth) else None,
        "reliability": reliability(probability, truth).to_dict("records"),
    }
