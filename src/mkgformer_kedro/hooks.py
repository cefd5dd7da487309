"""What is added to every run: bad input ends it with a message, an evaluation with its scores."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol, DatasetError
from kedro.pipeline import Pipeline
from kedro.validation import ParameterValidationError

from mkgformer_kedro.errors import DataError, Problem

CATALOG_PARAMETERS = ("images", "raw_folder")
"""What ``--params`` can give to the catalog; no node takes them."""

TASKS = ("link_prediction", "relation_extraction", "entity_recognition")
"""The tasks. Their parameters stand in one group per task, with one group per stage inside."""

_RANKING = "both.realistic."
_SCORES = {
    "link_prediction": (
        "Test scores (filtered, both directions)",
        {
            "MRR": f"{_RANKING}inverse_harmonic_mean_rank",
            "Hits@1": f"{_RANKING}hits_at_1",
            "Hits@3": f"{_RANKING}hits_at_3",
            "Hits@10": f"{_RANKING}hits_at_10",
            "mean rank": f"{_RANKING}arithmetic_mean_rank",
        },
    ),
    "relation_extraction": (
        "Test scores (all relations but None)",
        {"precision": "precision", "recall": "recall", "F1": "f1", "accuracy": "accuracy"},
    ),
    "entity_recognition": (
        "Test scores (whole entities of the right type)",
        {"precision": "precision", "recall": "recall", "F1": "f1"},
    ),
}
_ROWS = {
    "test": "model",
    "test_without_images": "without images",
    "test_popularity": "popularity baseline",
    "test_baseline": "baseline without a model",
    "test_without_leaks": "model, without leaking triples",
}


class ScoreSummaryHooks:
    """Ends a run that evaluated with a short table of scores and where the results lie."""

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Print a table for every task that was evaluated."""
        made = pipeline.all_outputs()
        for task in _SCORES:
            if {f"{task}.metrics", f"{task}.report"} <= made:
                print("\n" + _score_table(task, catalog.load(f"{task}.metrics")))
                report = Path(catalog[f"{task}.report"]._filepath)
                if report.is_relative_to(Path.cwd()):
                    report = report.relative_to(Path.cwd())
                print(f"Report, metrics and plots: {report.parent}/ (open {report.name})")


def _score_table(task: str, metrics: dict[str, Any]) -> str:
    title, columns = _SCORES[task]
    rows = {label: metrics[key] for key, label in _ROWS.items() if key in metrics}
    width = max(map(len, rows))
    lines = [title, " " * width + "".join(f"{name:>11}" for name in columns)]
    for label, scores in rows.items():
        values = (
            f"{scores[key]:11.{1 if name == 'mean rank' else 3}f}" if key in scores else " " * 11
            for name, key in columns.items()
        )
        lines.append(label.ljust(width) + "".join(values))
    lines += [
        f"F1 on {group} posts: {scores['model']:.3f}, without images {scores['without_images']:.3f}"
        for group, scores in metrics.get("test_by_group", {}).items()
    ]
    return "\n".join(lines)


class BadInputHooks:
    """Refuses unknown parameters, and shows what is wrong with the input plainly."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check the names of the parameters, which Kedro does only inside typed groups."""
        sys.excepthook = show_plainly
        loader = context.config_loader
        # Every parameter stands in the base environment. (Plain YAML: a second config loader would
        # take the place of the first behind ${globals:...}.)
        folder = Path(loader.conf_source) / loader.base_env
        base: dict[str, Any] = {}
        for path in sorted(folder.glob("parameters*.yml")):
            base |= yaml.safe_load(path.read_text()) or {}
        parameters = loader["parameters"]
        problems = _unknown(parameters, base, CATALOG_PARAMETERS, "parameter")
        for task in TASKS:
            if isinstance(parameters[task], dict):
                problems += _unknown(parameters[task], base[task], (), "parameter", f"{task}.")
            else:
                problems.append(f"'{task}' is no group of parameters: leave it out or fill it in")
        seed, preset = parameters["seed"], parameters["preset"]
        if type(seed) is not int or not 0 <= seed < 2**32:
            problems.append(f"seed is {seed!r}; it must be a whole number from 0 to 4294967295")
        if preset not in ("corrected", "faithful"):
            problems.append(f"preset is {preset!r}; it must be 'corrected' or 'faithful'")
        names = yaml.safe_load((folder / "globals.yml").read_text())
        problems += _unknown(loader["globals"], names, (), "key of globals.yml")
        for group, value in names.items():
            given = loader["globals"][group]
            if isinstance(value, dict) and isinstance(given, dict):
                problems += _unknown(given, value, (), "key of globals.yml", f"{group}.")
        if not re.fullmatch(r"[\w.-]*\w[\w.-]*", str(loader["globals"]["dataset"])):
            problems.append("dataset in globals.yml must be the name of one folder")
        if problems:
            raise ParameterValidationError("\n".join(problems))

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Refuse at once what training would refuse after all images were decoded."""
        for task in TASKS:
            name = f"params:{task}.image_association"
            if name in pipeline.inputs() and catalog.load("params:preset") == "faithful":
                parameters = catalog.load(name)
                slots = parameters.slots
                if hasattr(parameters, "crops") and "full" in slots and slots["full"].count:
                    what = "the preset 'faithful' takes crops alone, and this gives whole images"
                    remedy = "Set the count to 0, and say in `crops` where crops come from."
                    where = f"{task}.image_association.slots.full.count"
                    raise DataError(Problem(where, None, what, remedy))


def show_plainly(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Print an uncaught exception: of bad input the message alone, of all else the traceback."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DataError | ParameterValidationError | DatasetError):
            print(f"\n{cause}", file=sys.stderr)
            return
        cause = cause.__cause__ or cause.__context__
    sys.__excepthook__(kind, error, traceback)


def _unknown(
    given: Iterable[str], base: Iterable[str], more: Iterable[str], what: str, prefix: str = ""
) -> list[str]:
    """A sentence for each name that stands neither in the base environment nor in ``more``."""
    known = [*base, *more]
    problems = []
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{prefix}{near[0]}'?" if near else f"known: {', '.join(known)}"
            problems.append(f"unknown {what} '{prefix}{name}'; {hint}")
    return problems
