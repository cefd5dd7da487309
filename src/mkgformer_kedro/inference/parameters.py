"""Typed parameters of the mixture and of completion."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from mkgformer_kedro.parameters import Parameters
from mkgformer_kedro.training.parameters import Precision


class AskingParameters(Parameters):
    """How trained models answer, wherever they are asked."""

    precision: Precision


class AnswerSetParameters(Parameters):
    """Sets of answers that hold the true one with a chosen probability."""

    level: float = Field(gt=0, lt=1)
    least_answers: int = Field(ge=1)
    abstain_above: int = Field(ge=1)


class MixtureParameters(Parameters):
    """How experts are combined, and how their scores become probabilities."""

    no_result_depends_on = frozenset({"test_queries"})

    experts: list[str] | None = Field(min_length=1)
    fit_queries: int | None = Field(ge=10)
    test_queries: int | None = Field(ge=1)
    standardization: Literal["by_query", "by_expert"] | None
    shrinkage: float | None = Field(gt=0)
    least_answers: int = Field(ge=1)
    top: int = Field(ge=1)
    sampled: int = Field(ge=1)
    proposals: int = Field(ge=1)
    answer_sets: AnswerSetParameters
    batch_size: int = Field(ge=1)


class QuestionParameters(Parameters):
    """Which (entity, relation) pairs are worth asking."""

    relations: list[str] | None = Field(min_length=1)
    directions: list[Literal["tail", "head"]] = Field(min_length=1)
    implied: float | None = Field(gt=0, le=1)
    functional: float | None = Field(gt=0, le=1)
    least_entities: int = Field(ge=1)
    unseen_neighbours: int | None = Field(ge=1)
    at_most: int | None = Field(ge=1)


class KeepParameters(Parameters):
    """Which proposals become completions."""

    probability: float | None = Field(ge=0, le=1)
    best: int | None = Field(ge=1)
    both_directions: bool

    @model_validator(mode="after")
    def _keeps_something_less(self) -> Self:
        if self.probability is None and self.best is None:
            raise ValueError("give a probability, a number of best proposals, or both")
        return self


def _namespace(value: str) -> str:
    from pyoxigraph import NamedNode

    try:
        NamedNode(value + "x")
    except ValueError as error:
        raise ValueError("Input should begin IRIs, such as http://example.org/entity/") from error
    return value


Namespace = Annotated[str, AfterValidator(_namespace)]
"""What ids are appended to, so that they become IRIs."""


class PublicationParameters(Parameters):
    """What the files for people and for other programs show."""

    entity_namespace: Namespace
    relation_namespace: Namespace
    page_completions: int = Field(ge=1)
    page_images: int = Field(ge=0)
    nearest: int = Field(ge=0)


class CompletionParameters(Parameters):
    """Which questions are asked, which answers are kept, and how they are handed over."""

    no_result_depends_on = frozenset({"publication"})

    questions: QuestionParameters
    per_question: int = Field(ge=1)
    least_probability: float = Field(ge=0, lt=1)
    block: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    keep: KeepParameters
    publication: PublicationParameters
