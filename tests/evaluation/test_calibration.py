from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import brier_score_loss

from mkgformer_kedro.evaluation.calibration import (
    Calibrator,
    _Cases,
    brier_score,
    calibration_summary,
    conformal_threshold,
    conformal_thresholds,
    expected_calibration_error,
    log_odds,
    reliability,
    risk_coverage,
)

PROBABILITIES = arrays(float, st.integers(1, 60), elements=st.floats(0, 1, width=32))


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


@given(PROBABILITIES, st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_calibration_error_is_what_counting_by_hand_gives(probability, seed, bins):
    truth = np.random.default_rng(seed).random(len(probability)) < probability
    error = 0.0
    for number in range(bins):
        low, high = number / bins, (number + 1) / bins
        inside = [
            i
            for i, p in enumerate(probability)
            # Ends belong to the bin below; zero to the first.
            if math.ceil(p * bins) == number + 1 or (number == 0 and p == 0)
        ]
        assert all(low - 1e-9 <= probability[i] <= high + 1e-9 for i in inside)
        if inside:
            gap = np.mean(probability[inside]) - np.mean(truth[inside])
            error += len(inside) / len(probability) * abs(gap)
    assert expected_calibration_error(probability, truth, bins) == pytest.approx(error)


@given(PROBABILITIES, st.integers(0, 2**32 - 1))
def test_brier_score_is_that_of_scikit_learn(probability, seed):
    truth = np.random.default_rng(seed).random(len(probability)) < 0.5
    expected = brier_score_loss(truth, probability, labels=[False, True])
    assert brier_score(probability, truth) == pytest.approx(expected)


def test_true_probabilities_have_no_calibration_error():
    rng = np.random.default_rng(0)
    probability = rng.random(200_000)
    truth = rng.random(200_000) < probability
    assert expected_calibration_error(probability, truth) < 0.01
    table = reliability(probability, truth)
    assert np.allclose(table["probability"], table["frequency"], atol=0.02)
    assert table["count"].sum() == 200_000


def test_no_cases_give_no_numbers():
    nothing = np.empty(0), np.empty(0, dtype=bool)
    summary = calibration_summary(*nothing)
    assert summary["expected_calibration_error"] is None
    assert summary["brier_score"] is None
    assert math.isnan(expected_calibration_error(*nothing))
    assert summary["reliability"] == []
    assert risk_coverage(*nothing).empty


def test_risk_falls_to_that_of_the_most_confident():
    confidence = np.array([0.9, 0.8, 0.7, 0.6])
    correct = np.array([True, True, False, False])
    table = risk_coverage(confidence, correct, coverages=(0.25, 0.5, 0.75, 1.0))
    assert table["risk"].tolist() == [0, 0, 1 / 3, 0.5]
    assert table["confidence"].tolist() == [0.9, 0.8, 0.7, 0.6]


def draw_cases(n=6000, seed=0, slope=0.5, priors=(-1.0, 1.0), relation_prior=None):
    """Cases whose true probability is known."""
    rng = np.random.default_rng(seed)
    group, relation = rng.integers(2, size=n), rng.integers(5, size=n)
    log_odds = 3 * rng.standard_normal(n)
    more = np.zeros(5) if relation_prior is None else np.array(relation_prior)
    probability = sigmoid(slope * log_odds + np.array(priors)[group] + more[relation])
    truth = rng.random(n) < probability
    return log_odds, truth, group, relation, probability


def fit(log_odds, truth, group, relation, relations=5, seed=0):
    return Calibrator.fit(
        log_odds,
        truth,
        group,
        relation,
        groups=2,
        relations=relations,
        blocks=np.arange(len(truth)) // 3,
        seed=seed,
    )


def test_calibrator_finds_temperature_and_priors():
    log_odds, truth, group, relation, probability = draw_cases()
    calibrator = fit(log_odds, truth, group, relation)
    assert calibrator.slope == pytest.approx(0.5, abs=0.05)
    assert calibrator.group == pytest.approx([-1, 1], abs=0.15)
    assert calibrator.steps is None
    stated = calibrator.probabilities(log_odds, group, relation)
    assert np.abs(stated - probability).mean() < 0.02
    assert expected_calibration_error(stated, truth) < 0.02


def test_calibrator_gives_a_relation_its_own_prior_where_it_has_one():
    cases = draw_cases(relation_prior=[0, 0, 0, 0, 2])
    calibrator = fit(*cases[:4])
    assert calibrator.relation[4].mean() - calibrator.relation[:4].mean() > 1.2


def test_calibrator_draws_the_prior_of_a_rare_relation_to_that_of_its_group():
    log_odds, truth, group, relation, _ = draw_cases()
    rare = np.array([0.0, 0.0]), np.array([True, True]), np.array([0, 0]), np.array([5, 5])
    cases = [
        np.concatenate(pair) for pair in zip((log_odds, truth, group, relation), rare, strict=True)
    ]
    calibrator = fit(*cases, relations=6)
    # Two cases that are both true would ask for an infinite prior.
    assert 0 < calibrator.relation[5, 0] < 2
    assert calibrator.relation[5, 1] == 0


def test_steps_are_taken_where_no_temperature_fits():
    rng = np.random.default_rng(1)
    log_odds = rng.uniform(-6, 6, 8000)
    probability = np.where(log_odds > 0, 0.55, 0.1) + np.where(log_odds > 4, 0.4, 0)
    truth = rng.random(8000) < probability
    zeros = np.zeros(8000, dtype=int)
    calibrator = fit(log_odds, truth, zeros, zeros)
    assert calibrator.steps is not None
    stated = calibrator.probabilities(log_odds, zeros, zeros)
    assert np.abs(stated - probability).mean() < 0.03
    order = np.argsort(log_odds)
    assert (np.diff(stated[order]) >= -1e-12).all()
    assert stated.min() > 0
    assert stated.max() < 1


def test_calibrator_survives_a_file(tmp_path):
    from safetensors.numpy import load_file, save_file

    log_odds, truth, group, relation, _ = draw_cases(n=500)
    for steps in (None, (np.array([0.1, 0.9]), np.array([0.2, 0.8]))):
        fitted = fit(log_odds, truth, group, relation)
        fitted = Calibrator(fitted.slope, fitted.group, fitted.relation, steps)
        save_file(fitted.arrays(), tmp_path / "calibrator.safetensors")
        again = Calibrator.from_arrays(load_file(tmp_path / "calibrator.safetensors"))
        assert np.array_equal(
            again.probabilities(log_odds, group, relation),
            fitted.probabilities(log_odds, group, relation),
        )


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 60), st.integers(0, 2**32 - 1))
def test_any_cases_give_probabilities(n, seed):
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(scale=rng.choice([0.1, 5, 1000]), size=n)
    cases = log_odds, rng.random(n) < rng.random(), rng.integers(2, size=n), rng.integers(5, size=n)
    stated = fit(*cases).probabilities(log_odds, cases[2], cases[3])
    assert np.isfinite(stated).all()
    assert ((stated >= 0) & (stated <= 1)).all()


@given(
    arrays(float, st.integers(0, 40), elements=st.floats(0, 10, width=16)),
    st.floats(0.05, 0.95),
)
def test_threshold_is_the_smallest_that_enough_cases_stay_within(strangeness, level):
    threshold = conformal_threshold(strangeness, level)
    needed = math.ceil((len(strangeness) + 1) * level)
    if needed > len(strangeness):
        assert threshold == math.inf
    else:
        fitting = [t for t in sorted(strangeness) if sum(strangeness <= t) >= needed]
        assert threshold == fitting[0]


def test_threshold_is_that_of_mapie():
    """MAPIE's least ambiguous sets of one fixed classifier, which are thresholds on 1 - p."""
    from mapie.classification import SplitConformalClassifier
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Fixed(ClassifierMixin, BaseEstimator):
        """Gives the probabilities that it is handed as features."""

        def fit(self, features, labels):
            self.classes_ = np.arange(features.shape[1])
            return self

        def predict_proba(self, features):
            return features

        def predict(self, features):
            return features.argmax(axis=1)

    rng = np.random.default_rng(3)
    probability = rng.dirichlet(np.full(6, 0.5), size=700)
    labels = np.array([rng.choice(6, p=row) for row in probability])
    calibration, test = probability[:300], probability[300:]
    oracle = SplitConformalClassifier(
        Fixed().fit(calibration, labels), confidence_level=0.9, prefit=True, conformity_score="lac"
    )
    sets = oracle.conformalize(calibration, labels[:300]).predict_set(test)[1][:, :, 0]
    threshold = conformal_threshold(1 - calibration[np.arange(300), labels[:300]], 0.9)
    # The thresholds differ by the rounding of 1 - (1 - p).
    assert (sets != (1 - test <= threshold)).sum() <= 1


def test_coverage_holds_by_relation_and_where_relations_are_rare():
    rng = np.random.default_rng(0)
    covered, rare_covered = [], []
    for _ in range(200):
        relation = np.concatenate([np.repeat([0, 1], 150), [2] * 5])
        # Relations differ, and the rare one is like the whole.
        scale = np.where(relation == 0, 1.0, np.where(relation == 1, 3.0, 2.0))
        strangeness = rng.exponential(scale)
        thresholds, own = conformal_thresholds(
            strangeness,
            relation,
            np.zeros(len(relation), dtype=int),
            relations=3,
            groups=2,
            level=0.9,
            least=50,
        )
        assert own.tolist() == [[True, False], [True, False], [False, False]]
        everywhere = conformal_threshold(strangeness, 0.9)
        assert thresholds[2].tolist() == [everywhere, everywhere]
        covered.append([rng.exponential(s) <= thresholds[r, 0] for r, s in ((0, 1.0), (1, 3.0))])
        rare_covered.append(rng.exponential(2.0) <= thresholds[2, 0])
    assert np.mean(covered, axis=0) == pytest.approx([0.9, 0.9], abs=0.06)
    assert np.mean(rare_covered) == pytest.approx(0.9, abs=0.08)


@given(st.floats(-700, 0))
def test_log_odds_are_finite_and_exact(log_probability):
    found = log_odds(np.array([log_probability]))[0]
    assert np.isfinite(found)
    if -30 < log_probability < -1e-6:
        probability = np.exp(log_probability)
        assert found == pytest.approx(np.log(probability / (1 - probability)), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    ("truth", "least", "most"),
    [
        ([0] * 8 + [1, 0] * 4 + [1] * 3, 1 / 10, 1 - 1 / 5),
        ([0] * 2 + [1, 0] * 50 + [1] * 2, 1 / 4, 1 - 1 / 4),  # as far as one half between them
        ([0] * 3 + [1] + [0] * 9 + [1] * 9 + [0] + [1] * 2, 1 / 10, 9 / 10),  # the steps beside
        ([1] * 6, 7 / 8, 7 / 8),
        ([0] * 6, 1 / 8, 1 / 8),
    ],
)
def test_a_step_whose_cases_agree_is_as_sure_as_they_are_many(truth, least, most):
    n = len(truth)
    cases = _Cases(np.arange(n) / n, np.array(truth, dtype=float), *np.zeros((2, n), dtype=int))
    stepped = Calibrator(1.0, np.zeros(1), np.zeros((1, 1)))._with_steps(cases)
    said = stepped.probabilities(cases.log_odds, cases.group, cases.relation)
    assert said.min() == pytest.approx(least)
    assert said.max() == pytest.approx(most)
    assert (np.diff(said) >= 0).all()


def test_of_equal_confidence_any_may_come_first():
    confidence, correct = np.array([0.9, 0.6, 0.6, 0.6, 0.6]), np.array([1, 1, 0, 0, 1], dtype=bool)
    for order in (np.arange(5), np.arange(5)[::-1]):
        found = risk_coverage(confidence[order], correct[order], (0.2, 0.6, 1.0))
        assert found["risk"].tolist() == pytest.approx([0, 1 / 3, 2 / 5])
        assert found["confidence"].tolist() == [0.9, 0.6, 0.6]
