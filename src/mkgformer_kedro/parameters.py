"""Base class of every typed parameter group, and how values that people wrote become typed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Strict,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from mkgformer_kedro.errors import DataError, Problem

Names = Annotated[tuple[str, ...], Strict(False)]
"""Names in order, written as a list."""


_LONGEST_PART, _LONGEST = 255, 4095  # bytes of a name and of a path that Linux takes


def _nameable(name: str) -> str:
    """A name that a file can have."""
    try:
        content = name.encode()
    except UnicodeEncodeError:
        raise ValueError("Input should be a name in UTF-8") from None
    if b"\0" in content:
        raise ValueError("Input should be a name without NUL characters")
    if len(content) > _LONGEST or max(map(len, content.split(b"/"))) > _LONGEST_PART:
        raise ValueError(f"Input should be a name that fits, not one of {len(content):,} bytes")
    return name


def _path(value: Any) -> Any:
    if isinstance(value, str | Path):
        if "~" in (path := Path(_nameable(str(value)))).parts:
            raise ValueError("Input should be a folder whose ~ is written out")
        return path
    raise ValueError("Input should be the name of a folder")


Folder = Annotated[Path, BeforeValidator(_path)]
"""A path, written as a text."""

FileName = Annotated[str, AfterValidator(_nameable)]
"""The name of a file, or its path inside a folder."""

_REMEDY = "Correct it where it is set: in conf/, or on the command line."
_SHOWN = 40  # characters of a value in a message
_AS_JSON = TypeAdapter(Any)


class Parameters(BaseModel):
    """Typed, frozen parameters. An unknown key is an error that names the nearest known one.

    Values have the type that is asked for: no yes is a number, no text is one, and no number is
    infinite or none.
    """

    no_result_depends_on: ClassVar[frozenset[str]] = frozenset()
    """Fields that decide where and how fast something is made, or what is said of it, not what."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
        strict=True,
        allow_inf_nan=False,
    )

    @model_validator(mode="before")
    @classmethod
    def _name_near_misses(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    hint = did_you_mean(key, cls.model_fields)
                    raise ValueError(f"unknown parameter '{key}'; {hint[0].lower()}{hint[1:]}")
        return values

    @classmethod
    def model_validate(cls, obj: Any, **_: Any) -> Self:
        """Check a mapping, such as a group of a parameter file.

        Raises:
            DataError: A value is missing, unknown, of another type or out of bounds.
        """
        return typed(cls, obj)

    @property
    def least_memory(self) -> int:
        """Bytes of memory that these settings take at least, whatever the data."""
        return 0


def typed(
    kind: Any,
    value: Any,
    where: str = "",
    *,
    strict: bool | None = None,
    remedy: str = _REMEDY,
) -> Any:
    """What somebody wrote, as a type or a group of parameters.

    Args:
        kind: A type, such as ``dict[str, str] | None``, or a class of parameters.
        value: What was written.
        where: Name of the value in messages, such as ``files``.
        strict: Whether nothing may stand for another type; None: as the type says.
        remedy: What to do about it.

    Raises:
        DataError: It is something else; the message names every key that is wrong.
    """
    try:
        return TypeAdapter(kind).validate_python(value, strict=strict)
    except ValidationError as error:
        problems: list[Problem] = []
        for each in error.errors(include_url=False):
            place = ".".join([where, *map(str, each["loc"])])
            inner = each.get("ctx", {}).get("error")
            if isinstance(inner, DataError):
                problems += [replace(one, where=f"{place}.{one.where}") for one in inner.problems]
            else:
                what = each["msg"].removeprefix("Value error, ") + _shown(each["input"])
                problems.append(Problem(place, None, what, remedy))
        raise DataError(problems) from None


def deciding(value: Any, path: str) -> dict[str, Any]:
    """What results depend on, of a parameter or a group of them.

    Args:
        value: The parameter.
        path: Its path, such as ``link_prediction.finetuning``.

    Returns:
        Values as JSON has them, by their paths.
    """
    if not isinstance(value, Parameters):
        return {path: _AS_JSON.dump_python(value, mode="json")}
    found: dict[str, Any] = {}
    for name in type(value).model_fields:
        if name not in value.no_result_depends_on:
            found |= deciding(getattr(value, name), f"{path}.{name}")
    return found


def group_at(parameters: Any, path: str) -> Any:
    """The value at a path in groups that may be typed; None where there is none."""
    for name in path.split("."):
        found = parameters.get(name) if isinstance(parameters, dict) else None
        parameters = getattr(parameters, name) if isinstance(parameters, Parameters) else found
    return parameters


def value_at(parameters: Any, path: str) -> Any:
    """The same as JSON has it."""
    return _AS_JSON.dump_python(group_at(parameters, path), mode="json")


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A hint for a name that is not known: the nearest one, or those that are."""
    known = list(known)
    if near := difflib.get_close_matches(str(name), known, n=1):
        return f"Did you mean '{near[0]}'?"
    return f"There are: {', '.join(known) or 'none'}."


def _shown(value: Any) -> str:
    return f", not {value!r}" if not isinstance(value, dict) and len(repr(value)) < _SHOWN else ""
