"""What is added to every run: bad input ends it with its message, not with a page of traceback."""

from __future__ import annotations

import difflib
import sys
from types import TracebackType

from kedro.config import OmegaConfigLoader
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
        base = OmegaConfigLoader(
            conf_source=context.config_loader.conf_source, base_env="base", default_run_env="base"
        )
        known = [*base["parameters"], *CATALOG_PARAMETERS]
        unknown = [name for name in context.config_loader["parameters"] if name not in known]
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
