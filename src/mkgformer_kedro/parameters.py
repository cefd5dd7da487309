"""Base class of every typed parameter group."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Parameters(BaseModel):
    """Typed, frozen parameters. An unknown key is an error that names the nearest known one."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _name_near_misses(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(str(key), cls.model_fields, n=1)
                    hint = (
                        f"did you mean '{near[0]}'?"
                        if near
                        else "known keys: " + ", ".join(cls.model_fields)
                    )
                    raise ValueError(f"unknown parameter '{key}'; {hint}")
        return values
