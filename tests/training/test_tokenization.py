"""A part of a text is tokenised as it is inside a text, by tokenizers of every family."""

import numpy as np
import pandas as pd
import pytest
from transformers import AutoTokenizer

from mkgformer_kedro.errors import DataError
from mkgformer_kedro.training.prompts import PromptBuilder
from mkgformer_kedro.training.tasks.posts import WordPieces
from mkgformer_kedro.training.tasks.relation_extraction import MARKERS
from mkgformer_kedro.training.tokenization import (
    check_special_tokens,
    leading_space,
    token_numbers,
)

FAMILIES = ("bert", "roberta", "xlm-roberta", "mpnet", "modernbert")


@pytest.fixture(params=FAMILIES)
def tokenizer(request, tiny_towers):
    return AutoTokenizer.from_pretrained(tiny_towers.text(request.param))


def test_words_are_those_of_a_sentence(tokenizer):
    words = ["the", "red", "bird", "lies", "in", "Berlin"]
    sentence = tokenizer(" ".join(words), add_special_tokens=False)["input_ids"]

    parts = [number for part in token_numbers(tokenizer, words) for number in part]

    space = leading_space(tokenizer)
    expected = tokenizer(space + " ".join(words), add_special_tokens=False)["input_ids"]
    assert parts == expected
    assert bool(space) == (expected != sentence)
    pieces = WordPieces(tokenizer, pd.DataFrame({"words": [words]}))
    assert [number for word in words for number in pieces[word]] == expected


def test_which_tokenizers_need_a_space(tiny_towers):
    needy = {
        family
        for family in FAMILIES
        if leading_space(AutoTokenizer.from_pretrained(tiny_towers.text(family)))
    }
    assert needy == {"roberta", "modernbert"}


def test_special_tokens_in_a_text_are_none(tokenizer):
    tokenizer.add_special_tokens({"extra_special_tokens": [*MARKERS]})
    names = [*tokenizer.all_special_tokens, f"the {tokenizer.mask_token} bird", *MARKERS]

    numbers = {number for row in token_numbers(tokenizer, names) for number in row}

    assert not numbers & (set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})


def test_markers_are_new_to_every_vocabulary(tokenizer):
    before = len(tokenizer)
    assert not set(MARKERS) & set(tokenizer.get_vocab())

    tokenizer.add_special_tokens({"extra_special_tokens": [*MARKERS]})

    numbers = tokenizer.convert_tokens_to_ids([*MARKERS])
    assert numbers == [before, before + 1, before + 2, before + 3]


def test_prompts_have_the_tokenizers_own_special_tokens(tokenizer):
    prompts = PromptBuilder(
        tokenizer,
        ["red bird", "a <mask> [MASK] </s> [SEP]"],
        ["is a kind of"],
        entity_token_start=len(tokenizer),
        relation_token_start=len(tokenizer) + 2,
        form="paper",
        max_length=60,
    )
    for entity in (0, 1):
        row = prompts.descriptions(np.array([entity]))["input_ids"][0].tolist()
        assert row[0] == tokenizer.cls_token_id
        assert row.count(tokenizer.mask_token_id) == 1
        assert row[-2:] == [tokenizer.mask_token_id, tokenizer.sep_token_id]
        assert row.count(tokenizer.sep_token_id) == 1


def test_truncation_and_nothing(tokenizer):
    assert token_numbers(tokenizer, []) == []
    assert len(token_numbers(tokenizer, ["the red bird lies in Berlin"], 3)[0]) == 3
    short, long = (token_numbers(tokenizer, ["bird " * times], 3) for times in (3, 1000))
    assert long == short


def test_a_tokenizer_without_mask_is_refused(tokenizer):
    check_special_tokens(tokenizer, "tower")
    tokenizer.mask_token = None
    with pytest.raises(DataError, match=r"tower: the tokenizer has no mask_token.*masked language"):
        check_special_tokens(tokenizer, "tower")
