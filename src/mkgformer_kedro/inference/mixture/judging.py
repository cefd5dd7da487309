"""A mixture's probabilities and answer sets, held against answers that are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mkgformer_kedro.evaluation.calibration import calibration_summary, risk_coverage
from mkgformer_kedro.evaluation.ranking.ranks import best_entities
from mkgformer_kedro.evaluation.ranking.tables import DIRECTIONS, direction_numbers
from mkgformer_kedro.inference.mixture.expert import held_out, known_cells
from mkgformer_kedro.progress import Progress

if TYPE_CHECKING:
    from mkgformer_kedro.inference.mixture.expert import Calibration, Mixture
    from mkgformer_kedro.inference.parameters import MixtureParameters

# Answers per query of dev and test may be so many times apart.
_ALIKE = 1.25


def judge(
    calibration: Calibration,
    queries: pd.DataFrame,
    blocks: Iterator[tuple[np.ndarray, Tensor]],
    top: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Lay out what a mixture says of queries whose answers are known.

    Args:
        calibration: Of the mixture.
        queries: Queries with ``answers`` and ``known``; what is known and no answer is left out.
        blocks: Positions of queries and the mixture's scores.
        top: Best answers of each query to lay out.

    Returns:
        Proposals, ``top`` for each query: ``query``, ``direction`` (number), ``relation``,
        ``answer``, ``log_softmax``, ``true``, ``place`` (from 0). And the true answers: ``query``,
        ``direction``, ``relation``, ``log_softmax``, ``size`` (of the query's answer set).
    """
    proposals, answers = [], []
    for rows, scores in blocks:
        block = queries.iloc[rows]
        logs = calibration.log_softmax(scores, known_cells(block, own=False)).cpu()
        direction, relation = direction_numbers(block), block["relation"].to_numpy()
        best, best_logs = best_entities(logs, top)
        width = best.shape[1]
        is_answer = torch.zeros(logs.shape, dtype=torch.bool)
        row = np.repeat(np.arange(len(block)), block["answers"].map(len))
        entity = np.concatenate(block["answers"].to_list()).astype(np.int64)
        is_answer[row, entity] = True
        table = pd.DataFrame(
            {
                "query": np.repeat(rows, width),
                "direction": np.repeat(direction, width),
                "relation": np.repeat(relation, width),
                "answer": best.reshape(-1).numpy(),
                "log_softmax": best_logs.reshape(-1).double().numpy(),
                "true": is_answer.gather(1, best).reshape(-1).numpy(),
                "place": np.tile(np.arange(width), len(rows)),
            }
        )
        proposals.append(table[np.isfinite(table["log_softmax"])])
        threshold = torch.from_numpy(calibration.thresholds[relation, direction])
        size = (-logs <= threshold[:, None]).logical_and(torch.isfinite(logs)).sum(dim=1).numpy()
        answers.append(
            pd.DataFrame(
                {
                    "query": rows[row],
                    "direction": direction[row],
                    "relation": relation[row],
                    "log_softmax": logs[row, entity].double().numpy(),
                    "size": size[row],
                }
            )
        )
    order = ["query", "place"]
    return (
        pd.concat(proposals, ignore_index=True).sort_values(order, ignore_index=True),
        pd.concat(answers, ignore_index=True).sort_values("query", ignore_index=True),
    )


def judge_calibration(
    mixture: Mixture,
    queries: pd.DataFrame,
    relations: Sequence[str],
    parameters: MixtureParameters,
    seed: int,
) -> dict[str, Any]:
    """Hold a mixture's probabilities and answer sets against the answers of test.

    Args:
        mixture: The mixture.
        queries: Table ``queries``; of answers of test those that train has are left out.
        relations: Id of every relation.
        parameters: The stage's parameters.
        seed: Seed of the sample of test queries.

    Returns:
        ``answers_per_query`` of each split, ``unlike`` (whether those of dev and test are far
        apart), ``fit`` (what fitting found on dev), ``weights`` (whole, by direction, by relation),
        ``test``:
        ``best`` and ``proposals`` (reliability of the best and of the best few answers of each
        query), ``risk_coverage``, ``answer_sets``. ``test`` is None without test queries.
    """
    calibrator = mixture.calibration.calibrator
    test = held_out(queries, "test")
    answers = queries["answers"].map(len).groupby(queries["split"]).mean().to_dict()
    unlike = not test.empty and not 1 / _ALIKE < answers["test"] / answers["dev"] < _ALIKE
    return {
        "meaning": "The probability that a proposed answer is one of the answers held out, given "
        "that the query has one and that train does not have this one. What nobody wrote down, and "
        "what only another split has, counts as false: a proposal beyond them may be true."
        + (f" {unlike_splits(answers)}" if unlike else ""),
        "answers_per_query": answers,
        "unlike": unlike,
        "fit": {name: value for name, value in mixture.facts.items() if name != "dev_answers"},
        "calibration": {
            "scale": mixture.calibration.scale,
            "slope": calibrator.slope,
            "isotonic": calibrator.steps is not None,
        },
        "weights": _weights(mixture, relations),
        "test": None if test.empty else _on_test(mixture, test, parameters, seed),
    }


def unlike_splits(answers_per_query: Mapping[str, float]) -> str:
    """What it means that queries of test have many more answers than those of dev, or fewer."""
    return (
        f"A query has {answers_per_query['test']:.2g} answers in test and "
        f"{answers_per_query['dev']:.2g} in dev: probabilities and answer sets are those of dev, "
        "and hold for test so far as the splits are alike."
    )


def _weights(mixture: Mixture, relations: Sequence[str]) -> dict[str, Any]:
    weights, count = mixture.weights, mixture.facts["dev_answers"]

    def named(row: np.ndarray) -> dict[str, float]:
        return dict(zip((e.name for e in mixture.experts), row.tolist(), strict=True))

    return {
        "whole": named(weights.whole),
        "direction": {
            name: named(row) for name, row in zip(DIRECTIONS, weights.direction, strict=True)
        },
        "relation": [
            {
                "relation": relation,
                "direction": name,
                "dev_answers": count[at][number],
                "own": bool(weights.own[at, number]),
                "weights": named(weights.relation[at, number]),
            }
            for at, relation in enumerate(relations)
            for number, name in enumerate(DIRECTIONS)
        ],
    }


def _on_test(
    mixture: Mixture, test: pd.DataFrame, parameters: MixtureParameters, seed: int
) -> dict[str, Any]:
    if parameters.test_queries is not None and parameters.test_queries < len(test):
        chosen = np.random.default_rng(seed).permutation(len(test))[: parameters.test_queries]
        test = test.iloc[np.sort(chosen)].reset_index(drop=True)
    with Progress("Judging probabilities", len(test), "test queries") as progress:

        def blocks() -> Iterator[tuple[np.ndarray, Tensor]]:
            for rows, scores in mixture.scores(test, batch_size=parameters.batch_size):
                yield rows, scores
                progress.advance(len(rows))

        proposals, answers = judge(mixture.calibration, test, blocks(), parameters.proposals)
    probability = mixture.calibration.probabilities(*_columns(proposals))
    truth, best = proposals["true"].to_numpy(), (proposals["place"] == 0).to_numpy()
    return {
        "queries": len(test),
        "answers": len(answers),
        "best": calibration_summary(probability[best], truth[best]),
        "proposals": calibration_summary(probability, truth),
        "proposals_per_query": parameters.proposals,
        "risk_coverage": risk_coverage(probability[best], truth[best]).to_dict("records"),
        "answer_sets": _answer_sets(
            mixture.calibration, answers, parameters.answer_sets.abstain_above
        ),
    }


def _answer_sets(
    calibration: Calibration, answers: pd.DataFrame, abstain_above: int
) -> dict[str, Any]:
    logs, direction, relation = _columns(answers)
    covered = calibration.in_set(logs, direction, relation)
    own = calibration.own[relation, direction]
    size = answers.groupby("query")["size"].first()
    return {
        "level": calibration.level,
        "coverage": float(covered.mean()),
        "coverage_by_direction": {
            name: float(covered[direction == number].mean())
            for number, name in enumerate(DIRECTIONS)
            if (direction == number).any()
        },
        "coverage_where_own": float(covered[own].mean()) if own.any() else None,
        "relations_of_their_own": int(calibration.own.sum()),
        "mean_size": float(size.mean()),
        "median_size": float(size.median()),
        "largest_tenth_from": float(size.quantile(0.9)),
        "abstained": float((size > abstain_above).mean()),
        "abstain_above": abstain_above,
    }


def _columns(judged: pd.DataFrame) -> list[np.ndarray]:
    return [judged[name].to_numpy() for name in ("log_softmax", "direction", "relation")]
