"""A mixture of experts that is an expert itself, and whose scores become probabilities.

For a query ``q`` with relation ``r`` and direction ``d``, every expert's scores are standardised,
``z_i(q, e) = log softmax_e(s_i(q, e) / sigma_i)``. ``sigma_i`` is the standard deviation of the
expert's scores over all entities: the query's own, or its mean over the queries, whichever makes
the expert alone more likely on held-out dev. A weight thus says how far an expert moves the
mixture, whatever the scale of its scores. The mixture scores an entity by
``sum_i w_i(r, d) z_i(q, e)``, a logarithmic opinion pool (Genest and Zidek, 1986, "Combining
probability distributions").

Weights are not negative, and fitted on a part of the dev queries by the likelihood of their
answers, the other known answers left out. This is a convex problem, and the temperature of each
expert is part of it. Under the weights lies a hierarchical prior: with strength ``lambda`` those of
a relation and direction are drawn to the direction's, and these to the whole's. Another part of the
dev queries picks ``lambda`` and fits the calibration, a third one sets conformal thresholds. No
answer of test is looked at.

An expert that says what another says, or has less than a hundredth of the largest weight
everywhere, is not asked again, unless it alone answers some query. An expert that does not answer a
query is left out of it, and the weights of the others are raised until they sum to one at least,
each measured by the weight that the expert has best alone.

Some experts have not learned every entity: what a structural expert says of one that train lacks is
noise. Let ``q`` be the distribution of the experts that have learned all, with weights raised as
above. The entities that some expert has not learned have the probability that ``q`` gives them,
times a factor that is picked by the MRR of held-out dev. The rest of ``q`` is shared out among the
others as the whole mixture says, which is fitted on these alone.

A mixture of one expert gives that expert's scores as they are.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.evaluation.calibration import (
    Calibrator,
    calibration_summary,
    conformal_thresholds,
    risk_coverage,
)
from mkgformer_kedro.evaluation.ranking.ranks import Cells, rank_answers, rows_at_a_time
from mkgformer_kedro.files import (
    fingerprint,
    has_block,
    read_block,
    sha256_of,
    write_block,
    written_atomically,
)
from mkgformer_kedro.inference.experts import finite_scores
from mkgformer_kedro.inference.parameters import MixtureParameters
from mkgformer_kedro.launch import LOCAL, Engine
from mkgformer_kedro.progress import Progress

if TYPE_CHECKING:
    from mkgformer_kedro.inference.experts import Expert
    from mkgformer_kedro.training.tasks.base import Task

logger = logging.getLogger(__name__)

DIRECTIONS = ("tail", "head")
"""The directions in the order of every array that has one entry for each."""

_SHRINKAGES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, np.inf)
_PARTS = {"fit": 0.5, "judge": 0.25, "conform": 0.25}
_LEAST_TO_SPLIT = 2 * len(_PARTS)
_QUERY = ["direction", "entity", "relation"]
_CELLS = 1 << 22
# Queries that are asked before it is known how many entities there are.
_FIRST = 32
_LEAST_WEIGHT = 1e-6
_LEAST_SPREAD = 1e-6
_RIDGE = 0.1
_LEAST_SHARE = 0.01
# Of a standard deviation: what half precision leaves of a score.
_SAME = 0.01
_HOLDS = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
KIND = "mixture"
_DESCRIPTION, _ARRAYS = "expert.json", "mixture.safetensors"


@dataclass(frozen=True)
class Weights:
    """How much each expert counts, and how its scores are standardised.

    Attributes:
        standard: Whether an expert's scores are divided by the standard deviation of the query's,
            ``(m,)`` bool.
        spread: What they are divided by where not, ``(m,)``.
        alone: The weight that an expert has best where it alone is asked, ``(m,)``.
        whole: Weights of the whole, ``(m,)``.
        direction: Weights by direction, ``(2, m)``.
        relation: Weights by relation and direction, ``(relations, 2, m)``.
        own: Whether these are the relation's own, and not the direction's, ``(relations, 2)`` bool.
        held_back: What is taken from the log-scores of entities that an expert has not learned,
            ``(1,)``.
    """

    standard: np.ndarray
    spread: np.ndarray
    alone: np.ndarray
    whole: np.ndarray
    direction: np.ndarray
    relation: np.ndarray
    own: np.ndarray
    held_back: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def of(self, queries: pd.DataFrame, answers: np.ndarray) -> np.ndarray:
        """Weights for each query.

        Args:
            queries: Columns ``direction`` and ``relation``.
            answers: Which experts answer it, ``(n, m)`` bool.

        Returns:
            ``(n, m)``, zero for experts that do not answer; where none does, as if all did.
        """
        raw = self.relation[queries["relation"].to_numpy(), _direction_numbers(queries)]
        given = (torch.from_numpy(values) for values in (raw, answers, self.alone))
        return _without_the_silent(*given).numpy()

    def only(self, experts: np.ndarray) -> Weights:
        """The weights of some experts, ``(m,)`` bool."""
        by_expert = ("standard", "spread", "alone", "whole", "direction", "relation")
        return replace(self, **{name: getattr(self, name)[..., experts] for name in by_expert})

    def standardised(self, scores: Tensor, expert: int) -> Tensor:
        """Log-scores ``(b, entities)`` of one expert's scores."""
        spread: Tensor | float = float(self.spread[expert])
        if self.standard[expert]:
            spread = scores.std(dim=1, keepdim=True, correction=0).clamp_min(_LEAST_SPREAD)
        return torch.log_softmax(scores / spread, dim=1)


def _without_the_silent(weights: Tensor, answers: Tensor, alone: Tensor) -> Tensor:
    """Leave out the experts that do not answer, ``(n, m)``.

    The weights of the others are raised until they sum to one at least, each measured by what the
    expert has best alone.
    """
    answers = torch.where(answers.any(dim=1, keepdim=True), answers, True)
    # An expert whose weight is zero still speaks where it alone is left.
    left = (weights + _LEAST_WEIGHT * alone) * answers
    raised = left / (left / alone).sum(dim=1, keepdim=True).clamp_max(1)
    return torch.where(answers.all(dim=1, keepdim=True), weights, raised)


@dataclass(frozen=True)
class Calibration:
    """From a mixture's scores to probabilities and answer sets.

    The probability of an answer is that of being held out in the split that is asked, given that
    the query has an answer there and that this answer is not known from another split. What nobody
    wrote down counts as false.

    Attributes:
        scale: Inverse temperature of the mixture's scores.
        calibrator: By direction and relation, on the log-odds of the softmax.
        thresholds: Conformal thresholds on the negative log-softmax, ``(relations, 2)``.
        own: Whether a threshold is the relation's own, ``(relations, 2)`` bool.
        level: Coverage that the thresholds are made for.
    """

    scale: float
    calibrator: Calibrator
    thresholds: np.ndarray
    own: np.ndarray
    level: float

    def log_softmax(self, scores: Tensor, known: tuple[np.ndarray, np.ndarray]) -> Tensor:
        """Log-probabilities ``(b, entities)`` over what is not known yet; -inf for what is.

        Args:
            scores: The mixture's scores ``(b, entities)``.
            known: Rows and entities of the known answers, ``(k,)`` each.
        """
        scaled = scores * self.scale
        scaled[known] = -torch.inf
        return torch.log_softmax(scaled, dim=1)

    def probabilities(
        self, log_softmax: np.ndarray, direction: np.ndarray, relation: np.ndarray
    ) -> np.ndarray:
        """Probability of each answer, ``(n,)``."""
        return self.calibrator.probabilities(log_odds(log_softmax), direction, relation)

    def in_set(
        self, log_softmax: np.ndarray, direction: np.ndarray, relation: np.ndarray
    ) -> np.ndarray:
        """Whether each answer is in the answer set of its query, ``(n,)`` bool."""
        return -log_softmax <= self.thresholds[relation, direction]


def log_odds(log_probability: np.ndarray) -> np.ndarray:
    """``log(p / (1 - p))`` of ``log(p)``, within float64."""
    log_probability = np.minimum(np.asarray(log_probability, dtype=np.float64), -1e-12)
    return log_probability - np.log(-np.expm1(log_probability))


@dataclass(frozen=True)
class Parts:
    """A block of a mixture's answers.

    Attributes:
        rows: Positions of the queries, ``(b,)``.
        mixed: The mixture's scores, ``(b, entities)``.
        scores: Each expert's scores, ``(b, entities)``.
        logs: Each expert's standardised log-scores, ``(b, entities)``.
    """

    rows: np.ndarray
    mixed: Tensor
    scores: list[Tensor]
    logs: list[Tensor]


class Mixture:
    """An expert made of experts, see :class:`mkgformer_kedro.inference.experts.Expert`.

    Args:
        experts: What is mixed, in the order of the weights.
        weights: How much each counts.
        calibration: How scores become probabilities.
        facts: What fitting found out, for the report.
        folder: What it was read from.
    """

    name = "mixture"

    def __init__(
        self,
        experts: Sequence[Expert],
        weights: Weights,
        calibration: Calibration,
        facts: Mapping[str, Any],
        folder: Path | None = None,
    ) -> None:
        self.experts = list(experts)
        self.folder = folder
        self.seed = self.experts[0].seed
        self.weights, self.calibration, self.facts = weights, calibration, facts

    def answers(self, queries: pd.DataFrame) -> np.ndarray:
        """Which queries at least one expert answers, ``(n,)`` bool."""
        return self._answers(queries).any(axis=1)

    @property
    def learned(self) -> np.ndarray | None:
        """The entities that some expert has learned, ``(entities,)`` bool; None: all."""
        known = [expert.learned for expert in self.experts]
        if any(each is None for each in known):
            return None
        return np.logical_or.reduce(known)

    def _answers(self, queries: pd.DataFrame) -> np.ndarray:
        return np.stack([expert.answers(queries) for expert in self.experts], axis=1)

    def scores(
        self, queries: pd.DataFrame, *, batch_size: int
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield positions of queries ``(b,)`` and the mixture's scores ``(b, entities)``."""
        if len(self.experts) == 1:
            yield from self.experts[0].scores(queries, batch_size=batch_size)
            return
        for part in self.parts(queries, batch_size=batch_size):
            yield part.rows, part.mixed

    def parts(self, queries: pd.DataFrame, *, batch_size: int) -> Iterator[Parts]:
        """Yield the mixture's scores and those that they are made of.

        Memory is that of a block of queries, whatever their number.

        Args:
            queries: Queries, in any order.
            batch_size: Queries that an expert is asked at a time.
        """
        # Queries of one entity stay together: an expert that reads images reads them once.
        order = np.lexsort((np.arange(len(queries)), queries["entity"].to_numpy()))
        size = min(batch_size, _FIRST)
        start = 0
        while start < len(order):
            rows = order[start : start + size]
            block = queries.iloc[rows].reset_index(drop=True)
            scores = [_all_scores(expert, block, batch_size) for expert in self.experts]
            mixed, logs = self.combine(block, scores, self._answers(block))
            yield Parts(rows, mixed, scores, logs)
            start += len(rows)
            entities = mixed.shape[1]
            size = rows_at_a_time(max(batch_size, _CELLS // entities), entities)

    def combine(
        self, queries: pd.DataFrame, scores: Sequence[Tensor], answers: np.ndarray
    ) -> tuple[Tensor, list[Tensor]]:
        """Mix what the experts say.

        Args:
            queries: Columns ``direction`` and ``relation``, ``b`` rows.
            scores: ``(b, entities)`` of each expert.
            answers: Which experts answer, ``(b, m)`` bool.

        Returns:
            The mixture's scores ``(b, entities)``, and each expert's log-scores.
        """
        device = scores[0].device
        logs = [
            self.weights.standardised(values.float(), number).to(device)
            for number, values in enumerate(scores)
        ]
        if len(scores) == 1:
            return scores[0].float(), logs
        mixed = _pool(logs, self.weights.of(queries, answers))
        learned = _learned_by_all(self.experts)
        if learned is None:
            return mixed, logs
        everything = np.array([expert.learned is None for expert in self.experts])
        base = _pool(logs, self.weights.of(queries, answers & everything)).log_softmax(dim=1)
        inside = torch.from_numpy(learned).to(device)
        mass = base.masked_fill(~inside, -torch.inf).logsumexp(dim=1, keepdim=True)
        shared = mixed.masked_fill(~inside, -torch.inf).log_softmax(dim=1) + mass
        return torch.where(inside, shared, base - self.weights.held_back.item()), logs

    def save(self, folder: Path) -> Path:
        """Write the expert's folder, and give it back."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        description = {
            "kind": KIND,
            "name": self.name,
            "experts": [
                {"name": expert.name, "seed": expert.seed, "digest": _digest(expert)}
                for expert in self.experts
            ],
            "level": self.calibration.level,
            "scale": self.calibration.scale,
            "facts": self.facts,
        }
        with written_atomically(folder / _ARRAYS) as temporary:
            save_file(self._arrays(), temporary)
        with written_atomically(folder / _DESCRIPTION) as temporary:
            temporary.write_text(json.dumps(description, indent=2) + "\n")
        return folder

    def _arrays(self) -> dict[str, np.ndarray]:
        groups = {
            "weights": vars(self.weights),
            "calibrator": self.calibration.calibrator.arrays(),
            "answer_sets": {
                "thresholds": self.calibration.thresholds,
                "own": self.calibration.own,
            },
        }
        return {
            f"{group}.{name}": np.ascontiguousarray(value)
            for group, values in groups.items()
            for name, value in values.items()
        }

    @property
    def digest(self) -> str:
        """Names weights and calibration (SHA-256)."""
        name = hashlib.sha256(repr(self.calibration.scale).encode())
        for key, value in sorted(self._arrays().items()):
            name.update(key.encode() + value.tobytes())
        return name.hexdigest()

    @classmethod
    def load(cls, folder: Path, experts: Sequence[Expert], relations: int) -> Self:
        """Read a mixture's folder.

        Args:
            folder: What :meth:`save` wrote.
            experts: At least the experts that it mixes.
            relations: Number of relations of the graph.

        Raises:
            DataError: The folder is damaged, an expert is missing, or the experts or the graph are
                not those that the mixture was fitted to.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        def refuse(what: str) -> DataError:
            return DataError(Problem(str(folder), None, what, "Run the stage 'mixture' again."))

        try:
            description = json.loads((folder / _DESCRIPTION).read_text())
            groups: dict[str, dict[str, np.ndarray]] = {}
            for name, value in load_file(folder / _ARRAYS).items():
                if np.isnan(value).any():
                    raise ValueError(f"{name} holds what is no number")
                group, _, part = name.partition(".")
                groups.setdefault(group, {})[part] = value
            wanted = [(one["name"], one["seed"], one["digest"]) for one in description["experts"]]
            weights = Weights(**groups["weights"])
            calibration = Calibration(
                scale=description["scale"],
                calibrator=Calibrator.from_arrays(groups["calibrator"]),
                level=description["level"],
                **groups["answer_sets"],
            )
            facts = description["facts"]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise refuse(f"no complete mixture ({error})") from error
        if len(weights.relation) != relations:
            raise refuse(
                f"it was fitted to a graph of {len(weights.relation)} relations, not {relations}"
            )
        given = {(expert.name, expert.seed): expert for expert in experts}
        for name, seed, digest in wanted:
            if (name, seed) not in given:
                raise refuse(f"it mixes the expert {name} of seed {seed}, which is not there")
            if _digest(given[name, seed]) != digest:
                raise refuse(f"it was fitted to another expert {name} than the one that is there")
        mixed = [given[name, seed] for name, seed, _ in wanted]
        return cls(mixed, weights, calibration, facts, folder)


def _all_scores(expert: Expert, queries: pd.DataFrame, batch_size: int) -> Tensor:
    """What an expert answers to a block of queries, ``(b, entities)``."""
    whole: Tensor | None = None
    for rows, scores in finite_scores(expert, queries, batch_size=batch_size):
        if whole is None:
            whole = scores.new_empty((len(queries), scores.shape[1]))
        whole[torch.from_numpy(np.asarray(rows)).to(scores.device)] = scores
    assert whole is not None  # noqa: S101 (an expert covers every query)
    return whole


def _pool(logs: Sequence[Tensor], weights: np.ndarray) -> Tensor:
    """The weighted sum of log-scores ``(b, entities)``, given weights ``(b, m)``."""
    factors = torch.from_numpy(weights).float().to(logs[0].device)
    total = torch.zeros_like(logs[0])
    for number, values in enumerate(logs):
        total.addcmul_(values, factors[:, number, None])
    return total


def _learned_by_all(experts: Sequence[Expert]) -> np.ndarray | None:
    """The entities that every expert has learned, ``(entities,)`` bool.

    None where these are all entities, or no expert has learned all: then there is nobody to say
    more of the others.
    """
    known = [expert.learned for expert in experts if expert.learned is not None]
    if not known or len(known) == len(experts):
        return None
    common = np.logical_and.reduce(known)
    return None if common.all() else common


def load_mixture(folder: Path, task: Task, experts: Sequence[Expert]) -> Mixture:
    """Read a mixture of experts that were read before; see ``EXPERT_KINDS``."""
    return Mixture.load(folder, experts, len(task.relations))


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


def _digest(expert: Expert) -> str | None:
    """Name an expert by its files; None where it has none."""
    return None if expert.folder is None else folder_digest(expert.folder)


def folder_digest(folder: Path) -> str:
    """SHA-256 of the names and contents of all files below a folder."""
    listing = [
        [path.relative_to(folder).as_posix(), sha256_of(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return fingerprint(listing)


def job_folder(
    work_folder: Path, experts: Sequence[Expert], asked: pd.DataFrame, *settings: Any
) -> Path:
    """The place in a work folder for what experts answer; what other jobs left there is removed.

    Args:
        work_folder: A stage's work folder.
        experts: Who is asked.
        asked: What is asked, plain columns.
        *settings: What else the answers depend on, plain values.
    """
    who = [
        [each.name, each.seed, _digest(each), getattr(each, "precision", None)] for each in experts
    ]
    content = pd.util.hash_pandas_object(asked).to_numpy().tolist()
    folder = work_folder / fingerprint(who, settings, content)[:16]
    for other in work_folder.iterdir() if work_folder.is_dir() else ():
        if other != folder and other.is_dir():
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# Fitting


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

    Args:
        experts: What is mixed.
        queries: Table ``queries``; only the dev split is read.
        work_folder: Place for the experts' answers, from which an interrupted run goes on.
        parameters: The stage's parameters.
        entities: Number of entities of the graph.
        relations: Number of relations of the graph.
        seed: Seed of the split of dev and of the sampled candidates.
        engine: Where the experts are asked.

    Raises:
        DataError: There are no dev queries, or an expert's answers cannot be used.
    """
    dev = queries[queries["split"] == "dev"].reset_index(drop=True)
    if dev.empty:
        what = "there are no queries to fit a mixture on and to judge the fit by"
        remedy = "Give the graph a dev split (see docs/own_data.md)."
        raise DataError(Problem("dev split", None, what, remedy))
    rng = np.random.default_rng(seed)
    if len(dev) < _LEAST_TO_SPLIT:
        logger.warning(
            "%d dev queries are too few to split: what fits the mixture judges it too", len(dev)
        )
        chosen = np.tile(np.arange(len(dev)), len(_PARTS))
        part = np.repeat(np.arange(len(_PARTS)), len(dev))
    else:
        chosen = rng.permutation(len(dev))[: parameters.fit_queries]
        ends = np.round(np.cumsum([0, *_PARTS.values()]) * len(chosen)).astype(int)
        part = np.repeat(np.arange(len(_PARTS)), np.diff(ends))
    order = np.argsort(dev["entity"].to_numpy()[chosen], kind="stable")
    dev, part = dev.iloc[chosen[order]].reset_index(drop=True), part[order]

    answered = _Answered.ask(
        experts,
        dev,
        job_folder(work_folder, experts, dev[_QUERY], parameters.batch_size),
        entities=entities,
        batch_size=parameters.batch_size,
        engine=engine,
    )
    logger.info("Fitting the weights of %d experts on %d dev queries", len(experts), len(dev))
    cells = _Cells.gather(
        answered,
        top=parameters.top,
        sampled=parameters.sampled,
        seed=seed,
        learned=_with_answers(_learned_by_all(experts), dev, part),
    )
    distinct = ~_repeats(cells)
    if not distinct.all():
        said = [expert.name for expert, new in zip(experts, distinct, strict=True) if not new]
        logger.info("Says what another expert says, so left out: %s", ", ".join(said))
        experts = [expert for expert, new in zip(experts, distinct, strict=True) if new]
        answered, cells = answered.only(distinct), cells.only(distinct)
    direction, relation = _direction_numbers(dev), dev["relation"].to_numpy()
    fitting, judging = cells.where(part == 0), cells.where(part == 1)
    spread = fitting.spread.mean(dim=0).numpy()
    chosen_rules = [
        _standardize(fitting, judging, number, spread, parameters.standardization)
        for number in range(len(experts))
    ]
    losses, standard, alone = (np.array(values) for values in zip(*chosen_rules, strict=True))
    fitting, judging = (cells.standardised(standard, spread) for cells in (fitting, judging))

    count = np.zeros((relations, 2), dtype=int)
    fitted_queries = dev[part == 0]
    np.add.at(
        count,
        (fitted_queries["relation"].to_numpy(), _direction_numbers(fitted_queries)),
        fitted_queries["answers"].map(len).to_numpy(),
    )
    own = count >= parameters.least_answers

    def fit(strength: float, kept: np.ndarray) -> tuple[Weights, float]:
        """Weights of some experts, and their loss on the judging part."""
        weights = _fit_weights(
            fitting.only(kept),
            direction[part == 0],
            relation[part == 0],
            own,
            strength,
            standard[kept],
            spread[kept],
            alone[kept],
        )
        judged = judging.only(kept)
        return weights, judged.loss(weights.of(dev[part == 1], judged.speaks))

    all_of_them = np.ones(len(experts), dtype=bool)
    grid = _SHRINKAGES if parameters.shrinkage is None else (parameters.shrinkage,)
    tried = {strength: fit(strength, all_of_them) for strength in grid}
    strength = min(tried, key=lambda value: tried[value][1])
    best, loss = tried[strength]
    needed = _needed(best, answered.speaks)
    names = [expert.name for expert in experts]
    whole = dict(zip(names, best.whole.tolist(), strict=True))
    if not needed.all():
        left_out = [name for name, kept in zip(names, needed, strict=True) if not kept]
        logger.info("Hardly any weight anywhere, so left out: %s", ", ".join(left_out))
        experts = [expert for expert, kept in zip(experts, needed, strict=True) if kept]
        best, answered = best.only(needed), answered.only(needed)
    without = {}
    for number in np.flatnonzero(needed) if needed.sum() > 1 else ():
        others = needed & (np.arange(len(needed)) != number)
        without[names[number]] = -fit(strength, others)[1]
    cells, judging = cells.only(needed), judging.only(needed)

    mixture = Mixture(experts, best, _nothing_calibrated(relations, parameters), {})
    held_back = _hold_back(mixture, answered, part)
    mixture.weights = best = replace(best, held_back=np.array([held_back]))
    calibration = _calibrate(mixture, answered, cells, judging, part, parameters, seed)
    facts = {
        "weights": whole,
        "queries": {name: int((part == number).sum()) for number, name in enumerate(_PARTS)},
        "standardization": {
            name: "standard" if rule else "log_softmax"
            for name, rule in zip(names, standard, strict=True)
        },
        "shrinkage": None if np.isinf(strength) else strength,
        "log_likelihood": {
            **dict(zip(names, (-losses).tolist(), strict=True)),
            "mixture": -loss,
        },
        # Of the mixture fitted anew, an expert left out: what the expert adds to the others.
        "log_likelihood_without": without,
        "log_likelihood_by_shrinkage": {
            "whole" if np.isinf(value) else f"{value:g}": -found[1]
            for value, found in tried.items()
        },
        "held_back": held_back,
        "dev_answers": count.tolist(),
    }
    return Mixture(experts, best, calibration, facts)


def _with_answers(
    learned: np.ndarray | None, queries: pd.DataFrame, part: np.ndarray
) -> np.ndarray | None:
    """The entities to fit on; None where without the others a part of dev has no answer left."""
    if learned is None:
        return None
    left = queries["answers"].map(lambda answers: bool(learned[answers].any())).to_numpy()
    return learned if all(left[part == number].any() for number in np.unique(part)) else None


def _direction_numbers(queries: pd.DataFrame) -> np.ndarray:
    return (queries["direction"] == DIRECTIONS[1]).to_numpy().astype(np.int64)


def _nothing_calibrated(relations: int, parameters: MixtureParameters) -> Calibration:
    return Calibration(
        scale=1.0,
        calibrator=Calibrator(1.0, np.zeros(2), np.zeros((relations, 2))),
        thresholds=np.full((relations, 2), np.inf),
        own=np.zeros((relations, 2), dtype=bool),
        level=parameters.answer_sets.level,
    )


@dataclass(frozen=True)
class _Answered:
    """What every expert said to some queries, in files of a block of queries each.

    A file holds ``below``, float16 ``(b, entities)``: how far a score lies below the best of its
    query, in standard deviations of the query's scores, so that what is close to the best is most
    exact; and ``spread``, float32 ``(b,)``: these standard deviations. A block that is not there
    whole is asked again, so that asking goes on after a kill.
    """

    queries: pd.DataFrame
    names: list[str]
    speaks: np.ndarray
    folder: Path
    starts: list[int]
    size: int

    @classmethod
    def ask(
        cls,
        experts: Sequence[Expert],
        queries: pd.DataFrame,
        folder: Path,
        *,
        entities: int,
        batch_size: int,
        engine: Engine = LOCAL,
    ) -> Self:
        size = rows_at_a_time(max(batch_size, 256), entities)
        starts = list(range(0, len(queries), size))
        speaks = np.stack([expert.answers(queries) for expert in experts], axis=1)
        names = [expert.name for expert in experts]
        answered = cls(queries, names, speaks, folder, starts, size)
        ask = _Asking(answered, list(experts), entities, batch_size)
        blocks = [(number, start) for number in range(len(experts)) for start in starts]
        missing = [
            (number, start)
            for number, start in blocks
            if not has_block(*answered.place(names[number], start))
        ]
        with (
            closing(engine.map("mixture", ask, missing)) as asked,
            Progress("Asking the experts", len(missing), "blocks of dev queries") as progress,
        ):
            for _ in asked:
                progress.advance(1)
        return answered

    def only(self, experts: np.ndarray) -> _Answered:
        """The answers of some experts, ``(m,)`` bool."""
        names = [name for name, kept in zip(self.names, experts, strict=True) if kept]
        speaks = self.speaks[:, experts]
        return _Answered(self.queries, names, speaks, self.folder, self.starts, self.size)

    def place(self, name: str, start: int) -> tuple[Path, str]:
        """File and place of what an expert said to the block that begins at a query."""
        path = self.folder / name / f"{start:08d}.npz"
        return path, path.relative_to(self.folder.parent).as_posix()

    def blocks(self) -> Iterator[tuple[np.ndarray, list[Tensor]]]:
        """Yield positions of queries ``(b,)`` and each expert's scores ``(b, entities)``."""
        for start in self.starts:
            scores = []
            for name in self.names:
                with np.load(io.BytesIO(read_block(*self.place(name, start)))) as file:
                    below, spread = (torch.from_numpy(file[key]) for key in ("below", "spread"))
                scores.append(below.float() * spread[:, None])
            yield np.arange(start, start + len(scores[0])), scores


@dataclass(frozen=True)
class _Asking:
    """Asks experts about blocks of queries, each answered into a file of its own."""

    answered: _Answered
    experts: list[Expert]
    entities: int
    batch_size: int

    def __call__(self, blocks: Iterable[tuple[int, int]]) -> Iterator[None]:
        """Ask each expert, by number, about the block that begins at a query."""
        for number, start in blocks:
            expert, asked = self.experts[number], self.answered
            block = asked.queries.iloc[start : start + asked.size].reset_index(drop=True)
            path, place = asked.place(expert.name, start)
            yield write_block(path, self._answer(expert, block), place)

    def _answer(self, expert: Expert, block: pd.DataFrame) -> bytes:
        below = np.empty((len(block), self.entities), dtype=np.float16)
        spread = np.empty(len(block), dtype=np.float32)
        for rows, scores in finite_scores(expert, block, batch_size=self.batch_size):
            if scores.shape[1] != self.entities:
                what = f"it scores {scores.shape[1]} entities, and the graph has {self.entities}"
                remedy = "Give experts that were trained on this graph."
                raise DataError(Problem(f"expert {expert.name}", None, what, remedy))
            scores = scores.float()
            deviation = scores.std(dim=1, correction=0).clamp_min(_LEAST_SPREAD)
            best = scores.amax(dim=1, keepdim=True)
            below[rows] = ((scores - best) / deviation[:, None]).cpu().numpy()
            spread[rows] = deviation.cpu().numpy()
        file = io.BytesIO()
        np.savez(file, below=below, spread=spread)
        return file.getvalue()


def _known_cells(queries: pd.DataFrame, *, own: bool) -> tuple[np.ndarray, np.ndarray]:
    """Rows and entities of known answers; ``own`` includes those of the query's split."""
    rows, entities = [], []
    for row, (known, answers) in enumerate(zip(queries["known"], queries["answers"], strict=True)):
        left = np.asarray(known, dtype=np.int64)
        if not own:
            left = np.setdiff1d(left, answers)
        rows.append(np.full(len(left), row))
        entities.append(left)
    return np.concatenate(rows), np.concatenate(entities)


@dataclass(frozen=True)
class _Cells:
    """What the likelihood of a weighted sum of log-scores needs of each query.

    The answers, and the other candidates: the best of every expert one by one, and of the rest a
    sample that stands for all of it.

    Attributes:
        scores: Of candidates, ``(n, c, m)``.
        stands_for: Logarithm of the number of candidates that each stands for, ``(n, c)``;
            -inf for padding.
        answer_scores: Of answers, ``(a, m)``.
        answer_query: Row of each answer's query, ``(a,)``.
        spread: Standard deviation of every expert's scores, ``(n, m)``.
        speaks: Which experts answer, ``(n, m)`` bool.
    """

    scores: Tensor
    stands_for: Tensor
    answer_scores: Tensor
    answer_query: Tensor
    spread: Tensor
    speaks: np.ndarray = field(repr=False)

    @classmethod
    def gather(
        cls,
        answered: _Answered,
        *,
        top: int,
        sampled: int,
        seed: int,
        learned: np.ndarray | None = None,
    ) -> Self:
        """Lay out queries; entities that are not ``learned`` are no candidates and no answers."""
        generator = torch.Generator().manual_seed(seed)
        queries = answered.queries
        candidates, stands, answers, answer_rows, spreads = [], [], [], [], []
        for rows, scores in answered.blocks():
            block = queries.iloc[rows]
            known = _known_cells(block, own=True)
            shape = scores[0].shape
            unknown = torch.ones(shape, dtype=torch.bool)
            unknown[known] = False
            if learned is not None:
                unknown &= torch.from_numpy(learned)
            chosen = torch.zeros(shape, dtype=torch.bool)
            for values in scores:
                best = values.masked_fill(~unknown, -torch.inf).topk(min(top, shape[1]), dim=1)
                chosen.scatter_(1, best.indices, True)
            chosen &= unknown
            drawn = torch.zeros(shape, dtype=torch.bool)
            draw = torch.randint(shape[1], (shape[0], sampled), generator=generator)
            drawn.scatter_(1, draw, True)
            drawn &= unknown & ~chosen
            rest = (unknown & ~chosen).sum(dim=1)
            each = torch.log(rest / drawn.sum(dim=1).clamp_min(1)).float()
            stand = torch.where(chosen, 0.0, torch.where(drawn, each[:, None], -torch.inf))
            taken = chosen | drawn
            width = int(taken.sum(dim=1).max())
            # Stable: what is taken comes first, in the order of the entities.
            place = torch.argsort(~taken, dim=1, stable=True)[:, :width]
            stands.append(stand.gather(1, place))
            candidates.append(torch.stack([values.gather(1, place) for values in scores], dim=2))
            row = np.repeat(np.arange(len(block)), block["answers"].map(len))
            entity = np.concatenate(block["answers"].to_list()).astype(np.int64)
            if learned is not None:
                row, entity = row[learned[entity]], entity[learned[entity]]
            answers.append(torch.stack([values[row, entity] for values in scores], dim=1))
            answer_rows.append(torch.from_numpy(rows[row]))
            spreads.append(
                torch.stack([values.std(dim=1, correction=0) for values in scores], dim=1)
            )
        width = max(block.shape[1] for block in stands)
        return cls(
            scores=torch.cat([_padded(block, width, 0.0) for block in candidates]),
            stands_for=torch.cat([_padded(block, width, -torch.inf) for block in stands]),
            answer_scores=torch.cat(answers),
            answer_query=torch.cat(answer_rows),
            spread=torch.cat(spreads).clamp_min(_LEAST_SPREAD),
            speaks=answered.speaks,
        )

    def where(self, chosen: np.ndarray) -> _Cells:
        """The cells of some queries, ``(n,)`` bool."""
        mask = torch.from_numpy(chosen)
        number = torch.cumsum(mask, dim=0) - 1
        kept = mask[self.answer_query]
        return _Cells(
            self.scores[mask],
            self.stands_for[mask],
            self.answer_scores[kept],
            number[self.answer_query[kept]],
            self.spread[mask],
            self.speaks[chosen],
        )

    def standardised(self, standard: np.ndarray, spread: np.ndarray) -> _Cells:
        """Scores as :meth:`Weights.standardised` makes them, up to a constant of each query."""
        divisor = torch.where(torch.from_numpy(standard), self.spread, torch.from_numpy(spread))
        return _Cells(
            self.scores / divisor[:, None, :],
            self.stands_for,
            self.answer_scores / divisor[self.answer_query],
            self.answer_query,
            torch.ones_like(self.spread),
            self.speaks,
        )

    def only(self, experts: np.ndarray) -> _Cells:
        """The scores of some experts, ``(m,)`` bool."""
        mask = torch.from_numpy(experts)
        return _Cells(
            self.scores[:, :, mask],
            self.stands_for,
            self.answer_scores[:, mask],
            self.answer_query,
            self.spread[:, mask],
            self.speaks[:, experts],
        )

    def losses(self, weights: Tensor) -> Tensor:
        """Negative log-likelihood of each answer, ``(a,)``, given weights ``(n, m)``."""
        # A float32 product: that of a candidate's scores and weights is all the work there is.
        mixed = torch.einsum("ncm,nm->nc", self.scores, weights.float()) + self.stands_for
        rest = torch.logsumexp(mixed, dim=1)[self.answer_query]
        answer = (self.answer_scores * weights.float()[self.answer_query]).sum(dim=1)
        return torch.nn.functional.softplus(rest - answer)

    def loss(self, weights: np.ndarray) -> float:
        """Mean negative log-likelihood of an answer."""
        return float(self.losses(torch.from_numpy(weights)).mean())


def _padded(block: Tensor, width: int, fill: float) -> Tensor:
    padding = block.new_full((len(block), width - block.shape[1], *block.shape[2:]), fill)
    return torch.cat([block, padding], dim=1)


def _minimize(objective: Callable[[Tensor], Tensor], start: np.ndarray) -> np.ndarray:
    """Smallest value over what is not negative, by L-BFGS-B."""
    from scipy.optimize import minimize

    def value(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.from_numpy(numbers).requires_grad_()
        loss = objective(point)
        loss.backward()
        return float(loss.detach()), point.grad.numpy()

    bounds = [(0, None)] * len(start)
    return minimize(value, start, jac=True, method="L-BFGS-B", bounds=bounds).x


def _fit_scale(cells: _Cells, weights: Tensor) -> float:
    """The factor on all weights ``(n, m)`` that makes the answers most likely."""
    found = _minimize(lambda scale: cells.losses(weights * scale).double().mean(), np.ones(1))
    return max(float(found[0]), _LEAST_WEIGHT)


def _standardize(
    fitting: _Cells, judging: _Cells, expert: int, spread: np.ndarray, rule: str | None
) -> tuple[float, bool, float]:
    """The loss of an expert alone, whether to divide by each query's spread, and its weight."""
    mine = np.arange(len(spread)) == expert
    fitting, judging = (_where_it_speaks(cells.only(mine)) for cells in (fitting, judging))
    found = []
    for standard in (False, True) if rule is None else (rule == "standard",):
        by = np.array([standard]), spread[mine]
        fitted, judged = (cells.standardised(*by) for cells in (fitting, judging))
        scale = _fit_scale(fitted, torch.ones(len(fitted.scores), 1))
        found.append((judged.loss(np.full((len(judged.scores), 1), scale)), standard, scale))
    return min(found)


def _where_it_speaks(cells: _Cells) -> _Cells:
    """The queries that an expert answers; all where it answers none."""
    speaks = cells.speaks[:, 0]
    return cells.where(speaks) if speaks.any() else cells


def _repeats(cells: _Cells) -> np.ndarray:
    """Which experts say what one before them says, as a model without images where none are."""
    experts = cells.scores.shape[2]
    unit = cells.spread[:, None, :]
    repeats = np.zeros(experts, dtype=bool)
    for number in range(1, experts):
        for before in np.flatnonzero(~repeats[:number]):
            apart = (cells.scores[:, :, number] - cells.scores[:, :, before]).abs()
            same = bool((apart <= _SAME * unit[:, :, before]).all())
            speaks = cells.speaks[:, number] == cells.speaks[:, before]
            repeats[number] |= same and bool(speaks.all())
    return repeats


def _needed(weights: Weights, speaks: np.ndarray) -> np.ndarray:
    """Which experts have a weight somewhere, or alone answer a query, ``(m,)`` bool."""
    table = np.concatenate([weights.direction, weights.relation.reshape(-1, speaks.shape[1])])
    needed = (table > _LEAST_SHARE * table.max(axis=1, keepdims=True)).any(axis=0)
    if not needed.any():
        needed[:] = True
    return needed | (speaks & ~(speaks & needed).any(axis=1, keepdims=True)).any(axis=0)


def _fit_weights(
    cells: _Cells,
    direction: np.ndarray,
    relation: np.ndarray,
    own: np.ndarray,
    strength: float,
    standard: np.ndarray,
    spread: np.ndarray,
    alone: np.ndarray,
) -> Weights:
    """Weights under a prior of the given strength; infinite: the whole's for all."""
    experts = cells.scores.shape[2]
    speaks, best_alone = torch.from_numpy(cells.speaks), torch.from_numpy(alone)
    places = np.argwhere(own) if np.isfinite(strength) else np.empty((0, 2), dtype=int)
    number = np.full(own.shape, -1)
    number[tuple(places.T)] = np.arange(len(places))
    # Rows of one table: the whole, both directions, then the relations with weights of their own.
    levels = 1 if np.isinf(strength) else 3 + len(places)
    row = number[relation, direction]
    row = np.zeros_like(row) if np.isinf(strength) else np.where(row < 0, 1 + direction, 3 + row)
    parent = torch.from_numpy(np.concatenate([[0, 0], 1 + places[:, 1]])[: max(levels - 1, 0)])

    def objective(values: Tensor) -> Tensor:
        table = values.view(levels, experts)
        loss = cells.losses(_without_the_silent(table[row], speaks, best_alone)).double().sum()
        # Of experts that say the same, the smallest weights.
        loss = loss + _RIDGE * (table[0] ** 2).sum()
        if levels == 1:
            return loss
        return loss + strength * ((table[1:] - table[parent]) ** 2).sum()

    table = _minimize(objective, np.full(levels * experts, 1 / experts)).reshape(levels, experts)
    by_direction = table[1:3] if levels > 1 else np.repeat(table, 2, axis=0)
    by_relation = np.repeat(by_direction[None], len(own), axis=0)
    by_relation[tuple(places.T)] = table[3:] if levels > 1 else table[:0]
    has_own = own if np.isfinite(strength) else np.zeros_like(own)
    return Weights(standard, spread, alone, table[0], by_direction, by_relation, has_own)


def _hold_back(mixture: Mixture, answered: _Answered, part: np.ndarray) -> float:
    """How far to hold back what an expert has not learned, by the MRR of the judging part.

    By likelihood alone they would come too far ahead: their share of the answers is small, and who
    among them is meant is hardly known.
    """
    learned = _learned_by_all(mixture.experts)
    if learned is None:
        return 0.0
    others = torch.from_numpy(~learned)
    sums, count = torch.zeros(len(_HOLDS), dtype=torch.float64), 0
    for rows, mixed in _mixed(mixture, answered, part, 1):
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
    mixture: Mixture, answered: _Answered, part: np.ndarray, wanted: int
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Positions of the queries of a part of dev, and the mixture's scores."""
    for rows, scores in answered.blocks():
        kept = part[rows] == wanted
        if kept.any():
            rows, scores = rows[kept], [values[kept] for values in scores]
            speaks = answered.speaks[rows]
            yield rows, mixture.combine(answered.queries.iloc[rows], scores, speaks)[0]


def _calibrate(
    mixture: Mixture,
    answered: _Answered,
    cells: _Cells,
    judging: _Cells,
    part: np.ndarray,
    parameters: MixtureParameters,
    seed: int,
) -> Calibration:
    """Fit the temperature and the calibrator on what judges, the thresholds on the third part."""
    weights, blank = mixture.weights, mixture.calibration
    judged = answered.queries[part == 1]
    if len(mixture.experts) == 1:
        # Its scores are taken as they are: the temperature is undone here.
        judging = cells.where(part == 1)
        effective = np.ones((len(judged), 1))
    else:
        effective = weights.of(judged, answered.speaks[part == 1])
    scale = _fit_scale(judging, torch.from_numpy(effective))
    rough = Calibration(scale, blank.calibrator, blank.thresholds, blank.own, blank.level)

    relations = len(weights.relation)
    proposals, _ = judge(
        rough, answered.queries, _mixed(mixture, answered, part, 1), parameters.proposals
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
    _, answers = judge(
        rough, answered.queries, _mixed(mixture, answered, part, 2), parameters.proposals
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
    return Calibration(scale, calibrator, thresholds, own, parameters.answer_sets.level)


def judge(
    calibration: Calibration,
    queries: pd.DataFrame,
    blocks: Iterator[tuple[np.ndarray, Tensor]],
    top: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Lay out what a mixture says of queries whose answers are known.

    Args:
        calibration: Of the mixture.
        queries: Queries with ``answers`` and ``known``; answers of other splits are left out.
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
        logs = calibration.log_softmax(scores.clone(), _known_cells(block, own=False)).cpu()
        direction, relation = _direction_numbers(block), block["relation"].to_numpy()
        best = logs.topk(min(top, logs.shape[1]), dim=1)
        width = best.indices.shape[1]
        is_answer = torch.zeros(logs.shape, dtype=torch.bool)
        row = np.repeat(np.arange(len(block)), block["answers"].map(len))
        entity = np.concatenate(block["answers"].to_list()).astype(np.int64)
        is_answer[row, entity] = True
        table = pd.DataFrame(
            {
                "query": np.repeat(rows, width),
                "direction": np.repeat(direction, width),
                "relation": np.repeat(relation, width),
                "answer": best.indices.reshape(-1).numpy(),
                "log_softmax": best.values.reshape(-1).double().numpy(),
                "true": is_answer.gather(1, best.indices).reshape(-1).numpy(),
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


def report_calibration(
    mixture: Mixture,
    queries: pd.DataFrame,
    relations: Sequence[str],
    parameters: MixtureParameters,
    seed: int,
) -> dict[str, Any]:
    """Hold a mixture's probabilities and answer sets against the answers of test.

    Args:
        mixture: The mixture.
        queries: Table ``queries``; only the test split is read.
        relations: Id of every relation.
        parameters: The stage's parameters.
        seed: Seed of the sample of test queries.

    Returns:
        ``fit`` (what fitting found on dev), ``weights`` (whole, by direction, by relation) and
        ``test``: ``best`` and ``proposals`` (reliability of the best and of the best few answers
        of each query), ``risk_coverage``, ``answer_sets``. ``test`` is None without test queries.
    """
    names = [expert.name for expert in mixture.experts]
    weights, sets = mixture.weights, parameters.answer_sets
    count = mixture.facts["dev_answers"]
    report: dict[str, Any] = {
        "meaning": "The probability that a proposed answer is one of the answers held out, given "
        "that the query has one and that this answer is not known from another split. What nobody "
        "wrote down counts as false: a proposal beyond them may be true.",
        "fit": {name: value for name, value in mixture.facts.items() if name != "dev_answers"},
        "calibration": {
            "scale": mixture.calibration.scale,
            "slope": mixture.calibration.calibrator.slope,
            "isotonic": mixture.calibration.calibrator.steps is not None,
        },
        "weights": {
            "whole": dict(zip(names, weights.whole.tolist(), strict=True)),
            "direction": {
                name: dict(zip(names, row.tolist(), strict=True))
                for name, row in zip(DIRECTIONS, weights.direction, strict=True)
            },
            "relation": [
                {
                    "relation": relation,
                    "direction": name,
                    "dev_answers": count[at][number],
                    "own": bool(weights.own[at, number]),
                    "weights": dict(zip(names, weights.relation[at, number].tolist(), strict=True)),
                }
                for at, relation in enumerate(relations)
                for number, name in enumerate(DIRECTIONS)
            ],
        },
        "test": None,
    }
    test = queries[queries["split"] == "test"].reset_index(drop=True)
    if test.empty:
        return report
    if parameters.test_queries is not None and parameters.test_queries < len(test):
        chosen = np.random.default_rng(seed).permutation(len(test))[: parameters.test_queries]
        test = test.iloc[np.sort(chosen)].reset_index(drop=True)
    with Progress("Judging probabilities", len(test), "test queries") as progress:

        def blocks() -> Iterator[tuple[np.ndarray, Tensor]]:
            for rows, scores in mixture.scores(test, batch_size=parameters.batch_size):
                yield rows, scores
                progress.advance(len(rows))

        proposals, answers = judge(mixture.calibration, test, blocks(), parameters.proposals)
    columns = [proposals[name].to_numpy() for name in ("log_softmax", "direction", "relation")]
    probability, truth = mixture.calibration.probabilities(*columns), proposals["true"].to_numpy()
    best = (proposals["place"] == 0).to_numpy()
    covered = mixture.calibration.in_set(
        *(answers[name].to_numpy() for name in ("log_softmax", "direction", "relation"))
    )
    size = answers.groupby("query")["size"].first()
    own = mixture.calibration.own[answers["relation"], answers["direction"]]
    report["test"] = {
        "queries": len(test),
        "answers": len(answers),
        "best": calibration_summary(probability[best], truth[best]),
        "proposals": calibration_summary(probability, truth),
        "proposals_per_query": parameters.proposals,
        "risk_coverage": risk_coverage(probability[best], truth[best]).to_dict("records"),
        "answer_sets": {
            "level": mixture.calibration.level,
            "coverage": float(covered.mean()),
            "coverage_by_direction": {
                name: float(covered[(answers["direction"] == number).to_numpy()].mean())
                for number, name in enumerate(DIRECTIONS)
                if (answers["direction"] == number).any()
            },
            "coverage_where_own": float(covered[own].mean()) if own.any() else None,
            "relations_of_their_own": int(mixture.calibration.own.sum()),
            "mean_size": float(size.mean()),
            "median_size": float(size.median()),
            "largest_tenth_from": float(size.quantile(0.9)),
            "abstained": float((size > sets.abstain_above).mean()),
            "abstain_above": sets.abstain_above,
        },
    }
    return report
