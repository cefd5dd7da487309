"""The links that a graph is missing: which questions to ask, and what to propose.

Questions are (entity, relation, ?), direction ``tail``, and (?, relation, entity), direction
``head``. An entity *plays the role* of a relation and direction where train answers that question
for it: the heads of a relation play its ``tail`` role. A question is worth asking where the entity
plays the role, or plays another one that mostly comes with it; a candidate is worth proposing where
it plays the role of the opposite direction likewise, and is not the entity that the question is
about (unless train has such loops). An entity that train lacks plays the roles of its neighbours,
those that train has and that the model embeds most alike. Where nearly every entity has one answer,
the relation is functional, and a question that train has answered is not asked again.

Of the triples only train is known to the questions and to the proposals. What is kept of these
:mod:`mkgformer_kedro.inference.keeping` says.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.evaluation.calibration import log_odds
from mkgformer_kedro.evaluation.ranking.tables import DIRECTIONS, TRIPLE, direction_numbers, members
from mkgformer_kedro.files import has_block, read_block, write_block
from mkgformer_kedro.inference.experts import job_folder
from mkgformer_kedro.inference.parameters import (
    CompletionParameters,
    QuestionParameters,
)
from mkgformer_kedro.launch import LOCAL, Engine
from mkgformer_kedro.progress import Progress

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from mkgformer_kedro.inference.mixture import Mixture

_SIMILARITIES_AT_A_TIME = 1 << 24
_DTYPES = {
    "question": np.int64,
    "direction": np.int8,
    "entity": np.int32,
    "relation": np.int32,
    "answer": np.int32,
    "log_odds": np.float32,
    "in_set": bool,
}


@dataclass(frozen=True)
class Roles:
    """Which entities a relation takes on either side, from the training triples.

    Attributes:
        plausible: Whether a question is worth asking, ``(2, relations, entities)`` bool, the
            directions in the order of ``DIRECTIONS``.
        answered: Whether train answers it, likewise.
        functional: Whether entities have one answer only, ``(2, relations)`` bool.
        reflexive: Whether train has an entity as its own answer, ``(relations,)`` bool.
    """

    plausible: np.ndarray
    answered: np.ndarray
    functional: np.ndarray
    reflexive: np.ndarray

    @classmethod
    def from_train(
        cls,
        train: pd.DataFrame,
        entities: int,
        relations: int,
        parameters: QuestionParameters,
        neighbours: csr_array | None = None,
    ) -> Roles:
        """Count roles and which come together.

        A role implies another where at least the share ``implied`` of the entities that play it
        play the other too, and at least ``least_entities`` play it.

        Args:
            train: Training triples.
            entities: Number of entities.
            relations: Number of relations.
            parameters: What is worth asking.
            neighbours: Of :func:`nearest_seen`: whose roles are plausible for an entity too.
        """
        from scipy.sparse import csr_array

        role = np.concatenate([train["relation"], train["relation"] + relations])
        entity = np.concatenate([train["head"], train["tail"]])
        shape = (2 * relations, entities)
        plays = csr_array((np.ones(len(role), dtype=np.int64), (role, entity)), shape=shape)
        plays.sum_duplicates()
        plays.data[:] = 1
        plausible = answered = plays.astype(bool).toarray()
        if parameters.implied is not None:
            players = np.asarray(plays.sum(axis=1))
            together = (plays @ plays.T).toarray()
            implies = together >= parameters.implied * np.maximum(players, 1)[:, None]
            implies &= (players >= parameters.least_entities)[:, None]
            plausible = answered | (csr_array(implies.T) @ plays).astype(bool).toarray()
        if neighbours is not None:
            plausible = plausible | (plays @ neighbours.T).astype(bool).toarray()
        sides = (2, relations)
        return cls(
            plausible.reshape(*sides, entities),
            answered.reshape(*sides, entities),
            functional_relations(train, relations, parameters),
            members(train["relation"][train["head"] == train["tail"]], relations),
        )

    def candidates(
        self, direction: np.ndarray, entity: np.ndarray, relation: np.ndarray
    ) -> np.ndarray:
        """What may be proposed to each question: what plays the role of the opposite direction.

        Returns:
            ``(n, entities)`` bool.
        """
        fits = self.plausible[1 - direction, relation]
        alone = ~self.reflexive[relation]
        fits[alone, entity[alone]] = False
        return fits

    @property
    def asked(self) -> np.ndarray:
        """Whether a question is asked, ``(2, relations, entities)`` bool."""
        return self.plausible & ~(self.functional[:, :, None] & self.answered)


def functional_relations(
    train: pd.DataFrame, relations: int, parameters: QuestionParameters
) -> np.ndarray:
    """Where entities have one answer only, ``(2, relations)`` bool, in the order of ``DIRECTIONS``.

    These are at least the share ``functional`` of the entities that have an answer, of which there
    are ``least_entities``.

    Args:
        train: Training triples.
        relations: Number of relations.
        parameters: What is worth asking.
    """
    functional = np.zeros((2, relations), dtype=bool)
    if parameters.functional is not None:
        for row, asked in zip(functional, ("head", "tail"), strict=True):
            single = train.groupby(["relation", asked]).size().eq(1).groupby("relation")
            enough = single.size() >= parameters.least_entities
            row[enough.index[enough & (single.mean() >= parameters.functional)]] = True
    return functional


def nearest_seen(embeddings: np.ndarray, train: pd.DataFrame, most: int) -> csr_array:
    """The neighbours of each entity that train lacks: those of train that are embedded most alike.

    Args:
        embeddings: ``(entities, d)``, compared by cosine.
        train: Training triples.
        most: Neighbours of an entity.

    Returns:
        ``(entities, entities)`` bool; the rows of entities that train has are empty.
    """
    from scipy.sparse import csr_array

    entities = len(embeddings)
    is_seen = members(train[["head", "tail"]], entities)
    seen, unseen = np.flatnonzero(is_seen), np.flatnonzero(~is_seen)
    length = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.maximum(length, np.finfo(np.float32).tiny)
    of_seen, most = unit[seen].T, min(most, len(seen))
    blocks = np.array_split(unseen, 1 + len(unseen) * len(seen) // _SIMILARITIES_AT_A_TIME)
    nearest = [np.argpartition(unit[block] @ of_seen, -most, axis=1)[:, -most:] for block in blocks]
    column = seen[np.concatenate(nearest).ravel()]
    return csr_array(
        (np.ones(len(column), dtype=bool), (np.repeat(unseen, most), column)),
        shape=(entities, entities),
    )


def plan_questions(
    triples: pd.DataFrame,
    entities: int,
    relations: Sequence[str],
    parameters: QuestionParameters,
    seed: int,
    neighbours: csr_array | None = None,
) -> tuple[pd.DataFrame, Roles, dict[str, Any]]:
    """Decide from the graph what to ask.

    Args:
        triples: Table ``triples``.
        entities: Number of entities.
        relations: Id of every relation.
        parameters: What is worth asking.
        seed: Seed of the choice where there are more questions than are to be asked.
        neighbours: Of :func:`nearest_seen`; None leaves out the entities that train lacks.

    Returns:
        The questions (``direction``, ``entity``, ``relation``), those of one entity together; the
        roles; and a report: how many are asked, and which share of the test triples they cover,
        of all and of those with an entity that train lacks.

    Raises:
        DataError: A relation that is to be asked is none of the graph's.
    """
    if unknown := sorted(set(parameters.relations or ()) - set(relations)):
        raise DataError(
            Problem(
                "completion.questions.relations",
                None,
                f"the graph has no relation {', '.join(map(repr, unknown))}",
                f"It has {', '.join(map(repr, relations[:10]))}"
                f"{' ...' if len(relations) > 10 else ''}.",
            )
        )
    train = triples[triples["split"] == "train"]
    roles = Roles.from_train(train, entities, len(relations), parameters, neighbours)
    asked = roles.asked.copy()
    for number, name in enumerate(DIRECTIONS):
        if name not in parameters.directions:
            asked[number] = False
    if parameters.relations is not None:
        asked[:, ~np.isin(relations, parameters.relations)] = False
    possible = int(asked.sum())
    direction, relation, entity = np.nonzero(asked)
    if parameters.at_most is not None and parameters.at_most < possible:
        chosen = np.random.default_rng(seed).permutation(possible)[: parameters.at_most]
        direction, relation, entity = direction[chosen], relation[chosen], entity[chosen]
        asked[:] = False
        asked[direction, relation, entity] = True
    order = np.lexsort((direction, relation, entity))
    questions = pd.DataFrame(
        {
            "direction": np.array(DIRECTIONS)[direction[order]],
            "entity": entity[order].astype(np.int32),
            "relation": relation[order].astype(np.int32),
        }
    )
    test, seen = triples[triples["split"] == "test"], members(train[["head", "tail"]], entities)
    with_unseen = test[~(seen[test["head"]] & seen[test["tail"]])]
    report = {
        "all_pairs": 2 * entities * len(relations),
        "worth_asking": possible,
        "asked": len(questions),
        "answered_and_functional": int((roles.plausible & ~roles.asked).sum()),
        "functional_relations": {
            name: int(roles.functional[number].sum()) for number, name in enumerate(DIRECTIONS)
        },
        "test_triples_covered": _covered(test, asked, roles),
        "unseen": {
            "entities": int((~seen).sum()),
            "questions": int(asked[:, :, ~seen].sum()),
            "test_triples": len(with_unseen),
            "test_triples_covered": _covered(with_unseen, asked, roles),
        },
    }
    return questions, roles, report


def _covered(test: pd.DataFrame, asked: np.ndarray, roles: Roles) -> dict[str, float | None]:
    """Share of triples whose question is asked and whose answer may be proposed."""
    if test.empty:
        return dict.fromkeys((*DIRECTIONS, "either"), None)
    head, relation, tail = (test[name].to_numpy() for name in TRIPLE)
    by = [
        asked[0, relation, head] & roles.plausible[1, relation, tail],
        asked[1, relation, tail] & roles.plausible[0, relation, head],
    ]
    shares = [*by, by[0] | by[1]]
    names = (*DIRECTIONS, "either")
    return {name: float(share.mean()) for name, share in zip(names, shares, strict=True)}


def propose(
    mixture: Mixture,
    questions: pd.DataFrame,
    triples: pd.DataFrame,
    roles: Roles,
    work_folder: Path,
    parameters: CompletionParameters,
    engine: Engine = LOCAL,
) -> pd.DataFrame:
    """Ask the questions, and lay out the best answers that train does not know.

    Blocks of questions are written to the work folder one by one: a killed run goes on with the
    first that is missing or damaged, and ends with the same table.

    Args:
        mixture: Who is asked.
        questions: Of :func:`plan_questions`.
        triples: Table ``triples``; only train is read.
        roles: Of :func:`plan_questions`.
        work_folder: Place for blocks that are done.
        parameters: The stage's parameters.
        engine: Where the questions are asked.

    Returns:
        ``direction`` (number), ``entity``, ``relation``, ``answer``, ``log_odds`` (of the mixture's
        calibrated probability), ``in_set``, and ``score_<expert>`` (log-softmax; NaN where the
        expert does not answer), in the order of the questions, best first.
    """
    train = triples.loc[triples["split"] == "train", TRIPLE].reset_index(drop=True)
    folder = job_folder(
        work_folder,
        mixture.experts,
        questions,
        mixture.digest,
        pd.util.hash_pandas_object(train).sum().item(),
        hashlib.sha256(np.packbits(roles.plausible)).hexdigest(),
        parameters.model_dump(include={"per_question", "least_probability", "block"}),
    )
    ask = Asking(mixture, questions, _Known(train), roles, folder, parameters)
    starts = range(0, len(questions), parameters.block)
    missing = [start for start in starts if not has_block(*ask.place(start))]
    with (
        closing(engine.map("completion", ask, missing)) as asked,
        Progress("Asking for missing links", len(missing), "blocks of questions") as progress,
    ):
        for _ in asked:
            progress.advance(1)
    if not len(questions):
        return ask.answer(questions)
    blocks = (io.BytesIO(read_block(*ask.place(start))) for start in starts)
    return pd.concat([pd.read_parquet(block) for block in blocks], ignore_index=True)


@dataclass(frozen=True)
class Asking:
    """Answers blocks of questions, each into a file of its own."""

    mixture: Mixture
    questions: pd.DataFrame
    known: _Known
    roles: Roles
    folder: Path
    parameters: CompletionParameters

    def __call__(self, starts: Iterable[int]) -> Iterator[int]:
        """Write the block that begins at each of the questions."""
        for start in starts:
            block = self.questions.iloc[start : start + self.parameters.block]
            found = self.answer(block.reset_index(drop=True))
            path, place = self.place(start)
            write_block(path, found.to_parquet(index=False), place)
            yield start

    def place(self, start: int) -> tuple[Path, str]:
        """File and place of the block that begins at a question."""
        path = self.folder / f"{start:09d}.parquet"
        return path, path.relative_to(self.folder.parent).as_posix()

    def answer(self, block: pd.DataFrame) -> pd.DataFrame:
        """The best answers to a block of questions."""
        import torch

        from mkgformer_kedro.evaluation.ranking.ranks import best_entities

        names = [f"score_{expert.name}" for expert in self.mixture.experts]
        speaks = np.stack([expert.answers(block) for expert in self.mixture.experts], axis=1)
        direction = direction_numbers(block).astype(np.int8)
        entity, relation = block["entity"].to_numpy(), block["relation"].to_numpy()
        tables = []
        for mixed in self.mixture.blocks(block, batch_size=self.parameters.batch_size):
            rows = mixed.rows
            cells = self.known.cells(direction[rows], entity[rows], relation[rows])
            logs = self.mixture.calibration.log_softmax(mixed.scores, cells)
            fits = torch.from_numpy(
                self.roles.candidates(direction[rows], entity[rows], relation[rows])
            )
            logs = logs.masked_fill(~fits.to(logs.device), -torch.inf)
            best, best_logs = best_entities(logs, self.parameters.per_question)
            width = best.shape[1]
            row = np.repeat(rows, width)
            answer = best.reshape(-1).cpu().numpy()
            log_softmax = best_logs.reshape(-1).double().cpu().numpy()
            possible = np.isfinite(log_softmax)
            row, answer, log_softmax = row[possible], answer[possible], log_softmax[possible]
            which = log_softmax, direction[row], relation[row]
            probability = self.mixture.calibration.probabilities(*which)
            table = pd.DataFrame(
                {
                    "question": row,
                    "direction": direction[row],
                    "entity": entity[row],
                    "relation": relation[row],
                    "answer": answer.astype(np.int32),
                    "log_odds": log_odds(np.log(probability)).astype(np.float32),
                    "in_set": self.mixture.calibration.in_set(*which),
                }
            )
            for number, name in enumerate(names):
                values = mixed.logs[number].gather(1, best).reshape(-1).cpu().numpy()[possible]
                table[name] = np.where(speaks[row, number], values, np.nan).astype(np.float32)
            tables.append(table[probability >= self.parameters.least_probability])
        dtypes = {**_DTYPES, **dict.fromkeys(names, np.float32)}
        found = pd.concat(tables or [pd.DataFrame(columns=list(dtypes)).astype(dtypes)])
        found = found.sort_values(["question", "log_odds"], ascending=[True, False], kind="stable")
        return found.drop(columns="question").reset_index(drop=True)


class _Known:
    """Answers that train gives, by question."""

    def __init__(self, train: pd.DataFrame) -> None:
        head, relation, tail = (train[name].to_numpy(np.int64) for name in TRIPLE)
        self._span = int(max(head.max(initial=0), tail.max(initial=0))) + 1
        direction = np.repeat([0, 1], len(train))
        key = self._keys(
            direction, np.concatenate([head, tail]), np.concatenate([relation, relation])
        )
        order = np.argsort(key, kind="stable")
        self._key = key[order]
        self._answer = np.concatenate([tail, head])[order]

    def _keys(self, direction: np.ndarray, entity: np.ndarray, relation: np.ndarray) -> np.ndarray:
        # An entity beyond all of train's shares a key with none.
        inside = entity < self._span
        key = (relation.astype(np.int64) * 2 + direction) * self._span + entity
        return np.where(inside, key, -1)

    def cells(
        self, direction: np.ndarray, entity: np.ndarray, relation: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows and entities of the known answers of some questions."""
        key = self._keys(direction, entity, relation)
        first, last = (np.searchsorted(self._key, key, side) for side in ("left", "right"))
        count = last - first
        row = np.repeat(np.arange(len(key)), count)
        within = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        return row, self._answer[first[row] + within]
