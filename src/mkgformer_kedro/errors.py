"""The one error that bad input raises: what is wrong, where, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_SHOWN = 20
_LONGEST = 600
_LACKING = re.compile(r"out of memory|can't allocate memory")  # as torch says it


@dataclass(frozen=True)
class Problem:
    """One thing wrong with an input.

    Attributes:
        where: File (and folder) the problem lies in.
        line: Line number, counted from 1, or None where there is no line.
        what: What is wrong, in one clause.
        remedy: What the reader should do about it.

    What is quoted may have any length and hold anything; the message shows the two ends of a long
    one, and escapes of what cannot be printed.
    """

    where: str
    line: int | None
    what: str
    remedy: str

    def __str__(self) -> str:
        place = self.where if self.line is None else f"{self.where}:{self.line}"
        what, remedy = (shortened(text, _LONGEST) for text in (self.what, self.remedy))
        return _printable(f"{place}: {what}{'' if what.endswith('?') else '.'} {remedy}")


class DataError(ValueError):
    """Input that cannot be used. The message lists the problems, one a line."""

    def __init__(self, problems: Problem | Sequence[Problem]) -> None:
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        lines = [str(problem) for problem in self.problems[:_SHOWN]]
        if len(self.problems) > _SHOWN:
            lines.append(f"... and {len(self.problems) - _SHOWN} more")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple:
        return type(self), (self.problems,)


def bad_input_behind(error: BaseException) -> BaseException | None:
    """What says plainly what is wrong with the input, if that is why something failed."""
    from kedro.io import DatasetError
    from kedro.validation import ParameterValidationError

    chain = list(causes_of(error))
    # What the project says of its input comes before what Kedro says of where it was read.
    for plain in (DataError, ParameterValidationError, DatasetError):
        for found in chain:
            if isinstance(found, plain):
                return found
    return None


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """An exception, what caused it, what caused that, and so on."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def lacks_memory(error: BaseException | None) -> bool:
    """Whether Python or torch says that there is not enough memory."""
    lacking = isinstance(error, RuntimeError) and _LACKING.search(str(error)) is not None
    return lacking or isinstance(error, MemoryError)


def _printable(text: str) -> str:
    """A text in which escapes stand for line ends, control characters and halves of characters."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def shortened(text: str, longest: int) -> str:
    """A text of at most ``longest`` characters: a longer one without its middle."""
    if len(text) <= longest:
        return text
    end = longest // 3
    return f"{text[: longest - end - 3]} … {text[-end:]}"
