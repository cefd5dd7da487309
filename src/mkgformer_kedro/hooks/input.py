"""Bad input ends a run with a message, before anything is done."""

from __future__ import annotations

import difflib
import json
import logging
import math
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.validation import ParameterValidationError

from mkgformer_kedro.configuration import RUNTIME_GLOBALS, read_yaml
from mkgformer_kedro.errors import (
    DataError,
    Problem,
    bad_input_behind,
    causes_of,
    lacks_memory,
)
from mkgformer_kedro.parameters import Parameters, value_at
from mkgformer_kedro.training.tasks.registry import TASKS

CATALOG_PARAMETERS = ("images", "raw_folder")
"""What ``--params`` can give to the catalog; no node takes them."""
_FOLDER = r"[\w.-]*\w[\w.-]*"


_FP32 = "Set it to fp32, or to auto: bf16 where a GPU has it."


class BadInputHooks:
    """Refuses unknown parameters, and shows what is wrong with the input plainly."""

    def __init__(self) -> None:
        # Here, since the configuration is read, and may be refused, before any hook is called.
        sys.excepthook = show_plainly
        # Which also shows what went wrong in a node: once is enough.
        logging.getLogger("kedro.pipeline.node").addFilter(_below_error)
        self._memory_share: float = 1

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check the names of the parameters, which Kedro does only inside typed groups."""
        loader = context.config_loader
        # Every parameter stands in the base environment. (Plain YAML: a second config loader would
        # take the place of the first behind ${globals:...}.)
        folder = Path(loader.conf_source) / loader.base_env
        base: dict[str, Any] = {}
        for path in sorted(folder.glob("parameters*.yml")):
            base |= read_yaml(path)
        parameters = loader["parameters"]
        known = base | dict.fromkeys((*CATALOG_PARAMETERS, *RUNTIME_GLOBALS))
        stages = {stage: f"{task}.{stage}" for task in reversed(TASKS) for stage in base[task]}
        problems = _unknown(parameters, known, "parameter", elsewhere=stages)
        for task in TASKS:
            # Deeper, where parameters are typed, Kedro and pydantic look.
            problems += _unknown(parameters[task], base[task], "parameter", f"{task}.")
            if isinstance(parameters[task], dict):
                for stage, group in parameters[task].items():
                    problems += _unknown(group, group or {}, "parameter", f"{task}.{stage}.")
        problems += _unknown(parameters["model"], parameters["model"] or {}, "parameter", "model.")
        seed, preset = parameters["seed"], parameters["preset"]
        if type(seed) is not int or not 0 <= seed < 2**32:
            problems.append(f"seed is {seed!r}; it must be a whole number from 0 to 4294967295")
        if preset not in ("corrected", "faithful"):
            problems.append(f"preset is {preset!r}; it must be 'corrected' or 'faithful'")
        names = read_yaml(folder / "globals.yml")
        given = loader["globals"]
        problems += _unknown_within(given, names, "key of globals.yml")
        dataset, wait, share = (given[key] for key in ("dataset", "wait_for_lock", "memory_share"))
        # A cell of a study works in a folder inside that of the study.
        folder_of_one = rf"({_FOLDER}-study/)?{_FOLDER}"
        if not isinstance(dataset, str) or not re.fullmatch(folder_of_one, dataset):
            problems.append("dataset in globals.yml must be the name of one folder")
        if type(wait) not in (int, float) or not 0 <= wait < math.inf:
            problems.append(f"wait_for_lock in globals.yml is {wait!r}; it must be seconds, from 0")
        if type(share) not in (int, float) or not 0 < share < math.inf:
            problems.append(f"memory_share in globals.yml is {share!r}; it must be more than 0")
        hashed = given["hashed_gigabytes"]
        if type(hashed) not in (int, float) or not hashed >= 0:
            problems.append(f"hashed_gigabytes in globals.yml is {hashed!r}; it must be from 0")
        self._memory_share = share
        if problems:
            raise ParameterValidationError("\n".join(problems))

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Refuse at once what a stage would refuse, or die of, after hours."""
        self._refuse_what_this_machine_lacks(pipeline, catalog)
        self._refuse_towers(pipeline, catalog)
        self._refuse_other_parts_of_train(pipeline, catalog)
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

    def _refuse_towers(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Refuse towers, and sizes of images that do not fit them, before images are decoded."""
        if "params:model" not in pipeline.inputs():
            return
        from mkgformer_kedro.training.towers import check_towers

        sizes = {
            f"{name.removeprefix('params:')}.slots.{role}.size": layout.size
            for name in sorted(pipeline.inputs())
            if name.endswith(".image_association")
            for role, layout in catalog.load(name).layouts.items()
        }
        check_towers(catalog.load("params:model"), sizes)

    def _refuse_other_parts_of_train(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Refuse experts of one run that learn from parts of train drawn with other seeds."""
        for task in TASKS:
            stage, finetuning = f"{task}.structure_modeling", f"{task}.finetuning"
            if f"params:{stage}" not in pipeline.inputs():
                continue
            parameters = catalog.load("parameters")
            seeds = [value_at(parameters, f"{name}.seeds") for name in (stage, finetuning)]
            part = value_at(parameters, f"{finetuning}.train_subset")
            models = value_at(parameters, f"{stage}.models")
            if part is not None and models and seeds[0] != seeds[1]:
                own, others = map(json.dumps, seeds)
                what = (
                    f"it is {own}, and {finetuning}.seeds is {others}: with train_subset each seed "
                    "learns from a part of its own"
                )
                raise DataError(Problem(f"{stage}.seeds", None, what, "Give both the same seeds."))

    def _refuse_what_this_machine_lacks(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        most = int(self._memory_share * memory())
        launch = "params:launch"
        elsewhere = launch in pipeline.inputs() and catalog.load(launch).engine == "ray"
        for name in sorted(pipeline.inputs()):
            group = catalog.load(name) if name.startswith("params:") else None
            fp16 = getattr(group, "precision", None) == "fp16"
            if fp16 and not elsewhere and not _has_gpu():
                what = "fp16 needs a GPU, and there is none"
                problem = Problem(f"{name.removeprefix('params:')}.precision", None, what, _FP32)
                raise DataError(problem)
            if isinstance(group, Parameters) and not elsewhere and group.least_memory > most:
                what = (
                    f"these sizes take {_gigabytes(group.least_memory)} of memory at least, and "
                    f"{_gigabytes(most)} are allowed"
                )
                remedy = "Make them smaller, or raise `memory_share` in globals.yml."
                raise DataError(Problem(name.removeprefix("params:"), None, what, remedy))


def _below_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


def memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:,.1f} GB"


def show_plainly(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Print an uncaught exception: of bad input the message alone, of all else the traceback."""
    if (cause := bad_input_behind(error)) is not None:
        print(f"\n{_without_kedro(str(cause))}", file=sys.stderr)
    elif (lack := _lack_of_memory_behind(error)) is not None:
        what = f"there is not enough memory ({lack})"
        remedy = "Make batch sizes, images or models smaller, or `loader_workers` fewer."
        print(f"\n{Problem('This machine', None, what, remedy)}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


_KILLED = re.compile(r"DataLoader worker .* (is killed|exited unexpectedly)")


def _lack_of_memory_behind(error: BaseException) -> str | None:
    """What shows that memory is short, if that is why something failed."""
    for found in causes_of(error):
        if isinstance(found, RuntimeError) and _KILLED.search(str(found)):
            return "a process that makes batches was killed"
        if lacks_memory(found):
            return (str(found) or "no more is to be had").splitlines()[0].rstrip(". ")
    return None


_OF_A_GROUP = re.compile(r"- Parameter '([^']+)': (?:Failed to instantiate .* parameter '\1': )?")


def _without_kedro(message: str) -> str:
    """The message of parameters that do not fit their types, each with its full name."""
    group, lines = "", []
    for line in message.splitlines():
        if match := _OF_A_GROUP.match(line):
            group, line = match[1], line[match.end() :]
            line = line if line.startswith((".", ":")) else f": {line}"
        lines.append(group + line)
    return "\n".join(lines).removeprefix("Parameter validation failed:\n")


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
