"""Named entity recognition: which words of a post name which type of entity?

A linear-chain CRF over the words of a post, each represented by its first word piece. With
``units: tokens`` the chain runs over all tokens, and further pieces and special tokens have states
of their own, as in the authors' code (https://github.com/zjunlp/MKGformer).
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.extraction.counts import METRICS, count_entities, micro_scores
from mkgformer_kedro.evaluation.extraction.mentions import OUTSIDE, entities_of, tags_of_types
from mkgformer_kedro.training.parameters import FinetuningParameters
from mkgformer_kedro.training.ragged import Ragged
from mkgformer_kedro.training.tasks.posts import (
    EncodedPosts,
    PostsParameters,
    PostsTask,
    WordPieces,
)

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from mkgformer_kedro.evaluation.extraction import EntityEvaluation
    from mkgformer_kedro.evaluation.report import Layout

logger = logging.getLogger(__name__)

_PADDING, _CONTINUED, _FIRST, _LAST = "PAD", "X", "[CLS]", "[SEP]"


class EntityRecognitionParameters(PostsParameters):
    """Which words of a post name which type of entity?"""

    preset_values: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "corrected": {"units": "words"},
        "faithful": {"units": "tokens"},
    }

    units: Literal["words", "tokens"] | None


@dataclass(frozen=True)
class EntityRecognition(PostsTask):
    """The task and how a model was trained for it.

    Attributes:
        units: What the CRF runs over, ``words`` or ``tokens``.
    """

    name: ClassVar[str] = "entity_recognition"
    gold: ClassVar[str] = "tags"
    parameters_class: ClassVar[type[FinetuningParameters]] = EntityRecognitionParameters

    scored: ClassVar[str] = "whole entities of the right type"
    stages: ClassVar[Mapping[str, str]] = {
        "ingestion": "mkgformer_kedro.pipelines.ingestion.entity_recognition",
        **PostsTask.stages,
    }

    units: str

    @classmethod
    def taught_by(cls, gold: Iterable[str]) -> Iterable[Hashable]:
        """The types that the post names; a post that names none teaches that."""
        return {entity.type for entity in entities_of(gold)} or {None}

    @classmethod
    def from_parameters(
        cls, tables: Mapping[str, pd.DataFrame], parameters: EntityRecognitionParameters
    ) -> Self:
        """The task as the parameters describe it."""
        if parameters.units is None:
            raise ValueError("units is open: let the preset decide it first")
        return cls(tables["labels"], parameters.max_length, parameters.units)

    @classmethod
    def model_class(cls) -> Any:
        """``MKGformerForTokenClassification``."""
        from mkgformer_kedro.modeling import MKGformerForTokenClassification

        return MKGformerForTokenClassification

    @property
    def class_names(self) -> list[str]:
        """The tags; with ``units: tokens`` also states of padding, pieces and special tokens."""
        tags = tags_of_types(self.labels["label"])
        if self.units == "tokens":
            return [_PADDING, OUTSIDE, *tags, _CONTINUED, _FIRST, _LAST]
        return [OUTSIDE, *tags]

    def configuration(self, parameters: EntityRecognitionParameters) -> dict[str, Any]:
        """What all tasks on posts decide; impossible transitions are known between words only."""
        constrained = {"constrain_transitions": self.units == "words"}
        return {**super().configuration(parameters), **constrained}

    def encode_posts(
        self, posts: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, width: int | None
    ) -> EncodedPosts:
        """Token numbers, where each word begins, and the tags; words beyond the window are lost."""
        pieces = WordPieces(tokenizer, posts)
        class_of = {name: i for i, name in enumerate(self.class_names)}
        tokens, word_index, labels = [], [], []
        for row, words in enumerate(posts["words"]):
            of_words = [pieces[word] for word in words]
            # [CLS] stands before the first word, and [SEP] behind the last needs a place.
            starts = 1 + np.cumsum([0, *map(len, of_words[:-1])])
            fits = starts < self.max_length - 1
            body = [piece for word in of_words for piece in word][: self.max_length - 2]
            tokens.append([tokenizer.cls_token_id, *body, tokenizer.sep_token_id])
            word_index.append(starts[fits])
            if "tags" in posts:
                tags = posts["tags"].iat[row]
                classes = np.array([class_of[tag] for tag in tags])[fits]
                if self.units == "tokens":
                    of_tokens = np.full(len(body) + 2, class_of[_CONTINUED])
                    of_tokens[0], of_tokens[-1] = class_of[_FIRST], class_of[_LAST]
                    of_tokens[starts[fits]] = classes
                    classes = of_tokens
                labels.append(classes)
        num_lost = sum(
            len(words) - len(kept) for words, kept in zip(posts["words"], word_index, strict=True)
        )
        if num_lost:
            logger.info("%d words lie beyond %d tokens of their post", num_lost, self.max_length)
        word_starts = Ragged.from_rows(word_index)
        lists = {"word_index": (word_starts, -1)} if self.units == "words" else {}
        if labels:
            lists["labels"] = (Ragged.from_rows(labels), -100)
        return EncodedPosts(
            posts.index.to_numpy(),
            Ragged.from_rows(tokens),
            {},
            lists,
            tokenizer.pad_token_id,
            width,
            word_starts,
        )

    def decode(
        self, model: Any, outputs: Any, items: EncodedPosts, rows: np.ndarray, table: pd.DataFrame
    ) -> pd.DataFrame:
        """``predicted`` (a tag per word) and ``words_lost`` (words beyond the window, outside)."""
        starts = [items.word_starts[row] for row in rows]
        paths = self.best(model, outputs, items, rows).cpu().numpy()
        predicted = [
            self._tags(path, at) + [OUTSIDE] * (len(words) - len(at))
            for path, at, words in zip(paths, starts, table["words"], strict=True)
        ]
        lost = [len(words) - len(at) for words, at in zip(table["words"], starts, strict=True)]
        return pd.DataFrame(
            {
                "predicted": pd.Series(predicted, dtype=object),
                "words_lost": np.array(lost, dtype=np.int32),
            }
        ).set_index(table.index)

    def best(self, model: Any, outputs: Any, items: EncodedPosts, rows: np.ndarray) -> torch.Tensor:
        """The CRF's best path over the units of each post, ``(b, W)``."""
        import torch

        of_units = items.tokens if self.units == "tokens" else items.word_starts
        units = torch.arange(outputs.logits.shape[1], device=outputs.logits.device)
        lengths = torch.from_numpy(of_units.lengths[rows]).to(units.device)
        return model.decode(outputs.logits, units < lengths[:, None])

    def _tags(self, path: np.ndarray, starts: np.ndarray) -> list[str]:
        """Tags of the words that begin at these tokens; a special state is no entity."""
        names = np.array([n if n[:2] in ("B-", "I-") else OUTSIDE for n in self.class_names])
        return names[path[starts] if self.units == "tokens" else path[: len(starts)]].tolist()

    def tokens(
        self,
        tokenizer: PreTrainedTokenizerBase,
        items: EncodedPosts,
        row: int,
        best: np.ndarray,
    ) -> tuple[list[str], dict[str, np.ndarray]]:
        """Of interest are the entities found, by their words; where there are none, all words.

        Entities of the same words and type are one, in several places.
        """
        names = tokenizer.convert_ids_to_tokens(items.tokens[row].tolist())
        starts = items.word_starts[row]
        # Behind the last word stands [SEP].
        ends = np.append(starts, len(names) - 1)[1:]
        places: dict[str, list[int]] = {}
        for first, end, kind in entities_of(self._tags(best, starts)):
            at = range(starts[first], ends[end - 1])
            text = tokenizer.convert_tokens_to_string([names[place] for place in at]).strip()
            places.setdefault(f"{text} ({kind})", []).extend(at)
        places = places or {"all words": [*range(1, len(names) - 1)]}
        return names, {name: np.array(at) for name, at in places.items()}

    def scores(self, posts: pd.DataFrame, predicted: pd.DataFrame) -> dict[str, float]:
        """Strict precision, recall and F1 of entities."""
        counts = count_entities(posts["tags"], predicted["predicted"])
        return dict(zip(METRICS, micro_scores(counts.sum(axis=0)).tolist(), strict=True))

    def describe(self, posts: pd.DataFrame, predicted: pd.DataFrame) -> pd.DataFrame:
        """A row per entity: its words ``entity``, its ``type``, ``type_text``, and its span.

        ``type_text`` is the type in words, such as "person" for PER, and the type itself where the
        project has no words for it. The span is ``start`` and ``end`` in words, end exclusive.
        """
        texts = dict(zip(self.labels["label"], self.labels["text"], strict=True))
        rows, index = [], []
        for post, words, tags in zip(
            posts.index, posts["words"], predicted["predicted"], strict=True
        ):
            for start, end, kind in entities_of(tags):
                rows.append((" ".join(words[start:end]), kind, texts[kind], start, end))
                index.append(post)
        columns = ["entity", "type", "type_text", "start", "end"]
        return pd.DataFrame(rows, columns=columns, index=pd.Index(index, dtype=posts.index.dtype))

    @classmethod
    def predict_baseline(cls, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
        """The mentions of train, wherever they are found again."""
        from mkgformer_kedro.evaluation.extraction.baselines import predict_gazetteer

        return predict_gazetteer(tables)

    @classmethod
    def evaluate(
        cls, predictions: pd.DataFrame, tables: Mapping[str, pd.DataFrame], **options: Any
    ) -> EntityEvaluation:
        """Strict span scores of all experts."""
        from mkgformer_kedro.evaluation.extraction import evaluate_entities

        return evaluate_entities(predictions, tables, **options)

    @classmethod
    def layout(cls) -> Layout:
        """Entities by type."""
        from mkgformer_kedro.evaluation.report.extraction import ENTITIES

        return ENTITIES
