"""The mixture as an expert: weights, calibration, and what it answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.evaluation.calibration import Calibrator, log_odds
from mkgformer_kedro.evaluation.ranking.ranks import rows_at_a_time
from mkgformer_kedro.evaluation.ranking.tables import QUERY, direction_numbers
from mkgformer_kedro.files import written_atomically
from mkgformer_kedro.inference.experts import expert_digest, finite_scores
from mkgformer_kedro.training.structural_model import EXPERT_FILE

if TYPE_CHECKING:
    from mkgformer_kedro.inference.experts import Expert
    from mkgformer_kedro.training.tasks.base import Task

KIND = "mixture"
LEAST_WEIGHT = 1e-6
LEAST_SPREAD = 1e-6
# Weights that sum to less, each measured by what its expert has best alone, were not fitted to
# anything.
_LEAST_TOTAL = 0.01
_SCORES_AT_A_TIME = 1 << 22
_ARRAYS = "mixture.safetensors"


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
        linear: Weight in the linear pool of what an expert says alone, ``(m,)``; the weighted sum
            has the rest.
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
    linear: np.ndarray
    held_back: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def of(self, queries: pd.DataFrame, answers: np.ndarray) -> np.ndarray:
        """Weights for each query.

        Args:
            queries: Columns ``direction`` and ``relation``.
            answers: Which experts answer it, ``(n, m)`` bool.

        Returns:
            ``(n, m)``, zero for experts that do not answer; where none does, as if all did.
        """
        raw = self.relation[queries["relation"].to_numpy(), direction_numbers(queries)]
        given = (torch.from_numpy(values) for values in (raw, answers, self.alone))
        return without_the_silent(*given).numpy()

    def only(self, experts: np.ndarray) -> Weights:
        """The weights of some experts, ``(m,)`` bool."""
        by_expert = ("standard", "spread", "alone", "whole", "direction", "relation", "linear")
        return replace(self, **{name: getattr(self, name)[..., experts] for name in by_expert})

    def standardised(self, scores: Tensor, expert: int, added: int = 0) -> Tensor:
        """Log-scores ``(b, entities)`` of one expert's scores; the last are of added entities."""
        spread: Tensor | float = float(self.spread[expert])
        if self.standard[expert]:
            of_graph = scores[:, : scores.shape[1] - added]
            spread = of_graph.std(dim=1, keepdim=True, correction=0).clamp_min(LEAST_SPREAD)
        return torch.log_softmax(scores / spread, dim=1)


def without_the_silent(weights: Tensor, answers: Tensor, alone: Tensor) -> Tensor:
    """Leave out the experts that do not answer, ``(n, m)``.

    The weights of the others are raised until they sum to one at least, each measured by what the
    expert has best alone; so they are where all answer, but hardly have a weight.
    """
    answers = torch.where(answers.any(dim=1, keepdim=True), answers, True)
    # An expert whose weight is zero still speaks where it alone is left.
    left = (weights + LEAST_WEIGHT * alone) * answers
    total = (left / alone).sum(dim=1, keepdim=True)
    weighed = answers.all(dim=1, keepdim=True) & (total > _LEAST_TOTAL)
    return torch.where(weighed, weights, left / total.clamp_max(1))


@dataclass(frozen=True)
class Calibration:
    """From a mixture's scores to probabilities and answer sets.

    The probability of an answer is that of being held out in the split that is asked, given that
    the query has an answer there and that train does not have this one. What nobody wrote down
    counts as false, and so does what only another split has.

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


def held_out(queries: pd.DataFrame, split: str) -> pd.DataFrame:
    """The queries of a split beside those of train alone, as a question of a user is asked.

    Dev looks at nothing of test, and both are laid out alike, so that what is fitted on the one
    holds for the other.

    Args:
        queries: Table ``queries``.
        split: ``dev`` or ``test``.

    Returns:
        Rows of ``queries``, numbered anew: ``answers`` that train lacks, ``known`` these and those
        of train. A row without answers is left out.
    """
    of_train = queries[queries["split"] == "train"]
    asked = queries[queries["split"] == split].reset_index(drop=True)
    place = pd.MultiIndex.from_frame(of_train[QUERY]).get_indexer(
        pd.MultiIndex.from_frame(asked[QUERY])
    )
    lists, none = of_train["answers"].to_numpy(), np.empty(0, np.int32)
    learned = [lists[row] if row >= 0 else none for row in place]
    for name, join in (("answers", np.setdiff1d), ("known", np.union1d)):
        asked[name] = pd.Series(list(map(join, asked["answers"], learned)), dtype=object)
    return asked[asked["answers"].map(len) > 0].reset_index(drop=True)


def known_cells(queries: pd.DataFrame, *, own: bool) -> tuple[np.ndarray, np.ndarray]:
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
class MixedBlock:
    """A block of a mixture's answers.

    Attributes:
        rows: Positions of the queries, ``(b,)``.
        scores: The mixture's scores, ``(b, entities)``.
        each: Each expert's scores, ``(b, entities)``.
        logs: Each expert's standardised log-scores, ``(b, entities)``.
    """

    rows: np.ndarray
    scores: Tensor
    each: list[Tensor]
    logs: list[Tensor]


class Mixture:
    """An expert made of experts, see :class:`mkgformer_kedro.inference.experts.Expert`.

    Args:
        experts: What is mixed, in the order of the weights.
        weights: How much each counts.
        calibration: How scores become probabilities.
        facts: What fitting found out, for the report.
        entities: Number of entities of the graph.
        folder: What it was read from.
        added: How many of these, the last, were added since it was fitted.
    """

    name = "mixture"

    def __init__(
        self,
        experts: Sequence[Expert],
        weights: Weights,
        calibration: Calibration,
        facts: Mapping[str, Any],
        entities: int,
        folder: Path | None = None,
        added: int = 0,
    ) -> None:
        self.experts = list(experts)
        self.entities, self.added = entities, added
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
            yield from finite_scores(self.experts[0], queries, batch_size=batch_size)
            return
        for block in self.blocks(queries, batch_size=batch_size):
            yield block.rows, block.scores

    def blocks(self, queries: pd.DataFrame, *, batch_size: int) -> Iterator[MixedBlock]:
        """Yield the mixture's scores and those that they are made of.

        Memory is that of a block of queries, whatever their number.

        Args:
            queries: Queries, in any order.
            batch_size: Queries that an expert is asked at a time.
        """
        # Queries of one entity stay together: an expert that reads images reads them once.
        order = np.lexsort((np.arange(len(queries)), queries["entity"].to_numpy()))
        at_a_time = max(batch_size, _SCORES_AT_A_TIME // self.entities)
        size = rows_at_a_time(at_a_time, self.entities)
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            block = queries.iloc[rows].reset_index(drop=True)
            scores = [_all_scores(expert, block, batch_size) for expert in self.experts]
            mixed, logs = self.combine(block, scores, self._answers(block))
            yield MixedBlock(rows, mixed, scores, logs)

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
            self.weights.standardised(values.float(), number, self.added).to(device)
            for number, values in enumerate(scores)
        ]
        if len(scores) == 1:
            return scores[0].float(), logs
        mixed = self.pool(queries, logs, answers)
        learned = learned_by_all(self.experts)
        if learned is None:
            return mixed, logs
        everything = np.array([expert.learned is None for expert in self.experts])
        base = self.pool(queries, logs, answers & everything).log_softmax(dim=1)
        inside = torch.from_numpy(learned).to(device)
        mass = base.masked_fill(~inside, -torch.inf).logsumexp(dim=1, keepdim=True)
        shared = mixed.masked_fill(~inside, -torch.inf).log_softmax(dim=1) + mass
        return torch.where(inside, shared, base - self.weights.held_back.item()), logs

    def pool(self, queries: pd.DataFrame, logs: Sequence[Tensor], answers: np.ndarray) -> Tensor:
        """The linear pool of the weighted sum and of what experts say alone.

        Args:
            queries: Columns ``direction`` and ``relation``, ``b`` rows.
            logs: Each expert's log-scores ``(b, entities)``.
            answers: Which experts answer, ``(b, m)`` bool.

        Returns:
            Log-probabilities among the graph's entities, ``(b, entities)``.
        """
        device = logs[0].device
        factors = torch.from_numpy(self.weights.of(queries, answers)).float().to(device)
        linear = torch.from_numpy(self.weights.linear * answers).float().to(device)
        total = torch.zeros_like(logs[0])
        for number, values in enumerate(logs):
            total.addcmul_(values, factors[:, number, None])
        total = self._normalized(total) + torch.log1p(-linear.sum(dim=1, keepdim=True))
        for number in np.flatnonzero(self.weights.linear):
            alone = self.alone(logs[number], number) + linear[:, number, None].log()
            torch.logaddexp(total, alone, out=total)
        return total

    def alone(self, logs: Tensor, expert: int) -> Tensor:
        """Log-probabilities ``(b, entities)`` of one expert, given its log-scores."""
        return self._normalized(logs * float(self.weights.alone[expert]))

    def _normalized(self, scores: Tensor) -> Tensor:
        of_graph = scores[:, : scores.shape[1] - self.added]
        return scores - of_graph.logsumexp(dim=1, keepdim=True)

    def save(self, folder: Path) -> Path:
        """Write the expert's folder, and give it back."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        description = {
            "kind": KIND,
            "name": self.name,
            "experts": [
                {"name": expert.name, "seed": expert.seed, "digest": expert_digest(expert)}
                for expert in self.experts
            ],
            "level": self.calibration.level,
            "scale": self.calibration.scale,
            "facts": self.facts,
        }
        with written_atomically(folder / _ARRAYS) as temporary:
            save_file(self._arrays(), temporary)
        with written_atomically(folder / EXPERT_FILE) as temporary:
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
    def load(
        cls, folder: Path, experts: Sequence[Expert], *, entities: int, relations: int
    ) -> Self:
        """Read a mixture's folder.

        Args:
            folder: What :meth:`save` wrote.
            experts: At least the experts that it mixes.
            entities: Number of entities of the graph.
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
            description = json.loads((folder / EXPERT_FILE).read_text())
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
            if expert_digest(given[name, seed]) != digest:
                raise refuse(f"it was fitted to another expert {name} than the one that is there")
        mixed = [given[name, seed] for name, seed, _ in wanted]
        return cls(mixed, weights, calibration, facts, entities, folder)


def _all_scores(expert: Expert, queries: pd.DataFrame, batch_size: int) -> Tensor:
    """What an expert answers to a block of queries, ``(b, entities)``."""
    whole: Tensor | None = None
    for rows, scores in finite_scores(expert, queries, batch_size=batch_size):
        if whole is None:
            whole = scores.new_empty((len(queries), scores.shape[1]))
        whole[torch.from_numpy(np.asarray(rows)).to(scores.device)] = scores
    assert whole is not None  # noqa: S101 (an expert covers every query)
    return whole


def learned_by_all(experts: Sequence[Expert]) -> np.ndarray | None:
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
    return Mixture.load(folder, experts, entities=len(task.entities), relations=len(task.relations))
