"""Relation extraction: which relation do the two mentions of a post stand in?

The mentions stand between markers, ``[HEAD] head [/HEAD] ... [TAIL] tail [/TAIL]`` (section 3 of
arXiv:2205.02357).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.extraction.counts import METRICS, count_relations, micro_scores
from mkgformer_kedro.training.parameters import FinetuningParameters
from mkgformer_kedro.training.ragged import Ragged
from mkgformer_kedro.training.tasks.posts import (
    EncodedPosts,
    PostsParameters,
    PostsTask,
    WordPieces,
)
from mkgformer_kedro.training.tasks.questions import check_columns, read_span, wrong

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mkgformer_kedro.evaluation.extraction import RelationEvaluation
    from mkgformer_kedro.evaluation.report import Layout

logger = logging.getLogger(__name__)

# The authors' code calls them <s>, </s>, <o> and </o>, two of which are RoBERTa's own.
MARKERS = ("[HEAD]", "[/HEAD]", "[TAIL]", "[/TAIL]")


class RelationExtractionParameters(PostsParameters):
    """Which relation do the two mentions of a post stand in?"""

    representation: Literal["markers", "cls"]


@dataclass(frozen=True)
class RelationExtraction(PostsTask):
    """The task and how a model was trained for it.

    Attributes:
        representation: What is classified: the states of both opening markers (``markers``) or
            that of ``[CLS]`` (``cls``).
    """

    name: ClassVar[str] = "relation_extraction"
    gold: ClassVar[str] = "relation"
    parameters_class: ClassVar[type[FinetuningParameters]] = RelationExtractionParameters
    new_tokens: ClassVar[tuple[str, ...]] = MARKERS

    scored: ClassVar[str] = "all relations but the negative one"
    columns: ClassVar[Mapping[str, str]] = {**PostsTask.columns, "accuracy": "accuracy"}
    stages: ClassVar[Mapping[str, str]] = {
        "ingestion": "mkgformer_kedro.pipelines.ingestion.relation_extraction",
        **PostsTask.stages,
    }
    question: ClassVar[tuple[str, ...]] = ("words", "head", "tail", "text")

    representation: str

    @classmethod
    def from_parameters(
        cls, tables: Mapping[str, pd.DataFrame], parameters: RelationExtractionParameters
    ) -> Self:
        """The task as the parameters describe it."""
        return cls(tables["labels"], parameters.max_length, parameters.representation)

    @classmethod
    def model_class(cls) -> Any:
        """``MKGformerForRelationExtraction``."""
        from mkgformer_kedro.modeling import MKGformerForRelationExtraction

        return MKGformerForRelationExtraction

    @property
    def class_names(self) -> list[str]:
        """The relations."""
        return self.labels["label"].tolist()

    def configuration(self, parameters: RelationExtractionParameters) -> dict[str, Any]:
        """What all tasks on posts decide, and how mentions are represented."""
        return {**super().configuration(parameters), "representation": self.representation}

    def encode_posts(
        self, posts: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, width: int | None
    ) -> EncodedPosts:
        """Mark the mentions, and truncate what is too long at the tokens farthest from them."""
        pieces = WordPieces(tokenizer, posts)
        markers = tokenizer.convert_tokens_to_ids(list(MARKERS))
        rows, heads, tails, tokens_truncated, mentions_truncated = [], [], [], [], []
        for post in posts.itertuples():
            tokens, distance = _marked(post, pieces, markers)
            kept = _nearest(distance, self.max_length - 2)
            tokens_truncated.append(len(tokens) - len(kept))
            mentions_truncated.append(len(kept) < (distance <= 0).sum())
            row = np.concatenate([[tokenizer.cls_token_id], tokens[kept], [tokenizer.sep_token_id]])
            rows.append(row)
            heads.append(int((row == markers[0]).argmax()))
            tails.append(int((row == markers[2]).argmax()))
        if count := np.count_nonzero(tokens_truncated):
            logger.info(
                "%d of %d posts are longer than %d tokens and were truncated around their "
                "mentions; of %d the mentions alone are longer",
                count,
                len(posts),
                self.max_length,
                sum(mentions_truncated),
            )
        indices = {"head_index": np.array(heads), "tail_index": np.array(tails)}
        if "relation" in posts:
            indices["labels"] = posts["relation"].to_numpy(np.int64)
        return EncodedPosts(
            posts.index.to_numpy(),
            Ragged.from_rows(rows),
            indices,
            {},
            tokenizer.pad_token_id,
            width,
            truncated={
                "tokens_truncated": np.int32(tokens_truncated),
                "mentions_truncated": np.bool_(mentions_truncated),
            },
        )

    def decode(
        self, model: Any, outputs: Any, items: EncodedPosts, rows: np.ndarray, table: pd.DataFrame
    ) -> pd.DataFrame:
        """``predicted`` (row of ``labels``), ``score`` (its probability), what was truncated."""
        score, predicted = outputs.logits.float().softmax(dim=1).max(dim=1)
        return pd.DataFrame(
            {
                "predicted": predicted.cpu().numpy().astype(np.int32),
                "score": score.cpu().numpy(),
                **{name: values[rows] for name, values in items.truncated.items()},
            },
            index=table.index,
        )

    def tokens(
        self,
        tokenizer: PreTrainedTokenizerBase,
        items: EncodedPosts,
        row: int,
        best: np.ndarray,
    ) -> tuple[list[str], dict[str, np.ndarray]]:
        """Of interest are the two mentions, with their markers."""
        names = tokenizer.convert_ids_to_tokens(items.tokens[row].tolist())
        places = {
            mention: np.arange(names.index(opening), names.index(closing) + 1)
            for mention, opening, closing in zip(
                ("head", "tail"), MARKERS[::2], MARKERS[1::2], strict=True
            )
        }
        return names, places

    def scores(self, posts: pd.DataFrame, predicted: pd.DataFrame) -> dict[str, float]:
        """Micro precision, recall and F1 without the negative class."""
        counts = count_relations(
            posts["relation"].to_numpy(),
            predicted["predicted"].to_numpy(),
            self.labels["negative"].to_numpy(),
        )
        return dict(zip(METRICS, micro_scores(counts.sum(axis=0)).tolist(), strict=True))

    @classmethod
    def predict_baseline(cls, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        """The most frequent relation of train."""
        from mkgformer_kedro.evaluation.extraction.baselines import predict_majority

        return predict_majority(tables)

    @classmethod
    def evaluate(
        cls, predictions: pd.DataFrame, tables: Mapping[str, pd.DataFrame], **options: Any
    ) -> RelationEvaluation:
        """Micro scores of all experts."""
        from mkgformer_kedro.evaluation.extraction import evaluate_relations

        return evaluate_relations(predictions, tables, **options)

    def read_questions(self, table: pd.DataFrame) -> pd.DataFrame:
        """Posts with two mentions, each a span of words or a text that occurs once.

        Raises:
            DataError: A post has no words, or a mention is no span of them.
        """
        posts = super().read_questions(table)
        check_columns(table, ("head", "tail"))
        for name in ("head", "tail"):
            spans = [
                read_span(index, name, words, mention)
                for (index, words), mention in zip(posts["words"].items(), table[name], strict=True)
            ]
            posts[f"{name}_start"], posts[f"{name}_end"] = zip(*spans, strict=True)
        for post in posts.itertuples():
            if (post.head_start, post.head_end) == (post.tail_start, post.tail_end):
                what = "head and tail are the same mention"
                raise wrong(post.Index, what, "Give two mentions.")
        return posts

    def describe(self, posts: pd.DataFrame, predicted: pd.DataFrame) -> pd.DataFrame:
        """``relation``, ``relation_text`` (in words), ``score``, and what was truncated."""
        labels = self.labels.iloc[predicted["predicted"]].set_index(predicted.index)
        named = labels.rename(columns={"label": "relation", "text": "relation_text"})
        named = named[["relation", "relation_text"]]
        return named.join(predicted.drop(columns="predicted"))

    @classmethod
    def layout(cls) -> Layout:
        """Relations, and which are taken for which."""
        from mkgformer_kedro.evaluation.report.extraction import RELATIONS

        return RELATIONS


def _marked(post: Any, pieces: WordPieces, markers: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of a post with its markers, and how far each is from the nearest mention.

    The distance is negative for markers, 0 inside a mention, else counted in tokens.
    """
    head, tail = (post.head_start, post.head_end), (post.tail_start, post.tail_end)
    # Of mentions that begin together the longer one opens first, of those that end together the
    # shorter one closes first, so that one stands inside the other.
    opening = sorted([(*head, markers[0]), (*tail, markers[2])], key=lambda m: m[0] - m[1])
    closing = sorted([(*head, markers[1]), (*tail, markers[3])], key=lambda m: m[1] - m[0])
    tokens: list[int] = []
    kind: list[int] = []
    for position in range(len(post.words) + 1):
        found = [marker for _, end, marker in closing if end == position]
        found += [marker for start, _, marker in opening if start == position]
        tokens += found
        kind += [-1] * len(found)
        if position < len(post.words):
            of_word = pieces[post.words[position]]
            inside = any(start <= position < end for start, end in (head, tail))
            tokens += of_word
            kind += [0 if inside else 1] * len(of_word)
    kinds = np.array(kind)
    mentions = np.flatnonzero(kinds <= 0)
    place = np.arange(len(kinds))
    after = np.searchsorted(mentions, place).clip(max=len(mentions) - 1)
    before = (np.searchsorted(mentions, place, side="right") - 1).clip(min=0)
    distance = np.minimum(abs(place - mentions[after]), abs(place - mentions[before]))
    return np.array(tokens, dtype=np.int64), np.where(kinds < 0, -1, distance)


def _nearest(distance: np.ndarray, size: int) -> np.ndarray:
    """Places of the ``size`` smallest distances, in order; of equal ones the earlier are kept."""
    return np.sort(np.argsort(distance, kind="stable")[:size])
