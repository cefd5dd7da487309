"""Mentions of entities, and the tags that mark them: IOB2.

A word's tag is ``B-`` and a type where a mention begins, ``I-`` and the type where it goes on, and
``O`` outside of all (Tjong Kim Sang and Veenstra, 1999, "Representing text chunks").
"""

from collections.abc import Iterable
from typing import NamedTuple

OUTSIDE = "O"
"""Tag of a word that belongs to no entity."""


class Entity(NamedTuple):
    """An entity of a post.

    Attributes:
        start: Number of its first word.
        end: Number of the word behind its last.
        type: Its type.
    """

    start: int
    end: int
    type: str


def tags_of_types(types: Iterable[str]) -> list[str]:
    """Every tag but ``O``: of each type ``B-`` and ``I-``."""
    return [f"{prefix}-{kind}" for kind in types for prefix in ("B", "I")]


def split_tag(tag: str) -> tuple[str, str]:
    """Prefix (``B``, ``I`` or ``O``) and type (empty for ``O``) of a tag.

    Raises:
        ValueError: If it is no tag of IOB2.
    """
    prefix, dash, kind = tag.partition("-")
    if tag == OUTSIDE or (prefix in ("B", "I") and dash and kind):
        return prefix, kind
    raise ValueError(f"'{tag}' is no tag of IOB2")


def entities_of(tags: Iterable[str]) -> list[Entity]:
    """Read the entities off IOB2 tags.

    An ``I-`` tag that does not continue an entity of its type is no part of any, as in seqeval's
    strict mode.
    """
    found: list[Entity] = []
    start, open_type = 0, ""
    position = -1
    for position, tag in enumerate(tags):
        if open_type and tag != f"I-{open_type}":
            found.append(Entity(start, position, open_type))
            open_type = ""
        if tag.startswith("B-"):
            start, open_type = position, tag[2:]
    if open_type:
        found.append(Entity(start, position + 1, open_type))
    return found


def tags_of(entities: Iterable[Entity], words: int) -> list[str]:
    """IOB2 tags of a post of so many words that holds the entities."""
    tags = [OUTSIDE] * words
    for start, end, kind in entities:
        tags[start:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - start - 1)
    return tags


def repair_tags(tags: Iterable[str]) -> tuple[list[str], list[int]]:
    """Valid IOB2, and the places where an ``I-`` tag had to become a ``B-`` tag.

    Args:
        tags: Tags, of which an ``I-`` tag may continue no entity of its type.

    Raises:
        ValueError: If one is no tag of IOB2.
    """
    valid: list[str] = []
    changed = []
    inside = ""
    for place, tag in enumerate(tags):
        prefix, kind = split_tag(tag)
        if prefix == "I" and kind != inside:
            changed.append(place)
            tag = f"B-{kind}"
        valid.append(tag)
        inside = kind
    return valid, changed


def is_iob2(tags: Iterable[str]) -> bool:
    """Whether every tag is outside, begins an entity, or continues one of its type."""
    try:
        return not repair_tags(tags)[1]
    except ValueError:
        return False


def mention_key(words: Iterable[str]) -> str:
    """The text by which a mention counts as seen, whatever its case."""
    return " ".join(words).casefold()
