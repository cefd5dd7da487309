"""Models of a graph's structure: PyKEEN's, asked for all entities by one matrix product.

Head questions (?, r, e) are tail questions (e, r⁻¹, ?) of an inverse relation, as in Lacroix et al.
(2018, "Canonical Tensor Decomposition for Knowledge Base Completion", arXiv:1806.07297). So every
question is a pair of an entity and one of 2R relations; relation ``r + R`` is the inverse of ``r``.

PyKEEN holds the parameters, starts and constrains them, and defines the scores. It broadcasts a
score over all tails, for ComplEx as products of complex numbers whose imaginary part is thrown
away; here the entity and the relation are first joined to one real vector a question, which is then
multiplied with (or measured against) the matrix of all entities. The numbers are the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import fingerprint
from mkgformer_kedro.training.finite import is_finite

if TYPE_CHECKING:
    from mkgformer_kedro.training.queries import Queries

KIND = "structure"
EXPERT_FILE = "expert.json"
_WEIGHTS = "model.safetensors"
# Scores made at a time in training: 16 MB, which caches hold.
_BLOCK_CELLS = 2**22
_REMEDY = "Run the stage structure_modeling again."


@dataclass(frozen=True)
class _Design:
    """What tells the models apart.

    Attributes:
        interaction: PyKEEN's name of the interaction.
        join: Turns the representations of entity and relation into what meets the entities.
        is_distance: Scores are negative Euclidean distances, not products.
        is_complex: Representations are complex.
        has_matrices: A relation is a matrix, not a vector.
        entity: PyKEEN's keywords for the entities' representation.
        relation: PyKEEN's keywords for the relations' representation.
    """

    interaction: str
    join: Callable[[Any, Tensor, Tensor], Tensor]
    is_distance: bool
    is_complex: bool
    has_matrices: bool
    entity: dict[str, Any]
    relation: dict[str, Any]


def _join_by_product(_: Any, entity: Tensor, relation: Tensor) -> Tensor:
    return entity * relation


def _join_by_sum(_: Any, entity: Tensor, relation: Tensor) -> Tensor:
    return entity + relation


def _join_by_matrix(_: Any, entity: Tensor, relation: Tensor) -> Tensor:
    return torch.einsum("bd,bde->be", entity, relation)


def _join_tucker(interaction: Any, entity: Tensor, relation: Tensor) -> Tensor:
    entity = interaction.head_dropout(interaction.head_batch_norm(entity))
    core = torch.einsum("ijk,bj->bik", interaction.core_tensor, relation)
    joined = torch.einsum("bik,bi->bk", interaction.relation_dropout(core), entity)
    return interaction.head_relation_dropout(interaction.head_relation_batch_norm(joined))


# A start close to zero is what N3 and Adagrad go with (Lacroix et al. use 1e-3).
_SMALL = {"initializer": "normal", "initializer_kwargs": {"std": 1e-3}}
_XAVIER = {"initializer": "xavier_normal"}

_DESIGNS = {
    "complex": _Design("complex", _join_by_product, False, True, False, _SMALL, _SMALL),
    "distmult": _Design("distmult", _join_by_product, False, False, False, _SMALL, _SMALL),
    "rescal": _Design("rescal", _join_by_matrix, False, False, True, _XAVIER, _XAVIER),
    "tucker": _Design("tucker", _join_tucker, False, False, False, _XAVIER, _XAVIER),
    "transe": _Design("transe", _join_by_sum, True, False, False, _XAVIER, _XAVIER),
    "rotate": _Design(
        "rotate",
        _join_by_product,
        True,
        True,
        False,
        _XAVIER,
        {"initializer": "init_phases", "constrainer": "complex_normalize"},
    ),
}


class StructuralModel(torch.nn.Module):
    """A model of PyKEEN for tail questions of relations and their inverses.

    Args:
        name: ``complex``, ``distmult``, ``transe``, ``rotate``, ``rescal`` or ``tucker``.
        num_entities: Entities of the graph, N.
        num_relations: Relations of the graph, R, without inverses.
        dimension: Size of a representation; complex numbers count once.
        seed: Seed of the initial values and of everything random after them.
    """

    def __init__(
        self, name: str, num_entities: int, num_relations: int, dimension: int, seed: int
    ) -> None:
        from pykeen.models import ERModel
        from pykeen.triples import KGInfo

        super().__init__()
        self.name = name
        self.num_relations = num_relations
        self._design = design = _DESIGNS[name]
        dtype = torch.cfloat if design.is_complex else torch.float
        self.pykeen = ERModel(
            triples_factory=KGInfo(num_entities, 2 * num_relations, create_inverse_triples=False),
            interaction=design.interaction,
            interaction_kwargs={
                "tucker": {"embedding_dim": dimension},
                "transe": {"p": 2},
            }.get(name),
            entity_representations_kwargs={
                "shape": dimension,
                "dtype": dtype,
                "unique": False,
                **design.entity,
            },
            relation_representations_kwargs={
                "shape": (dimension, dimension) if design.has_matrices else dimension,
                "dtype": dtype,
                "unique": False,
                **design.relation,
            },
            random_seed=seed,
        )

    @property
    def num_entities(self) -> int:
        """Entities of the graph."""
        return self.pykeen.num_entities

    def entities(self, indices: Tensor | None = None) -> Tensor:
        """Representations of the entities asked for (None: all), as PyKEEN has them."""
        return self.pykeen.entity_representations[0](indices)

    def relations(self, indices: Tensor | None = None) -> Tensor:
        """Representations of relations and inverses, as PyKEEN has them."""
        return self.pykeen.relation_representations[0](indices)

    def join(self, entities: Tensor, relations: Tensor) -> Tensor:
        """Representations of questions.

        Args:
            entities: ``(b, d)`` representations of the known entities.
            relations: ``(b, d)`` or ``(b, d, d)`` representations of the relations asked by.

        Returns:
            ``(b, D)``, real; D is d, or 2d for complex representations.
        """
        return as_real(self._design.join(self.pykeen.interaction, entities, relations))

    def score_all(self, questions: Tensor) -> Tensor:
        """Scores of every entity, ``(b, N)``, for what :meth:`join` gave, ``(b, D)``."""
        return _scores(questions, as_real(self.entities()), self._design.is_distance)

    def log_partition(
        self,
        questions: Tensor,
        weights: Tensor,
        *,
        smoothing: float = 0.0,
        dtype: torch.dtype = torch.float,
    ) -> Tensor:
        """Weighted sum over questions of log Σ exp of all scores, less their smoothed mean.

        It is the part of the cross-entropy that does not know the answers:
        Σ w · (logsumexp(s) − smoothing · mean(s)). The scores of a batch are never there at once:
        they are made in blocks, each turned in place into its gradient.

        Args:
            questions: ``(b, D)``.
            weights: ``(b,)`` weight w of every question.
            smoothing: Label smoothing.
            dtype: Number format of the factors of matrix products; sums are kept in that of the
                parameters. Distances, which are differences of large numbers, ignore it.
        """
        entities = as_real(self.entities())
        if self._design.is_distance or dtype == torch.float:
            dtype = entities.dtype
        return _LogPartition.apply(
            questions, entities, weights, smoothing, self._design.is_distance, dtype
        )

    def score_pairs(self, questions: Tensor, entities: Tensor) -> Tensor:
        """Scores of one entity a question, ``(k,)``.

        Args:
            questions: ``(k, D)``.
            entities: ``(k, d)`` representations.
        """
        entities = as_real(entities)
        if self._design.is_distance:
            return -torch.linalg.vector_norm(questions - entities, dim=-1)
        return (questions * entities).sum(dim=-1)

    def questions(self, queries: Queries, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Known entities and the relations or inverses they are asked by, ``(b,)`` each."""
        inverse = np.where(queries.is_tail[rows], 0, self.num_relations)
        return queries.entity[rows], queries.relation[rows] + inverse

    @torch.no_grad()
    def answer(self, queries: Queries, rows: np.ndarray) -> Tensor:
        """Scores of every entity, ``(b, N)``, for the queries ``rows``, ``(b,)``."""
        self.eval()
        device = next(self.parameters()).device
        entity, asked_by = (
            torch.from_numpy(array).to(device) for array in self.questions(queries, rows)
        )
        return self.score_all(self.join(self.entities(entity), self.relations(asked_by)))


class _LogPartition(torch.autograd.Function):
    """See :meth:`StructuralModel.log_partition`."""

    @staticmethod
    def forward(
        ctx: Any,
        questions: Tensor,
        entities: Tensor,
        weights: Tensor,
        smoothing: float,
        is_distance: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        total = questions.new_zeros(())
        to_questions = torch.empty_like(questions)
        to_entities = torch.zeros_like(entities)
        factors = entities.to(dtype)
        rows = max(1, _BLOCK_CELLS // len(entities))
        for start in range(0, len(questions), rows):
            asked = questions[start : start + rows].to(dtype)
            weight = weights[start : start + rows, None]
            scores = _scores(asked, factors, is_distance).to(weight.dtype)
            distances = -scores if is_distance else None
            if smoothing:
                total -= smoothing * (weight * scores.mean(dim=1, keepdim=True)).sum()
            largest = scores.amax(dim=1, keepdim=True)
            gradient = scores.sub_(largest).exp_()
            normalizer = gradient.sum(dim=1, keepdim=True)
            total += (weight * (normalizer.log() + largest)).sum()
            gradient.mul_(weight / normalizer)
            if smoothing:
                gradient.sub_(weight * (smoothing / len(entities)))
            if distances is None:
                gradient = gradient.to(dtype)
                to_questions[start : start + rows] = gradient @ factors
                to_entities += gradient.T @ asked
            else:
                # d(-|q - e|) = (e - q) / |q - e| dq; nothing where both are the same.
                gradient.div_(distances).masked_fill_(distances == 0, 0)
                by_question = gradient.sum(dim=1, keepdim=True)
                to_questions[start : start + rows] = gradient @ entities - by_question * asked
                to_entities += gradient.T @ asked
                to_entities.addcmul_(gradient.sum(dim=0)[:, None], entities, value=-1)
        ctx.save_for_backward(to_questions, to_entities)
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        to_questions, to_entities = ctx.saved_tensors
        return upstream * to_questions, upstream * to_entities, None, None, None, None


def _scores(questions: Tensor, entities: Tensor, is_distance: bool) -> Tensor:
    if is_distance:
        return -torch.cdist(questions, entities, compute_mode="use_mm_for_euclid_dist")
    return questions @ entities.T


def as_real(values: Tensor) -> Tensor:
    """Complex ``(..., d)`` as real ``(..., 2d)``, a view; real values as they are."""
    return torch.view_as_real(values).flatten(-2) if values.is_complex() else values


def graph_digest(entities: pd.DataFrame, relations: pd.DataFrame) -> str:
    """Name a graph by the ids of its entities and relations, in their order (SHA-256)."""
    return fingerprint(entities["entity"].tolist(), relations["relation"].tolist())


@dataclass(frozen=True)
class StructureFolder:
    """What a folder of a structural expert holds.

    Attributes:
        model: The model, on the CPU and ready to be asked.
        seen_entities: ``(N,)`` bool: train has triples of the entity.
        seen_relations: ``(R,)`` bool: train has triples of the relation.
        description: Content of ``expert.json``.
    """

    model: StructuralModel
    seen_entities: Tensor
    seen_relations: Tensor
    description: dict[str, Any]


def write_structure_folder(folder: Path, contents: StructureFolder) -> None:
    """Write weights (safetensors) and description (json) into an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": value for name, value in contents.model.pykeen.state_dict().items()}
    tensors["seen_entities"] = contents.seen_entities
    tensors["seen_relations"] = contents.seen_relations
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / _WEIGHTS)
    text = json.dumps(contents.description, indent=2)
    (folder / EXPERT_FILE).write_text(text + "\n", encoding="utf-8")


def read_structure_folder(
    folder: Path, entities: pd.DataFrame, relations: pd.DataFrame
) -> StructureFolder:
    """Read the folder of an expert of this graph.

    Args:
        folder: What :func:`write_structure_folder` wrote.
        entities: Table ``entities`` of the graph that will be asked about.
        relations: Its table ``relations``.

    Raises:
        DataError: Files are missing or damaged, a weight is not finite, or the expert learned
            another graph.
    """
    folder = Path(folder)
    description = _read_description(folder)
    if description["graph"] != graph_digest(entities, relations):
        raise DataError(
            Problem(
                str(folder),
                None,
                f"the expert learned another graph ({description['num_entities']} entities, "
                f"{description['num_relations']} relations; asked about: {len(entities)}, "
                f"{len(relations)})",
                "Give the expert of this graph, or run the stage structure_modeling for it.",
            )
        )
    try:
        tensors = load_file(folder / _WEIGHTS)
        with torch.random.fork_rng(devices=[]):
            model = StructuralModel(
                description["model"], len(entities), len(relations), description["dimension"], 0
            )
        state = {
            name.removeprefix("model."): value
            for name, value in tensors.items()
            if name.startswith("model.")
        }
        model.pykeen.load_state_dict(state)
        seen_entities, seen_relations = tensors["seen_entities"], tensors["seen_relations"]
    except (SafetensorError, OSError, RuntimeError, KeyError) as error:
        raise DataError(
            Problem(str(folder / _WEIGHTS), None, f"damaged ({error})", _REMEDY)
        ) from error
    for name, value in state.items():
        if not is_finite(value):
            what = f"{name} holds numbers that are not finite"
            raise DataError(Problem(str(folder / _WEIGHTS), None, what, _REMEDY))
    return StructureFolder(model.eval(), seen_entities, seen_relations, description)


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / EXPERT_FILE
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        known = description["kind"] == KIND and description["model"] in _DESIGNS
        _ = [description[key] for key in ("graph", "dimension", "num_entities", "num_relations")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            Problem(str(path), None, f"no description of an expert ({error!r})", _REMEDY)
        ) from error
    if not known:
        what = "describes no structural expert that is known here"
        raise DataError(Problem(str(path), None, what, _REMEDY))
    return description
