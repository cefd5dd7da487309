"""The likelihood of the dev answers under a weighted sum of log-scores, and its minimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch
from torch import Tensor

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.inference.mixture.answers import Answered
from mkgformer_kedro.inference.mixture.expert import LEAST_SPREAD, LEAST_WEIGHT, known_cells


@dataclass(frozen=True)
class Candidates:
    """What the likelihood of a weighted sum of log-scores needs of each query.

    The answers, and the other candidates: the best of every expert one by one, and of the rest a
    sample that stands for all of it. Where every entity is a known answer there is no candidate,
    the answers are sure whatever the weights, and left out.

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
        answered: Answered,
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
            known = known_cells(block, own=True)
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
            width = max(1, int(taken.sum(dim=1).max()))
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
        stands_for = torch.cat([_padded(block, width, -torch.inf) for block in stands])
        without = torch.isneginf(stands_for).all(dim=1)
        # Of -inf alone the gradient of logsumexp is NaN, even where nothing depends on it.
        stands_for[without] = 0.0
        answer_query = torch.cat(answer_rows)
        kept = ~without[answer_query]
        return cls(
            scores=torch.cat([_padded(block, width, 0.0) for block in candidates]),
            stands_for=stands_for,
            answer_scores=torch.cat(answers)[kept],
            answer_query=answer_query[kept],
            spread=torch.cat(spreads).clamp_min(LEAST_SPREAD),
            speaks=answered.speaks,
        )

    def where(self, chosen: np.ndarray) -> Candidates:
        """Of some queries, ``(n,)`` bool."""
        mask = torch.from_numpy(chosen)
        number = torch.cumsum(mask, dim=0) - 1
        kept = mask[self.answer_query]
        return Candidates(
            self.scores[mask],
            self.stands_for[mask],
            self.answer_scores[kept],
            number[self.answer_query[kept]],
            self.spread[mask],
            self.speaks[chosen],
        )

    def standardised(self, standard: np.ndarray, spread: np.ndarray) -> Candidates:
        """Scores as :meth:`Weights.standardised` makes them, up to a constant of each query."""
        divisor = torch.where(torch.from_numpy(standard), self.spread, torch.from_numpy(spread))
        return Candidates(
            self.scores / divisor[:, None, :],
            self.stands_for,
            self.answer_scores / divisor[self.answer_query],
            self.answer_query,
            torch.ones_like(self.spread),
            self.speaks,
        )

    def only(self, experts: np.ndarray) -> Candidates:
        """The scores of some experts, ``(m,)`` bool."""
        mask = torch.from_numpy(experts)
        return Candidates(
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
        """Mean negative log-likelihood of an answer; 0 where there is none."""
        return float(self.losses(torch.from_numpy(weights)).mean()) if self.answers else 0.0

    @property
    def answers(self) -> int:
        """Number of answers that say something of the weights."""
        return len(self.answer_query)


def _padded(block: Tensor, width: int, fill: float) -> Tensor:
    padding = block.new_full((len(block), width - block.shape[1], *block.shape[2:]), fill)
    return torch.cat([block, padding], dim=1)


def minimized(objective: Callable[[Tensor], Tensor], start: np.ndarray) -> np.ndarray:
    """Where a function is smallest over what is not negative, by L-BFGS-B.

    Raises:
        DataError: The function or its gradient is no finite number on the way.
    """
    from scipy.optimize import minimize

    def value(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.from_numpy(numbers).requires_grad_()
        loss = objective(point)
        loss.backward()
        if not (loss.isfinite() and point.grad.isfinite().all()):
            what = "the likelihood of the dev answers, or its gradient, is no finite number"
            remedy = "Leave an expert out whose scores are far beyond those of the others."
            raise DataError(Problem("mixture.experts", None, what, remedy))
        return float(loss.detach()), point.grad.numpy()

    bounds = [(0, None)] * len(start)
    return minimize(value, start, jac=True, method="L-BFGS-B", bounds=bounds).x


def fit_scale(candidates: Candidates, weights: Tensor) -> float:
    """The factor on all weights ``(n, m)`` that makes the answers most likely; 1 without any."""
    if not candidates.answers:
        return 1.0
    found = minimized(lambda scale: candidates.losses(weights * scale).double().mean(), np.ones(1))
    return max(float(found[0]), LEAST_WEIGHT)
