"""Prompts against the sentences they stand for."""

import numpy as np
import pytest
from transformers import BertTokenizer

from mkgformer_kedro.training.prompts import PromptBuilder

WORDS = [
    "a",
    "dog",
    "animal",
    "that",
    "barks",
    "is",
    "the",
    "description",
    "of",
    "part",
    "has",
    "kind",
    "cat",
    ".",
    "##s",
]


@pytest.fixture
def tokenizer(tmp_path):
    vocabulary = tmp_path / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    return BertTokenizer(str(vocabulary))


ENTITIES = ["a dog that barks", "animal", "a cat is a animal that has a part of a dog"]
RELATIONS = ["kind of", "part"]


def builder(tokenizer, form="paper", max_length=24):
    start = len(tokenizer)
    return PromptBuilder(
        tokenizer,
        ENTITIES,
        RELATIONS,
        entity_token_start=start,
        relation_token_start=start + len(ENTITIES),
        form=form,
        max_length=max_length,
    )


def words(tokenizer, ids):
    names = {len(tokenizer) + i: f"<e{i}>" for i in range(3)}
    names |= {len(tokenizer) + 3 + i: f"<r{i}>" for i in range(2)}
    return " ".join(names.get(int(i)) or tokenizer.convert_ids_to_tokens(int(i)) for i in ids)


@pytest.mark.parametrize(
    ("form", "tail", "expected"),
    [
        ("paper", True, "[CLS] <e0> a dog that barks [SEP] kind of <r0> [SEP] [MASK] [SEP]"),
        ("paper", False, "[CLS] [MASK] [SEP] kind of <r0> [SEP] <e0> a dog that barks [SEP]"),
        ("authors", True, "[CLS] <e0> [SEP] kind of <r0> [SEP] [MASK] a dog that barks [SEP]"),
        ("authors", False, "[CLS] [MASK] [SEP] kind of <r0> [SEP] <e0> a dog that barks [SEP]"),
    ],
)
def test_query_prompts(tokenizer, form, tail, expected):
    prompt = builder(tokenizer, form).queries(np.array([tail]), np.array([0]), np.array([0]))
    assert words(tokenizer, prompt["input_ids"][0]) == expected
    assert prompt["attention_mask"].all()

    tokens, places = builder(tokenizer, form).query(tail, 0, 0)
    assert words(tokenizer, tokens) == expected
    assert {name: words(tokenizer, tokens[at]) for name, at in places.items()} == {
        "mask": "[MASK]",
        "relation": "kind of <r0>",
        "entity": "<e0>",
    }


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("paper", "[CLS] animal is the description of [MASK] [SEP]"),
        ("authors", "[CLS] the description of [MASK] is that animal . [SEP]"),
    ],
)
def test_description_prompts(tokenizer, form, expected):
    prompts = builder(tokenizer, form)
    prompt = prompts.descriptions(np.array([1]))
    assert words(tokenizer, prompt["input_ids"][0]) == expected
    assert prompts.description_lengths(np.array([1]))[0] == prompt["input_ids"].shape[1]


def test_texts_are_tokenised_once_and_only_those_that_are_asked_about(tokenizer, monkeypatch):
    prompts, asked = builder(tokenizer), []
    tokens = prompts._tokens
    monkeypatch.setattr(prompts, "_tokens", lambda texts: asked.extend(texts) or tokens(texts))
    for entities in ([2], [2, 0, 2], [0, 2]):
        there = np.array(entities)
        lengths = prompts.query_lengths(there, np.zeros_like(there))
        each = prompts.queries(there > 0, there, np.zeros_like(there))["attention_mask"].sum(1)
        assert lengths.tolist() == each.tolist()
    assert asked == [ENTITIES[2], ENTITIES[0]]


def test_rows_are_padded_and_lengths_known(tokenizer):
    prompts = builder(tokenizer)
    entity, relation = np.array([0, 1, 2]), np.array([0, 1, 0])
    prompt = prompts.queries(np.array([True, True, False]), entity, relation)
    lengths = prompt["attention_mask"].sum(1)
    assert lengths.tolist() == prompts.query_lengths(entity, relation).tolist()
    assert (prompt["input_ids"][prompt["attention_mask"] == 0] == tokenizer.pad_token_id).all()


def test_only_the_description_is_cut(tokenizer):
    prompts = builder(tokenizer, max_length=16)
    for tail in (True, False):
        prompt = prompts.queries(np.array([tail]), np.array([2]), np.array([0]))
        assert prompt["input_ids"].shape[1] == 16
        text = words(tokenizer, prompt["input_ids"][0])
        assert text.count("[SEP]") == 3
        assert "[MASK]" in text
        assert "<e2>" in text
        assert "kind of <r0>" in text


def test_a_relation_that_fills_the_prompt_is_an_error(tokenizer):
    with pytest.raises(ValueError, match="Raise max_length above 9"):
        builder(tokenizer, max_length=9)


def test_texts_of_new_tokens(tokenizer):
    prompts = builder(tokenizer)
    assert words(tokenizer, prompts.text_tokens(np.array([1])).values) == "animal"
    assert words(tokenizer, prompts.relation_tokens(np.array([0])).values) == "kind of"
