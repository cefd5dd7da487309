"""The configuration of every environment: complete, used, and checked before anything runs."""

import functools
import inspect
import re
import typing
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro_telemetry import plugin as telemetry

from mkgformer_kedro.hooks.input import CATALOG_PARAMETERS
from mkgformer_kedro.parameters import Parameters
from mkgformer_kedro.training.tasks.registry import TASKS

CONF = Path(__file__).parents[1] / "conf"
ENVIRONMENTS = sorted(path.name for path in CONF.iterdir() if (path / "globals.yml").exists())
LAYERS = {
    "raw",
    "intermediate",
    "primary",
    "feature",
    "model_input",
    "models",
    "model_output",
    "reporting",
}


def read(pattern, environment="base"):
    """The YAML files of an environment that fit a pattern, by name."""
    files = sorted((CONF / environment).glob(pattern))
    return {path.name: yaml.safe_load(path.read_text()) or {} for path in files}


@pytest.fixture(scope="module", autouse=True)
def bootstrapped():
    bootstrap_project(CONF.parent)


@pytest.fixture(scope="module")
def nodes(bootstrapped):
    return [node for pipeline in pipelines.values() for node in pipeline.nodes]


@pytest.fixture(scope="module")
def names(nodes):
    """Every dataset and parameter that some pipeline takes or makes."""
    return {name for node in nodes for name in [*node.inputs, *node.outputs]}


def test_every_dataset_is_in_the_catalog_and_every_entry_is_used(names):
    entries = [name for file in read("catalog*.yml").values() for name in file if name[0] != "_"]
    patterns = {name: name.replace("{task}", "*") for name in entries}
    datasets = {name for name in names if not name.startswith("param")}
    for name in datasets:
        fitting = [entry for entry, pattern in patterns.items() if fnmatchcase(name, pattern)]
        assert len(fitting) == 1, name
    for entry, pattern in patterns.items():
        assert any(fnmatchcase(name, pattern) for name in datasets), entry


def test_every_entry_but_work_folders_has_a_known_layer():
    """Work folders stand outside: in a layer of theirs they would close a circle of layers."""
    for entries in read("catalog*.yml").values():
        for name, entry in entries.items():
            if not name.startswith("_") and not name.endswith("_work"):
                assert entry["metadata"]["kedro-viz"]["layer"] in LAYERS, name


def parameters_of_base():
    """What nodes can take, and its value: top-level groups, or groups inside a task's."""
    for file in read("parameters*.yml").values():
        for name, value in file.items():
            if name in TASKS:
                yield from ((f"params:{name}.{stage}", group) for stage, group in value.items())
            else:
                yield f"params:{name}", value


def test_every_parameter_stands_once_in_base_and_is_taken_by_a_node(names):
    groups = [name for name, _ in parameters_of_base()]
    assert len(groups) == len(set(groups))
    taken = {name for name in names if name.startswith("params:")}
    # One stage takes a value that lies inside another's group.
    assert taken == {*groups, "params:link_prediction.finetuning.train_subset"}


def test_catalog_parameters_are_those_of_the_catalog():
    text = "".join(path.read_text() for path in (CONF / "base").glob("catalog*.yml"))
    assert set(re.findall(r"\$\{runtime_params:(\w+),", text)) == set(CATALOG_PARAMETERS)


def test_every_group_of_parameters_is_typed(nodes):
    """So that an unknown key stops the run before it begins, in whatever group it stands."""
    groups = {name for name, value in parameters_of_base() if isinstance(value, dict)}
    for node in nodes:
        hints = typing.get_type_hints(node.func)
        arguments = inspect.signature(node.func).parameters
        for argument, name in zip(arguments, node.inputs, strict=False):  # *tables come last
            if name in groups:
                assert issubclass(hints[argument], Parameters), f"{node.name}: {argument}"
        assert groups.isdisjoint(node.inputs[len(arguments) :])


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_parameter_files_hold_no_interpolation(environment):
    """``dvc exp run --set-param`` rewrites these files and would resolve it."""
    for name in read("parameters*.yml", environment) | read("globals.yml", environment):
        assert "${" not in (CONF / environment / name).read_text(), name


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_has_few_files_and_nothing_empty(environment):
    files = read("*", environment)
    tasks = {f"parameters_{task}.yml" for task in TASKS}
    allowed = {"globals.yml", "parameters.yml", "parameters_study.yml"} | tasks
    assert files.keys() <= allowed | ({"catalog.yml"} if environment == "base" else set())
    if environment != "base":
        assert all(value != {} for file in files.values() for value in [file, *file.values()])


@functools.cache
def params_of(environment):
    with KedroSession.create(project_path=CONF.parent, env=environment) as session:
        return session.load_context().params


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_parameters_of_every_environment_are_valid(environment):
    params = params_of(environment)
    for task in TASKS:
        assert all(isinstance(group, Parameters) for group in params[task].values()), task


def test_no_tool_sends_usage_data(monkeypatch):
    for name in ("DO_NOT_TRACK", "KEDRO_DISABLE_TELEMETRY", "DVC_NO_ANALYTICS"):
        monkeypatch.delenv(name, raising=False)
    assert telemetry._check_for_telemetry_consent(CONF.parent) is False
    core = Repo(CONF.parent).config["core"]
    assert core["analytics"] is False
    assert core["check_update"] is False


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_only_the_reduced_run_sets_what_the_preset_decides(environment):
    fields = params_of(environment)["model"].config
    assert set(fields) <= ({"num_fusion_layers"} if environment == "ci" else set())
