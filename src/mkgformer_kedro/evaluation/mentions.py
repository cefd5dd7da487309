"""Mentions of entities: where they stand, and when two are the same."""

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


def mention_key(words: Iterable[str]) -> str:
    """The text by which a mention counts as seen, whatever its case."""
    return " ".join(words).casefold()
