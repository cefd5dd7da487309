"""Structural experts: models that learn a graph from its triples alone.

A question is a distinct pair of an entity and a relation (or inverse relation), seen once an epoch
whatever the number of its answers. The loss is what a row per triple would give: with n answers
a of a question q, n · logsumexp(s(q, ·)) − Σ s(q, a), and the N3 regularizer of Lacroix et al.
(2018, arXiv:1806.07297) counts the question's factors n times. One row of scores in place of n.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import embedding

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.evaluation.ranking.metrics import HEADLINE_MRR
from mkgformer_kedro.evaluation.ranking.tables import members
from mkgformer_kedro.files import written_atomically
from mkgformer_kedro.progress import Progress
from mkgformer_kedro.training.parameters import (
    StructureModelingParameters,
    StructureModelSettings,
    TrainSubset,
)
from mkgformer_kedro.training.precision import precision_on
from mkgformer_kedro.training.queries import Queries, dev_scores, part_of_graph
from mkgformer_kedro.training.structural_model import (
    EXPERT_FILE,
    KIND,
    StructuralModel,
    StructureFolder,
    graph_digest,
    write_structure_folder,
)

logger = logging.getLogger(__name__)

_CURVE = "curve.csv"
_CURVE_COLUMNS = ["model", "seed", "epoch", "loss"]


def model_structure(
    queries: pd.DataFrame,
    entities: pd.DataFrame,
    relations: pd.DataFrame,
    work_folder: Path,
    parameters: StructureModelingParameters,
    seed: int,
    subset: TrainSubset | None = None,
) -> tuple[Path, pd.DataFrame]:
    """Fit every model that the parameters name, once per seed.

    Args:
        queries: Table ``queries``; test queries are never asked.
        entities: Table ``entities``.
        relations: Table ``relations``.
        work_folder: Private folder; what is finished in it is not learned again.
        parameters: Settings of this stage.
        seed: The run's seed, for parameters without seeds.
        subset: The part of train to learn from, drawn with the seed of each; None: all.

    Returns:
        A folder with a folder ``<model>/seed_<seed>`` each, and the training curves.
    """
    models = work_folder / "models"
    models.mkdir(parents=True, exist_ok=True)
    wanted = [
        (name, chosen)
        for name in parameters.models
        for chosen in (parameters.seeds if parameters.seeds is not None else [seed])
    ]
    for folder in models.glob("*/seed_*"):
        if folder.relative_to(models).as_posix() not in {f"{n}/seed_{s}" for n, s in wanted}:
            shutil.rmtree(folder)
    curves = [
        fit_structure(
            name,
            _learned_from(queries, subset, chosen),
            entities,
            relations,
            work_folder,
            parameters.of_model(name),
            chosen,
        )[1]
        for name, chosen in wanted
    ]
    shutil.rmtree(work_folder / "checkpoints", ignore_errors=True)
    if not curves:
        return models, pd.DataFrame(columns=_CURVE_COLUMNS)
    return models, pd.concat(curves, ignore_index=True)


def _learned_from(queries: pd.DataFrame, subset: TrainSubset | None, seed: int) -> pd.DataFrame:
    if subset is None:
        return queries
    return part_of_graph({"queries": queries}, subset, seed)["queries"]


def fit_structure(
    name: str,
    queries: pd.DataFrame,
    entities: pd.DataFrame,
    relations: pd.DataFrame,
    work_folder: Path,
    settings: StructureModelSettings,
    seed: int,
) -> tuple[Path, pd.DataFrame]:
    """Fit one model; the weights with the best dev MRR are kept (without dev: the last ones).

    A killed run goes on from its newest checkpoint and ends with the same weights.

    Args:
        name: Name of the model.
        queries: Table ``queries``.
        entities: Table ``entities``.
        relations: Table ``relations``.
        work_folder: Checkpoints go to ``checkpoints``, the finished folder to ``models`` in it.
        settings: How the model learns.
        seed: Seed of everything random.

    Returns:
        The finished folder ``models/<name>/seed_<seed>``, and the training curve: one row per
        epoch with the mean loss per triple and question, and the dev scores where it was
        evaluated.

    Raises:
        DataError: The loss is not finite any more, or there is nothing to learn.
    """
    folder = work_folder / "models" / name / f"seed_{seed}"
    job = _name_job(name, queries, entities, relations, settings, seed)
    said = settings.model_dump(mode="json")
    if (folder / _CURVE).is_file() and _made_by(folder) == (job, said):
        logger.info("%s, seed %d: already learned.", name, seed)
        return folder, pd.read_csv(folder / _CURVE)

    train = Queries.from_frame(queries[queries["split"] == "train"])
    if len(train) == 0:
        what = "the split train has no queries"
        raise DataError(Problem("queries", None, what, "Run the stage ingestion on a graph."))
    dev = queries[queries["split"] == "dev"]
    if settings.dev_queries is not None and settings.dev_queries < len(dev):
        dev = dev.sample(settings.dev_queries, random_state=seed)
    if dev.empty:
        logger.warning("There are no dev queries: the weights of the last epoch are kept.")

    model = StructuralModel(name, len(entities), len(relations), settings.dimension, seed)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    fit = _Fit(model, train, Queries.from_frame(dev), settings, seed)
    checkpoint = work_folder / "checkpoints" / f"{name}-{seed}.safetensors"
    fit.run(checkpoint, job)

    unfinished = work_folder / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    state, curve = fit.best(), pd.DataFrame(fit.state.curve)
    model.pykeen.load_state_dict(state)
    curve.insert(0, "seed", seed)
    curve.insert(0, "model", name)
    description = {
        "kind": KIND,
        "model": name,
        "dimension": settings.dimension,
        "num_entities": len(entities),
        "num_relations": len(relations),
        "graph": graph_digest(entities, relations),
        "seed": seed,
        "epoch": fit.state.best_epoch,
        "dev": fit.state.best_scores,
        "settings": said,
        "job": job,
    }
    write_structure_folder(
        unfinished,
        StructureFolder(
            model.cpu(),
            torch.from_numpy(members(train.entity, len(entities))),
            torch.from_numpy(members(train.relation, len(relations))),
            description,
        ),
    )
    curve.to_csv(unfinished / _CURVE, index=False)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished.replace(folder)
    checkpoint.unlink(missing_ok=True)
    return folder, curve


def batch_loss(
    model: StructuralModel,
    entity: Tensor,
    asked_by: Tensor,
    rows: Tensor,
    answers: Tensor,
    *,
    regularization: float,
    label_smoothing: float,
    dtype: torch.dtype = torch.float,
) -> Tensor:
    """Mean loss of the triples of a batch of distinct questions.

    Args:
        model: The model.
        entity: ``(b,)`` known entities.
        asked_by: ``(b,)`` relations, R more for inverses.
        rows: ``(k,)`` question of each answer, in ascending order.
        answers: ``(k,)`` answers; every question has at least one.
        regularization: Weight of N3: the sum of the cubed moduli of what stands for the triple's
            three parts.
        label_smoothing: Share of a label that is spread over all entities.
        dtype: Number format of matrix products.
    """
    # One look-up for known entities and answers: its gradient is a matrix of all entities.
    known, answering = model.entities(torch.cat([entity, answers])).split(
        [len(entity), len(answers)]
    )
    relations = model.relations(asked_by)
    questions = model.join(known, relations)
    counts = torch.bincount(rows, minlength=len(entity)).to(questions.dtype)
    # Index by embedding(): the gradient of x[rows] is summed in no fixed order by several threads.
    right = model.score_pairs(embedding(rows, questions), answering).sum()
    loss = model.log_partition(questions, counts, smoothing=label_smoothing, dtype=dtype)
    loss = loss - (1 - label_smoothing) * right
    if regularization:
        asked = _sum_of_cubes(known) + _sum_of_cubes(relations)
        loss = loss + regularization * ((counts * asked).sum() + _sum_of_cubes(answering).sum())
    return loss / len(answers)


def _sum_of_cubes(values: Tensor) -> Tensor:
    """Sum of |x|³ over all but the first axis, ``(b,)``; smooth at zero."""
    squares = values.real.square() + values.imag.square() if values.is_complex() else values**2
    return squares.pow(1.5).flatten(1).sum(dim=1)


@dataclass
class _State:
    """Where a fit stands, but for the tensors."""

    epoch: int
    batch: int
    loss: float
    curve: list[dict[str, float]]
    best_epoch: int
    best_scores: dict[str, float]


class _Fit:
    """The loop over epochs and batches, and what it takes to go on with it."""

    def __init__(
        self,
        model: StructuralModel,
        train: Queries,
        dev: Queries,
        settings: StructureModelSettings,
        seed: int,
    ) -> None:
        self.model, self.train, self.dev = model, train, dev
        self.settings, self.seed = settings, seed
        self.device = next(model.parameters()).device
        half = precision_on(self.device.type, settings.precision) == "bf16"
        self.dtype = torch.bfloat16 if half else torch.float
        # Softmax touches every entity in every step, so the optimizers are dense ones.
        if settings.optimizer == "adagrad":
            self.optimizer: torch.optim.Optimizer = torch.optim.Adagrad(
                model.parameters(), lr=settings.learning_rate, fused=self.device.type == "cpu"
            )
        else:
            self.optimizer = torch.optim.Adam(
                model.parameters(), lr=settings.learning_rate, fused=True
            )
        self.state = _State(0, 0, 0.0, [], 0, {})
        self._best: dict[str, Tensor] = {}

    def run(self, checkpoint: Path, job: str) -> None:
        """Learn to the end, from the checkpoint on where there is one of this job."""
        settings, state = self.settings, self.state
        if self._restore(checkpoint, job):
            logger.info("Going on from epoch %d, batch %d.", state.epoch + 1, state.batch)
        batches = _batches(len(self.train), settings.batch_size)
        saved_at = time.monotonic()
        what = f"Fitting {self.model.name}"
        left = settings.epochs * len(self.train) - (
            state.epoch * len(self.train) + state.batch * settings.batch_size
        )
        with Progress(what, left, "queries") as progress:
            while state.epoch < settings.epochs and not self._is_spent():
                order = np.random.default_rng([self.seed, state.epoch]).permutation(len(self.train))
                self.model.train()
                for part in batches[state.batch :]:
                    rows = order[part]
                    self._step(rows)
                    state.batch += 1
                    progress.advance(len(rows))
                    if time.monotonic() - saved_at >= settings.checkpoint_seconds:
                        self._save(checkpoint, job)
                        saved_at = time.monotonic()
                self._end_epoch()
                self._save(checkpoint, job)
                saved_at = time.monotonic()

    def best(self) -> dict[str, Tensor]:
        """Weights of the best epoch."""
        return self._best or self.model.pykeen.state_dict()

    def _is_spent(self) -> bool:
        """Whether early stopping says that there is nothing more to gain."""
        if self.settings.patience is None or not self.state.best_scores:
            return False
        since = sum(
            f"dev_{HEADLINE_MRR}" in row and row["epoch"] > self.state.best_epoch
            for row in self.state.curve
        )
        return since >= self.settings.patience

    def _step(self, rows: np.ndarray) -> None:
        positions, answers = self.train.answers.flat(rows)
        entity, asked_by, positions, answers = (
            torch.from_numpy(array).to(self.device)
            for array in (*self.model.questions(self.train, rows), positions, answers)
        )
        loss = batch_loss(
            self.model,
            entity,
            asked_by,
            positions,
            answers,
            regularization=self.settings.regularization,
            label_smoothing=self.settings.label_smoothing,
            dtype=self.dtype,
        )
        value = loss.item()
        if not np.isfinite(value):
            what = f"the loss of {self.model.name} is {value} in epoch {self.state.epoch + 1}"
            where = "structure_modeling.learning_rate"
            raise DataError(Problem(where, None, what, "Lower the learning rate."))
        self.state.loss += value * len(answers)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.model.pykeen.post_parameter_update()

    def _end_epoch(self) -> None:
        state, settings = self.state, self.settings
        row: dict[str, float] = {
            "epoch": state.epoch + 1,
            "loss": state.loss / len(self.train.answers.values),
        }
        state.epoch, state.batch, state.loss = state.epoch + 1, 0, 0.0
        if len(self.dev) and state.epoch % settings.epochs_per_evaluation == 0:
            scores = self._evaluate()
            row |= {f"dev_{key}": value for key, value in scores.items()}
            if scores[HEADLINE_MRR] > state.best_scores.get(HEADLINE_MRR, -1.0):
                state.best_epoch, state.best_scores = state.epoch, scores
                self._best = {
                    key: value.detach().clone()
                    for key, value in self.model.pykeen.state_dict().items()
                }
            logger.info(
                "%s, epoch %d: loss %.4f, dev MRR %.4f",
                self.model.name,
                state.epoch,
                row["loss"],
                scores[HEADLINE_MRR],
            )
        elif not len(self.dev):
            state.best_epoch = state.epoch
        state.curve.append(row)

    def _evaluate(self) -> dict[str, float]:
        """Filtered scores of the dev queries over both directions, under PyKEEN's keys."""
        rows, size = np.arange(len(self.dev)), self.settings.dev_batch_size
        blocks = (rows[start : start + size] for start in range(0, len(rows), size))
        asked = ((block, self.model.answer(self.dev, block)) for block in blocks)
        return dev_scores(self.dev.all_ranks(rows, asked))

    def _save(self, path: Path, job: str) -> None:
        """Write everything that decides the rest of the fit into one file, whole or not at all."""
        tensors = {f"model.{key}": value for key, value in self.model.pykeen.state_dict().items()}
        tensors |= {f"best.{key}": value for key, value in self._best.items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in values.items()}
        tensors["random"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random_cuda"] = torch.cuda.get_rng_state()
        tensors = {key: value.contiguous() for key, value in tensors.items()}
        metadata = {"job": job, "state": json.dumps(vars(self.state))}
        metadata["digest"] = _digest(tensors, metadata)
        with written_atomically(path) as temporary:
            save_file(tensors, temporary, metadata)

    def _restore(self, path: Path, job: str) -> bool:
        """Take up a checkpoint; False where there is none of this job that can be read."""
        if not path.is_file():
            return False
        try:
            with safe_open(path, "pt", device=str(self.device)) as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            logger.warning("%s cannot be read (%s): starting over.", path, error)
            return False
        if metadata.pop("digest", None) != _digest(tensors, metadata):
            logger.warning("%s is damaged: starting over.", path)
            return False
        state = json.loads(metadata["state"])
        if metadata["job"] != job or state["epoch"] > self.settings.epochs:
            logger.info("Data or settings differ from the interrupted run: starting over.")
            return False

        def part(prefix: str) -> dict[str, Tensor]:
            return {
                key.removeprefix(prefix): value
                for key, value in tensors.items()
                if key.startswith(prefix)
            }

        vars(self.state).update(state)
        self.model.pykeen.load_state_dict(part("model."))
        self._best = part("best.")
        saved: dict[int, dict[str, Tensor]] = {}
        for key, value in part("optimizer.").items():
            index, name = key.split(".", 1)
            saved.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": saved})
        torch.set_rng_state(tensors["random"].cpu())
        if "random_cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random_cuda"].cpu())
        return True


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Hash of all that a checkpoint holds."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _batches(count: int, size: int) -> list[slice]:
    """Places of each batch. A last one alone joins the batch before: batch norm takes two."""
    starts = list(range(0, count, size))
    if count > size > 1 and count % size == 1:
        starts.pop()
    return [slice(*pair) for pair in itertools.pairwise([*starts, count])]


def _name_job(
    name: str,
    queries: pd.DataFrame,
    entities: pd.DataFrame,
    relations: pd.DataFrame,
    settings: StructureModelSettings,
    seed: int,
) -> str:
    """Name what is learned from what, so that an interrupted run goes on with its own work."""
    asked = queries[queries["split"] != "test"]
    digest = hashlib.sha256(graph_digest(entities, relations).encode())
    flat = Queries.from_frame(asked)
    for array in (
        (asked["split"] == "train").to_numpy(),
        flat.is_tail,
        flat.entity,
        flat.relation,
        flat.answers.offsets,
        flat.answers.values,
        flat.known.offsets,
        flat.known.values,
    ):
        digest.update(np.ascontiguousarray(array).tobytes())
    # A killed run may go on to more epochs than it began with: what an epoch does is not decided by
    # how many there are. One that ended keeps no checkpoint, and begins anew.
    said = settings.model_dump(exclude={"epochs", "dev_batch_size", *settings.no_result_depends_on})
    digest.update(json.dumps([name, said, seed], sort_keys=True).encode())
    return digest.hexdigest()


def _made_by(folder: Path) -> tuple[Any, Any] | None:
    """Job and settings that a finished folder was made by; None where it does not say."""
    try:
        description = json.loads((folder / EXPERT_FILE).read_text(encoding="utf-8"))
        return description["job"], description["settings"]
    except (OSError, ValueError, KeyError):
        return None
