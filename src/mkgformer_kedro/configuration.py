"""Reading ``conf/``: files that hold plain values, in environments that extend others."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from kedro.config import MissingConfigException, OmegaConfigLoader
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import require_file
from mkgformer_kedro.parameters import did_you_mean

_MOST_VALUES = 100_000  # in one file, aliases spelled out
_SUFFIXES = (".yml", ".yaml", ".json")
_NAMES = "Call it globals.yml, catalog.yml or parameters.yml (or catalog_*.yml, parameters_*.yml)."
_PLAIN = "tag:yaml.org,2002:"
_KINDS = {f"{_PLAIN}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map")}
_MERGE = f"{_PLAIN}merge"

RUNTIME_GLOBALS = ("dataset", "wait_for_lock")
"""What ``--params`` can say in the place of ``globals.yml``."""


class _Loader(yaml.SafeLoader):
    """Reads dates as texts, as OmegaConf does."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [each for each in resolvers if each[0] != f"{_PLAIN}timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class ExtendingConfigLoader(OmegaConfigLoader):
    """Kedro's loader, for environments whose ``globals.yml`` may say ``extends: <environment>``.

    The files of an environment lie over those of the environment that it extends, as these lie
    over those of the base environment. ``--params dataset=...`` and ``--params wait_for_lock=...``
    take the place of what ``globals.yml`` says, and ``${environment:}`` is the environment's name.
    What cannot be read is refused with file and line.

    Raises:
        DataError: The configuration is no folder on this machine.
    """

    def __init__(self, conf_source: str | Path, *args: Any, **kwargs: Any) -> None:
        if not Path(conf_source).is_dir():
            what = "this is no folder of configuration on this machine"
            remedy = "Name a folder that holds environments, such as conf."
            raise DataError(Problem(str(conf_source), None, what, remedy))
        super().__init__(conf_source, *args, **kwargs)
        environment = self.env or self.default_run_env
        OmegaConf.register_new_resolver("environment", lambda: environment, replace=True)

    def _read_dir_configs(
        self, conf_path: str, patterns: Any, key: str, *args: Any, **kwargs: Any
    ) -> dict[Path, DictConfig]:
        """Read the files of an environment and, before them, of those that it extends.

        Raises:
            DataError: There is no such environment, or one of its files is no plain YAML, or has
                a name by which it would not be read.
        """
        source = Path(self.conf_source)
        environment, known = str(Path(conf_path).relative_to(source)), _environments(source)
        if environment not in known:
            what = f"there is no environment '{environment}'"
            raise DataError(Problem(str(source), None, what, did_you_mean(environment, known)))
        found: dict[Path, DictConfig] = {}
        for folder in extended_folders(Path(conf_path)):
            self._refuse_unread(folder)
            for file in sorted(folder.rglob("*")):
                within = file.relative_to(folder).parts
                if file.suffix in _SUFFIXES and any(part.startswith(key) for part in within):
                    read_yaml(file)
            found |= super()._read_dir_configs(str(folder), patterns, key, *args, **kwargs)
        return found

    def _refuse_unread(self, folder: Path) -> None:
        patterns = {each for several in self.config_patterns.values() for each in several}
        read = {file for pattern in patterns for file in folder.glob(pattern)}
        problems = [
            Problem(str(file), None, "nothing reads a file of this name", _NAMES)
            for file in sorted(folder.rglob("*"))
            if file.suffix in _SUFFIXES and file not in read and not file.name.startswith(".")
        ]
        if problems:
            raise DataError(problems)

    def _check_duplicates(self, key: str, config_per_file: dict[Path, Any]) -> None:
        """Refuse what two files of an environment say; groups of parameters may be divided.

        Raises:
            DataError: A key is there twice.
        """
        seen: dict[str, str] = {}
        for file in sorted(config_per_file):
            for name, line in _lines(_plain(file)[0], deep=key == "parameters").items():
                if name in seen:
                    what = f"the key '{name}' is there already, in {seen[name]}"
                    raise DataError(Problem(str(file), line, what, "Leave one of them out."))
                seen[name] = f"{file}:{line}"

    def __getitem__(self, key: str) -> dict[str, Any]:
        """The configuration of a kind, such as ``parameters``: the caller's own copy.

        Files are read once, however often Kedro asks for what they hold.

        Raises:
            DataError: Files contradict each other, or refer to what is not there.
        """
        if key not in self.data:
            self.data[key] = self._read(key)
        return copy.deepcopy(self.data[key])

    def _read(self, key: str) -> dict[str, Any]:
        try:
            found = super().__getitem__(key)
        except (DataError, MissingConfigException):
            raise
        except (OmegaConfBaseException, ValueError) as error:
            what = str(error).splitlines()[0].rstrip(". ")
            remedy = "Correct the files of this environment, or of one that it extends."
            raise DataError(Problem(f"conf ({key})", None, what, remedy)) from error
        if key == "globals":
            given = self.runtime_params or {}
            found |= {name: given[name] for name in RUNTIME_GLOBALS if name in given}
        return found


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML file that holds a group of plain values; an empty file is an empty group.

    Raises:
        DataError: It is no YAML in UTF-8, or holds no group, a key twice, an object of Python, a
            value that is none of its kind, or aliases that spell out to more than anybody writes.
    """
    return copy.deepcopy(_plain(file)[1])


def _plain(file: Path) -> tuple[yaml.MappingNode | None, dict[str, Any]]:
    """The group that a YAML file holds, as it was parsed and as values."""
    try:
        require_file(file)
        return _parsed(file.read_bytes())
    except OSError as error:
        what = f"cannot be read ({error.strerror})"
        raise DataError(Problem(str(file), None, what, "Make it a readable file.")) from None
    except DataError as error:
        problems = [replace(each, where=str(file)) for each in error.problems]
        raise DataError(problems) from None


@lru_cache(maxsize=256)
def _parsed(content: bytes) -> tuple[yaml.MappingNode | None, dict[str, Any]]:
    try:
        loader = _Loader(content.decode("utf-8-sig"))
        root = loader.get_single_node()
        if root is None:
            return None, {}
        _require_plain(loader, root, {})
        values = loader.construct_document(root)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        what = f"not UTF-8 (byte 0x{content[error.start]:02x})"
        raise DataError(Problem("", line, what, "Save the file as UTF-8.")) from None
    except RecursionError:
        what = "groups within groups, too deep to be read"
        raise DataError(Problem("", None, what, "Write them flat.")) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = f"no YAML ({getattr(error, 'problem', None) or error.reason})"
        line = None if mark is None else mark.line + 1
        raise DataError(Problem("", line, what, "Correct the line.")) from None
    if not isinstance(values, dict):
        what = f"this holds {values!r}, and no group of keys"
        raise DataError(Problem("", None, what, "Write `key: value`, one a line."))
    return root, values


def _require_plain(loader: yaml.SafeLoader, node: yaml.Node, sizes: dict[int, int]) -> int:
    """See to it that a node holds plain values, each key once, and not too much.

    Args:
        loader: What makes values of nodes.
        node: What was read, before anything is made of it.
        sizes: Number of values of each node that was seen; 0 while it is being read.

    Returns:
        The number of its values, aliases spelled out.
    """

    def refuse(at: yaml.Node, what: str, remedy: str) -> None:
        raise DataError(Problem("", at.start_mark.line + 1, what, remedy))

    if id(node) in sizes:
        if not sizes[id(node)]:
            refuse(node, "a group that holds itself, by an alias", "Write the value out.")
        return sizes[id(node)]
    sizes[id(node)] = 0
    if node.tag not in _KINDS | {_MERGE}:
        what = f"the tag {node.tag.replace(_PLAIN, '!!')}, which would make an object"
        refuse(node, what, "Write a plain value: nothing that is read here is executed.")
    children: list[yaml.Node] = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        children = [child for pair in node.value for child in pair]
        names: set[str] = set()
        for name, _ in node.value:
            if not isinstance(name, yaml.ScalarNode) or name.tag == f"{_PLAIN}null":
                refuse(name, "a key that is no text", "Write `key: value`.")
            if name.value in names:
                refuse(name, f"the key '{name.value}' is there twice", "Leave one of them out.")
            names.add(name.value)
    elif isinstance(node, yaml.ScalarNode) and node.tag in _KINDS:
        try:
            loader.construct_object(node)
        except (ValueError, LookupError) as error:
            kind = node.tag.removeprefix(_PLAIN)
            refuse(node, f"'{node.value}' is no {kind} ({error})", "Correct the value.")
    count = 1 + sum(_require_plain(loader, child, sizes) for child in children)
    if count > _MOST_VALUES:
        refuse(node, f"more than {_MOST_VALUES:,} values, with its aliases", "Write what is meant.")
    sizes[id(node)] = count
    return count


def _lines(node: yaml.MappingNode | None, deep: bool, prefix: str = "") -> dict[str, int]:
    """The line of each key of a group, and of those of the groups in it where that is asked for."""
    found: dict[str, int] = {}
    for name, value in node.value if node else []:
        if deep and isinstance(value, yaml.MappingNode):
            found |= _lines(value, deep, f"{prefix}{name.value}.")
        elif not name.value.startswith("_") and name.tag != _MERGE:
            found[prefix + name.value] = name.start_mark.line + 1
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
        known = _environments(folder.parent)
        if name not in known:
            what = f"extends '{name}', and there is no such environment"
            raise DataError(Problem(where, None, what, did_you_mean(name, known)))
        if folder.parent / name in chain:
            what = f"extends '{name}', which is extended from here already"
            raise DataError(Problem(where, None, what, "Leave one `extends` out of the circle."))
        chain.insert(0, folder.parent / name)
    return chain


def _environments(conf: Path) -> list[str]:
    return sorted(path.name for path in conf.iterdir() if path.is_dir())


def _extends(folder: Path) -> Any:
    file = folder / "globals.yml"
    return read_yaml(file).get("extends") if file.exists() else None
