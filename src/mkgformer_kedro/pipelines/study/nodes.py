"""The node that runs a study."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mkgformer_kedro.datasets.lineage import place_of
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.evaluation.ranking.tables import TRIPLE
from mkgformer_kedro.launch import LaunchParameters, engine_of
from mkgformer_kedro.parameters import value_at
from mkgformer_kedro.pipelines.study.parameters import Grid, StudyParameters
from mkgformer_kedro.pipelines.study.running import Processes, missing_runs, run_all
from mkgformer_kedro.pipelines.study.stages import (
    StageRun,
    Workplace,
    full_path,
    identities_of_raw_data,
    nested,
    plain,
    plan_cell,
    with_overrides,
)
from mkgformer_kedro.training.tasks.base import Task
from mkgformer_kedro.training.tasks.registry import task_named

if TYPE_CHECKING:
    from mkgformer_kedro.evaluation.study import Cell, Point

logger = logging.getLogger(__name__)

_ANOTHER_TEST_SET = "its test set is not that of the reference"


@dataclass(frozen=True)
class PlannedCell:
    """A cell at one point of its grid.

    Attributes:
        at: The point, in words; empty where the grid is not repeated.
        name: Its name.
        overrides: Values of parameters by path, without the point's.
        runs: What it ends with, by seed.
    """

    at: str
    name: str
    overrides: Mapping[str, Any]
    runs: Mapping[int, StageRun]


def run_study(
    parameters: dict[str, Any], study: StudyParameters, environment: str, work_folder: Path
) -> dict[str, Path]:
    """Run the cells of a grid that were not run before, and put all of them side by side.

    Args:
        parameters: Parameters of the whole run, which the cells vary.
        study: Which grid, and how it is run.
        environment: Name of the environment.
        work_folder: Folder for what cells say, in which the result is made.

    Returns:
        A finished folder with ``index.html``, ``table.csv``, ``drill_down.csv`` and ``plot.png``,
        under the name of task and grid.
    """
    values = plain(parameters)
    workplace = Workplace.of(environment, values)
    cells = plan_grid(values, study, workplace)
    targets = [run for cell in cells for run in cell.runs.values()]
    runs = missing_runs(targets, workplace.is_done)
    logger.info("%d cells, %d stages to run", len(targets), len(runs))
    engine_of(LaunchParameters.model_validate(values["launch"]))  # which the stages reach, too
    with Processes(
        workplace,
        work_folder / "logs",
        runs,
        at_a_time=study.processes,
        keep_models=study.keep_models,
    ) as processes:
        failed = run_all(runs, processes, study.processes)
    folder = work_folder / study.task / study.grid
    report_study(cells, failed, values, study, workplace, folder)
    return {f"{study.task}/{study.grid}": folder}


def plan_grid(
    values: Mapping[str, Any], study: StudyParameters, workplace: Workplace
) -> list[PlannedCell]:
    """The cells of the study's grid at all its points.

    Raises:
        DataError: A cell names a parameter that no stage takes, or a value that is none for it, or
            seeds of its own.
    """
    grid = study.grids[study.grid]
    raw = identities_of_raw_data(workplace.own, study.task)
    cells = []
    for label, at in _points(grid).items():
        for name, overrides in grid.cells.items():
            if overrides is not None:
                own = {**overrides, **at}
                _refuse_seeds(values, study.task, name, own)
                runs = {
                    seed: plan_cell(
                        study.task,
                        with_overrides(values, study.task, {**own, "finetuning.seeds": [seed]}),
                        raw,
                    )
                    for seed in study.seeds
                }
                cells.append(PlannedCell(label, name, overrides, runs))
    return cells


def _refuse_seeds(
    values: Mapping[str, Any], task: str, cell: str, overrides: Mapping[str, Any]
) -> None:
    own = nested({full_path(values, task, path): value for path, value in overrides.items()})
    if value_at(own, f"{task}.finetuning.seeds") is not None:
        what = f"the cell '{cell}' has 'finetuning.seeds' of its own"
        remedy = "Every cell is trained with each of `study.seeds`: name them there."
        raise DataError(Problem("study.grids", None, what, remedy))


def report_study(
    cells: list[PlannedCell],
    failed: Mapping[str, str],
    values: Mapping[str, Any],
    study: StudyParameters,
    workplace: Workplace,
    folder: Path,
) -> None:
    """Write the table, the figure and the page of a study.

    Args:
        cells: Its cells.
        failed: Why runs failed, by their key.
        values: Parameters of the whole run, plain values.
        study: Parameters of the study.
        workplace: Where it ran.
        folder: The folder to write to, made anew.
    """
    from mkgformer_kedro.evaluation.report.study import render_study, study_figure
    from mkgformer_kedro.evaluation.study import study_table

    task, grid = task_named(study.task), study.grids[study.grid]
    along = next(iter(grid.along), None)
    points = [
        judge_point(task, label, cells, failed, values, grid, workplace) for label in _points(grid)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    table = study_table(points, task.columns)
    table.to_csv(folder / "table.csv", index=False)
    logger.info("%s\n%s", study.grid, _summary(table, task))
    drill_down = [
        point.together.drill_down.assign(at=point.label) for point in points if point.together
    ]
    if drill_down:
        pd.concat(drill_down, ignore_index=True).to_csv(folder / "drill_down.csv", index=False)
    figure = study_figure(points, grid.reference, along)
    if figure is not None:
        figure.savefig(folder / "plot.png", dpi=120)
    evaluation = values[study.task]["evaluation"]
    page = render_study(
        task.layout(),
        points,
        figure,
        grid=study.grid,
        reference=grid.reference,
        data_set=evaluation["title"] or workplace.dataset,
        synthetic=evaluation["synthetic"],
        facts={
            "Study": study.model_dump(exclude={"grids"}) | {"grid": grid.model_dump()},
            "Run": {"environment": workplace.environment, "preset": values["preset"]},
        },
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


def judge_point(
    task: type[Task],
    label: str,
    cells: list[PlannedCell],
    failed: Mapping[str, str],
    values: Mapping[str, Any],
    grid: Grid,
    workplace: Workplace,
) -> Point:
    """Score the cells of a point of the grid.

    Views and groups take for train what the reference learned from with its first seed; where it
    failed, the first cell that did not.

    Args:
        task: The task.
        label: The point.
        cells: Cells of all points.
        failed: Why runs failed, by their key.
        values: Parameters of the whole run, plain values.
        grid: The grid.
        workplace: Where it ran.
    """
    from mkgformer_kedro.datasets.visual_store import VisualStore
    from mkgformer_kedro.evaluation.study import Cell, evaluate_point

    here = [cell for cell in cells if cell.at == label]
    here.sort(key=lambda cell: cell.name != grid.reference)  # the reference first
    found: list[Cell] = []
    tables: dict[str, pd.DataFrame] = {}
    has_images = asked = None
    for cell in here:
        failures = {seed: failed[run.key] for seed, run in cell.runs.items() if run.key in failed}
        done = {seed: run for seed, run in cell.runs.items() if seed not in failures}
        parts = [
            workplace.catalog_of(run).load(f"{task.name}.cell_predictions") for run in done.values()
        ]
        predictions = items = None
        if parts:
            predictions = _below_each_other(parts)
            seed, run = next(iter(done.items()))
            own = {name: _load(workplace, run, f"{task.name}.{name}") for name in task.tables}
            finetuning = run.parameters[task.name]["finetuning"]
            learned = task.learned_from(own, task.parameters_class.model_validate(finetuning), seed)
            items = int((_items_of(task, learned)["split"] == "train").sum())
            test = _test_of(task, own)
            if asked is None:
                tables, asked = learned, test
                store = run.sources[f"{task.name}.visual_store"]
                place = place_of(workplace.catalog_of(store), f"{task.name}.visual_store")
                has_images = VisualStore(str(place)).has_images
            elif not test.equals(asked):
                failures |= dict.fromkeys(done, _ANOTHER_TEST_SET)
                predictions = None
        found.append(Cell(cell.name, cell.overrides, predictions, failures, items))

    def evaluate(predictions: pd.DataFrame, reference: str) -> Any:
        return task.evaluate(
            predictions,
            tables,
            has_images=has_images,
            seed=values["seed"],
            resamples=values[task.name]["evaluation"]["resamples"],
            reference=reference,
        )

    return evaluate_point(label, found, grid.reference, evaluate)


def _points(grid: Grid) -> dict[str, dict[str, Any]]:
    """Values of the parameter along which the grid is repeated, by what they are called."""
    if not grid.along:
        return {"": {}}
    ((path, at),) = grid.along.items()
    return {_in_words(path, value): {path: value} for value in at}


def _in_words(path: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    if value is None:
        return "all" if path.endswith("finetuning.train_subset") else "null"
    return str(value)


def _load(workplace: Workplace, run: StageRun, name: str) -> pd.DataFrame:
    return workplace.catalog_of(run.sources[name]).load(name)


def _below_each_other(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """Predictions of all seeds; a baseline that is the same for all of them is kept once."""
    every = pd.concat(parts, ignore_index=True)
    others = every["expert"] != "baseline"
    first = [part[part["expert"] == "baseline"] for part in parts]
    by_seed = {seed: each for part in first for seed, each in part.groupby("seed")}
    return pd.concat([every[others], *by_seed.values()], ignore_index=True)


def _test_of(task: type[Task], tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    items = _items_of(task, tables)
    columns = TRIPLE if task.items == "queries" else ["post", "words"]
    return items.loc[items["split"] == "test", columns].reset_index(drop=True).astype(str)


def _items_of(task: type[Task], tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Triples or posts."""
    return tables["triples" if task.items == "queries" else task.items]


def _summary(table: pd.DataFrame, task: type[Task]) -> str:
    metric = next(name for name, key in task.columns.items() if key == task.dev_metric)
    shown = ["at", "cell", "seeds", metric, "deviation", "difference", "by_images", "failed"]
    there = [name for name in shown if table[name].replace("", None).notna().any()]
    return table[there].to_string(index=False, float_format="{:.3f}".format, na_rep="")
