"""What the tasks on posts share: words become token numbers, and a prediction is a row per post."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field

from mkgformer_kedro.training.parameters import FinetuningParameters, TrainSubset
from mkgformer_kedro.training.ragged import Ragged
from mkgformer_kedro.training.subset import draw_subset
from mkgformer_kedro.training.tasks.base import Task
from mkgformer_kedro.training.tasks.questions import read_words
from mkgformer_kedro.training.tokenization import token_numbers

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


class PostsParameters(FinetuningParameters):
    """What fine-tuning shares between the tasks on posts."""

    classifier_dropout: float | None = Field(ge=0, lt=1)


class WordPieces:
    """Word pieces of single words, each distinct word tokenised once.

    Args:
        tokenizer: Tokenizer of the text tower.
        posts: Posts with the column ``words``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, posts: pd.DataFrame) -> None:
        words = sorted({word for row in posts["words"] for word in row})
        # A word may consist of characters that the tokenizer drops, such as a zero-width space.
        self._pieces = {
            word: ids or [tokenizer.unk_token_id]
            for word, ids in zip(words, token_numbers(tokenizer, words), strict=True)
        }

    def __getitem__(self, word: str) -> list[int]:
        return self._pieces[word]


@dataclass(frozen=True)
class EncodedPosts:
    """Posts as token numbers.

    Attributes:
        owners: Number of each post in the visual store, ``(posts,)``.
        tokens: Token numbers of each post, special tokens included.
        indices: Model inputs of one number per post, ``(posts,)`` each.
        lists: Model inputs of a list per post, each with the number that pads it.
        pad_token_id: What pads the tokens.
        width: Pad every batch to this many tokens, for a model that attends to padding; None pads
            to the longest post of the batch.
        word_starts: Token at which each word of a post begins, for the words within the window.
            Decoding needs it; whether the model does, ``lists`` says.
        truncated: What the predictions say of posts that are too long, ``(posts,)`` each.
    """

    owners: np.ndarray
    tokens: Ragged
    indices: Mapping[str, np.ndarray]
    lists: Mapping[str, tuple[Ragged, int]]
    pad_token_id: int
    width: int | None
    word_starts: Ragged | None = None
    truncated: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each post, ``(posts,)``."""
        return self.tokens.lengths

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """The model's inputs but the images, for the chosen posts."""
        import torch

        input_ids = self.tokens.padded(rows, self.pad_token_id)
        if self.width is not None:
            padding = ((0, 0), (0, self.width - input_ids.shape[1]))
            input_ids = np.pad(input_ids, padding, constant_values=self.pad_token_id)
        mask = np.arange(input_ids.shape[1]) < self.tokens.lengths[rows][:, None]
        arrays = {"input_ids": input_ids, "attention_mask": mask.astype(np.int64)}
        arrays |= {name: values[rows] for name, values in self.indices.items()}
        arrays |= {name: ragged.padded(rows, fill) for name, (ragged, fill) in self.lists.items()}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


@dataclass(frozen=True)
class PostsTask(Task):
    """A task whose items are posts; the index of their table is the number in the visual store.

    Attributes:
        gold: The column of ``posts`` with the right answer.
        stages: Those that are the same for every task on posts; ingestion comes first.
        labels: Table ``labels``.
        max_length: Longest post in tokens; longer ones are truncated.
    """

    gold: ClassVar[str]
    inputs: ClassVar[tuple[str, ...]] = ("posts", "labels")
    items: ClassVar[str] = "posts"
    kept_tables: ClassVar[tuple[str, ...]] = ("labels",)
    dev_metric: ClassVar[str] = "f1"
    columns: ClassVar[Mapping[str, str]] = {
        "precision": "precision",
        "recall": "recall",
        "F1": "f1",
    }
    stages: ClassVar[Mapping[str, str]] = {
        "image_association": "mkgformer_kedro.pipelines.image_association.posts",
        "finetuning": "mkgformer_kedro.pipelines.finetuning.nodes",
        "evaluation": "mkgformer_kedro.pipelines.evaluation.nodes",
    }
    question: ClassVar[tuple[str, ...]] = ("words", "text")
    owner: ClassVar[str] = "post"
    tables: ClassVar[tuple[str, ...]] = ("posts", "labels")

    labels: pd.DataFrame
    max_length: int

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Name of each class that the model tells apart."""

    def configuration(self, parameters: PostsParameters) -> dict[str, Any]:
        """The classes, and the dropout before the classifier where the preset does not decide."""
        names = self.class_names
        configuration: dict[str, Any] = {
            "id2label": dict(enumerate(names)),
            "label2id": {name: i for i, name in enumerate(names)},
        }
        if parameters.classifier_dropout is not None:
            configuration["classifier_dropout"] = parameters.classifier_dropout
        return configuration

    def fits(self, config: Any) -> bool:
        """Whether a model of this configuration has these classes."""
        return [*config.id2label.values()] == self.class_names

    @classmethod
    def restrict_train(
        cls, tables: Mapping[str, pd.DataFrame], subset: TrainSubset, seed: int
    ) -> dict[str, pd.DataFrame]:
        """So many posts with each thing that they are to teach, or a share of the posts."""
        posts = tables["posts"]
        in_train = (posts["split"] == "train").to_numpy()
        kept = ~in_train
        groups = [cls.taught_by(gold) for gold in posts.loc[in_train, cls.gold]]
        kept[in_train] = draw_subset(groups, subset, seed)
        return {**tables, "posts": posts[kept]}

    @classmethod
    def taught_by(cls, gold: Any) -> Iterable[Hashable]:
        """What a post with that right answer teaches: what ``shots`` counts."""
        return [gold]

    def encode(
        self, table: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, config: Any
    ) -> EncodedPosts:
        """Token numbers of posts; every batch has a fixed width where the model sees padding."""
        width = None if config.mask_prefix_padding else self.max_length
        return self.encode_posts(table, tokenizer, width)

    @abstractmethod
    def encode_posts(
        self, posts: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, width: int | None
    ) -> EncodedPosts:
        """Turn posts into token numbers; posts with a gold answer get ``labels``."""

    def dev_scores(self, table: pd.DataFrame, decoded: pd.DataFrame) -> dict[str, float]:
        """``precision``, ``recall`` and ``f1`` of the dev posts."""
        return self.scores(table.loc[decoded.index], decoded)

    @abstractmethod
    def scores(self, posts: pd.DataFrame, predicted: pd.DataFrame) -> dict[str, float]:
        """``precision``, ``recall`` and ``f1`` of predictions, row by row beside their posts."""

    @classmethod
    def name_parts(cls, parts: Sequence[Any]) -> dict[str, Any]:
        """The first part is a list of words, or a text."""
        named = super().name_parts(parts)
        if isinstance(named.get("words"), str):
            named["text"] = named.pop("words")
        return named

    def read_questions(self, table: pd.DataFrame) -> pd.DataFrame:
        """Posts of ``words``, or of a ``text`` that is split into words.

        Raises:
            DataError: A post has no words, or words are none.
        """
        return pd.DataFrame({"words": read_words(table)})

    def reply(
        self,
        model: Any,
        outputs: Any,
        items: EncodedPosts,
        rows: np.ndarray,
        table: pd.DataFrame,
        top: int,
    ) -> pd.DataFrame:
        """What :meth:`decode` gives, in words."""
        return self.describe(table, self.decode(model, outputs, items, rows, table))

    @abstractmethod
    def describe(self, posts: pd.DataFrame, predicted: pd.DataFrame) -> pd.DataFrame:
        """Put predictions into words: any number of rows per post, with the index of the post."""
