"""Runs that are killed at random moments, and run again, end as if nothing had been.

KILLS says how many are killed (``make kill``); from 50 on, runs of all tasks and a study are among
them, else those of a graph. SEED draws other moments.
"""

import importlib.util
import os
import sys
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import OmegaConf

from mkgformer_kedro.training.tasks.registry import TASKS

SCRIPT = Path(__file__).parents[2] / "scripts/kill_runs.py"
KILLS, SEED = int(os.environ.get("KILLS", "10")), os.environ.get("SEED", "0")
# Checkpoints every four of twelve steps.
LEARNING = {"max_steps": 12, "batch_size": 8, "evaluations_per_epoch": 20}


def make_short(project, text_tower):
    """Let the project's runs last seconds, so that much of that time files are written."""
    project.use_tiny_tower(text_tower)
    for task in TASKS:
        project.configure(f"parameters_{task}", {task: {"finetuning": LEARNING}})
    grids = OmegaConf.load(project.folder / "conf/base/parameters_study.yml").study.grids
    left_out = dict.fromkeys(grids.ablations.cells.keys() - {"full_model", "text_only"})
    study = {"task": "relation_extraction", "processes": 2}
    study |= {"grids": {"ablations": {"cells": left_out}}}
    project.configure("parameters_study", {"study": study})


@pytest.mark.whole_run
def test_killed_runs_end_as_undisturbed_ones(copy_project, tiny_towers, tmp_path):
    project = copy_project(tmp_path / "project")
    make_short(project, tiny_towers.text("bert"))
    pipelines = ["link_prediction,completion"]
    if KILLS >= 50:
        pipelines += ["relation_extraction,entity_recognition", "study"]
    for names in pipelines:
        project.run("kedro", "run", "--pipelines", names, "--env", "ci")
    table = tmp_path / "kills.csv"
    given = ("--env", "ci", "--kills", str(KILLS), "--seed", SEED, "--table", str(table))
    print(project.run("python", "scripts/kill_runs.py", *given, "--work", str(tmp_path)))
    assert pd.read_csv(table)["end"].tolist() == ["identical"] * KILLS


def test_whatever_differs_is_seen_but_how_long_it_took(tmp_path):
    specification = importlib.util.spec_from_file_location("kill_runs", SCRIPT)
    script = importlib.util.module_from_spec(specification)
    sys.modules["kill_runs"] = script
    specification.loader.exec_module(script)
    folder = tmp_path / "08_reporting"
    folder.mkdir()
    curve, report = folder / "training_curve.csv", folder / "report.json"
    curve.write_text("step,loss,examples_per_second\n1,0.5,100\n")
    report.write_text("{}")
    before = script.contents(tmp_path)
    curve.write_text("step,loss,examples_per_second\n1,0.5,99\n")
    assert script.contents(tmp_path) == before
    for name, change in {
        "08_reporting/training_curve.csv": lambda: curve.write_text("loss,step\n0.5,1\n"),
        "08_reporting/report.json": lambda: report.write_text("[]"),
        "08_reporting/.report.json.0123abcd.tmp": (folder / ".report.json.0123abcd.tmp").touch,
        "08_reporting/.work": (folder / ".work").mkdir,
    }.items():
        change()
        here = script.contents(tmp_path)
        assert [each for each in here if here[each] != before.get(each)] == [name]
        before = here
