"""DVC: its graph and Kedro's cannot drift apart, and it rebuilds what changed and no more."""

import ast
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from dvc.dependency import ParamsDependency
from dvc.repo import Repo
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from mkgformer_kedro.datasets.folder import WorkFolderDataset

ROOT = Path(__file__).parents[1]
GRAPH_STAGES = {
    "ingest": "ingestion",
    "associate_images": "image_association",
    "model_entities": "entity_modeling",
    "finetune": "finetuning",
    "evaluate": "evaluation",
}
POSTS_STAGES = {
    "ingest_posts": "ingestion",
    "associate_post_images": "image_association",
    "finetune_posts": "finetuning",
    "evaluate_posts": "evaluation",
}
NAMESPACES = GRAPH_STAGES | POSTS_STAGES
DVC_YAML = yaml.safe_load((ROOT / "dvc.yaml").read_text())
GRAPHS = DVC_YAML["stages"]["evaluate"]["foreach"]
CORPORA = DVC_YAML["stages"]["evaluate_posts"]["foreach"]
DATA_SETS = GRAPHS | CORPORA
PACKAGE = ROOT / "src/mkgformer_kedro"
# How errors are worded, files are named and progress is shown is no part of any result.
NO_RESULT_DEPENDS_ON = {
    PACKAGE / f"{name}.py" for name in ("__init__", "errors", "files", "parameters", "progress")
} | set(PACKAGE.glob("*/__init__.py"))
CASES = [(stage, data_set) for stage in GRAPH_STAGES for data_set in GRAPHS]
CASES += [(stage, data_set) for stage in POSTS_STAGES for data_set in CORPORA]


def task_of(data_set):
    return DATA_SETS[data_set].get("task", "link_prediction")


@pytest.fixture(scope="module")
def dvc_stages():
    return {stage.name: stage for stage in Repo(ROOT).index.stages if hasattr(stage, "name")}


@pytest.fixture(scope="module")
def catalogs():
    bootstrap_project(ROOT)
    found = {}
    for data_set, item in DATA_SETS.items():
        with KedroSession.create(project_path=ROOT, env=item["env"]) as session:
            found[data_set] = session.load_context().catalog
    return found


def namespace_of(stage, data_set):
    task, namespace = task_of(data_set), NAMESPACES[stage]
    return namespace if task == "link_prediction" else f"{task}.{namespace}"


def kedro_stage(stage, data_set):
    return pipelines[task_of(data_set)].filter(node_namespaces=[namespace_of(stage, data_set)])


def paths_of(catalog, names):
    """Files and folders of datasets, relative to the project; work folders are no results."""
    found = set()
    for name in names:
        dataset = catalog.get(name)
        if not isinstance(dataset, WorkFolderDataset):
            path = getattr(dataset, "_filepath", None) or getattr(dataset, "_folder", None)
            assert path is not None, f"{name} has no path"
            found.add(Path(path).relative_to(ROOT).as_posix())
    return found


def is_covered(path, by):
    return any(path == other or path.startswith(f"{other}/") for other in by)


def imported_files(path):
    """Files of this project that a file imports, at its top or inside its functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = path.relative_to(ROOT / "src").parts[: -node.level] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    for name in names:
        module = ROOT / "src" / Path(*name.split("."))
        yield from (
            file for file in (module.with_suffix(".py"), module / "__init__.py") if file.exists()
        )


@pytest.mark.parametrize(("stage", "data_set"), CASES)
def test_stage_runs_its_namespace_in_its_environment(dvc_stages, stage, data_set):
    cmd = dvc_stages[f"{stage}@{data_set}"].cmd
    last = cmd[-1] if isinstance(cmd, list) else cmd
    task, namespace = task_of(data_set), namespace_of(stage, data_set)
    env = DATA_SETS[data_set]["env"]
    assert last == f"kedro run --pipelines {task} --namespaces {namespace} --env {env}"


@pytest.mark.parametrize(("stage", "data_set"), CASES)
def test_outs_are_what_the_stage_saves(dvc_stages, catalogs, stage, data_set):
    declared = {out.def_path for out in dvc_stages[f"{stage}@{data_set}"].outs}
    saved = paths_of(catalogs[data_set], kedro_stage(stage, data_set).all_outputs())
    assert all(is_covered(path, declared) for path in saved), saved - declared
    assert all(any(is_covered(path, {out}) for path in saved) for out in declared)


@pytest.mark.parametrize(("stage", "data_set"), CASES)
def test_deps_are_what_the_stage_loads(dvc_stages, catalogs, stage, data_set):
    deps = dvc_stages[f"{stage}@{data_set}"].deps
    declared = {d.def_path for d in deps if d.def_path.startswith("data/")}
    inputs = kedro_stage(stage, data_set).inputs()
    inputs = {name for name in inputs if not name.startswith("param")}
    loaded = paths_of(catalogs[data_set], inputs)
    assert all(is_covered(path, declared) for path in loaded), loaded - declared
    assert all(any(is_covered(path, {dep}) for path in loaded) for dep in declared)


@pytest.mark.parametrize(("stage", "data_set"), CASES)
def test_deps_are_the_code_that_the_stage_imports(dvc_stages, stage, data_set):
    deps = dvc_stages[f"{stage}@{data_set}"].deps
    declared = {d.def_path for d in deps if d.def_path.startswith("src/")}
    imported, found = set(), set((PACKAGE / "pipelines" / NAMESPACES[stage]).glob("*.py"))
    while found:
        imported |= found
        found = {file for path in found for file in imported_files(path)} - imported
    files = {path.relative_to(ROOT).as_posix() for path in imported - NO_RESULT_DEPENDS_ON}
    assert {file for file in files if not is_covered(file, declared)} == set()
    assert {path for path in declared if not any(is_covered(file, {path}) for file in files)} == (
        set()
    )


@pytest.mark.parametrize(("stage", "data_set"), CASES)
def test_params_are_those_the_stage_takes(dvc_stages, stage, data_set):
    declared = {
        (d.def_path, tuple(sorted(set(d.params))))
        for d in dvc_stages[f"{stage}@{data_set}"].deps
        if isinstance(d, ParamsDependency) and "parameters" in d.def_path
    }
    taken = {
        name.removeprefix("params:")
        for name in kedro_stage(stage, data_set).inputs()
        if name.startswith("params:")
    }
    # Of a task's file its stages' groups are watched one by one, all other files as a whole.
    expected = set()
    for path in (ROOT / "conf/base").glob("parameters*.yml"):
        groups = set(yaml.safe_load(path.read_text()))
        inside = {name for name in taken if "." in name and name.split(".")[0] in groups}
        if inside or taken & groups:
            expected |= {
                (f"conf/{room}/{path.name}", tuple(sorted(inside)))
                for room in ("base", DATA_SETS[data_set]["env"])
            }
    assert declared == expected


def test_every_environment_is_a_data_set_with_all_files_that_dvc_watches(dvc_stages):
    environments = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    assert environments - {"local"} == {item["env"] for item in DATA_SETS.values()}
    watched = {dep.def_path for stage in dvc_stages.values() for dep in stage.deps}
    missing = {path for path in watched if path.startswith("conf/") and not (ROOT / path).exists()}
    assert missing == set()


GLOBALS = [("ingest", graph, "graph") for graph in GRAPHS]
GLOBALS += [("associate_images", graph, "images") for graph in GRAPHS]
GLOBALS += [
    (stage, corpus, task_of(corpus))
    for stage in ("ingest_posts", "associate_post_images")
    for corpus in CORPORA
]


@pytest.mark.parametrize(("stage", "data_set", "key"), GLOBALS)
def test_globals_that_a_stage_reads_are_its_params(dvc_stages, stage, data_set, key):
    deps = dvc_stages[f"{stage}@{data_set}"].deps
    params = {dep.def_path: dep.params for dep in deps if isinstance(dep, ParamsDependency)}
    whole_file: list[str] = []
    expected = {"conf/base/globals.yml": [key]}
    expected |= {f"conf/{DATA_SETS[data_set]['env']}/globals.yml": whole_file}
    assert expected.items() <= params.items()


# From here on: DVC at work on a copy of the project, in the reduced environment. The tests of
# this part share one built copy; each leaves it built.

CI = "wordnet_emoji_ci"
STAGES_OF_CI = [f"{stage}@{CI}" for stage in GRAPH_STAGES]
REPORTING = f"data/08_reporting/{CI}"


def stages_run(output):
    return re.findall(r"Running stage '(.+?)'", output)


@pytest.fixture(scope="module")
def first_repro(tmp_path_factory, copy_project):
    """A copy that was built once, and what ``dvc repro`` said."""
    project = copy_project(tmp_path_factory.mktemp("dvc") / "project")
    project.replace("dvc.yaml", "      wordnet_emoji: {env: base, raw: wordnet_emoji}\n", "")
    project.run("git", "init", "--quiet")
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "As copied")
    output = project.run("dvc", "repro", f"evaluate@{CI}")
    project.run("git", "add", "--all")
    project.run("git", "commit", "--quiet", "--message", "Built")
    project.run("git", "tag", "built")
    return project, output


@pytest.fixture(scope="module")
def project(first_repro):
    return first_repro[0]


@pytest.mark.whole_run
def test_repro_builds_a_data_set_from_raw_files_to_metrics(first_repro):
    project, output = first_repro
    assert stages_run(output) == STAGES_OF_CI
    metrics = json.loads((project.folder / REPORTING / "link_prediction/metrics.json").read_text())
    assert 0 < metrics["test"]["both.realistic.inverse_harmonic_mean_rank"] <= 1
    assert (project.folder / REPORTING / "link_prediction/index.html").exists()


@pytest.mark.whole_run
def test_git_takes_what_is_small_and_nothing_else(project):
    added = set(project.run("git", "diff", "--name-only", "built~1", "built").split())
    small = {path for path in added if not path.endswith(".gitignore")}
    assert small == {"dvc.lock", f"{REPORTING}/link_prediction/metrics.json"}


@pytest.mark.whole_run
@pytest.mark.parametrize("corpus", [name for name, item in CORPORA.items() if item["env"] == "ci"])
def test_repro_builds_a_corpus_of_posts_and_does_nothing_the_second_time(project, corpus):
    last = f"evaluate_posts@{corpus}"
    assert stages_run(project.run("dvc", "repro", last)) == [f"{s}@{corpus}" for s in POSTS_STAGES]
    assert stages_run(project.run("dvc", "repro", last)) == []
    setting = f"{task_of(corpus)}.evaluation.resamples=100"
    file = f"conf/ci/parameters_{task_of(corpus)}.yml"
    output = project.run("dvc", "exp", "run", last, "--set-param", f"{file}:{setting}")
    assert stages_run(output) == [last]
    project.run("git", "checkout", "--quiet", "--", ".")


@pytest.mark.whole_run
def test_second_repro_does_nothing(project):
    assert list((project.folder / "src").rglob("__pycache__")), "byte code must not count"
    output = project.run("dvc", "repro", f"evaluate@{CI}")
    assert stages_run(output) == []
    assert "Data and pipelines are up to date." in output


@pytest.mark.whole_run
def test_metrics_and_plots_are_shown(project):
    assert "test.both.realistic.hits_at_10" in project.run("dvc", "metrics", "show")
    project.run("dvc", "plots", "show")
    page = (project.folder / "dvc_plots/index.html").read_text()
    for plot in ("Dev MRR while fine-tuning", f"Fine-tuning loss, {CI}", "ranks.png"):
        assert plot in page
    shutil.rmtree(project.folder / "dvc_plots")


@pytest.mark.whole_run
def test_an_experiment_that_changes_evaluation_runs_evaluation_alone(project):
    setting = "conf/ci/parameters_evaluation.yml:evaluation.resamples=100"
    output = project.run("dvc", "exp", "run", f"evaluate@{CI}", "--set-param", setting)
    assert stages_run(output) == [f"evaluate@{CI}"]
    assert "evaluation.resamples" in project.run("dvc", "params", "diff")
    assert "interval" in project.run("dvc", "metrics", "diff")


@pytest.mark.whole_run
def test_a_changed_finetuning_parameter_runs_finetuning_and_what_follows(project):
    project.replace("conf/ci/parameters_finetuning.yml", "max_steps: 4", "max_steps: 2")
    output = project.run("dvc", "repro", f"evaluate@{CI}")
    assert stages_run(output) == [f"finetune@{CI}", f"evaluate@{CI}"]
    project.run("git", "commit", "--quiet", "--all", "--message", "Fewer steps")


@pytest.mark.whole_run
def test_a_clone_that_pulls_rebuilds_nothing(project):
    remote, clone = project.folder.parent / "remote", project.folder.parent / "clone"
    project.run("dvc", "remote", "add", "--default", "store", str(remote))
    project.run("dvc", "push")
    project.run("git", "commit", "--quiet", "--all", "--message", "A remote")
    project.run("git", "clone", "--quiet", ".", str(clone))
    cloned = type(project)(clone)
    assert not (clone / f"data/06_models/{CI}/link_prediction").exists()
    cloned.run("dvc", "pull", "--with-deps", f"evaluate@{CI}")
    output = cloned.run("dvc", "repro", f"evaluate@{CI}")
    assert stages_run(output) == []
    assert "Data and pipelines are up to date." in output
    for path in (f"data/06_models/{CI}/link_prediction/model.safetensors", "dvc.lock"):
        assert (clone / path).read_bytes() == (project.folder / path).read_bytes()


@pytest.mark.whole_run
def test_plain_repro_builds_what_it_can_and_names_what_it_cannot(project):
    output = project.run("dvc", "repro", fails=True)
    sample, _, rest = output.partition("Running stage 'ingest@fb15k_237_img'")
    assert all(f"Stage '{stage}' didn't change" in sample for stage in STAGES_OF_CI)
    for name in ("fb15k_237_img", "wn18_img", "mnre", "twitter_2017"):
        assert f"data/01_raw/{name}" in rest
    assert "docs/data.md" in rest
    assert "Traceback" not in rest
