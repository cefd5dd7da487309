"""Texts and single words as token numbers, whatever the tokenizer's peculiarities.

Prompts and posts are put together from parts, each of which follows another one. A part must
therefore look as it does inside a text: byte-level tokenizers (RoBERTa, ModernBERT) tell a word by
the space before it, and get that space; others (WordPiece, SentencePiece) do not need it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mkgformer_kedro.errors import DataError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Characters: of a text of megabytes nobody reads what is truncated.
_LONGEST_TOKEN = 1000


def leading_space(tokenizer: PreTrainedTokenizerBase) -> str:
    """What must stand before a word so that it is tokenised as inside a text."""
    alone, inside = tokenizer.tokenize("a"), tokenizer.tokenize("a a")
    return "" if inside[-len(alone) :] == alone else " "


def token_numbers(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int | None = None
) -> list[list[int]]:
    """Token numbers of parts of texts, without special tokens.

    What looks like a special token, such as ``[MASK]`` or ``</s>``, is a part of the text like any
    other: it never becomes one.

    Args:
        tokenizer: Tokenizer of the text tower.
        texts: Words, phrases or sentences.
        max_length: Longest part in tokens; longer ones are truncated.
    """
    if not texts:
        return []
    space = leading_space(tokenizer)
    reach = None if max_length is None else _LONGEST_TOKEN * max_length
    encoded = tokenizer(
        [space + text[:reach] for text in texts],
        add_special_tokens=False,
        split_special_tokens=True,
        truncation=max_length is not None,
        max_length=max_length,
        return_attention_mask=False,
    )
    # SentencePiece holds special tokens among its pieces, where nothing splits them.
    unknown = tokenizer.unk_token_id
    special = set(tokenizer.all_special_ids) - {unknown}
    return [
        [unknown if number in special else number for number in row] for row in encoded["input_ids"]
    ]


def check_special_tokens(tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """See to it that a tokenizer has what prompts and posts are put together with.

    Args:
        tokenizer: Tokenizer of the text tower.
        where: Folder or hub name of the text tower.

    Raises:
        DataError: It lacks a special token.
    """
    needed = ("cls_token", "sep_token", "mask_token", "pad_token", "unk_token")
    if missing := [name for name in needed if getattr(tokenizer, name) is None]:
        raise DataError(
            Problem(
                where,
                None,
                f"the tokenizer has no {', '.join(missing)}",
                "Use a text tower that was trained by masked language modelling.",
            )
        )
