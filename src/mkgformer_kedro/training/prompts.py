"""Prompts of both stages of link prediction, as token numbers.

The texts of entities are tokenised once, when a prompt first needs them; a batch of prompts is then
put together from arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.training.ragged import Ragged
from mkgformer_kedro.training.tokenization import token_numbers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PromptForm = Literal["paper", "authors"]

# {entity} is the entity's own token, {text} its description, {relation} the relation's text
# followed by the relation's own token. "paper" is section 3 of arXiv:2205.02357; "authors" is what
# the released code feeds, needed for its checkpoints.
PROMPTS: dict[str, dict[str, tuple[str, ...]]] = {
    "paper": {
        "tail": ("[CLS]", "{entity}", "{text}", "[SEP]", "{relation}", "[SEP]", "[MASK]", "[SEP]"),
        "head": ("[CLS]", "[MASK]", "[SEP]", "{relation}", "[SEP]", "{entity}", "{text}", "[SEP]"),
        "description": ("[CLS]", "{text}", "is the description of", "[MASK]", "[SEP]"),
    },
    "authors": {
        "tail": ("[CLS]", "{entity}", "[SEP]", "{relation}", "[SEP]", "[MASK]", "{text}", "[SEP]"),
        "head": ("[CLS]", "[MASK]", "[SEP]", "{relation}", "[SEP]", "{entity}", "{text}", "[SEP]"),
        "description": ("[CLS]", "The description of", "[MASK]", "is that", "{text}", ".", "[SEP]"),
    },
}


# Texts that are tokenised at a time.
_TEXTS = 1 << 14


class PromptBuilder:
    """Build prompts for queries and for entity descriptions.

    Args:
        tokenizer: Tokenizer of the text tower.
        entity_texts: Description of every entity.
        relation_texts: Text of every relation.
        entity_token_start: Token number of entity 0; the others follow.
        relation_token_start: Token number of relation 0; the others follow.
        form: Which prompts are built.
        max_length: Longest prompt in tokens; descriptions are truncated to fit.
        pad_to_max_length: Pad every batch to ``max_length`` instead of to its longest prompt, for
            a model that attends to padding.

    Raises:
        DataError: A relation's text leaves no room for a description within ``max_length``.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        entity_texts: Sequence[str],
        relation_texts: Sequence[str],
        *,
        entity_token_start: int,
        relation_token_start: int,
        form: PromptForm,
        max_length: int,
        pad_to_max_length: bool = False,
    ) -> None:
        self.max_length = max_length
        self._pad_to_max_length = pad_to_max_length
        self.pad_token_id: int = tokenizer.pad_token_id
        self._entity_token_start = entity_token_start
        self._special = {
            "[CLS]": np.array([tokenizer.cls_token_id]),
            "[SEP]": np.array([tokenizer.sep_token_id]),
            "[MASK]": np.array([tokenizer.mask_token_id]),
        }

        self._tokens = partial(token_numbers, tokenizer, max_length=max_length)
        self._entity_texts = entity_texts
        self._texts = Ragged.joined([])
        self._place = np.full(len(entity_texts), -1, dtype=np.int64)
        self._relations = Ragged.from_rows(
            [[*ids, relation_token_start + i] for i, ids in enumerate(self._tokens(relation_texts))]
        )
        self._parts = PROMPTS[form]
        literals = {
            part
            for parts in self._parts.values()
            for part in parts
            if part not in self._special and not part.startswith("{")
        }
        self._literals = {part: np.array(self._tokens([part])[0]) for part in sorted(literals)}
        longest = self._fixed_length("tail") + int(self._relations.lengths.max(initial=0))
        if longest >= max_length:
            raise DataError(
                Problem(
                    "relation texts",
                    None,
                    f"a prompt takes up to {longest} tokens without its description, but "
                    f"max_length is {max_length}",
                    f"Raise max_length above {longest} or shorten the relation texts.",
                )
            )

    def query_lengths(self, entity: np.ndarray, relation: np.ndarray) -> np.ndarray:
        """Prompt length of each query in tokens, ``(n,)``; both directions are of equal length."""
        whole = (
            self._fixed_length("tail")
            + self._relations.lengths_of(relation)
            + self._lengths(entity)
        )
        return np.minimum(whole, self.max_length)

    def queries(
        self, is_tail: np.ndarray, entity: np.ndarray, relation: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Prompts of queries.

        Returns:
            ``input_ids`` and ``attention_mask``, int64, ``(n, longest of this batch)``.
        """
        self._tokenise(entity)
        return self._pad(
            [
                self._prompt("tail" if tail else "head", int(e), int(r))
                for tail, e, r in zip(is_tail, entity, relation, strict=True)
            ]
        )

    def query(
        self, is_tail: bool, entity: int, relation: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The prompt of one query, and where the things stand in it that ask.

        Returns:
            Token numbers ``(n,)``, and positions by what stands there: ``mask``, ``relation`` (its
            words and its own token), ``entity`` (its own token).
        """
        self._tokenise(np.array([entity]))
        prompt = self._prompt("tail" if is_tail else "head", entity, relation)
        words = self._relations[relation]
        own = int((prompt == words[-1]).argmax())
        return prompt, {
            "mask": np.flatnonzero(prompt == self._special["[MASK]"]),
            "relation": np.arange(own - len(words) + 1, own + 1),
            "entity": np.flatnonzero(prompt == self._entity_token_start + entity),
        }

    def descriptions(self, entity: np.ndarray) -> dict[str, np.ndarray]:
        """Prompts of entity modelling, shaped as those of :meth:`queries`."""
        self._tokenise(entity)
        return self._pad([self._prompt("description", int(e), None) for e in entity])

    def description_lengths(self, entity: np.ndarray) -> np.ndarray:
        """Length of the description prompt of each of these entities, ``(n,)``."""
        return np.minimum(
            self._fixed_length("description") + self._lengths(entity), self.max_length
        )

    @property
    def num_entities(self) -> int:
        """Number of entities."""
        return len(self._place)

    def text_tokens(self, entity: np.ndarray) -> Ragged:
        """Word-piece numbers of these entities' descriptions."""
        self._tokenise(entity)
        return self._texts.chosen(self._place[entity])

    def relation_tokens(self, relation: np.ndarray) -> Ragged:
        """Word-piece numbers of these relations' texts, without their own tokens."""
        return Ragged.from_rows([self._relations[each][:-1] for each in relation])

    def _tokenise(self, entity: np.ndarray) -> None:
        """See to it that the texts of these entities have their place among those tokenised."""
        new = np.unique(entity[self._place[entity] < 0])
        if len(new):
            self._place[new] = len(self._texts) + np.arange(len(new))
            # Lists of numbers take several times the memory of arrays: some texts at a time.
            parts = (
                Ragged.from_rows(self._tokens([self._entity_texts[i] for i in some]))
                for some in np.split(new, range(_TEXTS, len(new), _TEXTS))
            )
            self._texts = Ragged.joined([self._texts, *parts])

    def _lengths(self, entity: np.ndarray) -> np.ndarray:
        self._tokenise(entity)
        return self._texts.lengths_of(self._place[entity])

    def _fixed_length(self, kind: str) -> int:
        return sum(
            len(self._literals.get(part, (0,)))
            for part in self._parts[kind]
            if part not in ("{text}", "{relation}")
        )

    def _prompt(self, kind: str, entity: int, relation: int | None) -> np.ndarray:
        relation_ids = None if relation is None else self._relations[relation]
        used = self._fixed_length(kind) + (0 if relation_ids is None else len(relation_ids))
        pieces = []
        for part in self._parts[kind]:
            if part == "{text}":
                pieces.append(self._texts[self._place[entity]][: self.max_length - used])
            elif part == "{entity}":
                pieces.append(np.array([self._entity_token_start + entity]))
            elif part == "{relation}":
                pieces.append(relation_ids)
            else:
                pieces.append(
                    self._special[part] if part in self._special else self._literals[part]
                )
        return np.concatenate(pieces)

    def _pad(self, prompts: list[np.ndarray]) -> dict[str, np.ndarray]:
        lengths = np.array([len(prompt) for prompt in prompts])
        width = self.max_length if self._pad_to_max_length else lengths.max()
        mask = np.arange(width) < lengths[:, None]
        input_ids = np.full(mask.shape, self.pad_token_id, dtype=np.int64)
        input_ids[mask] = np.concatenate(prompts)
        return {"input_ids": input_ids, "attention_mask": mask.astype(np.int64)}
