"""What lies under ``data/`` of a data set, and whether it still belongs together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Literal

from kedro.io import CatalogProtocol

from mkgformer_kedro.datasets.folder import WorkFolderDataset
from mkgformer_kedro.datasets.lineage import Lineage, place_of, raw_identity
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.files import relative
from mkgformer_kedro.hooks.lineage import Claims, artefact

# Files of git and DVC.
_OF_OTHERS = {".gitkeep", ".gitignore", "configuration.json"}

State = Literal["fine", "missing", "stale", "damaged", "unknown origin", "work", "orphaned"]


@dataclass(frozen=True)
class Finding:
    """What was found of one artefact.

    Attributes:
        place: Where it lies.
        state: ``fine``; ``missing`` (not made yet); ``stale`` (what it was made from, or with which
            settings, has changed);
            ``damaged``; ``unknown origin`` (not made by a stage, taken as it is); ``work`` (an
            interrupted run goes on from there); ``orphaned`` (no stage knows it).
        what: What is the matter and what to do, empty where all is well.
    """

    place: str
    state: State
    what: str = ""


def examine(
    catalog: CatalogProtocol, names: Iterable[str], environment: str, dataset: str
) -> list[Finding]:
    """Read everything that the stages of a data set have left.

    Args:
        catalog: The catalog of the environment.
        names: Names of all datasets that the stages read and write.
        environment: Name of the environment.
        dataset: Name of the data set, its folder in every layer of ``data/``.

    Returns:
        What was found of each dataset on the disk, in the order of their places, each once.
    """
    names = sorted(names)
    claims = Claims(catalog, environment)
    findings: dict[str, Finding] = {}
    for name in names:
        place = place_of(catalog, name)
        if place is not None:
            findings[name] = _examine_one(catalog, name, place, claims)
    for name, problem in claims.differing().items():
        if findings[name].state != "damaged":
            findings[name] = Finding(problem.where, "stale", f"{problem.what}. {problem.remedy}")
    owned = [place for name in names if (place := place_of(catalog, name)) is not None]
    orphans = [
        Finding(str(relative(path)), "orphaned", "No stage makes or reads this: delete it.")
        for path in _unowned(Path.cwd() / "data", dataset, owned)
    ]
    # Tables and images may be two datasets of one folder.
    return sorted({*findings.values(), *orphans}, key=astuple)


def _examine_one(catalog: CatalogProtocol, name: str, place: Path, claims: Claims) -> Finding:
    where = str(relative(place))
    dataset = catalog.get(name)
    if isinstance(dataset, WorkFolderDataset):
        begun = place.is_dir() and any(place.iterdir())
        what = "An interrupted run goes on from here; a finished one needs it no more."
        return Finding(where, "work", what) if begun else Finding(where, "missing")
    if not place.exists():
        return Finding(where, "missing")
    try:
        kept = artefact(catalog, name)
        if kept is None:
            identity = raw_identity(catalog.load(name))
            if identity is not None:
                claims.add(name, Lineage(identity, None))
            return Finding(where, "fine")
        lineage = kept.lineage(hashed_up_to=math.inf)
        claims.follow(name)
    except DataError as error:
        return Finding(where, "damaged", str(error))
    except Exception as error:  # whatever a reader of Kedro or of a library raises
        cause = error.__cause__
        return Finding(where, "damaged", str(cause if isinstance(cause, DataError) else error))
    if lineage is None or lineage.origin is None:
        return Finding(
            where, "unknown origin", "It was not made by a stage, and is taken as it is."
        )
    return Finding(where, "fine")


def _unowned(data: Path, dataset: str, owned: list[Path]) -> list[Path]:
    """Files and folders of the data set that no dataset owns, the topmost of each."""
    absolute = {path.absolute() for path in owned}
    parents = {parent for path in absolute for parent in path.parents}
    found: list[Path] = []
    waiting = [path for path in data.glob(f"0[2-8]_*/{dataset}") if path.is_dir()]
    while waiting:
        for path in sorted(waiting.pop().iterdir()):
            if path in absolute or path.name in _OF_OTHERS:
                continue
            if path in parents:
                waiting.append(path)
            else:
                found.append(path)
    return found
