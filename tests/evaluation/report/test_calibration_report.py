from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from mkgformer_kedro.evaluation.report.calibration import calibration_sections
from mkgformer_kedro.evaluation.report.figures import calibration_figure, inline_svg

EXPERTS = ("model", "complex", "baseline")


def judged(cases: int, error: float) -> dict:
    stated = np.linspace(0.1, 0.9, 5)
    return {
        "cases": cases,
        "true": cases // 4,
        "expected_calibration_error": error,
        "brier_score": 0.123,
        "reliability": [
            {"low": p - 0.1, "high": p + 0.1, "count": 9, "probability": p, "frequency": p + 0.02}
            for p in stated
        ],
    }


@pytest.fixture
def report() -> dict:
    """What the stage of the mixture says, of 15 relations, each in both directions."""
    return {
        "meaning": "The probability that a <proposed> answer is true.",
        "fit": {
            "log_likelihood": {"model": -5.25, "complex": -4.5, "baseline": -7, "mixture": -4.25},
            "log_likelihood_without": {"model": -4.5, "complex": -5.0},
            "linear": {"model": 0.0, "complex": 0.125},
            "log_likelihood_gained_by_linear": 0.0625,
        },
        "weights": {
            "whole": {"model": 0.5, "complex": 1.25, "baseline": 0.0},
            "direction": {
                "head": {"model": 0.25, "complex": 1.5, "baseline": 0.2},
                "tail": {"model": 0.75, "complex": 1.0, "baseline": 0.0},
            },
            "relation": [
                {
                    "relation": f"r{i}",
                    "direction": direction,
                    "dev_answers": 10 * i,
                    "own": i > 0,
                    "weights": dict.fromkeys(EXPERTS, i / 10),
                }
                for i in range(15)
                for direction in ("head", "tail")
            ],
        },
        "test": {
            "best": judged(1200, 0.031),
            "proposals": judged(12000, 0.047),
            "proposals_per_query": 10,
            "risk_coverage": [{"coverage": c, "risk": c / 2, "confidence": 0.5} for c in (0.1, 1)],
            "answer_sets": {
                "level": 0.9,
                "coverage": 0.912,
                "coverage_by_direction": {"head": 0.9, "tail": 0.924},
                "mean_size": 31.5,
                "median_size": 12.0,
                "largest_tenth_from": 80.0,
                "abstained": 0.05,
                "abstain_above": 100,
            },
        },
    }


def text_of(section, collect) -> str:
    return " ".join(collect(str(section.body)).text.split())


def test_the_weights_are_shown_by_relation(report, collect):
    weights, probabilities = calibration_sections(report, {"complex": "ComplEx"}, {"r14": "<R14>"})
    text = text_of(weights, collect)
    assert weights.title == "Whose word counts"
    assert "model ComplEx baseline all queries 0.50 1.25 0.00" in text
    assert "head is asked for 0.25 1.50 0.20" in text
    assert "ComplEx-4.500-5.0000.750" in text
    assert "another knows nothing: ComplEx has 12.50 %, the sum has the rest" in text
    assert "gains 0.062 of log-likelihood an answer" in text
    assert "<R14>, head 140 1.40 1.40 1.40" in text
    assert "16 more" in text
    assert text.index("<R14>, head") < text.index("r13, head") < text.index("16 more")
    assert "2 relations and directions do with those of the direction" in text
    assert "r0" not in text

    text = text_of(probabilities, collect)
    assert "The probability that a <proposed> answer is true." in text
    assert "the best answer 1\u202f200 300 0.031 0.123".replace("\u202f", " ") in text
    assert "the best 10 answers 12 000 3 000 0.047 0.123" in text
    assert "answers that are in their set91 %" in text
    assert "more than 100 entities is abstained from" in text


def test_without_test_queries_there_are_weights_alone(report):
    (section,) = calibration_sections(report | {"test": None}, {}, {})
    assert section.title == "Whose word counts"


def test_the_figure_draws_every_judgement(report):
    frames = {
        name: pd.DataFrame(report["test"][name]["reliability"]) for name in ("best", "proposals")
    }
    figure = calibration_figure(frames, pd.DataFrame(report["test"]["risk_coverage"]))
    left, right = figure.axes
    assert len(left.lines) == 3
    assert right.lines[0].get_xydata().tolist() == [[0.1, 0.05], [1, 0.5]]
    ET.fromstring(inline_svg(figure, "Calibration"))  # noqa: S314 (drawn a line above)
