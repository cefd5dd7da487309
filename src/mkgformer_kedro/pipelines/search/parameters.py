"""Typed parameters of the run ``search``; ``conf/base/parameters_study.yml`` comments each."""

from __future__ import annotations

import re
from typing import Any, Self

from pydantic import Field, model_validator

from mkgformer_kedro.parameters import Parameters
from mkgformer_kedro.training.tasks.registry import TASKS


class Range(Parameters):
    """Where the values of a parameter lie: among choices, or between two ends.

    Attributes:
        choices: The values.
        low: The smallest.
        high: The largest; where both ends are whole numbers, values are.
        log: Whether orders of magnitude count alike.
    """

    choices: list[Any] | None = Field(None, min_length=1)
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False

    @model_validator(mode="after")
    def _says_one(self) -> Self:
        ends = (self.low, self.high)
        if (self.choices is None) == (None in ends) or (self.choices and ends != (None, None)):
            raise ValueError("say either {choices: [...]} or {low: .., high: ..}")
        if self.low is not None and self.high is not None:
            if self.low > self.high:
                raise ValueError(f"low ({self.low}) is above high ({self.high})")
            if self.log and self.low <= 0:
                raise ValueError("log needs a low above zero")
        return self


class SearchParameters(Parameters):
    """What is searched, and for how long."""

    task: str
    trials: int = Field(ge=1)
    space: dict[str, Range] = Field(min_length=1)
    prune: bool
    random_trials: int = Field(ge=1)
    environment: str | None

    @model_validator(mode="after")
    def _names_what_there_is(self) -> Self:
        if self.task not in TASKS:
            raise ValueError(f"there is no task '{self.task}'; there are: {', '.join(TASKS)}")
        if self.environment is not None and not re.fullmatch(r"\w[\w-]*", self.environment):
            raise ValueError(f"'{self.environment}' is no name of an environment")
        return self
