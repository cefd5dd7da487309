"""DVC: its graph and Kedro's cannot drift apart, and it rebuilds what changed and no more."""

import ast
import functools
import json
import re
import shutil
from itertools import chain
from pathlib import Path

import pytest
import yaml
from dvc.dependency import ParamsDependency
from dvc.repo import Repo
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from mkgformer_kedro.datasets.folder import WorkFolderDataset
from mkgformer_kedro.inference.experts import EXPERT_KINDS
from mkgformer_kedro.training.tasks.registry import TASKS

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/mkgformer_kedro"
NAMESPACES = {
    "ingest": "ingestion",
    "associate_images": "image_association",
    "model_entities": "entity_modeling",
    "model_structure": "structure_modeling",
    "finetune": "finetuning",
    "mix": "mixture",
    "evaluate": "evaluation",
    "complete": "completion",
}
DATA_SETS = {
    name: item
    for group in yaml.safe_load((ROOT / "dvc.yaml").read_text())["vars"]
    for name, item in group.get("data_sets", {}).items()
}
WINGS = {item["task"]: item["wing"] for item in DATA_SETS.values()}
# The module of the nodes of each stage of a task; completion is a run by itself.
MODULES = {task: dict(each.stages) for task, each in TASKS.items()}
MODULES["link_prediction"]["completion"] = "mkgformer_kedro.pipelines.completion.pipeline"
CASES = [
    (stage, data_set)
    for stage, namespace in NAMESPACES.items()
    for data_set, item in DATA_SETS.items()
    if namespace in MODULES[item["task"]]
]
# How runs are put together, where work is done, errors are worded, files are named and progress is
# shown is no part of any result.
NO_RESULT_DEPENDS_ON = {
    PACKAGE / f"{name}.py" for name in ("errors", "files", "parameters", "progress")
} | {
    PACKAGE / "training/tasks/registry.py",
    PACKAGE / "pipelines/wiring.py",
    *PACKAGE.glob("launch/*.py"),
    *PACKAGE.rglob("__init__.py"),
}
# What a task says of these, evaluation alone asks for.
OF_EVALUATION = frozenset({"predict_baseline", "evaluate", "layout"})
# Stages of hours watch nothing that they do not run. The others may watch what another kind of task
# shares, but no other task's own.
LONG = {"model_entities", "finetune"}


def task_of(data_set):
    return DATA_SETS[data_set]["task"]


@pytest.fixture(scope="module")
def dvc_stages():
    return {stage.name: stage for stage in Repo(ROOT).index.stages if hasattr(stage, "name")}


@pytest.fixture(scope="module")
def catalogs():
    bootstrap_project(ROOT)
    found = {}
    for env in {item["env"] for item in DATA_SETS.values()}:
        with KedroSession.create(project_path=ROOT, env=env) as session:
            found[env] = session.load_context().catalog
    return {data_set: found[item["env"]] for data_set, item in DATA_SETS.items()}


def kedro_stage(stage, data_set):
    task = task_of(data_set)
    run = pipelines["completion" if stage == "complete" else task]
    return run.filter(node_namespaces=[f"{task}.{NAMESPACES[stage]}"])


def paths_of(catalog, names):
    """Files and folders of datasets, relative to the project; work folders are no results."""
    found = set()
    for name in names:
        dataset = catalog.get(name)
        if not isinstance(dataset, WorkFolderDataset):
            path = getattr(dataset, "_filepath", None) or getattr(dataset, "_folder", None)
            assert path is not None or name.endswith(".raw_images"), f"{name} has no path"
            if path is not None:
                found.add(Path(path).relative_to(ROOT).as_posix())
    return found


def is_covered(path, by):
    return any(path == other or path.startswith(f"{other}/") for other in by)


@functools.cache
def imported_files(path, skipped):
    """Files of this project that a file imports, at its top or inside its functions.

    Functions of some names are skipped, and what type checkers alone see; a package may load on
    demand what it shows to them.
    """
    names, nodes = set(), [ast.parse(path.read_text())]
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = path.relative_to(ROOT / "src").parts[: -node.level] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
        elif not (isinstance(node, ast.FunctionDef) and node.name in skipped) and not (
            isinstance(node, ast.If)
            and ast.unparse(node.test) == "TYPE_CHECKING"
            and path.name != "__init__.py"
        ):
            nodes += ast.iter_child_nodes(node)
    return {file for name in names for file in files_of(name)}


def files_of(module):
    path = ROOT / "src" / Path(*module.split("."))
    return [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()]


@functools.cache
def code_of(stage, task):
    """Files that a stage of a task runs: those that the module of its nodes imports, and so on."""
    registry, runs = PACKAGE / "training/tasks/registry.py", [*PACKAGE.glob("pipelines/*/*.py")]
    skipped = OF_EVALUATION if stage != "evaluate" else frozenset()
    found, new = set(), set(files_of(MODULES[task][NAMESPACES[stage]]))
    while new:
        found |= new
        following = set()
        for path in new:
            if path == registry:  # it names all tasks; one of them is run
                following |= {PACKAGE / f"training/tasks/{task}.py"}
            elif path not in runs or path.name != "__init__.py":
                following |= imported_files(path, skipped)
        if PACKAGE / "inference/experts.py" in new and TASKS[task].experts:
            # Kinds of experts are named, and imported when a folder of theirs is read.
            following |= {f for kind in EXPERT_KINDS.values() for f in files_of(kind.split(":")[0])}
        new = following - found
    found -= NO_RESULT_DEPENDS_ON
    found |= {data for path in found for data in path.parent.glob("templates/*")}
    return {path.relative_to(ROOT).as_posix() for path in found}


@pytest.mark.parametrize(("stage", "data_set"), CASES)
def test_stage_runs_its_namespace_in_its_environment(dvc_stages, stage, data_set):
    cmd = dvc_stages[f"{stage}@{data_set}"].cmd
    last = cmd[-1] if isinstance(cmd, list) else cmd
    task, env = task_of(data_set), DATA_SETS[data_set]["env"]
    namespace = f"{task}.{NAMESPACES[stage]}"
    run = "completion" if stage == "complete" else task
    assert last == f"kedro run --pipelines {run} --namespaces {namespace} --env {env}"


def test_every_stage_of_a_task_is_a_stage_of_dvc():
    assert {name for stages in MODULES.values() for name in stages} == set(NAMESPACES.values())


@pytest.mark.parametrize(("stage", "data_set"), CASES)
def test_outs_are_what_the_stage_saves(dvc_stages, catalogs, stage, data_set):
    declared = {out.def_path for out in dvc_stages[f"{stage}@{data_set}"].outs}
    saved = paths_of(catalogs[data_set], kedro_stage(stage, data_set).all_outputs())
    assert all(is_covered(path, declared) for path in saved), saved - declared
    assert all(any(is_covered(path, {out}) for path in saved) for out in declared)


@pytest.mark.parametrize(("stage", "data_set"), CASES)
def test_deps_are_what_the_stage_loads(dvc_stages, catalogs, stage, data_set):
    deps = dvc_stages[f"{stage}@{data_set}"].deps
    declared = {
        d.def_path
        for d in deps
        if d.def_path.startswith("data/") and not isinstance(d, ParamsDependency)
    }
    inputs = kedro_stage(stage, data_set).inputs()
    inputs = {name for name in inputs if not name.startswith("param")}
    loaded = paths_of(catalogs[data_set], inputs)
    assert all(is_covered(path, declared) for path in loaded), loaded - declared
    raw = f"data/01_raw/{DATA_SETS[data_set]['raw']}"
    assert all(any(is_covered(path, {dep}) for path in loaded) for dep in declared - {raw})


@pytest.mark.parametrize(("stage", "data_set"), CASES)
def test_deps_are_the_code_that_the_stage_runs(dvc_stages, stage, data_set):
    deps = dvc_stages[f"{stage}@{data_set}"].deps
    declared = {d.def_path for d in deps if d.def_path.startswith("src/")}
    task, namespace = task_of(data_set), NAMESPACES[stage]
    run = set(code_of(stage, task))
    assert {file for file in run if not is_covered(file, declared)} == set()
    for other in TASKS if stage not in LONG else ():
        if namespace in MODULES[other] and WINGS[other] != WINGS[task]:
            own = {f"{other}.py", f"{WINGS[other]}.py", WINGS[other]}
            run |= {path for path in code_of(stage, other) if not own & {*path.split("/")}}
    assert {path for path in declared if not any(is_covered(file, {path}) for file in run)} == set()


@pytest.mark.parametrize(("stage", "data_set"), CASES)
def test_params_are_those_the_stage_takes(dvc_stages, catalogs, stage, data_set):
    task = task_of(data_set)
    inputs = kedro_stage(stage, data_set).inputs()
    expected = {
        name.removeprefix("params:").removeprefix(f"{task}.")
        for name in inputs
        if name.startswith("params:") and name != "params:launch"
    }
    expected |= {"raw" for name in inputs if name.startswith(f"{task}.raw_")}
    (params,) = (
        dep for dep in dvc_stages[f"{stage}@{data_set}"].deps if isinstance(dep, ParamsDependency)
    )
    configured = dvc_stages[f"configure@{data_set}"]
    assert [params.def_path] == [out.def_path for out in configured.outs]
    assert set(params.params) == expected
    env = DATA_SETS[data_set]["env"]
    assert configured.cmd == f"python scripts/write_configuration.py {env} {task}"


def test_every_environment_is_a_data_set():
    environments = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    assert environments - {"local"} == {item["env"] for item in DATA_SETS.values()}


# From here on: DVC at work on a copy of the project, in the reduced environment. The tests of
# this part share one built copy; each leaves it built.

CI = {task: f"sample_ci_{task}" for task in TASKS}
GRAPH = CI["link_prediction"]
MODELS = "data/06_models/sample_ci/link_prediction/finetuning"
RUN = ["configure", *NAMESPACES]


def stages_of(data_set, first="configure"):
    """The stages of a data set in the order in which they run, from one of them on."""
    has = [s for s in RUN if s == "configure" or (s, data_set) in CASES]
    return [f"{stage}@{data_set}" for stage in has[has.index(first) :]]


def last_stages(data_set):
    """The stages that nothing follows."""
    return [s for s in stages_of(data_set) if s.startswith(("evaluate@", "complete@"))]


# What each stage comes after. Of stages that do not need each other DVC runs either first.
AFTER = {
    "ingest": ("configure",),
    "associate_images": ("ingest",),
    "model_entities": ("associate_images",),
    "model_structure": ("ingest",),
    "finetune": ("associate_images", "model_entities"),
    "mix": ("finetune", "model_structure"),
    "evaluate": ("finetune", "mix"),
    "complete": ("mix",),
}


def assert_run_once_in_order(ran, expected):
    assert sorted(ran) == sorted(expected)
    place = {stage.partition("@")[0]: number for number, stage in enumerate(ran)}
    for stage, before in AFTER.items():
        for earlier in before:
            if stage in place and earlier in place:
                assert place[earlier] < place[stage], ran


def stages_run(output):
    return re.findall(r"Running stage '(.+?)'", output)


def of_data_set(stages, data_set):
    return [stage for stage in stages if stage.endswith(f"@{data_set}")]


EVERY = [*chain(*map(last_stages, CI.values()))]


@pytest.fixture(scope="module")
def first_repro(tmp_path_factory, copy_project, tiny_towers):
    """A copy in which each task was built once, and the stages that ``dvc repro`` ran."""
    project = copy_project(tmp_path_factory.mktemp("dvc") / "project")
    project.use_tiny_tower(tiny_towers.text("bert"))
    line = "{<<: *link_prediction, env: base, dataset: sample, raw: wordnet_emoji}"
    project.replace("dvc.yaml", f"      sample_link_prediction: {line}\n", "")
    project.run("git", "init", "--quiet")
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "As copied")
    ran = stages_run(project.run("dvc", "repro", *EVERY))
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "Built")
    project.run("git", "tag", "built")
    return project, ran


@pytest.fixture(scope="module")
def project(first_repro):
    return first_repro[0]


@pytest.mark.whole_run
@pytest.mark.parametrize("task", TASKS)
def test_repro_builds_a_data_set_from_raw_files_to_metrics(first_repro, task):
    project, ran = first_repro
    assert_run_once_in_order(of_data_set(ran, CI[task]), stages_of(CI[task]))
    assert len(ran) == len([*chain(*map(stages_of, CI.values()))])
    reporting = project.folder / f"data/08_reporting/sample_ci/{task}"
    metrics = json.loads((reporting / "metrics.json").read_text())
    assert 0 <= metrics["test"][TASKS[task].dev_metric] <= 1
    assert (reporting / "index.html").exists()


@pytest.mark.whole_run
def test_git_takes_what_is_small_and_nothing_else(project):
    added = set(project.run("git", "diff", "--name-only", "built~1", "built").split())
    small = {path for path in added if not path.endswith(".gitignore")}
    metrics = {f"data/08_reporting/sample_ci/{task}/metrics.json" for task in TASKS}
    assert small == {"dvc.lock"} | metrics


@pytest.mark.whole_run
@pytest.mark.parametrize("task", TASKS)
def test_an_edit_to_a_task_leaves_the_others_up_to_date(project, task):
    for path in (project.folder / "src").rglob(f"{task}.py"):
        path.write_text(path.read_text() + "# Edited.\n")
    try:
        every = [f"evaluate@{data_set}" for data_set in CI.values()]
        status = project.run("dvc", "status", "--with-deps", *every)
        changed = re.findall(r"^(\w+)@(\w+):$", status, flags=re.MULTILINE)
        assert {stage for stage, _ in changed} >= {"ingest", "finetune"}
        assert {data_set for _, data_set in changed} == {CI[task]}
    finally:
        project.run("git", "checkout", "--quiet", "--", "src")


@pytest.mark.whole_run
def test_second_repro_does_nothing(project):
    assert list((project.folder / "src").rglob("__pycache__")), "byte code must not count"
    output = project.run("dvc", "repro", *EVERY)
    assert stages_run(output) == []
    assert "Data and pipelines are up to date." in output


@pytest.mark.whole_run
def test_metrics_and_plots_are_shown(project):
    assert "test.both.realistic.hits_at_10" in project.run("dvc", "metrics", "show")
    project.run("dvc", "plots", "show")
    page = (project.folder / "dvc_plots/index.html").read_text()
    for plot in ("Dev MRR while fine-tuning", f"Fine-tuning loss, {GRAPH}", "plot.png"):
        assert plot in page
    shutil.rmtree(project.folder / "dvc_plots")


@pytest.mark.whole_run
def test_an_experiment_that_changes_evaluation_runs_evaluation_alone(project):
    settings = [
        f"--set-param=conf/ci/parameters_{task}.yml:{task}.evaluation.resamples=100"
        for task in TASKS
    ]
    evaluated = [f"evaluate@{data_set}" for data_set in CI.values()]
    ran = stages_run(project.run("dvc", "exp", "run", *evaluated, *settings))
    for data_set in CI.values():
        stages = [f"configure@{data_set}", f"evaluate@{data_set}"]
        assert of_data_set(ran, data_set) == stages
    assert len(ran) == 2 * len(CI)
    parameters, metrics = (project.run("dvc", kind, "diff") for kind in ("params", "metrics"))
    for task in TASKS:
        folder = f"data/08_reporting/sample_ci/{task}"
        assert re.search(rf"{folder}/configuration.json +evaluation.resamples ", parameters)
        assert re.search(rf"{folder}/metrics.json +\S*interval", metrics)
    project.run("git", "checkout", "--quiet", "--", ".")
    project.run(
        "dvc", "checkout", *(f"configure@{data_set}" for data_set in CI.values()), *evaluated
    )


@pytest.mark.whole_run
def test_a_changed_finetuning_parameter_runs_finetuning_and_what_follows(project):
    file = "conf/ci/parameters_link_prediction.yml"
    project.replace(file, "max_steps: 4", "max_steps: 2")
    output = project.run("dvc", "repro", *last_stages(GRAPH))
    expected = [f"configure@{GRAPH}", *stages_of(GRAPH, "finetune")]
    assert_run_once_in_order(stages_run(output), expected)
    output = project.run("dvc", "repro", f"evaluate@{CI['entity_recognition']}")
    assert stages_run(output) == [f"configure@{CI['entity_recognition']}"]
    project.run("git", "commit", "--quiet", "--all", "--message", "Fewer steps")


@pytest.mark.whole_run
def test_a_clone_that_pulls_rebuilds_nothing(project):
    remote, clone = project.folder.parent / "remote", project.folder.parent / "clone"
    project.run("dvc", "remote", "add", "--default", "store", str(remote))
    project.run("dvc", "push")
    project.run("git", "commit", "--quiet", "--all", "--message", "A remote")
    project.run("git", "clone", "--quiet", ".", str(clone))
    cloned = type(project)(clone)
    assert not (clone / MODELS).exists()
    cloned.run("dvc", "pull", "--with-deps", f"evaluate@{GRAPH}")
    output = cloned.run("dvc", "repro", f"evaluate@{GRAPH}")
    assert stages_run(output) == []
    assert "Data and pipelines are up to date." in output
    for path in (f"{MODELS}/seed_42/model.safetensors", "dvc.lock"):
        assert (clone / path).read_bytes() == (project.folder / path).read_bytes()


@pytest.mark.whole_run
def test_plain_repro_builds_what_it_can_and_names_what_it_cannot(project):
    output = project.run("dvc", "repro", fails=True)
    sample, _, rest = output.partition("Running stage 'ingest@fb15k_237_img'")
    evaluated = [stage for stage in stages_of(GRAPH) if not stage.startswith("complete@")]
    assert all(f"Stage '{stage}' didn't change" in sample for stage in evaluated)
    for name in ("fb15k_237_img", "wn18_img", "mnre", "twitter_2017"):
        assert f"data/01_raw/{name}" in rest
    assert "docs/data.md" in rest
    assert "Traceback" not in rest
