"""A mixture asked by a person: images of their own, entities that were added, probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.evaluation.ranking.ranks import best_entities
from mkgformer_kedro.evaluation.ranking.tables import QUERY
from mkgformer_kedro.inference.experts import LoadedModel, load_expert
from mkgformer_kedro.inference.mixture import Mixture
from mkgformer_kedro.inference.sources import source_of
from mkgformer_kedro.training.batches import Collator, ask
from mkgformer_kedro.training.model_folder import read_table
from mkgformer_kedro.training.structural_model import EXPERT_FILE

if TYPE_CHECKING:
    from mkgformer_kedro.inference.experts import Expert

_MODELS = ("model", "without_images")


class AskedModel:
    """A model that is asked with the images of the questions, as an expert.

    Args:
        model: The model.
        name: ``model`` or ``without_images``.

    Attributes:
        items: The questions, encoded, and
        images: the images of their owners; both are set before it is asked. The column ``question``
            of its queries holds the number of the item.
    """

    learned = None

    def __init__(self, model: LoadedModel, name: str) -> None:
        self.name, self.folder = name, model.folder
        number = model.folder.name.removeprefix("seed_")
        self.seed = int(number) if number.isdecimal() else 0
        self._network, _, self._task = model.parts
        self._precision = model.precision
        self.items: Any = None
        self.images: Any = None

    def scores(
        self, queries: pd.DataFrame, *, batch_size: int
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """See :class:`mkgformer_kedro.inference.experts.Expert`."""
        numbers = queries["question"].to_numpy()
        place = pd.Series(np.arange(len(numbers)), index=numbers)
        blocks = ask(
            self._network,
            Collator(self.items, self.images if self.name == "model" else None),
            numbers,
            batch_size=self._task.asked_at_a_time(batch_size),
            what="Asking the model" if self.name == "model" else "Asking without images",
            of="questions",
            precision=self._precision,
        )
        for rows, outputs in blocks:
            yield place[rows].to_numpy(copy=True), outputs.logits.float()

    def answers(self, queries: pd.DataFrame) -> np.ndarray:
        """All of them."""
        return np.ones(len(queries), dtype=bool)


class Enlarged:
    """An expert of a graph to which entities were added, which it has not learned.

    Args:
        expert: The expert.
        known: Entities of the graph.
        added: Entities that were added.
    """

    def __init__(self, expert: Expert, known: int, added: int) -> None:
        self.name, self.seed, self.folder = expert.name, expert.seed, expert.folder
        learned = np.ones(known, dtype=bool) if expert.learned is None else expert.learned
        self.learned = np.pad(learned, (0, added))
        self._expert, self._known, self._added = expert, known, added

    def scores(
        self, queries: pd.DataFrame, *, batch_size: int
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Its scores, and of added entities their mean, which nobody heeds."""
        for rows, scores in self._expert.scores(self._asked(queries), batch_size=batch_size):
            mean = scores.mean(dim=1, keepdim=True)
            yield rows, torch.cat([scores, mean.expand(-1, self._added)], dim=1)

    def answers(self, queries: pd.DataFrame) -> np.ndarray:
        """What it answers, of the questions about entities that it knows."""
        known = (queries["entity"] < self._known).to_numpy()
        return known & self._expert.answers(self._asked(queries))

    def _asked(self, queries: pd.DataFrame) -> pd.DataFrame:
        """Queries that it can be asked: of an added entity it says nothing, whatever is asked."""
        return queries.assign(entity=queries["entity"].where(queries["entity"] < self._known, 0))


class MixedAnswers:
    """Answers questions by a mixture, as completion does.

    What train says already is no answer, nor is the entity that the question is about, unless train
    has such loops of the relation.

    Args:
        model: The model that is asked with the images of the questions.
        folder: Folder of the mixture; its structural experts lie beside it in
            ``structure_modeling``, and the graph's queries in the same project.

    Raises:
        DataError: A folder is damaged or missing, they do not belong together, or the model is
            asked in another precision than the mixture was fitted in.
    """

    def __init__(self, model: LoadedModel, folder: Path) -> None:
        *_, task = model.parts
        if task.owner != "entity":
            what = "a mixture is of a graph, and the model is not"
            raise DataError(Problem(str(folder), None, what, "Leave the mixture out."))
        self._entities = len(task.entities)
        self._models = [AskedModel(model, name) for name in _MODELS]
        experts: list[Any] = [*self._models]
        for path in sorted((folder.parent / "structure_modeling").rglob(EXPERT_FILE)):
            experts.append(load_expert(path.parent, task, experts))
        self._mixture: Any = load_expert(folder, task, experts)
        place, settings = source_of(folder, "queries")
        fitted_in = settings.get("asking.precision", model.precision)
        if fitted_in != model.precision:
            what = (
                f"it was fitted to scores in {fitted_in}, and would be asked in {model.precision}"
            )
            remedy = f"Ask in {fitted_in} (precision), or run the stage 'mixture' in the other."
            raise DataError(Problem(str(folder), None, what, remedy))
        queries = read_table(place)
        train = queries[queries["split"] == "train"]
        keys = zip(*(train[name] for name in QUERY), strict=True)
        self._train = dict(zip(keys, train["answers"], strict=True))
        self._loops = {key[2] for key, answers in self._train.items() if key[1] in answers}

    @property
    def reads_texts(self) -> bool:
        """Whether some expert can say anything of entities that are added."""
        return any(expert in self._models for expert in self._mixture.experts)

    def best(
        self, asked: pd.DataFrame, items: Any, images: Any, entities: int, top: int, batch_size: int
    ) -> pd.DataFrame:
        """The best answers to each question that train does not give.

        Args:
            asked: ``direction``, ``entity``, ``relation`` (indices); numbered from 0.
            items: The questions, encoded.
            images: Images of their owners.
            entities: How many entities there are by now.
            top: How many answers to each.
            batch_size: Questions asked at a time.

        Returns:
            With the index of ``asked``, best first: ``answer`` (index), ``score`` (log-probability
            among all answers that train does not give), ``probability``, ``in_answer_set``.
        """
        for model in self._models:
            model.items, model.images = items, images
        mixture, calibration = self._enlarged(entities - self._entities), self._mixture.calibration
        queries = asked[QUERY].assign(question=np.arange(len(asked)))
        parts = []
        for rows, mixed in mixture.scores(queries, batch_size=batch_size):
            block = queries.iloc[rows]
            logs = calibration.log_softmax(mixed, self._known(block)).cpu()
            alone = ~block["relation"].isin(self._loops).to_numpy()
            logs[np.flatnonzero(alone), block["entity"].to_numpy()[alone]] = -torch.inf
            best, best_logs = best_entities(logs, top)
            width = best.shape[1]
            values = best_logs.reshape(-1).double().numpy()
            head = (block["direction"] == "head").to_numpy().astype(np.int8).repeat(width)
            which = values, head, block["relation"].to_numpy().repeat(width)
            found = pd.DataFrame(
                {
                    "answer": best.reshape(-1).numpy(),
                    "score": values,
                    "probability": calibration.probabilities(*which),
                    "in_answer_set": calibration.in_set(*which),
                },
                index=asked.index[rows].repeat(width),
            )
            parts.append(found[np.isfinite(values)])
        return pd.concat(parts).sort_index(kind="stable")

    def _enlarged(self, added: int) -> Mixture:
        """The mixture of a graph with so many entities more."""
        mixture = self._mixture
        if not added:
            return mixture
        experts = [
            each if each in self._models else Enlarged(each, self._entities, added)
            for each in mixture.experts
        ]
        fitted = mixture.weights, mixture.calibration, mixture.facts
        return Mixture(experts, *fitted, self._entities + added, added=added)

    def _known(self, block: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Rows and entities of the answers that train gives."""
        keys = zip(*(block[name] for name in QUERY), strict=True)
        known: Sequence[Any] = [self._train.get(key, ()) for key in keys]
        rows = np.repeat(np.arange(len(known)), [len(each) for each in known])
        return rows, np.concatenate([np.asarray(each, dtype=np.int64) for each in known])
