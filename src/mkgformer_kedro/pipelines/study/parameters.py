"""Typed parameters of the run ``study``; ``conf/base/parameters_study.yml`` comments each."""

from __future__ import annotations

import difflib
from typing import Any, Self

from pydantic import Field, model_validator

from mkgformer_kedro.parameters import Parameters
from mkgformer_kedro.training.parameters import Seed
from mkgformer_kedro.training.tasks.registry import TASKS


class Grid(Parameters):
    """Cells that are compared, by name: values of parameters by their paths.

    Attributes:
        reference: The cell with which the others are compared.
        cells: The cells; None leaves one out that an environment's base has.
        along: At most one further parameter, by its path: the grid is repeated for each value.
    """

    reference: str
    cells: dict[str, dict[str, Any] | None]
    along: dict[str, list[Any]]

    @model_validator(mode="after")
    def _has_its_reference(self) -> Self:
        if self.cells.get(self.reference) is None:
            there = ", ".join(name for name, values in self.cells.items() if values is not None)
            raise ValueError(f"the reference '{self.reference}' is no cell; there are: {there}")
        if taken := {"baseline", "mixture", "without_images"} & set(self.cells):
            raise ValueError(f"no cell can be called {' or '.join(sorted(taken))}")
        if len(self.along) > 1:
            raise ValueError(f"along names {len(self.along)} parameters; a grid has one axis")
        if any(not values for values in self.along.values()):
            raise ValueError("along names a parameter and no value for it")
        return self


class StudyParameters(Parameters):
    """What is compared, with which seeds, and how many stages run at a time."""

    task: str
    grid: str
    seeds: list[Seed] = Field(min_length=1)
    processes: int = Field(ge=1)
    keep_models: bool
    grids: dict[str, Grid]

    @model_validator(mode="after")
    def _names_what_there_is(self) -> Self:
        for what, name, known in (("task", self.task, TASKS), ("grid", self.grid, self.grids)):
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}"
                raise ValueError(f"there is no {what} '{name}'; {hint}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds names a seed twice")
        return self
