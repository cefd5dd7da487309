"""Parameters of the audit; ``conf/base/parameters_link_prediction.yml`` comments each."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from mkgformer_kedro.parameters import Parameters


class AuditParameters(Parameters):
    """When relations are called related or constant, and how images are compared.

    Attributes:
        near: Share of its triples from which a relation is near-inverse to, or near-duplicate of,
            another, or constant.
        least: Number of triples from which a relation is.
        images: How images of entities are compared: ``none``, by their ``bytes``, or also by how
            they ``look`` (a perceptual hash, for which each is decoded).
    """

    near: float = Field(gt=0, le=1)
    least: PositiveInt
    images: Literal["none", "bytes", "look"]
