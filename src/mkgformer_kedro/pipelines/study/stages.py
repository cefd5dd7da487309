"""What a cell runs: stages, each known by a fingerprint of all that its result depends on.

Cells that agree in what a stage depends on share its result, so that images are decoded once for
all cells that do not touch them.
"""

from __future__ import annotations

import ast
import copy
import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self

from kedro.framework.project import settings
from kedro.io import DataCatalog
from kedro.validation.parameter_validator import ParameterValidator
from pydantic import BaseModel

import mkgformer_kedro
from mkgformer_kedro.configuration import ExtendingConfigLoader
from mkgformer_kedro.datasets.folder import WorkFolderDataset
from mkgformer_kedro.datasets.lineage import raw_identity, reading_of
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import files_within, fingerprint, sha256_of
from mkgformer_kedro.parameters import deciding, group_at
from mkgformer_kedro.pipelines.cell.pipeline import make_cell
from mkgformer_kedro.training.tasks.registry import task_named

_PARAMETERS = "params:"
# How pages look, how runs are put together, where they are done and how errors are worded is no
# part of any result.
_NO_RESULT_DEPENDS_ON = (
    *("errors.py", "progress.py", "hooks", "launch", "pipelines/wiring.py"),
    *("evaluation/report", "evaluation/verdicts.py"),
)
_WHERE = "study.grids"
_NAME_OF_RUN = "<run>"
# Seconds in which the stage of a killed study has stopped.
_PATIENCE = 600


@dataclass(frozen=True)
class StageRun:
    """A stage with certain parameters and inputs, which is run once, whoever needs its result.

    Attributes:
        task: The task.
        stage: The stage.
        key: Fingerprint of all that the result depends on.
        parameters: Parameters of the whole run.
        sources: The run that makes each dataset that the stage reads; raw data are left out.
        makes: Datasets that the stage makes.
    """

    task: str
    stage: str
    key: str
    parameters: Mapping[str, Any] = field(repr=False)
    sources: Mapping[str, StageRun] = field(repr=False)
    makes: frozenset[str] = field(repr=False)

    @property
    def name(self) -> str:
        """The stage and the beginning of the key: the name of its folders."""
        return f"{self.stage}-{self.key[:12]}"


@dataclass(frozen=True)
class Workplace:
    """Where a study runs: the configuration that its cells vary, and where they have their files.

    Attributes:
        environment: Name of the environment.
        dataset: Name of the data set.
        own: The catalog of the study itself.
        entries: The catalog of a stage run, which has a sign in the place of the run's name.
    """

    environment: str
    dataset: str
    own: DataCatalog = field(repr=False)
    entries: str = field(repr=False)

    @classmethod
    def of(cls, environment: str, parameters: Mapping[str, Any]) -> Self:
        """The place of a run in that environment with those parameters."""

        def load(**runtime: Any) -> ExtendingConfigLoader:
            return ExtendingConfigLoader(
                str(Path.cwd() / settings.CONF_SOURCE),
                env=environment,
                runtime_params={**parameters, **runtime},
                **settings.CONFIG_LOADER_ARGS,
            )

        loader = load()
        own, dataset = DataCatalog.from_config(loader["catalog"]), loader["globals"]["dataset"]
        entries = load(dataset=f"{dataset}-study/{_NAME_OF_RUN}")["catalog"]
        return cls(environment, str(dataset), own, json.dumps(entries))

    def catalog_of(self, run: StageRun) -> DataCatalog:
        """The catalog in which a stage run has its folders."""
        return DataCatalog.from_config(json.loads(self.entries.replace(_NAME_OF_RUN, run.name)))

    def runtime(self, run: StageRun) -> dict[str, Any]:
        """The ``--params`` with which a stage runs."""
        folder = f"{self.dataset}-study/{run.name}"
        launch = dict(run.parameters["launch"])
        if launch["engine"] == "ray":  # the stage is in a worker; there it stays
            launch["engine"] = "elastic"
        changes = {"dataset": folder, "wait_for_lock": _PATIENCE, "launch": launch}
        return {**run.parameters, **changes}

    def is_done(self, run: StageRun) -> bool:
        """Whether everything that a stage makes is there; each is written whole or not at all."""
        catalog = self.catalog_of(run)
        return all(catalog.exists(name) for name in run.makes)


def plain(value: Any) -> Any:
    """Typed parameters as plain values."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return value


def with_overrides(
    parameters: Mapping[str, Any], task: str, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Parameters of a whole run in which some have other values.

    Args:
        parameters: Plain values.
        task: The task.
        overrides: Values by path; a path that begins with a stage is the task's. Groups are merged,
            as by ``--params``.

    Raises:
        DataError: No stage of a cell takes such a parameter, or a value is none for it.
    """
    cell = make_cell(task)
    taken = set(_paths(cell.inputs())) - {"launch"}
    merged = copy.deepcopy(dict(parameters))
    for path, value in overrides.items():
        full = full_path(parameters, task, path)
        if not any(f"{full}.".startswith(f"{name}.") for name in taken):
            known = sorted(name.removeprefix(f"{task}.") for name in taken)
            near = difflib.get_close_matches(path, known, n=1)
            remedy = f"Did you mean '{near[0]}'?" if near else f"They take: {', '.join(known)}."
            raise DataError(Problem(_WHERE, None, f"no stage of a cell takes '{path}'", remedy))
        merged = _merge(merged, nested({full: value}))
    try:
        ParameterValidator({"cell": cell}).validate_raw_params(merged)
    except Exception as error:
        what = f"{', '.join(overrides) or 'a cell'}: {error}"
        raise DataError(Problem(_WHERE, None, what, "Correct the path or the value.")) from error
    return merged


def full_path(parameters: Mapping[str, Any], task: str, path: str) -> str:
    """A path from the top of the parameters; one that begins with a stage is the task's."""
    return f"{task}.{path}" if path.partition(".")[0] in parameters[task] else path


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by path as groups inside groups."""
    found: dict[str, Any] = {}
    for path, value in values.items():
        for name in reversed(path.split(".")):
            value = {name: value}
        found = _merge(found, value)
    return found


def _merge(value: Any, other: Any) -> Any:
    if not isinstance(value, dict) or not isinstance(other, dict):
        return other
    return value | {name: _merge(value.get(name), each) for name, each in other.items()}


def identities_of_raw_data(catalog: DataCatalog, task: str) -> dict[str, str]:
    """Hash of each raw dataset that a cell of the task reads, and of how it is read."""
    found = {}
    for name in sorted(make_cell(task).inputs()):
        if not name.startswith(_PARAMETERS) and not isinstance(catalog[name], WorkFolderDataset):
            identity = raw_identity(catalog.load(name))
            found[name] = fingerprint(identity, reading_of(name, catalog.get(name)))
    return found


def plan_cell(task: str, parameters: Mapping[str, Any], raw: Mapping[str, str]) -> StageRun:
    """The last stage of a cell, which knows those before it.

    Args:
        task: The task.
        parameters: Parameters of the whole run, plain values.
        raw: Hash of each raw dataset.
    """
    cell = make_cell(task)
    values = ParameterValidator({"cell": cell}).validate_raw_params(dict(parameters))
    made: dict[str, StageRun] = {}
    for stage in (*task_named(task).stages, "cell"):
        if not any(node.namespace == f"{task}.{stage}" for node in cell.nodes):
            continue
        nodes = cell.filter(node_namespaces=[f"{task}.{stage}"])
        reads, makes = nodes.inputs(), nodes.all_outputs()
        sources = {name: made[name] for name in sorted(reads) if name in made}
        depends_on = {
            "parameters": {path: deciding(group_at(values, path), path) for path in _paths(reads)},
            "sources": {name: source.key for name, source in sources.items()},
            "raw": {name: identity for name, identity in raw.items() if name in reads},
            "towers": [
                _tower(str(parameters["model"][tower]))
                for tower in ("text_tower", "vision_tower")
                if f"{_PARAMETERS}model" in reads
            ],
        }
        key = fingerprint(task, stage, depends_on, code_of(stage))
        run = StageRun(task, stage, key, parameters, sources, frozenset(makes))
        made |= dict.fromkeys(makes, run)
    return run


def _paths(names: Iterable[str]) -> list[str]:
    """The paths of the parameters among inputs."""
    return [name.removeprefix(_PARAMETERS) for name in names if name.startswith(_PARAMETERS)]


@cache
def code_of(stage: str) -> str:
    """Hash of the code that a stage runs; comments and layout do not count.

    That is the stage's own folder in ``pipelines/`` and what it imports, at the top of files or
    inside functions.
    """
    package = Path(mkgformer_kedro.__file__).parent
    waiting = sorted((package / "pipelines" / stage).rglob("*.py"))
    found: dict[str, str] = {}
    while waiting:
        path = waiting.pop()
        name = path.relative_to(package).as_posix()
        if name not in found and not name.startswith(_NO_RESULT_DEPENDS_ON):
            found[name], imported = _read_code(path, package)
            waiting += imported
    return fingerprint(found)


@cache
def _read_code(path: Path, package: Path) -> tuple[str, list[Path]]:
    """Hash of what a file says, and the files of this project that it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported: list[Path] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            of_package = (node.module or "").partition(f"{package.name}.")
            start = path.parents[node.level - 1] if node.level else package
            inside = (node.module or "") if node.level else of_package[2]
            if node.level or of_package[1]:
                module = start.joinpath(*inside.split("."))
                imported += [module / f"{alias.name}.py" for alias in node.names]
                imported += [module.with_suffix(".py"), module / "__init__.py"]
    return fingerprint(ast.dump(tree)), [file for file in imported if file.is_file()]


@cache
def _tower(name: str) -> str:
    """Hash of a tower's files where it is a folder."""
    files = files_within(Path(name).expanduser())
    return fingerprint([[str(path), sha256_of(path)] for path in files])
