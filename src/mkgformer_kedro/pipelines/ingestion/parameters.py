"""Parameters of ingestion. ``conf/base/parameters_ingestion.yml`` comments each of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mkgformer_kedro.parameters import Parameters


class GraphCounts(Parameters):
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
        expected_counts: The published counts.
        on_unexpected_counts: ``stop``, or ``report`` and go on.
        max_inverse_leak: Largest share of test triples whose reverse may be in train before the
            run stops; None lets any share pass.
    """

    on_bad_lines: Literal["stop", "quarantine"]
    candidates: Literal["entities", "entity_texts"]
    entity_texts: Literal["name", "name_and_description"]
    expected_counts: GraphCounts
    on_unexpected_counts: Literal["stop", "report"]
    max_inverse_leak: float | None = Field(ge=0, le=1)
