"""What a task is. All else (loops, nodes, model folders, predictors) exists once, for any task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd

from mkgformer_kedro.training.parameters import FinetuningParameters, TrainSubset
from mkgformer_kedro.training.sampler import BatchSampler

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from mkgformer_kedro.evaluation.experts import Evaluation
    from mkgformer_kedro.evaluation.report import Layout
    from mkgformer_kedro.training.batches import Items


@dataclass(frozen=True)
class Task(ABC):
    """What is a task's own. Its fields say how a model was trained and are kept with it.

    The module of a task imports neither torch nor transformers at its top, since the wiring of
    every pipeline asks the registry for tasks.

    Attributes:
        name: Its name, which is also the namespace of its data sets and parameters.
        parameters_class: Type of ``params:<name>.finetuning``.
        inputs: Data sets of the namespace that fine-tuning takes beside the visual store: tables,
            and the folder that ``starts_from`` names.
        items: The table of ``inputs`` whose rows are learned from and asked about: ``queries`` or
            ``posts``. It has the column ``split``.
        kept_tables: Fields that are tables; they lie in the model folder as parquet files.
        starts_from: Data set with the model folder that fine-tuning goes on from; None joins the
            towers.
        new_tokens: Special tokens that the tokenizer gets.
        dev_metric: Key of :meth:`dev_scores` that picks the model; larger is better.
        scored: What the scores count, in the words of the table that ends a run.
        columns: Columns of that table, each with its key in the scores.
        stages: The stages of the task's run, in order, each with the module whose ``nodes(task)``
            gives its Kedro nodes.
        question: What a person asks with: names of columns, in the order in which
            ``Predictor.predict`` takes them.
        owner: Who owns images: ``entity`` or ``post``.
        tables: Tables of the ingestion that evaluation reads.
        experts: Data sets with folders of experts that evaluation asks beside the models.
        reports: Data sets with reports of other stages that the page of the evaluation shows.
    """

    name: ClassVar[str]
    parameters_class: ClassVar[type[FinetuningParameters]]
    inputs: ClassVar[tuple[str, ...]]
    items: ClassVar[str]
    kept_tables: ClassVar[tuple[str, ...]]
    starts_from: ClassVar[str | None] = None
    new_tokens: ClassVar[tuple[str, ...]] = ()
    dev_metric: ClassVar[str]
    scored: ClassVar[str]
    columns: ClassVar[Mapping[str, str]]
    stages: ClassVar[Mapping[str, str]]
    question: ClassVar[tuple[str, ...]]
    owner: ClassVar[str]
    tables: ClassVar[tuple[str, ...]]
    experts: ClassVar[tuple[str, ...]] = ()
    reports: ClassVar[tuple[str, ...]] = ()

    @classmethod
    @abstractmethod
    def from_parameters(cls, tables: Mapping[str, pd.DataFrame], parameters: Any) -> Self:
        """The task as the parameters describe it.

        Args:
            tables: The kept tables by name.
            parameters: Parameters of fine-tuning in which every preset field is set.
        """

    @classmethod
    @abstractmethod
    def model_class(cls) -> Any:
        """The model for this task."""

    @abstractmethod
    def configuration(self, parameters: Any) -> dict[str, Any]:
        """Fields of the model's configuration that the task and its parameters decide."""

    def configure(self, model: Any, parameters: Any) -> None:
        """Make a model that an earlier stage left one for the task and its parameters, in place."""
        for name, value in self.configuration(parameters).items():
            setattr(model.config, name, value)

    @abstractmethod
    def fits(self, config: Any) -> bool:
        """Whether a model of this configuration tells apart what the task's tables name."""

    @abstractmethod
    def encode(self, table: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, config: Any) -> Items:
        """Turn rows of the table of items into token numbers, those with an answer with labels.

        Args:
            table: Rows of the table ``items``; answers are not needed.
            tokenizer: The model's tokenizer.
            config: The model's configuration.
        """

    def sampler(self, items: Items, rows: np.ndarray, parameters: Any, seed: int) -> BatchSampler:
        """Batches of train items, each item once an epoch in a new order.

        Args:
            items: All items.
            rows: ``(n,)`` numbers of the train items.
            parameters: Parameters of fine-tuning.
            seed: Seed of the order.
        """
        return BatchSampler(
            rows,
            items.owners,
            items.lengths,
            batch_size=parameters.batch_size,
            items_per_owner=1,
            shuffle=True,
            seed=seed,
        )

    def learned(self, items: Any, rows: np.ndarray, parameters: Any, seed: int) -> Items:
        """The items as they are learned from; ``rows`` are numbers of the train items."""
        return items

    def lookup_weights(self, model: Any, parameters: Any) -> list[torch.nn.Parameter]:
        """Weights of the model that learn row by row, see ``training/optimizer.py``."""
        return model.lookup_weights()

    def dev_rows(self, rows: np.ndarray, parameters: Any, seed: int) -> np.ndarray:
        """Numbers of the dev items that pick the model, of all dev items' numbers ``rows``."""
        return rows

    def finish(  # noqa: B027
        self, model: Any, items: Any, rows: np.ndarray, images: Any, parameters: Any, seed: int
    ) -> None:
        """Complete the picked model, in place, before it is saved.

        Args:
            model: The model, in evaluation mode.
            items: All items.
            rows: ``(n,)`` numbers of the train items.
            images: Images of the items' owners.
            parameters: Parameters of fine-tuning.
            seed: Seed of everything random.
        """

    @classmethod
    @abstractmethod
    def restrict_train(
        cls, tables: Mapping[str, pd.DataFrame], subset: TrainSubset, seed: int
    ) -> dict[str, pd.DataFrame]:
        """The tables with a part of the train split; dev and test are left as they are.

        Args:
            tables: Those of ``inputs`` or ``tables`` that hold items, and any others.
            subset: How much of train is kept.
            seed: Seed of the draw, which is the same whichever tables are given.
        """

    @classmethod
    def learned_from(
        cls, tables: Mapping[str, pd.DataFrame], parameters: Any, seed: int
    ) -> dict[str, pd.DataFrame]:
        """The tables with that part of the train split that a model learns from.

        Args:
            tables: As :meth:`restrict_train` takes them.
            parameters: Parameters of fine-tuning.
            seed: Seed of the model's training.
        """
        subset = parameters.train_subset
        return dict(tables) if subset is None else cls.restrict_train(tables, subset, seed)

    def asked_at_a_time(self, most: int) -> int:
        """How many items a model is asked at a time, of ``most``."""
        return most

    @abstractmethod
    def decode(
        self, model: Any, outputs: Any, items: Any, rows: np.ndarray, table: pd.DataFrame
    ) -> pd.DataFrame:
        """Read what the model says of a block of items.

        Args:
            model: The model.
            outputs: What it gave for the block.
            items: All items, as :meth:`encode` gave them.
            rows: ``(b,)`` numbers of the block's items in ``items``.
            table: The block's rows of the table.
        """

    def decode_all(
        self,
        model: Any,
        blocks: Iterable[tuple[np.ndarray, Any]],
        items: Any,
        rows: np.ndarray,
        table: pd.DataFrame,
    ) -> pd.DataFrame:
        """What :meth:`decode` reads of blocks of items, one below the other.

        Args:
            model: The model.
            blocks: Numbers of each block's items, and what the model gave for them.
            items: All items, as :meth:`encode` gave them.
            rows: ``(n,)`` numbers of the items of all blocks.
            table: The whole table of items.
        """
        return pd.concat(
            [
                self.decode(model, outputs, items, block, table.iloc[block])
                for block, outputs in blocks
            ]
        )

    def best(self, model: Any, outputs: Any, items: Any, rows: np.ndarray) -> torch.Tensor:
        """The classes that the model answers a block of items with.

        Args:
            model: The model.
            outputs: What it gave for the block.
            items: All items, as :meth:`encode` gave them.
            rows: ``(b,)`` numbers of the block's items in ``items``.

        Returns:
            ``(b,)`` class of each item; or ``(b, W)`` class of each unit (a word), -1 for none.
        """
        return outputs.logits.argmax(dim=-1)

    @abstractmethod
    def tokens(
        self, tokenizer: PreTrainedTokenizerBase, items: Any, row: int, best: np.ndarray
    ) -> tuple[list[str], dict[str, np.ndarray]]:
        """An item's tokens, and those of interest: what the question or the answer is about.

        Args:
            tokenizer: The model's tokenizer.
            items: All items, as :meth:`encode` gave them.
            row: Number of the item in ``items``.
            best: What :meth:`best` says of it.

        Returns:
            The tokens as texts, and by name the positions of those of interest, of which there is
            at least one.
        """

    @abstractmethod
    def dev_scores(self, table: pd.DataFrame, decoded: pd.DataFrame) -> dict[str, float]:
        """Scores of what :meth:`decode_all` read of the dev items.

        Args:
            table: The whole table of items.
            decoded: Of all dev items.
        """

    @classmethod
    @abstractmethod
    def predict_baseline(cls, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        """What a model has to beat: a predictions table of the test split.

        Args:
            tables: The ``tables`` by name.
        """

    @classmethod
    @abstractmethod
    def evaluate(
        cls,
        predictions: pd.DataFrame,
        tables: Mapping[str, pd.DataFrame],
        *,
        has_images: np.ndarray,
        seed: int,
        resamples: int,
        reference: str = "model",
    ) -> Evaluation:
        """Score and compare experts.

        Args:
            predictions: Predictions table of all experts.
            tables: The ``tables`` by name.
            has_images: Whether an owner of images has any, ``(owners,)``.
            seed: Seed of every resampling.
            resamples: Number of bootstrap samples.
            reference: The expert with which the others are compared.
        """

    @classmethod
    def name_parts(cls, parts: Sequence[Any]) -> dict[str, Any]:
        """The parts of one question by the columns that they belong to."""
        return dict(zip(cls.question, parts, strict=False))

    @abstractmethod
    def read_questions(self, table: pd.DataFrame) -> pd.DataFrame:
        """Check questions as a person has them, and turn them into rows that :meth:`encode` takes.

        Args:
            table: Columns of ``question``.

        Raises:
            DataError: A question cannot be asked.
        """

    @abstractmethod
    def reply(
        self, model: Any, outputs: Any, items: Any, rows: np.ndarray, table: pd.DataFrame, top: int
    ) -> pd.DataFrame:
        """Put what the model says of a block of questions into words.

        Args:
            model: The model.
            outputs: What it gave for the block.
            items: All questions, as :meth:`encode` gave them.
            rows: ``(b,)`` numbers of the block's questions in ``items``.
            table: The block's rows of what :meth:`read_questions` gave.
            top: Answers to each question, where there is a choice.

        Returns:
            Any number of rows per question, with the question's index in ``table``.
        """

    @classmethod
    @abstractmethod
    def layout(cls) -> Layout:
        """What the report says of the task."""
