"""What is added to every run: bad input ends it with its message, not with a page of traceback."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from types import TracebackType

import yaml
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.validation import ParameterValidationError

from mkgformer_kedro.errors import DataError

CATALOG_PARAMETERS = ("images", "raw_folder")
"""What ``--params`` can give to the catalog; no node takes them."""


class BadInputHooks:
    """Refuses unknown parameters, and shows what is wrong with the input plainly."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check the names of the parameters, which Kedro does only inside typed groups."""
        sys.excepthook = show_plainly
        loader = context.config_loader
        # Every parameter stands in the base environment. (Plain YAML: a second config loader would
        # take the place of the first behind ${globals:...}.)
        base = (Path(loader.conf_source) / loader.base_env).glob("parameters*.yml")
        known = [name for path in sorted(base) for name in yaml.safe_load(path.read_text()) or ()]
        known += CATALOG_PARAMETERS
        unknown = [name for name in loader["parameters"] if name not in known]
        if unknown:
            raise ParameterValidationError(
                "\n".join(_unknown_parameter(name, known) for name in unknown)
            )


def show_plainly(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Print an uncaught exception: of bad input the message alone, of all else the traceback."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DataError | ParameterValidationError):
            print(f"\n{cause}", file=sys.stderr)
            return
        cause = cause.__cause__ or cause.__context__
    sys.__excepthook__(kind, error, traceback)


def _unknown_parameter(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "known parameters: " + ", ".join(known)
    return f"unknown parameter '{name}'; {hint}"
