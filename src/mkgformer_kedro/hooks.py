"""What is added to every run: bad input ends it with a message, an evaluation with its scores."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from types import TracebackType

import yaml
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.validation import ParameterValidationError

from mkgformer_kedro.errors import DataError

CATALOG_PARAMETERS = ("images", "raw_folder")
"""What ``--params`` can give to the catalog; no node takes them."""

_COLUMNS = {
    "MRR": "both.realistic.inverse_harmonic_mean_rank",
    "Hits@1": "both.realistic.hits_at_1",
    "Hits@3": "both.realistic.hits_at_3",
    "Hits@10": "both.realistic.hits_at_10",
    "mean rank": "both.realistic.arithmetic_mean_rank",
}
_ROWS = {
    "model": "test",
    "pictures withheld": "test_pictures_withheld",
    "popularity baseline": "test_popularity",
    "model, without leaking triples": "test_without_leaks",
}


class ScoreSummaryHooks:
    """Ends a run that evaluated with a short table of scores and where the results lie."""

    @hook_impl
    def after_pipeline_run(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Print the table."""
        if not {"metrics", "report"} <= pipeline.all_outputs():
            return
        metrics = catalog.load("metrics")
        width = max(len(label) for label, key in _ROWS.items() if key in metrics)
        lines = ["Test scores (filtered, both directions)"]
        lines.append(" " * width + "".join(f"{name:>11}" for name in _COLUMNS))
        for label, key in _ROWS.items():
            if key in metrics:
                values = [metrics[key][column] for column in _COLUMNS.values()]
                digits = [3] * (len(values) - 1) + [1]
                lines.append(
                    label.ljust(width)
                    + "".join(f"{value:11.{n}f}" for value, n in zip(values, digits, strict=True))
                )
        report = Path(catalog["report"]._filepath)
        if report.is_relative_to(Path.cwd()):
            report = report.relative_to(Path.cwd())
        lines.append(f"Report, metrics and plots: {report.parent}/ (open {report.name})")
        print("\n" + "\n".join(lines))


class BadInputHooks:
    """Refuses unknown parameters, and shows what is wrong with the input plainly."""

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Check the names of the parameters, which Kedro does only inside typed groups."""
        sys.excepthook = show_plainly
        loader = context.config_loader
        # Every parameter stands in the base environment. (Plain YAML: a second config loader would
        # take the place of the first behind ${globals:...}.)
        base = (Path(loader.conf_source) / loader.base_env).glob("parameters*.yml")
        known = [name for path in sorted(base) for name in yaml.safe_load(path.read_text()) or ()]
        known += CATALOG_PARAMETERS
        unknown = [name for name in loader["parameters"] if name not in known]
        if unknown:
            raise ParameterValidationError(
                "\n".join(_unknown_parameter(name, known) for name in unknown)
            )


def show_plainly(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Print an uncaught exception: of bad input the message alone, of all else the traceback."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, DataError | ParameterValidationError):
            print(f"\n{cause}", file=sys.stderr)
            return
        cause = cause.__cause__ or cause.__context__
    sys.__excepthook__(kind, error, traceback)


def _unknown_parameter(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "known parameters: " + ", ".join(known)
    return f"unknown parameter '{name}'; {hint}"
