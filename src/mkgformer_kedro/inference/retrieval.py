"""The best entities for a question, found without scoring all of them.

An entity's score is the product of its embedding and the question's state, plus its bias: an inner
product, once the state has a 1 below it. It is searched by a graph of neighbours (HNSW, Malkov and
Yashunin, arXiv:1603.09320) that are near by that product (Morozov and Babenko, NeurIPS 2018), and
what is found is scored exactly. (To make all vectors equally long by one more coordinate, and to
compare angles, finds less: .97 of the best hundred in place of .997, of MKG-W's entities.)
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.evaluation.ranking.ranks import best_entities
from mkgformer_kedro.files import fingerprint, written_atomically
from mkgformer_kedro.parameters import Folder, typed
from mkgformer_kedro.progress import Progress
from mkgformer_kedro.training.tasks.questions import count

logger = logging.getLogger(__name__)

_ADDED_AT_A_TIME = 1 << 14


@dataclass(frozen=True)
class Retrieval:
    """How the best entities are found where there are many.

    Attributes:
        above: Graphs with more entities are searched by an index; of others all are scored.
        oversample: Entities that are scored exactly, for each answer that is wanted.
        least: Entities that are scored exactly at least.
        expansion: Entities that the search holds at a time: more find more, and take longer.
        building: The same while the index is made.
        connectivity: Neighbours that the index keeps of an entity.
        folder: Where the index lies between two predictors; None builds it anew each time.

    Raises:
        DataError: A number is none, or below 1 (``connectivity``: 2), or the folder cannot be one.
    """

    above: int = 200_000
    oversample: int = 4
    least: int = 256
    expansion: int = 512
    building: int = 128
    connectivity: int = 32
    folder: Path | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name, value in list(vars(self).items()):
            if name != "folder":
                least = 2 if name == "connectivity" else 1
                # NumPy's numbers overflow.
                object.__setattr__(self, name, count("retrieval", name, value, least))
        typed(Folder | None, self.folder, "retrieval.folder", remedy="Give the path of a folder.")


class EntityIndex:
    """An index of a model's entities.

    Args:
        model: A model for link prediction.
        retrieval: How it is made and asked.

    Raises:
        DataError: usearch is not installed.
    """

    def __init__(self, model: Any, retrieval: Retrieval) -> None:
        try:
            from usearch.index import Index
        except ImportError as error:
            what = "usearch is not installed, which finds entities among many"
            remedy = "pip install -e '.[retrieval]', or leave `retrieval` out."
            raise DataError(Problem("retrieval", None, what, remedy)) from error
        self._model, self._retrieval = model, retrieval
        vectors = _vectors(model)
        index = Index(
            ndim=vectors.shape[1],
            metric="ip",
            dtype="bf16",
            # More than there are find no more, and take memory.
            connectivity=min(retrieval.connectivity, max(2, len(vectors))),
            expansion_add=min(retrieval.building, len(vectors)),
            expansion_search=min(retrieval.expansion, len(vectors)),
        )
        path = None
        if retrieval.folder is not None:
            path = Path(retrieval.folder) / f"{_digest(vectors, retrieval)}.usearch"
        if path is None or not _loaded(index, path, len(vectors)):
            _fill(index, vectors)
            if path is not None:
                with written_atomically(path) as temporary:
                    index.save(str(temporary))
        self._index = index

    @torch.no_grad()
    def best(self, states: Tensor, top: int) -> tuple[Tensor, Tensor]:
        """The best entities for states.

        Args:
            states: ``(b, d)`` of the model's ``encode_mask``.
            top: Entities wanted.

        Returns:
            Their numbers, ``(b, top)``, best first, and their exact scores. Entities that were
            added to the model are always among those that are scored. All entities are where the
            index finds too few, as among many equal embeddings.
        """
        wanted = max(top * self._retrieval.oversample, self._retrieval.least)
        wanted = min(wanted, len(self._index))
        asked = states.float().cpu().numpy()
        asked = np.pad(asked, ((0, 0), (0, 1)), constant_values=1)
        keys = np.zeros((len(asked), wanted), dtype=np.int64)
        short = []
        for row, vector in enumerate(asked):
            found = self._index.search(vector, wanted).keys
            if len(found) < wanted:
                short.append(row)
            else:
                keys[row] = np.sort(found)
        number = torch.from_numpy(keys).to(states.device)
        scores = self._model.score_each(states, number)
        added = self._model.score_added(states)
        if added.shape[1]:
            first = len(self._index)
            of_added = torch.arange(first, first + added.shape[1], device=states.device)
            number = torch.cat([number, of_added.expand(len(states), -1)], dim=1)
            scores = torch.cat([scores, added], dim=1)
        best, values = best_entities(scores, top)
        best = number.gather(1, best)
        for row in short:
            every = self._model.score_entities(states[row : row + 1])
            best[row : row + 1], values[row : row + 1] = best_entities(every, top)
        return best, values


def _vectors(model: Any) -> np.ndarray:
    """What is searched: embeddings and biases, ``(entities, d + 1)`` float32."""
    embeddings = model.mkgformer.graph_embeddings.entities.weight
    vectors = torch.cat([embeddings, model.entity_bias[:, None]], dim=1)
    return vectors.detach().float().cpu().numpy()


def _fill(index: Any, vectors: np.ndarray) -> None:
    """Add the entities, by as many threads as torch has; by one it is the same each time."""
    threads = torch.get_num_threads()
    with Progress("Indexing entities", len(vectors), "entities") as progress:
        for start in range(0, len(vectors), _ADDED_AT_A_TIME):
            block = vectors[start : start + _ADDED_AT_A_TIME]
            index.add(np.arange(start, start + len(block)), block, threads=threads)
            progress.advance(len(block))


def _loaded(index: Any, path: Path, entities: int) -> bool:
    """Whether the index was read from its file; a damaged one is made anew."""
    if not path.is_file():
        return False
    try:
        index.load(str(path))
    except (RuntimeError, ValueError) as error:
        logger.warning("%s is damaged (%s): the index is made anew", path, error)
        index.reset()
        return False
    if len(index) != entities:
        logger.warning("%s is damaged: the index is made anew", path)
        index.reset()
        return False
    return True


def _digest(vectors: np.ndarray, retrieval: Retrieval) -> str:
    settings = [retrieval.building, retrieval.connectivity]
    content = hashlib.sha256(np.ascontiguousarray(vectors)).hexdigest()
    return fingerprint([content, settings])[:16]
