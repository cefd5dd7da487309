"""Parameters of ingestion.

``conf/base/parameters_<task>.yml`` comments each of them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from mkgformer_kedro.parameters import Parameters


class Counts(Parameters):
    """Base class of published counts. None is not compared."""

    def published(self) -> dict[str, Any]:
        """Those that are given, by name, in the groups in which they stand."""
        return {
            name: value for name, value in self.model_dump(exclude_none=True).items() if value != {}
        }


class GraphCounts(Counts):
    """How many of each a graph has, as published. None is not compared."""

    entities: int | None = None
    relations: int | None = None
    train: int | None = None
    dev: int | None = None
    test: int | None = None


class IngestionParameters(Parameters):
    """How a graph is read and what of it stops the run.

    Attributes:
        on_bad_lines: ``stop`` names every bad line and stops; ``quarantine`` leaves them out and
            lists them in the table ``quarantine``.
        candidates: Which entities the graph has, and so which are ranked: ``entities`` (of the
            entities file, or of the triples where there is none) or ``entity_texts`` (everything
            that has a text, as the authors' code does: 14,951 instead of 14,541 on FB15k-237).
        entity_texts: What the entity text file holds: ``name``, or ``name_and_description``
            (separated by the first comma, as in WN18).
        described_by: What the model reads of an entity: its ``description`` (the longest text
            there is), its ``name``, or ``nothing`` (the same word for all).
        expected_counts: The published counts.
        on_unexpected_counts: ``stop``, or ``report`` and go on.
        max_split_overlap: Largest share of a split's triples that an earlier split may have, too,
            before the run stops; None lets any share pass.
        max_inverse_leak: Largest share of test triples whose reverse may be in train before the
            run stops; None lets any share pass.
    """

    on_bad_lines: Literal["stop", "quarantine"]
    candidates: Literal["entities", "entity_texts"]
    entity_texts: Literal["name", "name_and_description"]
    described_by: Literal["description", "name", "nothing"]
    expected_counts: GraphCounts
    on_unexpected_counts: Literal["stop", "report"]
    max_split_overlap: float | None = Field(ge=0, le=1)
    max_inverse_leak: float | None = Field(ge=0, le=1)


class PostCounts(Counts):
    """How many posts each split has, as published. None is not compared."""

    train: int | None = None
    dev: int | None = None
    test: int | None = None


class RelationPostCounts(PostCounts):
    """Posts of each split, and relations (with the negative one), as published."""

    relations: int | None = None


class EntityCounts(Counts):
    """How many entities of each type each split has, as published. None is not compared."""

    train: dict[str, int] | None = None
    dev: dict[str, int] | None = None
    test: dict[str, int] | None = None


class TaggedPostCounts(PostCounts):
    """Posts and entities of each split, as published."""

    entities: EntityCounts = EntityCounts()


class PostsIngestionParameters(Parameters):
    """How posts are read and what of them stops the run.

    Attributes:
        on_bad_lines: ``stop`` names every bad line and stops; ``quarantine`` leaves their posts
            out and lists the lines in the table ``quarantine``.
        expected_counts: The published counts.
        on_unexpected_counts: ``stop``, or ``report`` and go on.
        max_split_overlap: Largest share of test posts whose words are a train post's, word for
            word, before the run stops; None lets any share pass.
    """

    on_bad_lines: Literal["stop", "quarantine"]
    expected_counts: PostCounts
    on_unexpected_counts: Literal["stop", "report"]
    max_split_overlap: float | None = Field(ge=0, le=1)


class RelationIngestionParameters(PostsIngestionParameters):
    """How posts with two mentions are read.

    Attributes:
        negative_label: The relation of pairs that stand in none.
    """

    expected_counts: RelationPostCounts
    negative_label: str


class TaggedIngestionParameters(PostsIngestionParameters):
    """How posts with tagged words are read.

    Attributes:
        invalid_tags: What becomes of an ``I-`` tag that continues no entity of its type:
            ``repair`` makes it the ``B-`` tag that begins one; ``stop`` names all of them and
            stops.
        entity_types: Types of entity, in the order in which they are numbered.
    """

    expected_counts: TaggedPostCounts
    invalid_tags: Literal["repair", "stop"]
    entity_types: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        min_length=1, strict=False
    )

    @field_validator("entity_types")
    @classmethod
    def _distinct(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(types)) < len(types):
            raise ValueError("entity_types names a type twice")
        return types
