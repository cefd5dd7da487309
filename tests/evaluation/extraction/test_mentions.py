"""IOB2, read and written, with seqeval as the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from seqeval.scheme import IOB2, Entities

from mkgformer_kedro.evaluation.extraction.mentions import (
    Entity,
    entities_of,
    is_iob2,
    repair_tags,
    split_tag,
    tags_of,
    tags_of_types,
)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ([], []),
        (["O", "O"], []),
        (["B-PER", "I-PER", "O", "B-LOC"], [(0, 2, "PER"), (3, 4, "LOC")]),
        (["B-PER", "B-PER", "I-PER"], [(0, 1, "PER"), (1, 3, "PER")]),
        (["I-PER", "B-LOC", "I-PER"], [(1, 2, "LOC")]),
        (["B-PER", "I-LOC", "I-PER"], [(0, 1, "PER")]),
    ],
)
def test_entities_by_hand(tags, expected):
    assert entities_of(tags) == expected


@pytest.mark.parametrize("chance", range(5))
def test_entities_are_seqevals(chance):
    tags = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    generator = np.random.default_rng(chance)
    sequences = [generator.choice(tags, size=12).tolist() for _ in range(30)]
    for tags, expected in zip(sequences, Entities(sequences, IOB2).entities, strict=True):
        assert entities_of(tags) == [Entity(e.start, e.end, e.tag) for e in expected]


@pytest.mark.parametrize("chance", range(5))
def test_tags_and_entities_say_the_same(chance):
    generator = np.random.default_rng(chance)
    tags = generator.choice(["O", *tags_of_types(["PER", "LOC"])], size=20).tolist()
    valid, changed = repair_tags(tags)
    assert tags_of(entities_of(valid), len(valid)) == valid
    assert is_iob2(valid)
    assert is_iob2(tags) == (not changed)
    assert repair_tags(valid) == (valid, [])


def test_an_entity_that_nothing_begins_is_begun():
    tags = ["I-PER", "I-PER", "O", "I-LOC", "B-PER", "I-LOC"]
    valid = ["B-PER", "I-PER", "O", "B-LOC", "B-PER", "B-LOC"]
    assert repair_tags(tags) == (valid, [0, 3, 5])


def test_every_tag_of_types():
    assert tags_of_types(["PER", "LOC"]) == ["B-PER", "I-PER", "B-LOC", "I-LOC"]
    assert [split_tag(tag) for tag in ("O", "B-PER", "I-a-b")] == [
        ("O", ""), ("B", "PER"), ("I", "a-b"),
    ]  # fmt: skip


@pytest.mark.parametrize("tag", ["", "B", "B-", "X-PER", "o", "O-PER", "PER"])
def test_other_strings_are_no_tags(tag):
    with pytest.raises(ValueError, match="is no tag of IOB2"):
        split_tag(tag)
    assert not is_iob2(["O", tag])
