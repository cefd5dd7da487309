"""Before a node works, its inputs must belong together.

Each input says what it was made from (:mod:`mkgformer_kedro.datasets.lineage`). Followed up to the
raw files, these are claims about identities: the visual store says of which entities it is, the
model with which visual store it was trained. All claims about one artefact must agree, with each
other and with what lies in its place today, and it must have been made with the settings of this
run, those by which raw data are read among them. Where that is not so, something was changed and
not all that hangs on it was made again, and the run is refused before it can give wrong results.
That another version of the project made something is only said. Where raw data lie does not
matter, and of what is gone nothing is known.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline.node import Node

from mkgformer_kedro import __version__
from mkgformer_kedro.datasets.lineage import (
    Artefact,
    Lineage,
    Origin,
    RawData,
    block_of,
    place_of,
    raw_identity,
    reading_of,
)
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import relative
from mkgformer_kedro.parameters import deciding, value_at

logger = logging.getLogger(__name__)

_PARAMETERS = "params:"
_NAMED = 3
_SHOWN = 60  # characters of a value in a message


class LineageHooks:
    """Checks what a node reads, and notes on what it writes where it comes from."""

    def __init__(self) -> None:
        self._catalog: CatalogProtocol | None = None
        self._origins: dict[str, Origin] = {}
        self._environment = ""
        self._hashed_gigabytes: float = 0
        self._whole: set[str] = set()
        self._raw: dict[str, str | None] = {}
        self._told: set[str] = set()

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Know up to which size files are read to be compared."""
        self._hashed_gigabytes = context.config_loader["globals"]["hashed_gigabytes"]

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], catalog: CatalogProtocol) -> None:
        """Forget the run before; know where datasets are found."""
        self._catalog = catalog
        self._origins = {}
        self._whole = set()
        self._raw = {}
        self._environment = run_params.get("env") or ""

    @hook_impl
    def before_node_run(self, node: Node, catalog: CatalogProtocol, inputs: dict[str, Any]) -> None:
        """Refuse inputs that do not belong together, or to the settings of this run.

        Raises:
            DataError: They do not, or one is damaged.
        """
        largest = self._hashed_gigabytes * 1e9
        claims = Claims(catalog, self._environment, largest, self._raw)
        for name, data in inputs.items():
            if (identity := raw_identity(data)) is not None:
                claims.add(name, Lineage(identity, None))
        for name in [each for each in inputs if each not in claims.present]:
            # What a node takes is read whole, once in a run.
            claims.follow(name, 0 if name in self._whole else largest)
            self._whole.add(name)
        if problems := claims.differing():
            raise DataError([problems[name] for name in sorted(problems)])
        self._tell_of_other_makers(claims, catalog)
        settings: dict[str, Any] = {}
        for name, data in inputs.items():
            if name.startswith(_PARAMETERS):
                path = name.removeprefix(_PARAMETERS)
                settings |= deciding(data, path)
            else:
                settings |= reading_of(name, catalog.get(name))
        self._origins[node.name] = Origin(
            made_by=node.namespace or node.name,
            made_from={n: claims.present[n].identity for n in inputs if n in claims.present},
            settings=settings,
            version=__version__,
        )

    @hook_impl
    def before_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Tell an artefact what it was made from."""
        dataset = artefact(self._catalog, dataset_name)
        if dataset is not None:
            self._whole.discard(dataset_name)
            dataset.origin = self._origins[node.name]

    def _tell_of_other_makers(self, claims: Claims, catalog: CatalogProtocol) -> None:
        for name, lineage in claims.present.items():
            by_hand = lineage.origin is None and artefact(catalog, name) is not None
            if by_hand and name not in self._told:
                self._told.add(name)
                logger.warning("%s was not made by a stage, and is taken as it is", name)
            made = __version__ if lineage.origin is None else lineage.origin.version
            if made != __version__ and name not in self._told:
                self._told.add(name)
                where = "another version" if not made else f"version {made}"
                logger.info("%s was made by %s of this project (%s now)", name, where, __version__)


def artefact(catalog: CatalogProtocol | None, name: str) -> Artefact | None:
    """The dataset of that name where it keeps lineage, else None."""
    if catalog is None or name.startswith(_PARAMETERS) or name == "parameters":
        return None
    dataset = catalog.get(name)
    return dataset if isinstance(dataset, Artefact) else None


@dataclass
class Claims:
    """What artefacts say of each other.

    Attributes:
        catalog: Where they lie.
        environment: The run's environment, for the remedy.
        largest: How large raw files may be that are read to be compared, in bytes.
        raw: Identity of each raw dataset that was looked at in this run.
        present: Each artefact that was looked at.
        made: For each artefact, who says that it was made from which identity.
    """

    catalog: CatalogProtocol
    environment: str
    largest: float = math.inf
    raw: dict[str, str | None] = field(default_factory=dict)
    present: dict[str, Lineage] = field(default_factory=dict)
    made: dict[str, list[tuple[str, str, Origin]]] = field(default_factory=dict)

    def follow(self, name: str, hashed_up_to: float = 0) -> None:
        """Collect the claims of an artefact and of all that it was made from.

        Args:
            name: The artefact.
            hashed_up_to: How large files of its own may be that are read, see :class:`Artefact`.

        Raises:
            DataError: One of them is damaged.
        """
        if name not in self.present and isinstance(raw := self.catalog.get(name), RawData):
            if name not in self.raw:
                self.raw[name] = raw.identity(hashed_up_to=self.largest)
            if (identity := self.raw[name]) is not None:
                self.add(name, Lineage(identity, None))
        dataset = artefact(self.catalog, name)
        if dataset is None or (name in self.present and not hashed_up_to):
            return
        lineage = dataset.lineage(hashed_up_to=hashed_up_to)
        if lineage is not None and name not in self.present:
            self.add(name, lineage)

    def add(self, name: str, lineage: Lineage) -> None:
        """Note an artefact that is there, and follow what it was made from."""
        self.present[name] = lineage
        if lineage.origin is None:
            return
        for source, claimed in lineage.origin.made_from.items():
            self.made.setdefault(source, []).append((claimed, name, lineage.origin))
            self.follow(source)

    def differing(self) -> dict[str, Problem]:
        """The artefacts that differ from settings, others' claims or what is there, by name."""
        problems = {}
        for name, lineage in self.present.items():
            if lineage.origin is not None and (changed := self._changed(lineage.origin)):
                more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
                why = f"it was made with other settings: {', '.join(changed[:_NAMED])}{more}"
                remedy = f"Set that back, or {_lower(self._remedy(lineage.origin))}"
                problems[name] = Problem(self._named(name), None, why, remedy)
        for source, claims in self.made.items():
            if source in self.present:
                stale = [claim for claim in claims if claim[0] != self.present[source].identity]
                why = f"it was made from another {self._named(source)} than the one that lies there"
                if isinstance(self.catalog.get(source), RawData):
                    why = f"it was made from other raw data than {self._named(source)} holds now"
            else:
                stale = claims if len({claimed for claimed, _, _ in claims}) > 1 else []
                others = " and ".join(sorted(self._named(name) for _, name, _ in claims))
                why = f"{others} were not made from the same {source}"
            for _, name, origin in stale:
                problem = Problem(self._named(name), None, why, self._remedy(origin))
                problems.setdefault(name, problem)
        return problems

    @cached_property
    def _configured(self) -> dict[str, Any]:
        """The parameters of this run, and how it reads raw data."""
        parameters = self.catalog.get("parameters")
        found = {} if parameters is None else dict(parameters.load())
        for name in self.made:
            if isinstance(dataset := self.catalog.get(name), RawData):
                found[block_of(name)] = found.get(block_of(name), {}) | dataset.reading
        return found

    def _changed(self, origin: Origin) -> list[str]:
        """What is said of each setting that is another one now."""
        return [
            f"{path} was {_shown(was)} and is {_shown(now)}"
            for path, was in origin.settings.items()
            if path.partition(".")[0] in self._configured
            and _set(was) != _set(now := value_at(self._configured, path))
        ]

    def _named(self, name: str) -> str:
        place = place_of(self.catalog, name)
        return name if place is None else str(relative(place))

    def _remedy(self, origin: Origin) -> str:
        pipeline = origin.made_by.partition(".")[0]
        environment = f" --env {self.environment}" if self.environment else ""
        return (
            f"Run {origin.made_by} again, and what follows it: kedro run --pipelines {pipeline} "
            f"--namespaces {origin.made_by}{environment}"
        )


def _set(value: Any) -> Any:
    """A value without what is null in it: a group says null of what is not set, or nothing."""
    if isinstance(value, dict):
        return {key: _set(each) for key, each in value.items() if each is not None}
    return value


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
