from __future__ import annotations

import json

import numpy as np
import pytest

from mixing import fit, split
from mkgformer_kedro.inference.mixture import judge_calibration
from mkgformer_kedro.inference.mixture.judging import judge


def test_probabilities_and_answer_sets_hold_on_test(world, mixture, parameters):
    report = judge_calibration(mixture, world.queries, list("abcd"), parameters, seed=0)
    test = report["test"]
    assert test["queries"] == 1500
    assert test["best"]["expected_calibration_error"] < 0.05
    assert test["proposals"]["expected_calibration_error"] < 0.02
    assert 0.88 <= test["answer_sets"]["coverage"] <= 0.93
    assert 1 < test["answer_sets"]["mean_size"] < 30
    risks = [row["risk"] for row in test["risk_coverage"]]
    assert risks[0] < risks[-1]
    json.dumps(report, allow_nan=False)


def test_stated_probabilities_are_the_true_ones(world, parameters, tmp_path):
    """An expert that knows the distribution: its probabilities cannot be improved."""
    mixture = fit([world.expert("oracle", factor=5.0)], world, tmp_path, parameters)
    test = split(world.queries, "test")
    blocks = mixture.scores(test, batch_size=64)
    proposals, answers = judge(mixture.calibration, test, blocks, top=10)
    columns = [proposals[name].to_numpy() for name in ("log_softmax", "direction", "relation")]
    stated = mixture.calibration.probabilities(*columns)
    asked = test.iloc[proposals["query"]]
    direction = (asked["direction"] == "head").to_numpy().astype(int)
    truth = np.exp(world.logits[direction, asked["entity"], asked["relation"]])
    truth = (truth / truth.sum(axis=1, keepdims=True))[np.arange(len(asked)), proposals["answer"]]
    assert np.abs(stated - truth).mean() < 0.01
    assert len(answers) == len(test)


def test_what_other_splits_know_is_not_proposed(world, few, mixture):
    proposals, answers = judge(mixture.calibration, few, mixture.scores(few, batch_size=16), top=30)
    for number, query in enumerate(few.itertuples()):
        proposed = proposals[proposals["query"] == number]
        others = np.setdiff1d(query.known, query.answers)
        assert set(proposed["answer"]) == set(range(30)) - set(others)
        assert set(proposed.loc[proposed["true"], "answer"]) == set(query.answers)
        assert np.exp(proposed["log_softmax"]).sum() == pytest.approx(1)
        inside = (
            -proposed["log_softmax"]
            <= mixture.calibration.thresholds[query.relation, int(query.direction == "head")]
        )
        assert (answers.loc[answers["query"] == number, "size"] == inside.sum()).all()


def test_splits_that_differ_in_their_answers_are_told(world, mixture, parameters):
    report = judge_calibration(mixture, world.queries, list("abcd"), parameters, seed=0)
    assert not report["unlike"]
    assert report["answers_per_query"] == {"dev": 1, "test": 1}
    twice = world.queries.copy()
    is_test = twice["split"] == "test"
    twice.loc[is_test, "answers"] = twice.loc[is_test, "answers"].map(
        lambda answers: np.array([answers[0], (answers[0] + 1) % 30])
    )
    report = judge_calibration(mixture, twice, list("abcd"), parameters, seed=0)
    assert report["unlike"]
    assert "A query has 2 answers in test and 1 in dev" in report["meaning"]
