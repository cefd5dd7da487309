"""What a page says of a mixture: whose word counts where, and how true its probabilities are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mkgformer_kedro.evaluation.report.figures import (
    calibration_figure,
    format_number,
    inline_svg,
)
from mkgformer_kedro.evaluation.report.page import Section
from mkgformer_kedro.evaluation.verdicts import percent

_RELATIONS_SHOWN = 12


def calibration_sections(
    report: Mapping[str, Any], names: Mapping[str, str], labels: Mapping[str, str]
) -> list[Section]:
    """Sections about the weights and the probabilities of a mixture.

    Args:
        report: The calibration report: ``meaning``, ``fit``, ``weights`` (``whole``, ``direction``,
            ``relation``) and ``test``, which is None where there were no test queries.
        names: What experts are called.
        labels: Texts of relations by name.
    """
    sections = [_weights_section(report, names, labels)]
    if report["test"] is not None:
        sections.append(_probabilities_section(report))
    return sections


def _weights_section(
    report: Mapping[str, Any], names: Mapping[str, str], labels: Mapping[str, str]
) -> Section:
    weights, likelihood = report["weights"], report["fit"]["log_likelihood"]

    def named(of: Mapping[str, float]) -> dict[str, float]:
        return {names.get(name, name.replace("_", " ")): value for name, value in of.items()}

    whole = {"all queries": named(weights["whole"])}
    whole |= {f"{name} is asked for": named(of) for name, of in weights["direction"].items()}
    own = sorted(
        (row for row in weights["relation"] if row["own"]), key=lambda row: -row["dev_answers"]
    )
    relations = [
        {
            "label": f"{labels.get(row['relation'], row['relation'])}, {row['direction']}",
            "count": row["dev_answers"],
            "weights": named(row["weights"]),
        }
        for row in own
    ]
    return Section.from_template(
        "Whose word counts",
        "weights.html.j2",
        {
            "experts": list(named(weights["whole"])),
            "whole": whole,
            "relations": relations[:_RELATIONS_SHOWN],
            "folded": relations[_RELATIONS_SHOWN:],
            "others": len(weights["relation"]) - len(own),
            "alone": named(likelihood),
            "without": named(report["fit"]["log_likelihood_without"]),
            "together": likelihood["mixture"],
            "linear": named({k: v for k, v in report["fit"]["linear"].items() if v}),
            "gain": report["fit"]["log_likelihood_gained_by_linear"],
        },
    )


def _probabilities_section(report: Mapping[str, Any]) -> Section:
    test = report["test"]
    sets = test["answer_sets"]
    few = f"the best {test['proposals_per_query']} answers"
    judged = {"the best answer": test["best"], few: test["proposals"]}
    drawing = inline_svg(
        calibration_figure(
            {name: pd.DataFrame(of["reliability"]) for name, of in judged.items()},
            pd.DataFrame(test["risk_coverage"]),
        ),
        "Reliability diagram, and risk against coverage",
    )
    facts = {
        "wanted": percent(sets["level"]),
        "answers that are in their set": percent(sets["coverage"]),
        **{
            f"where the {name} is asked for": percent(share)
            for name, share in sets["coverage_by_direction"].items()
        },
        "entities in a set, mean": format_number(sets["mean_size"], 1),
        "median": format_number(sets["median_size"], 1),
        "in the largest tenth, from": format_number(sets["largest_tenth_from"], 1),
        "queries abstained from": percent(sets["abstained"]),
    }
    return Section.from_template(
        "Probabilities",
        "probabilities.html.j2",
        {
            "meaning": report["meaning"],
            "judged": judged,
            "drawing": drawing,
            "facts": facts,
            "abstain_above": sets["abstain_above"],
        },
    )
