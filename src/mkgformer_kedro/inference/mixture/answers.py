"""What experts answered to the dev queries, on disk."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.evaluation.ranking.ranks import rows_at_a_time
from mkgformer_kedro.files import has_block, read_block, write_block
from mkgformer_kedro.inference.experts import finite_scores
from mkgformer_kedro.inference.mixture.expert import LEAST_SPREAD
from mkgformer_kedro.launch import LOCAL, Engine
from mkgformer_kedro.progress import Progress

if TYPE_CHECKING:
    from mkgformer_kedro.inference.experts import Expert


@dataclass(frozen=True)
class Answered:
    """What every expert said to some queries, in files of a block of queries each.

    A file holds ``below``, float16 ``(b, entities)``: how far a score lies below the best of its
    query, in standard deviations of the query's scores, so that what is close to the best is most
    exact; and ``spread``, float32 ``(b,)``: these standard deviations. A block that is not there
    whole is asked again, so that asking goes on after a kill.
    """

    queries: pd.DataFrame
    experts: list[Expert]
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
        """Ask the experts what is not in the folder yet.

        Raises:
            DataError: An expert is of another graph, or its scores are no finite numbers.
        """
        size = rows_at_a_time(max(batch_size, 256), entities)
        starts = list(range(0, len(queries), size))
        speaks = np.stack([expert.answers(queries) for expert in experts], axis=1)
        answered = cls(queries, list(experts), speaks, folder, starts, size)
        missing = [
            (number, start)
            for number, expert in enumerate(experts)
            for start in starts
            if not has_block(*answered.place(expert.name, start))
        ]
        ask = _Asking(answered, entities, batch_size)
        with (
            closing(engine.map("mixture", ask, missing)) as asked,
            Progress("Asking the experts", len(missing), "blocks of dev queries") as progress,
        ):
            for _ in asked:
                progress.advance(1)
        return answered

    def only(self, experts: np.ndarray) -> Answered:
        """The answers of some experts, ``(m,)`` bool."""
        kept = [self.experts[number] for number in np.flatnonzero(experts)]
        return replace(self, experts=kept, speaks=self.speaks[:, experts])

    def place(self, name: str, start: int) -> tuple[Path, str]:
        """File and place of what an expert said to the block that begins at a query."""
        path = self.folder / name / f"{start:08d}.npz"
        return path, path.relative_to(self.folder.parent).as_posix()

    def blocks(self) -> Iterator[tuple[np.ndarray, list[Tensor]]]:
        """Yield positions of queries ``(b,)`` and each expert's scores ``(b, entities)``."""
        for start in self.starts:
            scores = []
            for expert in self.experts:
                with np.load(io.BytesIO(read_block(*self.place(expert.name, start)))) as file:
                    below, spread = (torch.from_numpy(file[key]) for key in ("below", "spread"))
                scores.append(below.float() * spread[:, None])
            yield np.arange(start, start + len(scores[0])), scores


@dataclass(frozen=True)
class _Asking:
    """Asks experts about blocks of queries, each answered into a file of its own."""

    answered: Answered
    entities: int
    batch_size: int

    def __call__(self, blocks: Iterable[tuple[int, int]]) -> Iterator[None]:
        """Ask each expert, by number, about the block that begins at a query."""
        for number, start in blocks:
            asked, expert = self.answered, self.answered.experts[number]
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
            deviation = scores.std(dim=1, correction=0).clamp_min(LEAST_SPREAD)
            best = scores.amax(dim=1, keepdim=True)
            below[rows] = ((scores - best) / deviation[:, None]).cpu().numpy()
            spread[rows] = deviation.cpu().numpy()
        file = io.BytesIO()
        np.savez(file, below=below, spread=spread)
        return file.getvalue()
