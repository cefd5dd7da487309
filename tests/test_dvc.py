"""The DVC graph against the Kedro pipelines and the catalog: neither can drift from the other."""

from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from mkgformer_kedro.datasets.folder import WorkFolderDataset

ROOT = Path(__file__).parents[1]
STAGES = {
    "ingest": "ingestion",
    "associate_images": "image_association",
    "model_entities": "entity_modeling",
    "finetune": "finetuning",
    "evaluate": "evaluation",
}
DVC_YAML = yaml.safe_load((ROOT / "dvc.yaml").read_text())
DATA_SETS = DVC_YAML["stages"]["evaluate"]["foreach"]
CASES = [(stage, data_set) for stage in STAGES for data_set in DATA_SETS]


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


def kedro_stage(stage):
    return pipelines["link_prediction"].filter(node_namespaces=[STAGES[stage]])


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


@pytest.mark.parametrize(("stage", "data_set"), CASES)
def test_stage_runs_its_namespace_in_its_environment(dvc_stages, stage, data_set):
    env = DATA_SETS[data_set]["env"]
    assert dvc_stages[f"{stage}@{data_set}"].cmd == (
        f"kedro run --pipeline link_prediction --namespaces {STAGES[stage]} --env {env}"
    )


@pytest.mark.parametrize(("stage", "data_set"), CASES)
def test_outs_are_what_the_stage_saves(dvc_stages, catalogs, stage, data_set):
    declared = {out.def_path for out in dvc_stages[f"{stage}@{data_set}"].outs}
    saved = paths_of(catalogs[data_set], kedro_stage(stage).all_outputs())
    assert all(is_covered(path, declared) for path in saved), saved - declared
    assert all(any(is_covered(path, {out}) for path in saved) for out in declared)


@pytest.mark.parametrize(("stage", "data_set"), CASES)
def test_deps_are_what_the_stage_loads(dvc_stages, catalogs, stage, data_set):
    deps = dvc_stages[f"{stage}@{data_set}"].deps
    declared = {d.def_path for d in deps if d.def_path.startswith("data/")}
    inputs = {name for name in kedro_stage(stage).inputs() if not name.startswith("param")}
    loaded = paths_of(catalogs[data_set], inputs)
    assert all(is_covered(path, declared) for path in loaded), loaded - declared
    assert all(any(is_covered(path, {dep}) for path in loaded) for dep in declared)


@pytest.mark.parametrize(("stage", "data_set"), CASES)
def test_code_of_the_stage_is_a_dependency(dvc_stages, stage, data_set):
    declared = {d.def_path for d in dvc_stages[f"{stage}@{data_set}"].deps}
    assert f"src/mkgformer_kedro/pipelines/{STAGES[stage]}" in declared
    assert all((ROOT / path).exists() for path in declared if path.startswith("src/"))


@pytest.mark.parametrize(("stage", "data_set"), CASES)
def test_params_are_those_the_stage_takes(dvc_stages, stage, data_set):
    declared = {
        Path(d.def_path)
        for d in dvc_stages[f"{stage}@{data_set}"].deps
        if d.def_path.startswith("conf/") and "parameters" in d.def_path
    }
    taken = {name.removeprefix("params:") for name in kedro_stage(stage).inputs() if ":" in name}
    files = {
        path.name
        for path in (ROOT / "conf/base").glob("parameters*.yml")
        if taken & set(yaml.safe_load(path.read_text()))
    }
    env = DATA_SETS[data_set]["env"]
    assert declared == {Path("conf") / room / name for room in ("base", env) for name in files}


def test_every_environment_is_a_data_set():
    environments = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    assert environments - {"local"} == {item["env"] for item in DATA_SETS.values()}
