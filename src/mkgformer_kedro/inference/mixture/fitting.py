"""Fitting a mixture to the dev queries: weights, calibration and answer sets."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.evaluation.calibration import Calibrator, conformal_thresholds, log_odds
from mkgformer_kedro.evaluation.ranking.ranks import Cells, rank_answers
from mkgformer_kedro.evaluation.ranking.tables import QUERY, direction_numbers
from mkgformer_kedro.inference.experts import job_folder
from mkgformer_kedro.inference.mixture.answers import Answered
from mkgformer_kedro.inference.mixture.expert import (
    Calibration,
    Mixture,
    Weights,
    held_out,
    known_cells,
    learned_by_all,
    without_the_silent,
)
from mkgformer_kedro.inference.mixture.judging import judge
from mkgformer_kedro.inference.mixture.likelihood import Candidates, fit_scale, minimized
from mkgformer_kedro.inference.parameters import MixtureParameters
from mkgformer_kedro.launch import LOCAL, Engine

if TYPE_CHECKING:
    from mkgformer_kedro.inference.experts import Expert

logger = logging.getLogger(__name__)


class Share(IntEnum):
    """What a share of the dev queries is for."""

    FIT = 0
    JUDGE = 1
    CONFORM = 2


_SIZES = {Share.FIT: 0.5, Share.JUDGE: 0.25, Share.CONFORM: 0.25}
_LEAST_TO_SPLIT = 2 * len(Share)
_SHRINKAGES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, np.inf)
_RIDGE = 0.1
_HARDLY_ANY = 0.01
# Of a standard deviation: what half precision leaves of a score.
_SAME = 0.01
# The prior of the linear pool: so many answers that the weighted sum alone gave.
_SUMMED_ANSWERS = 10.0
# Less is that of nobody. Little is much where the weighted sum is sure and wrong.
_LEAST_LINEAR = 1e-5
# Of log-likelihood an answer: for less it is not worth that the linear pool levels how sure the
# mixture is of its best answers, by which completions are kept.
_LEAST_GAIN = 0.01
_HOLDS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0)


def choose_experts(experts: Sequence[Expert], names: Sequence[str] | None) -> list[Expert]:
    """The experts that are mixed: each name once, of its lowest seed.

    Args:
        experts: What there is.
        names: What is wanted; None takes every one.

    Raises:
        DataError: A name is not there.
    """
    first: dict[str, Expert] = {}
    for expert in sorted(experts, key=lambda expert: expert.seed):
        first.setdefault(expert.name, expert)
    order = list(dict.fromkeys(expert.name for expert in experts)) if names is None else names
    if missing := [name for name in order if name not in first]:
        what = f"there is no expert {', '.join(map(repr, missing))}"
        remedy = f"There are: {', '.join(dict.fromkeys(expert.name for expert in experts))}."
        raise DataError(Problem("mixture.experts", None, what, remedy))
    return [first[name] for name in order]


def fit_mixture(
    experts: Sequence[Expert],
    queries: pd.DataFrame,
    work_folder: Path,
    parameters: MixtureParameters,
    *,
    entities: int,
    relations: int,
    seed: int,
    engine: Engine = LOCAL,
) -> Mixture:
    """Fit weights, calibration and answer sets on the dev queries.

    Where no answer says anything of the weights, since every entity is a known answer, all experts
    have the same.

    Args:
        experts: What is mixed.
        queries: Table ``queries``; what only test has is not looked at.
        work_folder: Place for the experts' answers, from which an interrupted run goes on.
        parameters: The stage's parameters.
        entities: Number of entities of the graph.
        relations: Number of relations of the graph.
        seed: Seed of the split of dev and of the sampled candidates.
        engine: Where the experts are asked.

    Raises:
        DataError: There are no dev queries, or an expert's answers cannot be used.
    """
    dev, share = _shared_out(queries, parameters.fit_queries, seed)
    answered = Answered.ask(
        experts,
        dev,
        job_folder(work_folder, experts, dev[QUERY], parameters.batch_size),
        entities=entities,
        batch_size=parameters.batch_size,
        engine=engine,
    )
    logger.info("Fitting the weights of %d experts on %d dev queries", len(experts), len(dev))
    candidates = Candidates.gather(
        answered,
        top=parameters.top,
        sampled=parameters.sampled,
        seed=seed,
        learned=_with_answers(learned_by_all(experts), dev, share),
    )
    weighed = answered.speaks[share == Share.FIT].any(axis=0)
    weighed |= ~weighed.any()
    _tell("Answers no dev query that weights are fitted to, so left out", answered, ~weighed)
    answered, candidates = answered.only(weighed), candidates.only(weighed)
    distinct = ~_repeats(candidates)
    _tell("Says what another expert says, so left out", answered, ~distinct)
    answered, candidates = answered.only(distinct), candidates.only(distinct)

    fit = _Fit.prepared(answered, candidates, share, relations, parameters)
    everyone = np.ones(len(answered.experts), dtype=bool)
    grid = _SHRINKAGES if parameters.shrinkage is None else (parameters.shrinkage,)
    tried = {strength: fit.weights(strength, everyone) for strength in grid}
    strength = min(tried, key=lambda value: tried[value][1])
    weights, loss = tried[strength]
    needed = _needed(weights, answered.speaks)
    _tell("Hardly any weight anywhere, so left out", answered, ~needed)
    without = {}
    for number in np.flatnonzero(needed) if needed.sum() > 1 else ():
        others = needed & (np.arange(len(needed)) != number)
        without[answered.experts[number].name] = -fit.weights(strength, others)[1]

    kept = answered.only(needed)
    blank = _nothing_calibrated(relations, parameters)
    mixture = Mixture(kept.experts, weights.only(needed), blank, {}, entities)
    linear, gain = _linear(mixture, kept, share)
    mixture.weights = replace(mixture.weights, linear=linear)
    held_back = _hold_back(mixture, kept, share)
    mixture.weights = replace(mixture.weights, held_back=np.array([held_back]))
    if len(kept.experts) == 1:
        scale = _scale(candidates.where(share == Share.JUDGE).only(needed))
        mixture.calibration = replace(mixture.calibration, scale=scale)
    mixture.calibration = _calibrate(mixture, kept, share, parameters, seed)
    names = [expert.name for expert in answered.experts]
    mixture.facts = {
        "weights": dict(zip(names, weights.whole.tolist(), strict=True)),
        "queries": {one.name.lower(): int((share == one).sum()) for one in Share},
        "standardization": {
            name: "by_query" if rule else "by_expert"
            for name, rule in zip(names, fit.standard, strict=True)
        },
        "shrinkage": None if np.isinf(strength) else strength,
        "log_likelihood": {
            **dict(zip(names, (-fit.losses).tolist(), strict=True)),
            "mixture": -loss,
        },
        # Of the mixture fitted anew, an expert left out: what the expert adds to the others.
        "log_likelihood_without": without,
        "log_likelihood_by_shrinkage": {
            "whole" if np.isinf(value) else f"{value:g}": -found[1]
            for value, found in tried.items()
        },
        "linear": dict(zip((one.name for one in kept.experts), linear.tolist(), strict=True)),
        # Of the linear pool over the weighted sum, an answer.
        "log_likelihood_gained_by_linear": gain,
        "held_back": held_back,
        "dev_answers": fit.answers.tolist(),
    }
    return mixture


def _shared_out(
    queries: pd.DataFrame, most: int | None, seed: int
) -> tuple[pd.DataFrame, np.ndarray]:
    """The dev queries, those of one entity together, and the share that each belongs to.

    Of very few, each belongs to all shares, and is there as often.
    """
    dev = held_out(queries, "dev")
    if dev.empty:
        what = "there are no queries to fit a mixture on and to judge the fit by"
        remedy = "Give the graph a dev split (see docs/own_data.md)."
        raise DataError(Problem("dev split", None, what, remedy))
    if len(dev) < _LEAST_TO_SPLIT:
        logger.warning(
            "%d dev queries are too few to split: what fits the mixture judges it too", len(dev)
        )
        chosen = np.tile(np.arange(len(dev)), len(Share))
        share = np.repeat(list(Share), len(dev))
    else:
        chosen = np.random.default_rng(seed).permutation(len(dev))[:most]
        ends = np.round(np.cumsum([0, *_SIZES.values()]) * len(chosen)).astype(int)
        share = np.repeat(list(Share), np.diff(ends))
    order = np.argsort(dev["entity"].to_numpy()[chosen], kind="stable")
    return dev.iloc[chosen[order]].reset_index(drop=True), share[order]


def _tell(what: str, answered: Answered, left_out: np.ndarray) -> None:
    if left_out.any():
        names = [answered.experts[number].name for number in np.flatnonzero(left_out)]
        logger.info("%s: %s", what, ", ".join(names))


@dataclass(frozen=True)
class _Fit:
    """What weights are fitted to, and what judges them.

    Attributes:
        queries: Those that weights are fitted to.
        judged: Those that judge them.
        fitting: Candidates of the former, scores standardised.
        judging: Candidates of the latter, likewise.
        standard: As :class:`Weights` has it, and so are ``spread`` and ``alone``.
        losses: Of each expert alone where it is judged, ``(m,)``.
        answers: Answers that weights are fitted to, by relation and direction, ``(relations, 2)``.
        own: Which relations and directions have weights of their own, ``(relations, 2)`` bool.
    """

    queries: pd.DataFrame
    judged: pd.DataFrame
    fitting: Candidates
    judging: Candidates
    standard: np.ndarray
    spread: np.ndarray
    alone: np.ndarray
    losses: np.ndarray
    answers: np.ndarray
    own: np.ndarray

    @classmethod
    def prepared(
        cls,
        answered: Answered,
        candidates: Candidates,
        share: np.ndarray,
        relations: int,
        parameters: MixtureParameters,
    ) -> Self:
        """Standardise each expert, and count who has weights of its own."""
        queries, judged = (answered.queries[share == one] for one in (Share.FIT, Share.JUDGE))
        fitting, judging = (candidates.where(share == one) for one in (Share.FIT, Share.JUDGE))
        if not (fitting.answers and judging.answers):
            logger.warning(
                "Dev does not say whose word counts: every entity is an answer that is known"
            )
        spread = fitting.spread.mean(dim=0).numpy()
        rules = [
            _standardize(fitting, judging, number, spread, parameters.standardization)
            for number in range(len(answered.experts))
        ]
        losses, standard, alone = (np.array(values) for values in zip(*rules, strict=True))
        count = np.zeros((relations, 2), dtype=int)
        place = queries["relation"].to_numpy(), direction_numbers(queries)
        np.add.at(count, place, queries["answers"].map(len).to_numpy())
        return cls(
            queries=queries,
            judged=judged,
            fitting=fitting.standardised(standard, spread),
            judging=judging.standardised(standard, spread),
            standard=standard,
            spread=spread,
            alone=alone,
            losses=losses,
            answers=count,
            own=count >= parameters.least_answers,
        )

    def weights(self, strength: float, experts: np.ndarray) -> tuple[Weights, float]:
        """Weights of some experts, ``(m,)`` bool, and their loss where they are judged.

        The prior is of the given strength; infinite gives all the whole's.
        """
        fitting, judging = self.fitting.only(experts), self.judging.only(experts)
        alone, tied = self.alone[experts], np.isinf(strength)
        own = self.own & ~tied
        speaks, best_alone = torch.from_numpy(fitting.speaks), torch.from_numpy(alone)
        places = np.argwhere(own)
        number = np.full(own.shape, -1)
        number[tuple(places.T)] = np.arange(len(places))
        # Rows of a table: the whole, both directions, then the relations with weights of their own.
        levels = 1 if tied else 3 + len(places)
        direction = direction_numbers(self.queries)
        row = number[self.queries["relation"].to_numpy(), direction]
        row = np.zeros_like(row) if tied else np.where(row < 0, 1 + direction, 3 + row)
        parent = torch.from_numpy(np.concatenate([[0, 0], 1 + places[:, 1]]))

        def objective(values: Tensor) -> Tensor:
            table = values.view(levels, len(alone))
            loss = fitting.losses(without_the_silent(table[row], speaks, best_alone))
            # Of experts that say the same, the smallest weights.
            loss = loss.double().sum() + _RIDGE * (table[0] ** 2).sum()
            if tied:
                return loss
            return loss + strength * ((table[1:] - table[parent]) ** 2).sum()

        table = np.full(levels * len(alone), 1 / len(alone))
        if fitting.answers:
            table = minimized(objective, table)
        table = table.reshape(levels, len(alone))
        by_direction = np.repeat(table, 2, axis=0) if tied else table[1:3]
        by_relation = np.repeat(by_direction[None], len(own), axis=0)
        by_relation[tuple(places.T)] = table[3:]
        standard, spread = self.standard[experts], self.spread[experts]
        linear = np.zeros(len(alone))
        weights = Weights(standard, spread, alone, table[0], by_direction, by_relation, own, linear)
        return weights, judging.loss(weights.of(self.judged, judging.speaks))


def _with_answers(
    learned: np.ndarray | None, queries: pd.DataFrame, share: np.ndarray
) -> np.ndarray | None:
    """The entities to fit on; None where without the others a share has nothing to fit on."""
    if learned is None:
        return None
    most = learned.sum()
    left = np.array(
        [
            learned[answers].any() and learned[known].sum() < most
            for answers, known in zip(queries["answers"], queries["known"], strict=True)
        ]
    )
    return learned if all(left[share == one].any() for one in np.unique(share)) else None


def _nothing_calibrated(relations: int, parameters: MixtureParameters) -> Calibration:
    return Calibration(
        scale=1.0,
        calibrator=Calibrator(1.0, np.zeros(2), np.zeros((relations, 2))),
        thresholds=np.full((relations, 2), np.inf),
        own=np.zeros((relations, 2), dtype=bool),
        level=parameters.answer_sets.level,
    )


def _standardize(
    fitting: Candidates, judging: Candidates, expert: int, spread: np.ndarray, rule: str | None
) -> tuple[float, bool, float]:
    """The loss of an expert alone, whether to divide by each query's spread, and its weight."""
    mine = np.arange(len(spread)) == expert
    fitting, judging = (_where_it_speaks(each.only(mine)) for each in (fitting, judging))
    found = []
    for standard in (False, True) if rule is None else (rule == "by_query",):
        by = np.array([standard]), spread[mine]
        fitted, judged = (each.standardised(*by) for each in (fitting, judging))
        scale = fit_scale(fitted, torch.ones(len(fitted.scores), 1))
        found.append((judged.loss(np.full((len(judged.scores), 1), scale)), standard, scale))
    return min(found)


def _where_it_speaks(candidates: Candidates) -> Candidates:
    """The queries that an expert answers; all where these say nothing."""
    spoken = candidates.where(candidates.speaks[:, 0])
    return spoken if spoken.answers else candidates


def _repeats(candidates: Candidates) -> np.ndarray:
    """Which experts say what one before them says, as a model without images where none are."""
    experts = candidates.scores.shape[2]
    unit = candidates.spread[:, None, :]
    repeats = np.zeros(experts, dtype=bool)
    for number in range(1, experts):
        for before in np.flatnonzero(~repeats[:number]):
            apart = (candidates.scores[:, :, number] - candidates.scores[:, :, before]).abs()
            same = bool((apart <= _SAME * unit[:, :, before]).all())
            speaks = candidates.speaks[:, number] == candidates.speaks[:, before]
            repeats[number] |= same and bool(speaks.all())
    return repeats


def _needed(weights: Weights, speaks: np.ndarray) -> np.ndarray:
    """Which experts have a weight somewhere, or alone answer a query, ``(m,)`` bool."""
    table = np.concatenate([weights.direction, weights.relation.reshape(-1, speaks.shape[1])])
    needed = (table > _HARDLY_ANY * table.max(axis=1, keepdims=True)).any(axis=0)
    if not needed.any():
        needed[:] = True
    return needed | (speaks & ~(speaks & needed).any(axis=1, keepdims=True)).any(axis=0)


def _linear(mixture: Mixture, answered: Answered, share: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights of experts in the linear pool, ``(m,)``, and the log-likelihood that an answer gains.

    They are fitted to what judges the weighted sum: to what that was fitted to, it would seem
    better than it is.
    """
    none = np.zeros(len(mixture.experts))
    if len(none) == 1:
        return none, 0.0
    learned = learned_by_all(mixture.experts)
    parts = []
    for rows, scores in answered.blocks():
        judged = share[rows] == Share.JUDGE
        if judged.any():
            rows, scores = rows[judged], [values[judged] for values in scores]
            block, speaks = answered.queries.iloc[rows], answered.speaks[rows]
            parts.append(_voices(mixture, block, scores, speaks, learned))
    answers, others, speaks = (torch.cat(each) for each in zip(*parts, strict=True))
    if not len(answers):
        return none, 0.0

    def likelihood(alone: Tensor) -> Tensor:
        summed = 1 - speaks.double() @ alone
        every = torch.cat([summed[:, None], alone.expand(len(answers), -1)], dim=1).log()
        answer, other = (torch.logsumexp(each + every, dim=1) for each in (answers, others))
        return (answer - torch.logaddexp(answer, other)).sum()

    def objective(values: Tensor) -> Tensor:
        summed, *_ = shares = values.softmax(dim=0)
        return -likelihood(shares[1:]) - _SUMMED_ANSWERS * summed.log()

    found = torch.from_numpy(minimized(objective, np.zeros(len(none) + 1))).softmax(dim=0)[1:]
    linear = torch.where(found < _LEAST_LINEAR, 0.0, found)
    gain = float(likelihood(linear) - likelihood(torch.from_numpy(none))) / len(answers)
    return (none if gain < _LEAST_GAIN else linear.numpy()), gain


def _voices(
    mixture: Mixture,
    queries: pd.DataFrame,
    scores: Sequence[Tensor],
    speaks: np.ndarray,
    learned: np.ndarray | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """What the weighted sum and each expert alone give to the answers and to the other candidates.

    Returns:
        Log-probabilities of the answers and of all that is no known answer, ``(a, 1 + m)``, -inf of
        experts that do not answer; and which do, ``(a, m)`` bool.
    """
    logs = [mixture.weights.standardised(values, at) for at, values in enumerate(scores)]
    voices = [mixture.pool(queries, logs, speaks)]
    voices += [mixture.alone(values, at) for at, values in enumerate(logs)]
    answers = Cells.from_lists(queries["answers"])
    candidates = torch.ones(logs[0].shape, dtype=torch.bool)
    candidates[known_cells(queries, own=True)] = False
    kept = torch.ones(len(answers.rows), dtype=torch.bool)
    if learned is not None:
        candidates &= torch.from_numpy(learned)
        kept = torch.from_numpy(learned)[answers.columns]
    kept &= candidates.any(dim=1)[answers.rows]
    rows, columns = answers.rows[kept], answers.columns[kept]
    silent = torch.from_numpy(np.insert(~speaks, 0, False, axis=1))[rows]
    found = [
        torch.stack(each, dim=1).double().masked_fill(silent, -torch.inf)
        for each in (
            [values[rows, columns] for values in voices],
            [v.masked_fill(~candidates, -torch.inf).logsumexp(dim=1)[rows] for v in voices],
        )
    ]
    return found[0], found[1], torch.from_numpy(speaks)[rows]


def _hold_back(mixture: Mixture, answered: Answered, share: np.ndarray) -> float:
    """How far to hold back what an expert has not learned, by the MRR of judging queries.

    By likelihood alone they would come too far ahead: their share of the answers is small, and who
    among them is meant is hardly known.
    """
    learned = learned_by_all(mixture.experts)
    if learned is None:
        return 0.0
    others = torch.from_numpy(~learned)
    sums, count = torch.zeros(len(_HOLDS), dtype=torch.float64), 0
    for rows, mixed in _mixed(mixture, answered, share, Share.JUDGE):
        block = answered.queries.iloc[rows]
        answers = Cells.from_lists(block["answers"], mixed.device)
        known = Cells.from_lists(block["known"], mixed.device)
        for number, hold in enumerate(_HOLDS):
            ranks = rank_answers(torch.where(others, mixed - hold, mixed), answers, known)
            realistic = (ranks.rank_optimistic + ranks.rank_pessimistic).double() / 2
            sums[number] += (1 / realistic).sum()
        count += len(answers.rows)
    return _HOLDS[int(sums.argmax())] if count else 0.0


def _mixed(
    mixture: Mixture, answered: Answered, share: np.ndarray, wanted: Share
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Positions of the queries of a share, and the mixture's scores."""
    for rows, scores in answered.blocks():
        kept = share[rows] == wanted
        if kept.any():
            rows, scores = rows[kept], [values[kept] for values in scores]
            speaks = answered.speaks[rows]
            yield rows, mixture.combine(answered.queries.iloc[rows], scores, speaks)[0]


def _scale(judging: Candidates) -> float:
    """The inverse temperature of one expert's scores, which are taken as they are."""
    # Scores of any size: the search begins where they differ by about one.
    unit = 1 / float(judging.spread.mean())
    weights = torch.full((len(judging.scores), 1), unit, dtype=torch.float64)
    return unit * fit_scale(judging, weights)


def _calibrate(
    mixture: Mixture,
    answered: Answered,
    share: np.ndarray,
    parameters: MixtureParameters,
    seed: int,
) -> Calibration:
    """Fit the calibrator where weights are judged, and the thresholds on the third share."""
    found, relations = mixture.calibration, len(mixture.weights.relation)
    (proposals, _), (_, answers) = (
        judge(found, answered.queries, _mixed(mixture, answered, share, one), parameters.proposals)
        for one in (Share.JUDGE, Share.CONFORM)
    )
    calibrator = Calibrator.fit(
        log_odds(proposals["log_softmax"].to_numpy()),
        proposals["true"].to_numpy(),
        proposals["direction"].to_numpy(),
        proposals["relation"].to_numpy(),
        groups=2,
        relations=relations,
        blocks=proposals["query"].to_numpy(),
        seed=seed,
    )
    thresholds, own = conformal_thresholds(
        -answers["log_softmax"].to_numpy(),
        answers["relation"].to_numpy(),
        answers["direction"].to_numpy(),
        relations=relations,
        groups=2,
        level=parameters.answer_sets.level,
        least=parameters.answer_sets.least_answers,
    )
    return replace(found, calibrator=calibrator, thresholds=thresholds, own=own)
