"""Typed parameters of the stage ``evaluation``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mkgformer_kedro.evaluation.explanations import Quarter
from mkgformer_kedro.parameters import Parameters

_BYTES_PER_SAMPLE = 64


class PublishedResult(Parameters):
    """A published result that the report shows beside ours."""

    name: str
    metrics: dict[str, float]
    source: str
    url: str = ""
    note: str = ""


class ExplanationParameters(Parameters):
    """How it is measured whether what the model looks at decides."""

    questions: int = Field(ge=0)
    shares: list[Annotated[float, Field(gt=0, le=1)]]


class RankingExplanationParameters(ExplanationParameters):
    """What a graph needs to know besides."""

    pointing: dict[str, Quarter]


class EvaluationParameters(Parameters):
    """How answers to the test split are made, scored and reported."""

    # Of predictions, which are all that the stage leaves for others.
    no_result_depends_on = frozenset(
        {"title", "synthetic", "resamples", "examples", "explanations", "published"}
    )

    title: str | None
    synthetic: bool
    batch_size: int = Field(ge=1)
    resamples: int = Field(ge=100)
    examples: int = Field(ge=0)
    explanations: ExplanationParameters
    published: list[PublishedResult]

    @property
    def least_memory(self) -> int:
        """Bytes of the bootstrap samples of one score of one row."""
        return self.resamples * _BYTES_PER_SAMPLE


class RankingEvaluationParameters(EvaluationParameters):
    """What ranking needs to know besides."""

    explanations: RankingExplanationParameters
    known_offset: float | None = Field(lt=0)

    def offset(self, preset: str) -> float:
        """What filtering adds to known answers: -inf (corrected), or -100 as the authors' code."""
        if self.known_offset is not None:
            return self.known_offset
        return -100.0 if preset == "faithful" else float("-inf")
