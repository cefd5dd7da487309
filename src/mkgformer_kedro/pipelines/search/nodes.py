"""The node that searches."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml
from kedro.framework.project import settings

from mkgformer_kedro.datasets.lineage import place_of
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import fingerprint, written_atomically
from mkgformer_kedro.launch import LaunchParameters, engine_of
from mkgformer_kedro.pipelines.search.parameters import Range, SearchParameters
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
    import optuna

logger = logging.getLogger(__name__)

_WRITTEN_BY_SEARCH = "# Found by a search"


def run_search(
    parameters: dict[str, Any], search: SearchParameters, environment: str, work_folder: Path
) -> dict[str, Path]:
    """Train with one set of values after the other, and tell which was best on dev.

    A trial is the stage ``finetuning`` of a cell of a study, and what it needs: it is cached and
    goes on after an interruption as that does. The trials lie in an SQLite file in the work folder;
    a search of another space, or of other data or code, is another search. What a trial draws
    hangs on the seed and on the trials before it that ended: an interrupted search draws the same
    values once more, and its trial goes on from its last checkpoint.

    Args:
        parameters: Parameters of the whole run, which the trials vary.
        search: The space, and how many trials.
        environment: Name of the environment.
        work_folder: Folder for the trials and for what they say.

    Returns:
        A finished folder with ``trials.csv``, under the name of the task.

    Raises:
        DataError: optuna is missing, a value of the space is none for its parameter, or the
            environment to write is somebody's.
    """
    optuna = _optuna()
    if search.environment is not None:
        _refuse_to_overwrite(Path(settings.CONF_SOURCE) / search.environment)
    values, task = plain(parameters), task_named(search.task)
    engine_of(LaunchParameters.model_validate(values["launch"]))  # which the trials reach, too
    workplace = Workplace.of(environment, values)
    raw = identities_of_raw_data(workplace.own, search.task)

    def plan(drawn: Mapping[str, Any]) -> StageRun:
        cell = plan_cell(search.task, with_overrides(values, search.task, drawn), raw)
        return cell.sources[f"{search.task}.models"]

    for path, where in search.space.items():
        for value in where.choices or (where.low, where.high):
            plan({path: value})
    space = {path: where.model_dump() for path, where in search.space.items()}
    study = optuna.create_study(
        study_name=fingerprint(space, plan({}).key)[:16],
        storage=f"sqlite:///{(work_folder / f'{search.task}.db').absolute()}",
        pruner=(
            optuna.pruners.MedianPruner(n_startup_trials=search.random_trials)
            if search.prune
            else optuna.pruners.NopPruner()
        ),
        direction="maximize",
        load_if_exists=True,
    )
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # it was interrupted
    while (judged := _number_judged(study)) < search.trials:
        logger.info("%d of %d trials are left", search.trials - judged, search.trials)
        (seed,) = np.random.SeedSequence([values["seed"], judged]).generate_state(1)
        study.sampler = optuna.samplers.TPESampler(
            seed=int(seed), n_startup_trials=search.random_trials
        )
        trial = study.ask()
        drawn = {path: draw(trial, path, where) for path, where in search.space.items()}
        try:
            run = plan(drawn)
        except DataError as error:  # values that do not go together
            _tell_failure(study, trial, str(error))
        else:
            judge(study, trial, run, task, workplace, work_folder)
    return {search.task: _report(study, search, values, environment, work_folder)}


def draw(trial: optuna.Trial, path: str, where: Range) -> Any:
    """A value of a parameter."""
    if where.choices is not None:
        return where.choices[trial.suggest_categorical(path, [*range(len(where.choices))])]
    low, high = where.low, where.high
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(path, low, high, log=where.log)
    return trial.suggest_float(path, low, high, log=where.log)


def judge(
    study: optuna.Study,
    trial: optuna.Trial,
    run: StageRun,
    task: type[Task],
    workplace: Workplace,
    folder: Path,
) -> None:
    """Train a trial, unless that was done, and tell the study its best dev score.

    With several seeds that is the mean of their best; what is hopeless is so with the first seed.

    Args:
        study: The study.
        trial: The trial.
        run: Its fine-tuning.
        task: The task.
        workplace: Where it runs.
        folder: Folder for what it says.
    """
    import optuna

    pruned = False
    reported: set[int] = set()

    def is_hopeless(each: StageRun) -> bool:
        nonlocal pruned
        if each is run:
            for step, score in dev_scores(workplace, run, task).items():
                if step not in reported:
                    trial.report(score, step)
                    reported.add(step)
            pruned = pruned or trial.should_prune()
        return pruned

    runs = missing_runs([run], workplace.is_done)
    with Processes(workplace, folder / "logs", runs, stop=is_hopeless) as processes:
        failed = run_all(runs, processes, 1)
    if pruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    elif run.key in failed:
        _tell_failure(study, trial, failed[run.key])
    else:
        curve = workplace.catalog_of(run).load(f"{task.name}.training_curve")
        study.tell(trial, curve.groupby("seed")[f"dev_{task.dev_metric}"].max().mean())


def dev_scores(workplace: Workplace, run: StageRun, task: type[Task]) -> dict[int, float]:
    """Dev scores so far of a training under way, by step, as its newest checkpoint has them.

    Of several seeds, which are trained one after the other, the first one's.

    Args:
        workplace: Where it runs.
        run: The fine-tuning.
        task: The task.
    """
    seeds = run.parameters[task.name]["finetuning"]["seeds"] or [run.parameters["seed"]]
    work = place_of(workplace.catalog_of(run), f"{task.name}.finetuning_work")
    metric = f"eval_{task.dev_metric}"
    found: dict[int, float] = {}
    for mark in Path(str(work)).glob(f"checkpoints_{seeds[0]}/checkpoint-*/complete"):
        try:
            state = json.loads((mark.parent / "trainer_state.json").read_text(encoding="utf-8"))
            lines = [line for line in state["log_history"] if metric in line]
            found |= {int(line["step"]): float(line[metric]) for line in lines}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # an older one, which has just been thrown away, or a damaged one
    return dict(sorted(found.items()))


def write_environment(
    folder: Path, extends: str, task: str, best: Mapping[str, Any], score: str
) -> None:
    """Write values of parameters as an environment that varies another one.

    What an earlier search wrote, and this one has no values for, is removed.

    Args:
        folder: Folder of the environment, which is made where it is missing.
        extends: Environment that it varies.
        task: The task.
        best: Values by path, from the top of the parameters.
        score: What they reached, in words.
    """
    top, of_task = {}, {}
    for path, value in best.items():
        (of_task if path.startswith(f"{task}.") else top)[path] = value
    files = {
        "globals.yml": {} if extends == "base" else {"extends": extends},
        "parameters.yml": nested(top),
        f"parameters_{task}.yml": nested(of_task),
    }
    head = f"{_WRITTEN_BY_SEARCH}: {score}\n"
    for name, content in files.items():
        if content or name == "globals.yml":
            text = yaml.safe_dump(content, sort_keys=False) if content else ""
            with written_atomically(folder / name) as temporary:
                temporary.write_text(head + text, encoding="utf-8")
        elif _is_ours(folder / name):
            (folder / name).unlink()


def _tell_failure(study: optuna.Study, trial: optuna.Trial, why: str) -> None:
    import optuna

    trial.set_user_attr("failed", why)
    study.tell(trial, state=optuna.trial.TrialState.FAIL)


def _report(
    study: optuna.Study,
    search: SearchParameters,
    values: Mapping[str, Any],
    environment: str,
    work_folder: Path,
) -> Path:
    folder = work_folder / f"{search.task}_report"
    folder.mkdir(exist_ok=True)

    def told(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
        return {
            path: value if (choices := search.space[path].choices) is None else choices[value]
            for path, value in trial.params.items()
        }

    rows = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "dev_score": trial.value,
            **told(trial),
            "failed": trial.user_attrs.get("failed", ""),
        }
        for trial in study.get_trials()
    ]
    pd.DataFrame(rows).to_csv(folder / "trials.csv", index=False)
    finished = [trial for trial in study.get_trials() if trial.state.name == "COMPLETE"]
    if not finished:
        logger.warning("No trial was trained to its end")
        return folder
    best = study.best_trial
    metric = task_named(search.task).dev_metric
    score = f"dev {metric} {best.value:.4f}, trial {best.number} of {len(rows)}"
    logger.info("Best: %s: %s", score, told(best))
    if search.environment is not None:
        target = Path(settings.CONF_SOURCE) / search.environment
        found = {full_path(values, search.task, path): value for path, value in told(best).items()}
        write_environment(target, environment, search.task, found, score)
        logger.info("Written: kedro run --pipelines %s --env %s", search.task, search.environment)
    return folder


def _number_judged(study: optuna.Study) -> int:
    """Trials that ended, not counting those that were interrupted and are drawn again."""
    failed_by_themselves = [t for t in study.get_trials() if "failed" in t.user_attrs]
    ended = [t for t in study.get_trials() if t.state.name in ("COMPLETE", "PRUNED")]
    return len(failed_by_themselves) + len(ended)


def _refuse_to_overwrite(folder: Path) -> None:
    if folder.exists() and not _is_ours(folder / "globals.yml"):
        what = "there is an environment of this name, which no search has written"
        remedy = "Give `search.environment` another name."
        raise DataError(Problem(str(folder), None, what, remedy))


def _is_ours(file: Path) -> bool:
    return file.exists() and file.read_text(encoding="utf-8").startswith(_WRITTEN_BY_SEARCH)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        what, remedy = "optuna is not installed", 'Install it: pip install -e ".[search]"'
        raise DataError(Problem("search", None, what, remedy)) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
