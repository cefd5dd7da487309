"""Environments that extend others: ``conf/base``, then what is extended, then the environment."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import yaml
from kedro.config import OmegaConfigLoader
from omegaconf import DictConfig, OmegaConf

from mkgformer_kedro.errors import DataError, Problem

RUNTIME_GLOBALS = ("dataset", "wait_for_lock")
"""What ``--params`` can say in the place of ``globals.yml``."""


class ExtendingConfigLoader(OmegaConfigLoader):
    """Kedro's loader, for environments whose ``globals.yml`` may say ``extends: <environment>``.

    The files of an environment lie over those of the environment that it extends, as these lie
    over those of the base environment. ``--params dataset=...`` and ``--params wait_for_lock=...``
    take the place of what ``globals.yml`` says, and ``${environment:}`` is the environment's name.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        environment = self.env or self.default_run_env
        OmegaConf.register_new_resolver("environment", lambda: environment, replace=True)

    def __getitem__(self, key: str) -> dict[str, Any]:
        """The configuration of that kind, see Kedro's loader."""
        found = super().__getitem__(key)
        if key == "globals":
            given = self.runtime_params or {}
            found |= {name: given[name] for name in RUNTIME_GLOBALS if name in given}
        return found

    def _read_dir_configs(
        self, conf_path: str, *args: Any, **kwargs: Any
    ) -> dict[Path, DictConfig]:
        """Read the files of an environment and, before them, of those that it extends."""
        found: dict[Path, DictConfig] = {}
        for folder in extended_folders(Path(conf_path)):
            found |= super()._read_dir_configs(str(folder), *args, **kwargs)
        return found


def extended_folders(folder: Path) -> list[Path]:
    """Folders of an environment and of all that it extends, the furthest first.

    Args:
        folder: Folder of the environment.

    Raises:
        DataError: An environment extends one that is not there, or in the end itself.
    """
    chain = [folder]
    while (name := _extends(chain[0])) is not None:
        where = str(chain[0] / "globals.yml")
        known = sorted(path.name for path in folder.parent.iterdir() if path.is_dir())
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            remedy = f"Did you mean '{near[0]}'?" if near else f"There are: {', '.join(known)}."
            what = f"extends '{name}', and there is no such environment"
            raise DataError(Problem(where, None, what, remedy))
        if folder.parent / name in chain:
            what = f"extends '{name}', which is extended from here already"
            raise DataError(Problem(where, None, what, "Leave one `extends` out of the circle."))
        chain.insert(0, folder.parent / name)
    return chain


def _extends(folder: Path) -> Any:
    file = folder / "globals.yml"
    values = yaml.safe_load(file.read_text()) if file.exists() else None
    return values.get("extends") if isinstance(values, dict) else None
