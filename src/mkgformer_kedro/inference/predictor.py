"""Ask a trained model: one question, or a table of them, with images as a person has them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, wraps
from pathlib import Path
from threading import RLock
from typing import Any, Concatenate, Literal, ParamSpec, Self, TypeVar

import numpy as np
import pandas as pd

from mkgformer_kedro.datasets.lineage import check_folder
from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.evaluation.explanations import WAYS, Way
from mkgformer_kedro.inference.experts import LoadedModel, seeds_in
from mkgformer_kedro.inference.explanation import Explanation, Looker
from mkgformer_kedro.inference.images import GivenImages, is_nothing
from mkgformer_kedro.inference.mixed import MixedAnswers
from mkgformer_kedro.inference.retrieval import EntityIndex, Retrieval
from mkgformer_kedro.inference.sources import source_of
from mkgformer_kedro.parameters import Folder, typed
from mkgformer_kedro.training.batches import Collator, ask
from mkgformer_kedro.training.entity_encoder import encode_descriptions
from mkgformer_kedro.training.model_folder import TASK_FILE
from mkgformer_kedro.training.parameters import Precision
from mkgformer_kedro.training.tasks.questions import check_columns, count, is_whole

logger = logging.getLogger(__name__)

_PATH = "Give the path of a folder."
_Given = ParamSpec("_Given")
_Told = TypeVar("_Told")


def _one_at_a_time(
    method: Callable[Concatenate[Predictor, _Given], _Told],
) -> Callable[Concatenate[Predictor, _Given], _Told]:
    """A method that threads call one after the other, whatever mode of torch they are in."""

    @wraps(method)
    def alone(self: Predictor, *given: _Given.args, **named: _Given.kwargs) -> _Told:
        import torch

        with self._lock, torch.inference_mode(False):  # gradients explain, and tensors are kept
            return method(self, *given, **named)

    return alone


class Predictor:
    """A trained model for any task, ready to be asked. Threads that ask it wait for each other.

    Args:
        model: The model.
        store: Visual store of the entities, for a model whose images belong to entities: questions
            without images of their own are asked with those of the store.
        retrieval: How answers are found in a large graph, for link prediction; None: every entity
            is scored.
        mixture: The mixture by which questions are answered, for link prediction; None: the model
            alone answers.

    Raises:
        DataError: The folder is no model folder, the store does not fit the model, or a mixture and
            a retrieval are given together.
    """

    def __init__(
        self,
        model: LoadedModel,
        store: VisualStore | None = None,
        retrieval: Retrieval | None = None,
        mixture: MixedAnswers | None = None,
    ) -> None:
        from mkgformer_kedro.modeling import MKGformerProcessor

        _, self._tokenizer, self.task = model.parts
        self._model = model.view()  # to which entities are added, whoever else asks the model
        self._processor = MKGformerProcessor.of(self._model.config, self._tokenizer)
        self._precision = model.precision
        if not isinstance(retrieval, Retrieval | None):
            what, remedy = f"it is {retrieval!r}", "Give a Retrieval(...), or leave it out."
            raise DataError(Problem("retrieval", None, what, remedy))
        if retrieval is not None and mixture is not None:
            what = "a retrieval finds answers of the model alone, and a mixture is given"
            raise DataError(Problem("retrieval", None, what, "Leave out one of them."))
        self._retrieval, self._mixture = retrieval, mixture
        self._store: VisualStore | GivenImages | None = store
        self._lock = RLock()
        if store is not None:
            self._check_store(store)

    def __getstate__(self) -> dict[str, Any]:
        """All but the lock, and the index of entities, which is made anew."""
        return {
            name: value for name, value in vars(self).items() if name not in ("_lock", "_entities")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _lock=RLock())

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        store: str | Path | Literal[False] | None = None,
        mixture: str | Path | None = None,
        attention: str = "sdpa",
        precision: Precision = "fp32",
        retrieval: Retrieval | None = None,
    ) -> Self:
        """Read a model.

        Args:
            path: Model folder, or a folder with one model folder per seed (the lowest is taken),
                such as ``data/06_models/<data set>/<task>/finetuning``.
            store: Folder of the visual store with the images of the graph's entities, for link
                prediction. None: the one that the model was made from, where it lies in the same
                project, ``data/04_feature/<data set>/<task>/visual_store``; where it does not, a
                warning says so. False: no images but those that are given.
            mixture: Folder of the mixture of the same project, for link prediction, such as
                ``data/06_models/<data set>/<task>/mixture``: it answers, of the best found by
                structure, text and images together, and says how probable answers are. None: the
                model alone answers.
            attention: Attention implementation (``sdpa``, ``eager``, ``flex_attention``).
            precision: In which questions are asked: ``fp32``, or ``bf16``, which takes about .6 of
                the time where the processor or GPU has it (elsewhere fp32 takes its place). A
                mixture is asked in what it was fitted in (``asking.precision``). What the model
                explains, and what it makes of new entities, is in fp32.
            retrieval: How answers are found in a large graph, for link prediction; None: every
                entity is scored.

        Raises:
            DataError: There is no model, a file is damaged, or not the one that the stage wrote,
                the mixture is of another model or precision, or there is no such attention or
                precision.
        """
        folder = _model_folder(typed(Folder, path, "path", remedy=_PATH))
        mixed_in = typed(Folder | None, mixture, "mixture", remedy=_PATH)
        shown = None if store is False else typed(Folder | None, store, "store", remedy=_PATH)
        for made in (folder, shown, mixed_in):
            if made is not None:
                check_folder(made)
        asked_in = typed(Precision, precision, "precision", remedy="Choose one of them.")
        model = LoadedModel(folder, attention, asked_in)
        images = None
        if store is not False:
            images = _own_store(model) if shown is None else VisualStore(shown)
        mixed = None if mixed_in is None else MixedAnswers(model, mixed_in)
        return cls(model, images, retrieval, mixed)

    @_one_at_a_time
    def predict(
        self,
        *question: Any,
        images: Any = None,
        top: int = 10,
        batch_size: int = 64,
        **parts: Any,
    ) -> pd.DataFrame:
        """Answer one question or a table of questions.

        What a question is made of, in this order or by name:

        * link prediction: ``entity``, ``relation`` (ids) and ``direction``: ``tail`` (default) asks
          (entity, relation, ?), ``head`` asks (?, relation, entity);
        * relation extraction: ``words`` (a list) or ``text``, and ``head`` and ``tail``: spans
          ``(start, end)`` in words, or the mentions' texts where they occur once;
        * entity recognition: ``words`` or ``text``.

        Args:
            *question: One question's parts; or a table with a question per row, whose columns are
                the parts and, where there are any, ``images``.
            images: Images of the question: a path, a PIL image, a list of these in the order of
                the model's slots, or images by role (``full``, ``grounding``, ``detection``). None:
                those of the store, else none.
            top: Link prediction: how many answers to each question.
            batch_size: Questions asked at a time.
            **parts: The question's parts by name.

        Returns:
            * link prediction: ``entity``, ``name`` and ``score``, best first. Of the model alone
              the score is what its softmax takes: larger is better within a question, and no
              probability; what train says already is among the answers. Of a mixture, answers that
              train gives are left out, the score is a logarithm, and ``probability`` and
              ``in_answer_set`` are as ``Calibration`` defines them: the probability that the answer
              is right, given that the question has one that train lacks;
            * relation extraction: ``relation`` (as the data call it), ``relation_text`` (in words),
              ``score`` (its probability), ``tokens_truncated`` and ``mentions_truncated`` (what the
              model's window left out);
            * entity recognition: a row per entity: ``entity`` (its words), ``type`` (as the data
              call it), ``type_text`` (the type in words, where the project has any), ``start`` and
              ``end`` (its first word, and the one behind its last).

            Of a table, the first column ``question`` holds the index of the question's row.

        Raises:
            DataError: A question cannot be asked, an image cannot be used, or ``top`` or
                ``batch_size`` is no positive number.
        """
        top = count("predict", "top", top)
        batch_size = count("predict", "batch_size", batch_size)
        whole = bool(question) and isinstance(question[0], pd.DataFrame)
        if whole and (len(question) > 1 or parts or images is not None):
            what = "a table is given, and parts of a question beside it"
            remedy = "Put all of them into the table, images as the column `images`."
            raise DataError(Problem("questions", None, what, remedy))
        table = question[0] if whole else self._one_row(question, parts)
        if not whole:
            table["images"] = pd.Series([images], dtype=object)
        answers = self._answers(table, top, batch_size)
        if not whole:
            return answers.reset_index(drop=True)
        answers.insert(0, "question", answers.index)
        return answers.reset_index(drop=True)

    @_one_at_a_time
    def add_entities(
        self,
        table: pd.DataFrame,
        images: Sequence[Any] | Mapping[str, Any] | None = None,
        batch_size: int = 64,
    ) -> None:
        """Make entities known that training never saw, to be asked about and to be answers.

        The model reads each entity's text and images once and makes an embedding of them; the
        scores of all other entities stay the same to the last bit. In a mixture they are what
        structural experts have not learned, as an entity that train lacks. This predictor alone
        knows the new entities, until it is gone.

        Args:
            table: A row for each: its id ``entity``, its ``name``, and its ``text``, a description.
            images: Images of each, as for :meth:`predict`: a list in the order of the rows, with
                None where there are none; or by id, ``{entity: images}``, of those that have any.
                None: none has any.
            batch_size: Entities read at a time.

        Raises:
            DataError: An entity is known already or described badly, an image cannot be used,
                ``batch_size`` is no positive number, or nobody in the mixture reads texts. Then
                nothing was added.
        """
        batch_size = count("add_entities", "batch_size", batch_size)
        if not getattr(self._model.config, "entity_encoder", False):
            what = "the model has no encoder of entities"
            remedy = "Take a model of a graph, of the preset `corrected`."
            raise DataError(Problem("entities", None, what, remedy))
        if self._mixture is not None and not self._mixture.reads_texts:
            what = "no expert of the mixture reads texts, so that none could say anything of them"
            raise DataError(Problem("entities", None, what, "Leave out the mixture."))
        new = self.task.read_entities(table)
        given = _by_row(images, new["entity"].tolist())
        names = [f"entity {index}" for index in table.index]
        of_new = replace(self.task, entities=new)
        prompts = of_new.prompt_builder(self._tokenizer, self._model.config)
        seen = GivenImages(self._processor, given, names)
        states = encode_descriptions(self._model, prompts, seen, batch_size)
        embeddings = self._model.embed_entities(states)
        before = self._store
        if not isinstance(before, GivenImages):
            nothing = [None] * (len(self.task.entities) if before is None else 0)
            before = GivenImages(self._processor, nothing, nothing, before)
        store = before.followed_by(seen)
        known = pd.concat([self.task.entities, new], ignore_index=True)
        task = replace(self.task, entities=known)
        # All that can fail has not.
        self._model.add_entities(embeddings)
        self._store, self.task = store, task

    @_one_at_a_time
    def explain(
        self,
        *question: Any,
        images: Any = None,
        by: Way = "correlation",
        layer: int | None = None,
        **parts: Any,
    ) -> Explanation:
        """What the model looks at while it answers one question.

        Args:
            *question: The question's parts, as :meth:`predict` takes them.
            images: Images of the question, likewise.
            by: What gives a patch its weight: ``correlation`` (how similar each token is to it),
                ``attention`` (how much of its attention goes to each token) or ``gradient`` (how
                much the answer hangs on its pixels).
            layer: A fused layer, from 1, the lowest; None: all of them.
            **parts: The question's parts by name.

        Returns:
            The answer, which is that of :meth:`predict` without a mixture, and the weights.

        Raises:
            DataError: The question cannot be asked, has no images, or an image cannot be used; or
                there is no such way or layer.
        """
        if not isinstance(by, str) or by not in WAYS:
            what = f"by is {by!r}; it must be {', '.join(WAYS)}"
            raise DataError(Problem("explain", None, what, "Choose one of them."))
        fused = self._model.config.num_fusion_layers
        if layer is not None and by == "gradient":
            what = f"layer is {layer!r}, but gradients are of the whole model"
            raise DataError(Problem("explain", None, what, "Leave the layer out."))
        if layer is not None and not (is_whole(layer) and 1 <= layer <= fused):
            what = f"layer is {layer!r}; fused layers are numbered from 1 to {fused}"
            raise DataError(Problem("explain", None, what, "Choose one of them, or none."))
        if question and isinstance(question[0], pd.DataFrame):
            what, remedy = "a table is given", "Explain one question at a time."
            raise DataError(Problem("questions", None, what, remedy))
        table = self._one_row(question, parts)
        table["images"] = pd.Series([images], dtype=object)
        asked, items, given = self._read(table)
        if not given.has_images[items.owners[0]]:
            what, remedy = "it has no images, so that there is nothing to look at", "Give images."
            if self._store is None and self.task.owner == "entity":
                what = "without a visual store, no images of entities are known to look at"
                remedy = "Give images, or the store, as Predictor.from_folder(..., store=...)."
            raise DataError(Problem("question", None, what, remedy))
        looker = Looker(self._model, self._tokenizer, self.task)
        found, outputs = looker.explain(items, given, 0, by)
        rows = np.array([0])
        answer = self.task.reply(self._model, outputs, items, rows, asked, top=10)
        found = replace(found, answer=answer.reset_index(drop=True))
        return found if layer is None else found.of_layer(layer)

    def _one_row(self, question: tuple[Any, ...], parts: dict[str, Any]) -> pd.DataFrame:
        known = self.task.question
        named = self.task.name_parts(question)
        problem = None
        if any(isinstance(each, dict) for part in question for each in _inside(part)):
            problem = "a list of dicts", "Give a table: pandas.DataFrame(questions)."
        elif len(question) > len(known):
            problem = f"{len(question)} parts", f"A question has {', '.join(known)}."
        elif unknown := [name for name in parts if name not in known]:
            problem = f"no part of a question: {unknown[0]}", f"It has {', '.join(known)}."
        elif twice := [name for name in parts if name in named]:
            problem = f"{twice[0]} is given twice", "Give it once."
        if problem:
            raise DataError(Problem("questions", None, *problem))
        # As objects: a column of texts takes no half of a character, which the task refuses.
        return pd.DataFrame(
            {name: [value] for name, value in {**named, **parts}.items()}, dtype=object
        )

    def _answers(self, table: pd.DataFrame, top: int, batch_size: int) -> pd.DataFrame:
        index = table.index
        asked, items, images = self._read(table)
        if self._mixture is not None:
            found = self._mixture.best(self._model, asked, items, images, top, batch_size)
            named = self.task.entities.iloc[found["answer"]][["entity", "name"]]
            answers = named.set_index(found.index).assign(**found.drop(columns="answer"))
            return answers.set_index(index[answers.index])
        index_of_entities = self._entities
        blocks = ask(
            self._model,
            Collator(items, images),
            np.arange(len(asked)),
            batch_size=self.task.asked_at_a_time(batch_size),
            what="Asking the model",
            of="questions",
            answer=None if index_of_entities is None else self._model.encode_mask,
            precision=self._precision,
        )
        parts = []
        for rows, found in blocks:
            questions = asked.iloc[rows]
            if index_of_entities is None:
                parts.append(self.task.reply(self._model, found, items, rows, questions, top))
            else:
                best = index_of_entities.best(found, top)
                parts.append(self.task.name_answers(*best, questions))
        answers = pd.concat(parts).sort_index(kind="stable")
        return answers.set_index(index[answers.index])

    @cached_property
    def _entities(self) -> EntityIndex | None:
        """The index of entities, where there are more than retrieval is wanted for."""
        if self._retrieval is None or self.task.items != "queries":
            return None
        few = len(self.task.entities) <= self._retrieval.above
        return None if few else EntityIndex(self._model, self._retrieval)

    def _read(self, table: pd.DataFrame) -> tuple[pd.DataFrame, Any, GivenImages]:
        """Questions as the task reads and encodes them, numbered from 0, and their images."""
        check_columns(table, (), (*self.task.question, "images"))
        # Numbers in place of the index, which names what is wrong but may hold a label twice.
        asked = self.task.read_questions(table).reset_index(drop=True)
        items = self.task.encode(asked, self._tokenizer, self._model.config)
        given = list(table["images"]) if "images" in table else [None] * len(table)
        names = [f"question {label}" for label in table.index]
        images = GivenImages(self._processor, given, names, self._store)
        own = np.array([not is_nothing(each) for each in given]) | (self._store is None)
        owners = np.where(own, images.first + np.arange(len(asked)), items.owners)
        return asked, replace(items, owners=owners), images

    def _check_store(self, store: VisualStore) -> None:
        problem = None
        layouts = {role: (each.size, each.count) for role, each in store.roles.items()}
        sizes, counts = self._processor.image_sizes, self._processor.image_counts
        wanted = {role: (sizes[role], counts[role]) for role in self._processor.image_roles}
        if self.task.owner != "entity":
            problem = "a store of posts says nothing of other posts", "Give their images."
        elif len(store) != len(self.task.entities):
            problem = (
                f"the store has {len(store)} owners, the model {len(self.task.entities)} entities",
                "Give the visual store that the model was trained with.",
            )
        elif layouts != wanted:
            problem = (
                f"the store has images of {layouts}, the model takes {wanted}",
                "Give the visual store that the model was trained with.",
            )
        if problem:
            raise DataError(Problem(str(store.folder), None, *problem))


def _model_folder(path: Path) -> Path:
    """The model folder that a path stands for."""
    if (path / TASK_FILE).is_file():
        return path
    for folder in (path, path / "finetuning"):
        if found := seeds_in(folder):
            return found[0][1]
    return path


def _by_row(images: Any, entities: Sequence[str]) -> list[Any]:
    """The images of each entity, of a list in their order or of a mapping by id."""
    problem = None
    if images is None:
        return [None] * len(entities)
    if isinstance(images, Mapping):
        known = set(entities)
        if unknown := [name for name in images if name not in known]:
            problem = f"images of {unknown[0]!r}, which is no entity of the table"
        images = [images.get(name) for name in entities]
    elif (
        not isinstance(images, list | tuple | pd.Series | np.ndarray)
        or getattr(images, "ndim", 1) == 0
    ):
        problem = f"images is {type(images).__name__}, neither a list nor a dict"
    elif len(images) != len(entities):
        problem = f"there are {len(entities)} entities, but images of {len(images)}"
    if problem:
        remedy = "Give a list, an item or None for each row, or a dict {entity: images}."
        raise DataError(Problem("entities", None, problem, remedy))
    return list(images)


def _own_store(model: LoadedModel) -> VisualStore | None:
    """The visual store that a model was made from; None where it is not there, or not needed."""
    *_, task = model.parts
    if task.owner != "entity":
        return None
    try:
        place, settings = source_of(model.folder, "visual_store")
    except DataError as error:
        logger.warning(
            "Entities are asked about without images. %s Or give the folder of a visual store "
            "(store=...), or say that none is wanted (store=False).",
            error,
        )
        return None
    images = {name: settings.get(f"model.images.{name}") for name in ("source", "seed")}
    return VisualStore(place, **{name: one for name, one in images.items() if one is not None})


def _inside(part: Any) -> list[Any]:
    return part if isinstance(part, list) else [part]
