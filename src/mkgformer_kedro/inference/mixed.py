"""A mixture asked by a person: images of their own, entities that were added, probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

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
    from mkgformer_kedro.training.parameters import Precision
    from mkgformer_kedro.training.tasks.base import Task

_MODELS = ("model", "without_images")


@dataclass(frozen=True, eq=False)
class AskedModel:
    """A model that is asked with the images of the questions, as an expert.

    Attributes:
        name: ``model`` or ``without_images``.
        seed: Seed of its training.
        folder: Its folder.
        task: Its task.
        precision: In which it is asked.
        network: The model itself, and
        questions: the questions, with the images of their owners; both are there while it is asked.
            The column ``question`` of its queries holds the number of the item.
    """

    learned = None

    name: str
    seed: int
    folder: Path
    task: Task
    precision: Precision
    network: Any = None
    questions: Collator | None = None

    @classmethod
    def of(cls, model: LoadedModel, name: str) -> Self:
        """The expert of that name, without anything to ask or to be asked."""
        number = model.folder.name.removeprefix("seed_")
        seed = int(number) if number.isdecimal() else 0
        return cls(name, seed, model.folder, model.parts[2], model.precision)

    def scores(
        self, queries: pd.DataFrame, *, batch_size: int
    ) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """See :class:`mkgformer_kedro.inference.experts.Expert`."""
        numbers = queries["question"].to_numpy()
        place = pd.Series(np.arange(len(numbers)), index=numbers)
        blocks = ask(
            self.network,
            self.questions,
            numbers,
            batch_size=self.task.asked_at_a_time(batch_size),
            what="Asking the model" if self.name == "model" else "Asking without images",
            of="questions",
            precision=self.precision,
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
        experts: list[Any] = [AskedModel.of(model, name) for name in _MODELS]
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
        return any(isinstance(expert, AskedModel) for expert in self._mixture.experts)

    def best(
        self, network: Any, asked: pd.DataFrame, items: Any, images: Any, top: int, batch_size: int
    ) -> pd.DataFrame:
        """The best answers to each question that train does not give.

        Args:
            network: The model, with the entities that were added to it.
            asked: ``direction``, ``entity``, ``relation`` (indices); numbered from 0.
            items: The questions, encoded.
            images: Images of their owners.
            top: How many answers to each.
            batch_size: Questions asked at a time.

        Returns:
            With the index of ``asked``, best first: ``answer`` (index), ``score`` (log-probability
            among all answers that train does not give), ``probability``, ``in_answer_set``.
        """
        added = network.config.num_entities - self._entities
        mixture = self._about(network, items, images, added)
        calibration = mixture.calibration
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

    def _about(self, network: Any, items: Any, images: Any, added: int) -> Mixture:
        """The mixture for these questions, of a graph with so many entities more."""

        def about(expert: Expert) -> Expert:
            if isinstance(expert, AskedModel):
                shown = images if expert.name == "model" else None
                return replace(expert, network=network, questions=Collator(items, shown))
            return Enlarged(expert, self._entities, added) if added else expert

        mixture = self._mixture
        experts = [about(expert) for expert in mixture.experts]
        fitted = mixture.weights, mixture.calibration, mixture.facts
        return Mixture(experts, *fitted, self._entities + added, added=added)

    def _known(self, block: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Rows and entities of the answers that train gives."""
        keys = zip(*(block[name] for name in QUERY), strict=True)
        known: Sequence[Any] = [self._train.get(key, ()) for key in keys]
        rows = np.repeat(np.arange(len(known)), [len(each) for each in known])
        return rows, np.concatenate([np.asarray(each, dtype=np.int64) for each in known])
