"""Bad input ends a run with a message, before anything is done."""

from __future__ import annotations

import difflib
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, DatasetError
from kedro.pipeline import Pipeline
from kedro.validation import ParameterValidationError

from mkgformer_kedro.configuration import RUNTIME_GLOBALS
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.training.tasks.registry import TASKS

CATALOG_PARAMETERS = ("images", "raw_folder")
"""What ``--params`` can give to the catalog; no node takes them."""
_FOLDER = r"[\w.-]*\w[\w.-]*"


class BadInputHooks:
    """Refuses unknown parameters, and shows what is wrong with the input plainly."""

    def __init__(self) -> None:
        # Here, since the configuration is read, and may be refused, before any hook is called.
        sys.excepthook = show_plainly

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check the names of the parameters, which Kedro does only inside typed groups."""
        loader = context.config_loader
        # Every parameter stands in the base environment. (Plain YAML: a second config loader would
        # take the place of the first behind ${globals:...}.)
        folder = Path(loader.conf_source) / loader.base_env
        base: dict[str, Any] = {}
        for path in sorted(folder.glob("parameters*.yml")):
            base |= yaml.safe_load(path.read_text()) or {}
        parameters = loader["parameters"]
        known = base | dict.fromkeys((*CATALOG_PARAMETERS, *RUNTIME_GLOBALS))
        stages = {stage: f"{task}.{stage}" for task in reversed(TASKS) for stage in base[task]}
        problems = _unknown(parameters, known, "parameter", elsewhere=stages)
        for task in TASKS:
            # Deeper, where parameters are typed, Kedro and pydantic look.
            problems += _unknown(parameters[task], base[task], "parameter", f"{task}.")
        seed, preset = parameters["seed"], parameters["preset"]
        if type(seed) is not int or not 0 <= seed < 2**32:
            problems.append(f"seed is {seed!r}; it must be a whole number from 0 to 4294967295")
        if preset not in ("corrected", "faithful"):
            problems.append(f"preset is {preset!r}; it must be 'corrected' or 'faithful'")
        names = yaml.safe_load((folder / "globals.yml").read_text())
        problems += _unknown_within(loader["globals"], names, "key of globals.yml")
        # A cell of a study works in a folder inside that of the study.
        if not re.fullmatch(rf"({_FOLDER}-study/)?{_FOLDER}", str(loader["globals"]["dataset"])):
            problems.append("dataset in globals.yml must be the name of one folder")
        wait = loader["globals"]["wait_for_lock"]
        if type(wait) not in (int, float) or not 0 <= wait < math.inf:
            problems.append(f"wait_for_lock in globals.yml is {wait!r}; it must be seconds, from 0")
        if problems:
            raise ParameterValidationError("\n".join(problems))

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Refuse at once what training would refuse after all images were decoded."""
        for task in TASKS:
            name = f"params:{task}.image_association"
            if name in pipeline.inputs() and catalog.load("params:preset") == "faithful":
                parameters = catalog.load(name)
                full = parameters.slots.get("full")
                if hasattr(parameters, "crops") and full and full.count:
                    what = "the preset 'faithful' takes crops alone, and this gives whole images"
                    remedy = "Set the count to 0, and say in `crops` where crops come from."
                    where = f"{task}.image_association.slots.full.count"
                    raise DataError(Problem(where, None, what, remedy))


def show_plainly(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Print an uncaught exception: of bad input the message alone, of all else the traceback."""
    if (cause := bad_input_behind(error)) is not None:
        print(f"\n{cause}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


def bad_input_behind(error: BaseException) -> BaseException | None:
    """What says plainly what is wrong with the input, if that is why something failed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DataError | ParameterValidationError | DatasetError):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def _unknown(
    given: Any,
    base: Mapping[str, Any],
    what: str,
    prefix: str = "",
    elsewhere: Mapping[str, str] | None = None,
) -> list[str]:
    """A sentence for each name that the base environment does not have at this place.

    ``elsewhere`` says of names that stand at another place what they are called there.
    """
    if not isinstance(given, dict):
        return [f"{what} '{prefix.rstrip('.')}' is no group: leave it out or fill it in"]
    problems = []
    for name in given:
        if name not in base:
            near = [f"{prefix}{match}" for match in difflib.get_close_matches(str(name), base, n=1)]
            near = near or [full for full in [(elsewhere or {}).get(name)] if full]
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(base)}"
            problems.append(f"unknown {what} '{prefix}{name}'; {hint}")
    return problems


def _unknown_within(given: Any, base: Mapping[str, Any], what: str, prefix: str = "") -> list[str]:
    """The same of a group and all groups inside it."""
    problems = _unknown(given, base, what, prefix)
    for name, value in base.items():
        if isinstance(value, dict) and isinstance(given, dict):
            problems += _unknown_within(given[name], value, what, f"{prefix}{name}.")
    return problems
