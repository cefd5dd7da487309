"""What a model was made from, found where a project keeps it and held to its identity."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mkgformer_kedro.datasets.lineage import folder_lineage, origin_of, parquet_lineage
from mkgformer_kedro.errors import DataError, Problem

_MODELS = "06_models"
# Under data/, as conf/base/catalog.yml has them, by what data set and task stand between.
_PLACES = {
    "visual_store": ("04_feature", "visual_store"),
    "queries": ("02_intermediate", "ingestion/queries.parquet"),
}


def source_of(folder: Path, name: str) -> tuple[Path, Mapping[str, Any]]:
    """Find what a folder of ``data/06_models/<data set>/<task>/`` was made from.

    Args:
        folder: The folder that a stage made, or one inside it.
        name: What is looked for, ``visual_store`` or ``queries``.

    Returns:
        Where it lies, and the settings that the folder was made with, by their paths.

    Raises:
        DataError: Nobody wrote down what the folder was made from, it does not lie in a project, or
            what lies there is missing, damaged or another one.
    """
    called = name.replace("_", " ")

    def refuse(what: str) -> DataError:
        remedy = f"Take it together with the {called} of the run that made it."
        return DataError(Problem(str(folder), None, what, remedy))

    found = origin_of(Path(os.path.abspath(folder)))  # noqa: PTH100 (links are kept, .. is not)
    known = {} if found is None else found[1].made_from
    identity = next((known[key] for key in known if key.partition(".")[2] == name), None)
    if found is None or identity is None:
        raise refuse(f"nobody wrote down from which {called} it was made")
    whole, origin = found
    layers = [parent for parent in whole.parents if parent.name == _MODELS]
    if not layers:
        raise refuse(f"it lies in no project's data/{_MODELS}, so that its {called} is not found")
    layer, inside = _PLACES[name]
    place = layers[0].parent / layer / whole.parent.relative_to(layers[0]) / inside
    if not place.exists():
        raise refuse(
            f"there is nothing at {place}, where the {called} that it was made from would lie"
        )
    is_folder = place.is_dir()
    lineage = folder_lineage(place, hashed_up_to=math.inf) if is_folder else parquet_lineage(place)
    if lineage is None or lineage.identity != identity:
        raise refuse(f"it was made from another {called} than the one at {place}")
    return place, origin.settings
