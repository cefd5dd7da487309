"""Studies: what cells share, what is run again, and what the table says in the end."""

import io
import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import yaml
from kedro.framework.startup import bootstrap_project
from pydantic import ValidationError

from mkgformer_kedro.configuration import ExtendingConfigLoader
from mkgformer_kedro.datasets.lineage import place_of
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.pipelines.study import nodes, running, stages
from mkgformer_kedro.pipelines.study.parameters import StudyParameters
from mkgformer_kedro.pipelines.study.running import Processes, missing_runs, run_all
from mkgformer_kedro.pipelines.study.stages import Workplace, plan_cell, with_overrides
from mkgformer_kedro.settings import CONFIG_LOADER_ARGS
from mkgformer_kedro.training.tasks.registry import task_named

ROOT = Path(__file__).parents[3]
RAW = {
    "relation_extraction.raw_posts": "posts",
    "relation_extraction.raw_images": "images",
    "link_prediction.raw_graph": "graph",
    "link_prediction.raw_images": "images",
}


@pytest.fixture(scope="module")
def values():
    """Parameters of the base environment."""
    bootstrap_project(ROOT)
    loader = ExtendingConfigLoader(str(ROOT / "conf"), env="base", **CONFIG_LOADER_ARGS)
    values = loader["parameters"]
    values["relation_extraction"]["evaluation"]["resamples"] = 100
    return values


def plan(values, task, raw=RAW, **overrides):
    paths = {path.replace("__", "."): value for path, value in overrides.items()}
    return plan_cell(task, with_overrides(values, task, paths), raw)


def keys(run):
    """Key of each stage that a run needs, by its name."""
    found = {run.stage: run.key}
    for source in run.sources.values():
        found |= keys(source)
    return found


def shared(first, second):
    return {stage for stage, key in keys(first).items() if keys(second)[stage] == key}


# What cells share

IMAGES = {"ingestion", "image_association"}


@pytest.mark.parametrize(
    ("task", "override", "expected"),
    [
        ("relation_extraction", {"finetuning__seeds": [7]}, IMAGES),
        ("relation_extraction", {"image_association__min_side": 9}, {"ingestion"}),
        ("relation_extraction", {"ingestion__on_bad_lines": "quarantine"}, set()),
        ("relation_extraction", {"evaluation__batch_size": 3}, IMAGES | {"finetuning"}),
        ("link_prediction", {"model__images__source": "none"}, IMAGES),
        ("link_prediction", {"finetuning__seeds": [7]}, IMAGES | {"entity_modeling"}),
    ],
)
def test_cells_share_the_stages_that_they_do_not_touch(values, task, override, expected):
    assert shared(plan(values, task), plan(values, task, **override)) == expected


def test_other_data_or_code_share_nothing_that_hangs_on_them(values, monkeypatch):
    task = "relation_extraction"
    cell = plan(values, task)
    other_images = {**RAW, f"{task}.raw_images": "other"}
    assert shared(cell, plan(values, task, other_images)) == {"ingestion"}

    monkeypatch.setattr(stages, "code_of", lambda stage: "new" if stage == "finetuning" else "old")
    before = plan(values, task)
    monkeypatch.setattr(stages, "code_of", lambda stage: "old")
    assert shared(before, plan(values, task)) == {"ingestion", "image_association"}


def test_other_files_of_a_tower_make_other_cells(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "tower").mkdir()
    found = set()
    for name, content in (("config.json", "1"), ("config.json", "2"), (".DS_Store", "")):
        (tmp_path / "tower" / name).write_text(content)
        for tower in (tmp_path / "tower", "~/tower"):
            found.add(stages._tower.__wrapped__(str(tower)))
    assert len(found) == 2


def test_code_is_what_the_stage_imports_without_its_comments(tmp_path, monkeypatch):
    package = tmp_path / "mkgformer_kedro"
    files = {
        "__init__.py": "",
        "pipelines/finetuning/nodes.py": (
            "def node():\n    from mkgformer_kedro.training.loop import learn\n"
        ),
        "training/loop.py": "from .order import sort\nfrom mkgformer_kedro.errors import DataError",
        "training/order.py": "import math",
        "training/other.py": "",
        "errors.py": "",
    }
    monkeypatch.setattr(stages.mkgformer_kedro, "__file__", str(package / "__init__.py"))

    def digest(**changed):
        for name, text in (files | changed).items():
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            (package / name).write_text(text)
        stages._read_code.cache_clear()
        return stages.code_of.__wrapped__("finetuning")

    first = digest()
    for name in ("training/other.py", "errors.py"):
        assert digest(**{name: "x = 1"}) == first, name
    assert digest(**{"training/order.py": "# why\nimport  math\n"}) == first
    for name in ("training/order.py", "training/loop.py", "pipelines/finetuning/nodes.py"):
        assert digest(**{name: files[name] + "\nx = 1\n"}) != first, name


def test_paths_are_those_of_a_run_or_of_the_task(values):
    task = "relation_extraction"
    paths = ("finetuning.epochs", "relation_extraction.finetuning.epochs")
    short, full = (with_overrides(values, task, {path: 9}) for path in paths)

    assert short == full
    assert short[task]["finetuning"]["epochs"] == 9
    assert values[task]["finetuning"]["epochs"] != 9


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"finetunning.epochs": 1}, "no stage of a cell takes 'finetunning.epochs'. Did you mean"),
        ({"link_prediction.finetuning.epochs": 1}, "no stage of a cell takes"),
        ({"finetuning.epoch": 1}, "unknown parameter 'epoch'; did you mean 'epochs'"),
        ({"finetuning.epochs": -1}, "finetuning.epochs"),
        ({"model.config.loss": "x"}, "set elsewhere"),
    ],
)
def test_what_no_stage_takes_is_refused(values, overrides, message):
    with pytest.raises(DataError, match=message):
        with_overrides(values, "relation_extraction", overrides)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": "ablation"}, "did you mean 'ablations'"),
        ({"task": "link"}, "there is no task 'link'"),
        ({"seeds": [1, 1]}, "names a seed twice"),
        ({"grids": {"ablations": {"reference": "x", "cells": {"y": {}}, "along": {}}}}, "no cell"),
        (
            {
                "grids": {
                    "g": {
                        "reference": "without_images",
                        "cells": {"without_images": {}},
                        "along": {},
                    }
                }
            },
            "no cell can be called without_images",
        ),
    ],
)
def test_a_study_of_what_is_not_there_is_refused(values, change, message):
    with pytest.raises(ValidationError, match=message):
        StudyParameters(**{**values["study"], **change})


@pytest.mark.parametrize("own", [
    {"finetuning.seeds": [7]},
    {"relation_extraction.finetuning": {"seeds": [7]}},
])  # fmt: skip
@pytest.mark.parametrize("along", [False, True])
def test_seeds_are_the_studys(values, monkeypatch, own, along):
    monkeypatch.setattr(nodes, "identities_of_raw_data", lambda catalog, task: RAW)
    grid = {
        "reference": "full",
        "cells": {"full": {} if along else own},
        "along": {path: [value] for path, value in own.items()} if along else {},
    }
    study = StudyParameters(**study_of(values, grids={"trial": grid}))

    with pytest.raises(DataError, match=r"the cell 'full' .*`study.seeds`"):
        nodes.plan_grid(values, study, Mock())


@pytest.mark.parametrize("task", ["link_prediction", "relation_extraction"])
def test_cells_of_the_grids_that_ship_are_valid(values, task):
    of_others = {
        "link_prediction": "image_association.crops",
        "relation_extraction": "ingestion.described_by",
    }
    for grid in StudyParameters(**values["study"]).grids.values():
        for overrides in grid.cells.values():
            every = overrides | {path: some[0] for path, some in grid.along.items()}
            if of_others[task] not in every:
                with_overrides(values, task, every)


# Running


def test_the_first_that_can_run_runs_first_and_failures_spread(values):
    task = "relation_extraction"
    cells = [plan(values, task, finetuning__seeds=[seed]) for seed in (1, 2)]
    bad = plan(values, task, image_association__min_side=9)
    order = []

    def run(stage):
        order.append(stage.key)
        return "no disk" if stage.key == keys(bad)["image_association"] else None

    failed = run_all(missing_runs([*cells, bad], lambda stage: False), run, processes=1)

    first, second = map(keys, cells)
    stages_of_all = ["ingestion", "image_association", "finetuning", "cell"]
    expected = [first[stage] for stage in stages_of_all]
    expected += [second["finetuning"], second["cell"], keys(bad)["image_association"]]
    assert order == expected
    names = ("image_association", "finetuning", "cell")
    assert failed == {keys(bad)[stage]: "no disk" for stage in names}


def test_nothing_is_needed_of_what_a_finished_run_was_made_of(values):
    cell = plan(values, "relation_extraction")

    assert missing_runs([cell], lambda run: run.stage == "cell") == []
    needed = missing_runs([cell], lambda run: run.stage == "image_association")
    assert [run.stage for run in needed] == ["ingestion", "finetuning", "cell"]


@pytest.mark.parametrize("processes", [1, 2])
def test_models_stay_until_the_last_cell_has_asked_them(values, tmp_path, monkeypatch, processes):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    workplace, task = Workplace.of("base", values), "relation_extraction"
    cells = [plan(values, task), plan(values, task, asking__precision="bf16")]
    learning = cells[0].sources[f"{task}.models"]
    assert cells[1].sources[f"{task}.models"].key == learning.key
    models = Path(place_of(workplace.catalog_of(learning), f"{task}.models")).absolute()
    broken = {cells[1].name}

    class FakeProcess:
        """The process of a stage: makes the models, or asks them."""

        def __init__(self, *command, **options):
            self.stdin = io.StringIO()

        def wait(self, timeout):
            job = json.loads(self.stdin.getvalue())
            if job["namespace"] == f"{task}.finetuning":
                models.mkdir(parents=True)
            elif not models.exists() or job["runtime"]["dataset"].endswith(tuple(broken)):
                return 1
            return 0

    monkeypatch.setattr(running.subprocess, "Popen", FakeProcess)

    def run_missing(done):
        runs = missing_runs(
            cells, lambda run: run.stage in ("ingestion", *done) or run.name in done
        )
        with Processes(workplace, tmp_path / "logs", runs, keep_models=False) as each:
            return run_all(runs, each, processes)

    prepared = ("image_association",)
    assert [*run_missing(prepared)] == [cells[1].key]
    assert models.exists(), "a cell has still to ask them"
    broken.clear()
    assert run_missing((*prepared, "finetuning", cells[0].name)) == {}
    assert not models.exists()
    assert run_missing(prepared) == {}
    assert not models.exists()


class FakeStages:
    """Makes what the stages of relation extraction make, without learning anything."""

    def __init__(self, posts, labels, store):
        self.posts, self.labels, self.store = posts, labels, store
        self.ran = []
        self.killed_at = None

    def __call__(self, processes, run):
        if len(self.ran) == self.killed_at:
            raise KeyboardInterrupt
        self.ran.append(run.key)
        if run.parameters["model"]["images"]["source"] == "random":
            return "the noise is too loud"
        catalog, task = processes.workplace.catalog_of(run), run.task
        for name in run.makes:
            data = self.make(name.removeprefix(f"{task}."), run, processes.folder)
            catalog.save(name, data)
        return None

    def make(self, name, run, folder):
        if name == "posts":
            return self.posts
        if name == "labels":
            return self.labels
        if name == "visual_store":
            return shutil.copytree(self.store, folder / f"store-{run.name}")
        if name == "models":
            (folder / f"models-{run.name}").mkdir()
            return folder / f"models-{run.name}"
        if name == "cell_predictions":
            return self.predictions(run)
        return pd.DataFrame({"a": [1]})

    def predictions(self, run):
        test = self.posts[self.posts["split"] == "test"]
        (seed,) = run.parameters[run.task]["finetuning"]["seeds"]
        tables = []
        for expert, skill in (("model", 0.9), ("without_images", 0.5), ("baseline", 0.0)):
            lucky = np.random.default_rng([seed, int(100 * skill)]).random(len(test)) < skill
            gold = test["relation"]
            tables.append(
                pd.DataFrame(
                    {
                        "expert": expert,
                        "seed": 0 if expert == "baseline" else seed,
                        "post": test["post"],
                        "relation": gold,
                        "predicted": gold.where(lucky, (gold + 1) % 3),
                        "score": 0.5,
                        "tokens_truncated": 0,
                        "mentions_truncated": False,
                    }
                )
            )
        return pd.concat(tables, ignore_index=True)


@pytest.fixture
def fake(tmp_path, monkeypatch, posts, labels, posts_store, values):
    """A project of configuration alone, in which stages are faked."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nodes, "identities_of_raw_data", lambda catalog, task: RAW)
    table = posts["relation_extraction"].assign(subset=None)
    entries = yaml.safe_load((tmp_path / "conf/base/catalog.yml").read_text())
    for entry in entries.values():  # the tables are cut down to what the test needs
        entry.pop("validator", None)
    (tmp_path / "conf/base/catalog.yml").write_text(yaml.safe_dump(entries))
    fake = FakeStages(table, labels["relation_extraction"], posts_store)
    monkeypatch.setattr(Processes, "__call__", lambda self, run: fake(self, run))
    return fake


def study_of(values, **changes):
    return {
        **values["study"],
        "task": "relation_extraction",
        "grid": "trial",
        "seeds": [1, 2],
        "grids": {
            "trial": {
                "reference": "full",
                "cells": {
                    "full": {},
                    "loud": {"model.images.source": "random"},
                    "shuffled": {"model.images.source": "shuffled"},
                },
                "along": {},
            }
        },
        **changes,
    }


def run(values, study, folder):
    made = nodes.run_study(values, StudyParameters(**study), "base", folder)
    (found,) = made.values()
    return found


def test_a_study_killed_twice_ends_with_the_same_table(fake, values, tmp_path):
    study = study_of(values)
    for fake.killed_at in (3, 6):
        with pytest.raises(KeyboardInterrupt):
            run(values, study, tmp_path / "work")
    fake.killed_at = None
    resumed = run(values, study, tmp_path / "work")
    again = {key for key in fake.ran if fake.ran.count(key) > 1}
    assert len(again) <= 2, "what was done is not run again, only what failed"

    shutil.rmtree(tmp_path / "data")
    whole = run(values, study, tmp_path / "whole")
    for name in ("table.csv", "drill_down.csv", "index.html", "plot.png"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes(), name

    table = pd.read_csv(whole / "table.csv").set_index("cell")
    assert list(table.index) == ["full", "loud", "shuffled"]
    assert table.loc["full", "seeds"] == 2
    assert table.loc["full", "items"] == 12
    assert pd.isna(table.loc["full", "difference"])
    assert table.loc["shuffled", "difference"] == 0
    assert table.loc["full", "F1"] > table.loc["full", "without_images"]
    assert table.loc["loud", "failed"] == (
        "seed 1: the noise is too loud; seed 2: the noise is too loud"
    )
    assert pd.isna(table.loc["loud", "F1"])
    page = (whole / "index.html").read_text()
    assert "the noise is too loud" in page
    assert "It is not shown that the right image matters" in page


def test_no_value_of_another_parameter_is_all(fake, values):
    cells = {"reference": "full", "cells": {"full": {}}}
    for path in ("finetuning.train_subset", "finetuning.freeze"):
        grid = {**cells, "along": {path: [None]}}
        study = StudyParameters(**study_of(values, grids={"trial": grid}))
        (cell,) = nodes.plan_grid(values, study, Mock())
        assert cell.at == ("all" if path == "finetuning.train_subset" else "null")


def test_curves_stand_at_what_was_learned_from(fake, values, tmp_path, monkeypatch):
    learned = []
    task = task_named("relation_extraction")
    evaluate = task.evaluate

    def spy(predictions, tables, **options):
        learned.append((tables["posts"]["split"] == "train").sum())
        return evaluate(predictions, tables, **options)

    monkeypatch.setattr(task, "evaluate", spy)
    grid = {
        "reference": "full",
        "cells": {"full": {}, "text_only": {"model.images.source": "none"}},
        "along": {"finetuning.train_subset": [{"shots": 1}, {"shots": 2}, None]},
    }
    folder = run(values, study_of(values, grids={"trial": grid}, keep_models=False), tmp_path / "w")

    table = pd.read_csv(folder / "table.csv", keep_default_na=False)
    assert table["at"].unique().tolist() == ["shots 1", "shots 2", "all"]
    assert table["items"].astype(int).tolist() == [3, 3, 6, 6, 12, 12]
    assert [*dict.fromkeys(learned)] == [3, 6, 12]
    page = (folder / "index.html").read_text()
    assert "full, without images" in page
    assert "majority baseline" in page
