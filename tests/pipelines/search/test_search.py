"""Search: trials are resumed, the best is written as an environment."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from kedro.framework.startup import bootstrap_project
from pydantic import ValidationError

from mkgformer_kedro.configuration import ExtendingConfigLoader
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.pipelines.search import nodes
from mkgformer_kedro.pipelines.search.parameters import Range, SearchParameters
from mkgformer_kedro.pipelines.study.running import Processes
from mkgformer_kedro.pipelines.study.stages import Workplace, plan_cell
from mkgformer_kedro.settings import CONFIG_LOADER_ARGS
from mkgformer_kedro.training.tasks.registry import TASKS

ROOT = Path(__file__).parents[3]
TASK = "entity_recognition"
RAW = {f"{TASK}.raw_posts": "posts", f"{TASK}.raw_images": "images"}


@pytest.fixture
def values(tmp_path, monkeypatch):
    """Parameters of the base environment, of a project of configuration alone."""
    bootstrap_project(ROOT)
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nodes, "identities_of_raw_data", lambda catalog, task: RAW)
    loader = ExtendingConfigLoader(str(tmp_path / "conf"), env="base", **CONFIG_LOADER_ARGS)
    return loader["parameters"]


class FakeStages:
    """Fine-tunings whose dev score is best at a rate of 1e-3, and a third of a batch of 8."""

    def __init__(self):
        self.asked = []
        self.killed_at = self.curve = None

    def __call__(self, processes, run):
        if run.stage != "finetuning":
            return None
        finetuning = run.parameters[TASK]["finetuning"]
        drawn = finetuning["learning_rates"]["default"], finetuning["batch_size"]
        self.asked.append(drawn)
        if len(self.asked) == self.killed_at:
            raise KeyboardInterrupt
        if drawn[1] == 4:
            return "out of memory"
        score = 1 - abs(drawn[0] - 1e-3) * 100 + (drawn[1] == 16) / 1000
        catalog = processes.workplace.catalog_of(run)
        folder = processes.folder / run.name
        folder.mkdir()
        curve = [(seed, dev) for seed in finetuning["seeds"] or [42] for dev in (0.0, score)]
        curve = self.curve or curve
        catalog.save(f"{TASK}.training_curve", pd.DataFrame(curve, columns=["seed", "dev_f1"]))
        catalog.save(f"{TASK}.models", folder)
        return None


def search_of(**changes):
    space = {
        "finetuning.learning_rates.default": {"low": 1e-4, "high": 1e-2, "log": True},
        "finetuning.batch_size": {"choices": [4, 8, 16]},
    }
    given = {"task": TASK, "trials": 8, "space": space, "prune": True, "random_trials": 4}
    return SearchParameters(**{**given, "environment": "found", **changes})


@pytest.fixture
def fake(values, tmp_path, monkeypatch):
    """Stages are faked, and there is a work folder."""
    fake = FakeStages()
    monkeypatch.setattr(Processes, "__call__", lambda self, run: fake(self, run))
    (tmp_path / "work").mkdir()
    return fake


def test_an_interrupted_search_draws_what_a_whole_one_does_and_writes_the_best(
    values, fake, tmp_path
):
    nodes.run_search(values, search_of(environment=None), "ci", tmp_path / "work")
    whole, fake.asked = fake.asked, []
    shutil.rmtree(tmp_path / "data")
    work = tmp_path / "again"
    work.mkdir()
    for fake.killed_at in (3, 8):  # among random trials, and among those that learn from them
        with pytest.raises(KeyboardInterrupt):
            nodes.run_search(values, search_of(), "ci", work)
    fake.killed_at = None

    (folder,) = nodes.run_search(values, search_of(), "ci", work).values()

    assert fake.asked[3] == fake.asked[2], "the values that were interrupted go on"
    assert fake.asked[8] == fake.asked[7]
    assert [*dict.fromkeys(fake.asked)] == whole
    assert len({rate for rate, _ in whole}) == 8
    trials = pd.read_csv(folder / "trials.csv", keep_default_na=False)
    assert len(trials) == 10
    assert trials["state"].value_counts()["fail"] == 2 + (trials["failed"] != "").sum()
    assert (trials.loc[trials["failed"] != "", "finetuning.batch_size"] == 4).all()
    done = trials[trials["state"] == "complete"]
    best = done.loc[done["dev_score"].astype(float).idxmax()]

    loader = ExtendingConfigLoader(str(tmp_path / "conf"), env="found", **CONFIG_LOADER_ARGS)
    found = loader["parameters"][TASK]["finetuning"]
    assert found["batch_size"] == best["finetuning.batch_size"]
    assert found["learning_rates"]["default"] == best["finetuning.learning_rates.default"]
    assert loader["globals"]["dataset"] == "sample_ci"

    count = len(fake.asked)
    nodes.run_search(values, search_of(), "ci", work)
    assert len(fake.asked) == count, "the trials are there"


def test_a_trial_of_several_seeds_has_the_mean_of_their_best(values, fake, tmp_path):
    values[TASK]["finetuning"]["seeds"] = [1, 2]
    fake.curve = [(1, 0.2), (1, 0.5), (2, 0.7), (2, 0.6)]
    search = search_of(trials=1, space={"finetuning.batch_size": {"choices": [8]}})

    (folder,) = nodes.run_search(values, search, "ci", tmp_path / "work").values()

    assert pd.read_csv(folder / "trials.csv")["dev_score"].tolist() == [pytest.approx(0.6)]


def test_values_that_do_not_go_together_are_a_failed_trial(values, fake, tmp_path):
    space = {
        "finetuning.batch_size": {"low": 8, "high": 99},
        "finetuning.max_steps": {"choices": [10, 30]},
        "finetuning.min_steps": {"choices": [None, 20]},
    }

    made = nodes.run_search(values, search_of(space=space), "ci", tmp_path / "work")

    trials = pd.read_csv(made[TASK] / "trials.csv", keep_default_na=False)
    wrong = (trials["finetuning.max_steps"] == 10) & (trials["finetuning.min_steps"] != "")
    assert trials["state"].tolist() == ["fail" if each else "complete" for each in wrong]
    assert trials.loc[wrong, "failed"].str.contains("exceeds max_steps").all()
    assert 0 < wrong.sum() < len(trials) == 8


def test_what_cannot_be_searched_is_refused_before_anything_runs(values, tmp_path):
    with pytest.raises(DataError, match="there is an environment of this name"):
        nodes.run_search(values, search_of(environment="mnre"), "base", tmp_path)
    wrong = {"finetuning.batch_size": {"choices": [8, -1]}}
    with pytest.raises(DataError, match="batch_size"):
        nodes.run_search(values, search_of(space=wrong), "base", tmp_path)


@pytest.mark.parametrize(
    "where",
    [{}, {"low": 1}, {"choices": [1], "low": 1, "high": 2}, {"low": 2, "high": 1},
     {"low": 0, "high": 1, "log": True}],
)  # fmt: skip
def test_a_range_says_one_thing(where):
    with pytest.raises(ValidationError):
        Range(**where)


def test_dev_scores_are_those_of_finished_checkpoints(values, tmp_path):
    workplace = Workplace.of("base", values)
    run = plan_cell(TASK, values, RAW).sources[f"{TASK}.models"]
    values[TASK]["finetuning"]["seeds"] = [42, 43]
    folder = tmp_path / f"data/06_models/sample-study/{run.name}/{TASK}/.work/finetuning"
    lines = [{"step": 4, "loss": 1.0}, {"step": 4, "eval_f1": 0.25}, {"step": 8, "eval_f1": 0.5}]
    for name, log in (("checkpoint-8", lines), ("checkpoint-12", [{"step": 12, "eval_f1": 1.0}])):
        (folder / "checkpoints_42" / name).mkdir(parents=True)
        state = folder / "checkpoints_42" / name / "trainer_state.json"
        state.write_text(json.dumps({"log_history": log}))
    (folder / "checkpoints_42/checkpoint-8/complete").touch()
    for name, damaged in (("checkpoint-1", "{"), ("checkpoint-2", "[]"), ("checkpoint-3", "{}")):
        (folder / "checkpoints_42" / name).mkdir()
        (folder / "checkpoints_42" / name / "complete").touch()
        (folder / "checkpoints_42" / name / "trainer_state.json").write_text(damaged)

    assert nodes.dev_scores(workplace, run, TASKS[TASK]) == {4: 0.25, 8: 0.5}


def test_values_of_the_whole_run_stand_apart_from_the_task(tmp_path):
    best = {"model.config.num_fusion_layers": 2, f"{TASK}.finetuning.epochs": 3, "preset": "x"}

    nodes.write_environment(tmp_path, "base", TASK, best, "dev f1 1")

    def read():
        return {path.name: yaml.safe_load(path.read_text()) for path in tmp_path.iterdir()}

    whole_run = {"model": {"config": {"num_fusion_layers": 2}}, "preset": "x"}
    assert read() == {
        "globals.yml": None,
        "parameters.yml": whole_run,
        f"parameters_{TASK}.yml": {TASK: {"finetuning": {"epochs": 3}}},
    }

    nodes.write_environment(tmp_path, "mnre", TASK, {"asking.precision": "bf16"}, "dev f1 1")

    assert read() == {
        "globals.yml": {"extends": "mnre"},
        "parameters.yml": {"asking": {"precision": "bf16"}},
    }, "nothing is left of the earlier search"
    (tmp_path / "parameters.yml").write_text(yaml.safe_dump(whole_run))
    nodes.write_environment(tmp_path, "mnre", TASK, {f"{TASK}.finetuning.epochs": 3}, "dev f1 1")
    assert read()["parameters.yml"] == whole_run, "somebody's own file stays"
