"""``kedro run`` of this project: what is asked for is checked before anything is loaded."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, get_type_hints

import click
import kedro.runner
import yaml
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.cli.utils import _split_params
from kedro.framework.project import pipelines
from kedro.pipeline import Pipeline
from kedro.runner import AbstractRunner
from kedro.utils import load_obj
from omegaconf.errors import OmegaConfBaseException

import mkgformer_kedro.pipelines
from mkgformer_kedro.configuration import read_yaml
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.hooks.input import show_plainly
from mkgformer_kedro.hooks.interruption import listen
from mkgformer_kedro.parameters import did_you_mean, typed

sys.excepthook = show_plainly  # from the first line on: options are read before any hook is called

_SELECTIONS: dict[str, Callable[[Pipeline], Iterable[str]]] = {
    "nodes": lambda run: (node.name for node in run.nodes),
    "from-nodes": lambda run: (node.name for node in run.nodes),
    "to-nodes": lambda run: (node.name for node in run.nodes),
    "from-inputs": Pipeline.datasets,
    "to-outputs": Pipeline.datasets,
    "tags": lambda run: {tag for node in run.nodes for tag in node.tags},
    "namespaces": lambda run: {name for node in run.nodes for name in node.namespace_prefixes},
}
"""What each option of ``kedro run`` can name."""


@click.group()
def cli() -> None:
    """The project's own commands for ``kedro``."""


def _run(**options: Any) -> Any:
    listen()
    _check_runner(options["runner"], options["runner_params"])
    names = [options["pipeline"]] if options["pipeline"] else options["pipelines"]
    there = [module.name for module in iter_modules(mkgformer_kedro.pipelines.__path__)]
    for name in names:
        if name not in [*there, "__default__"]:
            _refuse("pipelines", name, there)
    pipelines.set_requested(names or None)
    chosen = sum((pipelines[name] for name in names or ["__default__"]), Pipeline([]))
    for option, known in _SELECTIONS.items():
        names = sorted(set(known(chosen)))
        for name in options["node_names" if option == "nodes" else option.replace("-", "_")] or ():
            if name not in names:
                _refuse(option, name, names)
    taken = inspect.signature(Pipeline.filter).parameters
    selection = {name: value for name, value in options.items() if name in taken}
    try:
        chosen.filter(**selection, node_namespaces=options["namespaces"])
    except ValueError as error:
        what = "nothing is left of this run by these options together"
        raise DataError(Problem("kedro run", None, what, "Leave one of them out.")) from error
    return kedro_run.callback(**options)


def _check_runner(runner: str | None, parameters: dict[str, Any]) -> None:
    try:
        made = load_obj(runner or "SequentialRunner", "kedro.runner")
    except (ImportError, AttributeError, ValueError):
        made = None
    if not _is_runner(made):
        there = vars(kedro.runner)
        _refuse("runner", runner, [each for each in there if _is_runner(there[each])])
    known = inspect.signature(made).parameters
    for name, value in parameters.items():
        if name not in known:
            _refuse("runner-params", name, known)
        typed(get_type_hints(made.__init__)[name], value, f"--runner-params {name}", strict=True)
    try:
        made(**parameters)
    except ValueError as error:
        raise DataError(Problem("--runner-params", None, str(error), "Correct it.")) from error


def _is_runner(made: Any) -> bool:
    """Whether this is a runner that runs, not only what runners have in common."""
    is_one = isinstance(made, type) and issubclass(made, AbstractRunner)
    return is_one and not inspect.isabstract(made)


def _refuse(option: str, name: object, known: Iterable[str]) -> None:
    what = f"this run has no '{name}'" if option in _SELECTIONS else f"there is no '{name}'"
    raise DataError(Problem(f"--{option}", None, what, did_you_mean(name, known)))


def _config(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Options from a file; Kedro's own reading of it ends in tracebacks."""
    options = {} if value is None else read_yaml(Path(value)).get("run")
    if not isinstance(options, dict):
        what = "no group 'run', which holds the options of kedro run"
        raise DataError(Problem(str(value), None, what, "Write them below `run:`."))
    known = [each.name for each in kedro_run.params if each.name != "config"]
    for name in options:
        if name not in known:
            what = f"kedro run has no option '{name}'"
            raise DataError(Problem(str(value), None, what, did_you_mean(name, known)))
    context.default_map = {**(context.default_map or {}), **options}
    return value


def _params(context: click.Context, option: click.Parameter, value: Any) -> Any:
    try:
        return _split_params(context, option, value)
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise click.BadParameter(f"{value} ({str(error).splitlines()[0]})") from error


def _own(option: click.Parameter) -> click.Parameter:
    """An option as Kedro has it, but for what checks its value."""
    own = copy.copy(option)
    own.callback = {"config": _config, "params": _params}.get(str(option.name), option.callback)
    return own


run = click.Command(
    "run", callback=_run, params=[_own(each) for each in kedro_run.params], help=kedro_run.help
)
cli.add_command(run)
