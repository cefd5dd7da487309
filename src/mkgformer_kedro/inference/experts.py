"""Whatever answers: a trained model with and without images, and what other kinds add.

For link prediction an :class:`Expert` scores all entities for queries; for the tasks on posts a
:class:`PostsExpert` predicts posts. Evaluation, mixture and completion ask any of them alike.
"""

from __future__ import annotations

import json
import pkgutil
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import pandas as pd

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.evaluation.ranking.tables import QUERY
from mkgformer_kedro.files import files_within, fingerprint, sha256_of
from mkgformer_kedro.training.finite import is_finite
from mkgformer_kedro.training.model_folder import load_model, load_task
from mkgformer_kedro.training.parameters import Precision
from mkgformer_kedro.training.structural_model import EXPERT_FILE

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from mkgformer_kedro.inference.parameters import AskingParameters
    from mkgformer_kedro.training.parameters import ModelParameters
    from mkgformer_kedro.training.tasks.base import Task

EXPERT_KINDS: dict[str, str] = {
    "structure": "mkgformer_kedro.inference.structure:load_structure_expert",
    "mixture": "mkgformer_kedro.inference.mixture:load_mixture",
}
"""By the kind that ``expert.json`` names, the function that loads such a folder, as
``module:function``.

It is called with the folder, the task as the model was trained for it (its tables ``entities`` and
``relations`` are the graph's) and the list of experts loaded before it, and gives the folder's
expert. ``expert.json`` holds ``kind``; what else it holds is the kind's own.
"""


class Expert(Protocol):
    """Scores candidates for queries of link prediction.

    Attributes:
        name: Name in tables and reports, such as ``model`` or ``complex``.
        seed: Seed of its training; 0 where nothing is random. Several seeds are several experts.
        folder: What it was read from; None where that is no folder.
    """

    name: str
    seed: int
    folder: Path | None

    @property
    def learned(self) -> np.ndarray | None:
        """Which entities it has learned as answers, ``(entities,)`` bool; None: all."""

    def scores(
        self, queries: pd.DataFrame, *, batch_size: int
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Score all entities for every query, in blocks.

        Args:
            queries: ``direction`` (``tail``: (entity, relation, ?), ``head``: (?, relation,
                entity)), ``entity`` and ``relation`` (indices).
            batch_size: Queries per block.

        Yields:
            ``(b,)`` positions in ``queries`` and float32 ``(b, entities)`` scores. Every query is
            covered exactly once, in whatever order suits the expert.
        """

    def answers(self, queries: pd.DataFrame) -> np.ndarray:
        """``(n,)`` bool, the queries that the expert has learned to answer."""


class PostsExpert(Protocol):
    """Predicts posts; attributes as for :class:`Expert`."""

    name: str
    seed: int

    def predict(self, posts: pd.DataFrame, *, batch_size: int) -> pd.DataFrame:
        """The columns that the task predicts, in the order and with the index of ``posts``."""


class LoadedModel:
    """A model folder, read when it is first asked, and ready on the device.

    Args:
        folder: Model folder of one seed.
        attention: Attention implementation.
        precision: In which it is asked.
    """

    def __init__(
        self, folder: Path, attention: str = "sdpa", precision: Precision = "fp32"
    ) -> None:
        self.folder = Path(folder)
        self.attention = attention
        self.precision = precision

    def __reduce__(self) -> tuple:
        # Another process reads the folder itself.
        return type(self), (self.folder, self.attention, self.precision)

    @cached_property
    def parts(self) -> tuple[Any, PreTrainedTokenizerBase, Task]:
        """Model, tokenizer and task."""
        import torch

        with torch.inference_mode(False):  # tensors made in it let no gradient through
            model, tokenizer, task = load_model(self.folder, self.attention)
            return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer, task

    def view(self) -> Any:
        """The model as a network of its own, whose weights are those of ``parts``."""
        import torch

        network, *_ = self.parts
        weights = {id(each): each for each in (*network.parameters(), *network.buffers())}
        with torch.inference_mode(False):
            return deepcopy(network, weights)

    def ask(
        self, table: pd.DataFrame, images: Any, *, batch_size: int, what: str
    ) -> Iterator[tuple[np.ndarray, Any, Any]]:
        """Ask the model about a table of items, block by block.

        Args:
            table: Items as the task's ``encode`` takes them.
            images: Images of their owners, or None to leave them out.
            batch_size: Items per block.
            what: What the progress bar says is done.

        Yields:
            ``(b,)`` positions in ``table``, the model's output, and all items encoded.
        """
        from mkgformer_kedro.training.batches import Collator, ask

        model, tokenizer, task = self.parts
        items = task.encode(table, tokenizer, model.config)
        blocks = ask(
            model,
            Collator(items, images),
            np.arange(len(table)),
            batch_size=task.asked_at_a_time(batch_size),
            what=what,
            of=task.items,
            precision=self.precision,
        )
        for rows, outputs in blocks:
            yield rows, outputs, items


class ModelWithStore:
    """A trained model, with images or without.

    Args:
        model: The model, which experts may share.
        store: Visual store of the items' owners.
        seed: Seed of its training.
        with_images: False leaves all images out.
    """

    def __init__(
        self, model: LoadedModel, store: VisualStore, seed: int, *, with_images: bool = True
    ) -> None:
        self.model = model
        self.folder = model.folder
        self.precision = model.precision
        self.store = store
        self.seed = seed
        self.with_images = with_images
        self.name = "model" if with_images else "without_images"

    def _ask(self, table: pd.DataFrame, batch_size: int) -> Iterator[tuple[np.ndarray, Any, Any]]:
        how = "" if self.with_images else " without images"
        return self.model.ask(
            table,
            self.store if self.with_images else None,
            batch_size=batch_size,
            what=f"Asking the model{how} (seed {self.seed})",
        )


class ModelExpert(ModelWithStore):
    """A trained link prediction model as an :class:`Expert`; arguments as its base class has."""

    # Texts say something of every entity.
    learned = None

    def scores(
        self, queries: pd.DataFrame, *, batch_size: int
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Blocks in which queries about one entity stand together, see :class:`Expert`."""
        asked = queries[QUERY]
        for rows, outputs, _ in self._ask(asked, batch_size):
            yield rows, outputs.logits.float()

    def answers(self, queries: pd.DataFrame) -> np.ndarray:
        """All of them, as it has learned all entities."""
        return np.ones(len(queries), dtype=bool)


class ModelPostsExpert(ModelWithStore):
    """A trained model for a task on posts; the index of posts is the number in the store."""

    def predict(self, posts: pd.DataFrame, *, batch_size: int) -> pd.DataFrame:
        """See :class:`PostsExpert`.

        Raises:
            ValueError: A post has no place in the visual store.
        """
        if posts.index.max() >= len(self.store):
            raise ValueError(
                f"The visual store has {len(self.store)} posts, none of number "
                f"{posts.index.max()}. The index of posts is the number in the store."
            )
        return decoded(self.model, posts, self._ask(posts, batch_size))


def finite_scores(
    expert: Expert, queries: pd.DataFrame, *, batch_size: int
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """What an expert answers, block by block.

    Raises:
        DataError: A score is no finite number.
    """
    for rows, scores in expert.scores(queries, batch_size=batch_size):
        if not is_finite(scores):
            what = "it gives scores that are no finite numbers"
            remedy = "Train it again, with a smaller learning rate."
            raise DataError(Problem(f"expert {expert.name}", None, what, remedy))
        yield rows, scores


def expert_digest(expert: Expert) -> str | None:
    """SHA-256 of the names and contents of an expert's files; None where it has none."""
    if expert.folder is None:
        return None
    return fingerprint(
        [
            [path.relative_to(expert.folder).as_posix(), sha256_of(path)]
            for path in files_within(expert.folder)
        ]
    )


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
        [each.name, each.seed, expert_digest(each), getattr(each, "precision", None)]
        for each in experts
    ]
    content = pd.util.hash_pandas_object(asked).to_numpy().tolist()
    folder = work_folder / fingerprint(who, settings, content)[:16]
    for other in work_folder.iterdir() if work_folder.is_dir() else ():
        if other != folder and other.is_dir():
            shutil.rmtree(other)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True)
class TrainedModels:
    """The models of all seeds, and how they are asked.

    Attributes:
        folder: Folder with one model folder ``seed_<seed>`` per seed.
        store: Visual store of the owners of images.
        attention: Attention implementation.
        precision: In which the models are asked.
    """

    folder: Path
    store: VisualStore
    attention: str = "sdpa"
    precision: Precision = "fp32"

    @classmethod
    def of(
        cls,
        folder: Path,
        visual_store: Path,
        model: ModelParameters,
        asking: AskingParameters | None = None,
    ) -> Self:
        """The models as parameters say that they are asked, which without ``asking`` is in fp32.

        Raises:
            DataError: There is no visual store.
        """
        # As the models saw it: in a control the images are not the owners' own.
        store = VisualStore(visual_store, **model.images.model_dump())
        return cls(folder, store, model.attention, asking.precision if asking else "fp32")

    def by_seed(self) -> Iterator[tuple[int, LoadedModel]]:
        """Seeds and their models, in order.

        Raises:
            DataError: There is none.
        """
        for seed, folder in seed_folders(self.folder):
            yield seed, LoadedModel(folder, self.attention, self.precision)

    def experts(self, kind: type[Any]) -> list[Any]:
        """Of each seed ``model`` and ``without_images``, which share their weights.

        Args:
            kind: ``ModelExpert`` or ``ModelPostsExpert``.

        Raises:
            DataError: There is no model.
        """
        return [
            kind(model, self.store, seed, with_images=with_images)
            for seed, model in self.by_seed()
            for with_images in (True, False)
        ]


def load_experts(
    trained: TrainedModels, structure_models: Path | None = None, mixture: Path | None = None
) -> list[Expert]:
    """All experts of link prediction that were made: seeds of the model first, a mixture last.

    Args:
        trained: The models.
        structure_models: Folder with folders of experts at any depth, which hold ``expert.json``.
        mixture: Folder of an expert that is made of the others.

    Returns:
        Those of the models, then the others. Weights of the models are read when an expert is first
        asked, and leave with the experts.

    Raises:
        DataError: A folder holds no model or expert, or the store is of another graph.
    """
    experts: list[Expert] = trained.experts(ModelExpert)
    store, task = trained.store, load_task(seed_folders(trained.folder)[0][1])
    if len(store) != len(task.entities):
        what = f"the store has {len(store)} owners, the model {len(task.entities)} entities"
        remedy = "Give the visual store that the model was trained with."
        raise DataError(Problem(str(store.folder), None, what, remedy))
    if structure_models is not None:
        for path in sorted(Path(structure_models).rglob(EXPERT_FILE)):
            experts.append(load_expert(path.parent, task, experts))
    if mixture is not None:
        experts.append(load_expert(mixture, task, experts))
    return experts


def load_expert(folder: Path, task: Task, experts: Sequence[Expert]) -> Expert:
    """Read the folder of an expert whose kind is in ``EXPERT_KINDS``.

    Args:
        folder: Folder with ``expert.json``.
        task: The task, with the graph's tables.
        experts: Experts that were loaded before.

    Raises:
        DataError: There is no ``expert.json``, or nobody knows its kind.
    """
    path = Path(folder) / EXPERT_FILE
    try:
        kind = json.loads(path.read_text(encoding="utf-8"))["kind"]
        load = pkgutil.resolve_name(EXPERT_KINDS[kind])
    except (OSError, ValueError, KeyError, TypeError) as error:
        known = ", ".join(sorted(EXPERT_KINDS)) or "none"
        what = f"no expert of a known kind ({error!r}; known kinds: {known})"
        raise DataError(Problem(str(path), None, what, "Run its stage again.")) from error
    expert = load(Path(folder), task, experts)
    expert.folder = Path(folder)
    return expert


def seed_folders(models: Path) -> list[tuple[int, Path]]:
    """Seeds and their model folders, in order.

    Raises:
        DataError: There is none.
    """
    found = seeds_in(Path(models))
    if not found:
        what = "no folder seed_<number> of a model is there"
        raise DataError(Problem(str(models), None, what, "Run the stage finetuning."))
    return found


def seeds_in(folder: Path) -> list[tuple[int, Path]]:
    """As :func:`seed_folders`, of a folder that may hold none."""
    matches = ((re.fullmatch("seed_([0-9]+)", path.name), path) for path in folder.glob("seed_*"))
    return sorted((int(match[1]), path) for match, path in matches if match)


def decoded(
    model: LoadedModel, table: pd.DataFrame, blocks: Iterable[tuple[np.ndarray, Any, Any]]
) -> pd.DataFrame:
    """What blocks of answers say, in the order of the table."""
    network, _, task = model.parts
    parts = [
        task.decode(network, outputs, items, rows, table.iloc[rows])
        for rows, outputs, items in blocks
    ]
    return pd.concat(parts).loc[table.index]
