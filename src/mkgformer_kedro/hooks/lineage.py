"""Before a node works, its inputs must belong together.

Each input says what it was made from (:mod:`mkgformer_kedro.datasets.lineage`). Followed up to the
raw files, these are claims about identities: the visual store says of which entities it is, the
model with which visual store it was trained. All claims about one artefact must agree, with each
other and with what lies in its place today. Where they do not, something was changed and not all
that hangs on it was made again, and the run is refused before it can give wrong results.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline.node import Node

from mkgformer_kedro.datasets.lineage import Artefact, Lineage, Origin
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import fingerprint, relative


class LineageHooks:
    """Checks what a node reads, and notes on what it writes where it comes from."""

    def __init__(self) -> None:
        self._catalog: CatalogProtocol | None = None
        self._made_from: dict[str, dict[str, str]] = {}
        self._environment = ""
        self._hashed_up_to: float = 0
        self._whole: set[str] = set()

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Know up to which size files are read to be compared."""
        self._hashed_up_to = context.config_loader["globals"]["hashed_gigabytes"] * 1e9

    @hook_impl
    def before_pipeline_run(self, run_params: dict[str, Any], catalog: CatalogProtocol) -> None:
        """Forget the run before; know where datasets are found."""
        self._catalog = catalog
        self._made_from = {}
        self._whole = set()
        self._environment = run_params.get("env") or ""

    @hook_impl
    def before_node_run(self, node: Node, catalog: CatalogProtocol, inputs: dict[str, Any]) -> None:
        """Refuse inputs that do not belong together.

        Raises:
            DataError: They do not, or one is damaged.
        """
        claims = Claims(catalog, self._environment)
        for name, data in inputs.items():
            if (identity := raw_identity(data)) is not None:
                claims.add(name, identity, None)
            else:
                # What a node takes is read whole, once in a run.
                claims.follow(name, 0 if name in self._whole else self._hashed_up_to)
                self._whole.add(name)
        if problems := claims.differing():
            raise DataError([problems[name] for name in sorted(problems)])
        self._made_from[node.name] = {
            name: claims.present[name] for name in inputs if name in claims.present
        }

    @hook_impl
    def before_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Tell an artefact what it was made from."""
        dataset = artefact(self._catalog, dataset_name)
        if dataset is not None:
            self._whole.discard(dataset_name)
            dataset.origin = Origin(node.namespace or node.name, self._made_from[node.name])


def raw_identity(data: Any) -> str | None:
    """Hash of what was read of raw files: their digests, or the listing of an image folder."""
    if (digests := getattr(data, "digests", None)) is not None:
        return fingerprint(digests)
    if (listing := getattr(data, "images", None)) is not None and hasattr(data, "root"):
        return fingerprint(listing[["path", "bytes"]].to_numpy().tolist())
    return None


def artefact(catalog: CatalogProtocol | None, name: str) -> Artefact | None:
    """The dataset of that name where it keeps lineage, else None."""
    if catalog is None or name.startswith("params:") or name == "parameters":
        return None
    dataset = catalog.get(name)
    return dataset if isinstance(dataset, Artefact) else None


@dataclass
class Claims:
    """What artefacts say of each other.

    Attributes:
        catalog: Where they lie.
        environment: The run's environment, for the remedy.
        present: Identity of each artefact that was looked at.
        made: For each artefact, who says that it was made from which identity.
    """

    catalog: CatalogProtocol
    environment: str
    present: dict[str, str] = field(default_factory=dict)
    made: dict[str, list[tuple[str, str, Origin]]] = field(default_factory=dict)

    def follow(self, name: str, hashed_up_to: float = 0) -> None:
        """Collect the claims of an artefact and of all that it was made from.

        Args:
            name: The artefact.
            hashed_up_to: How large files of its own may be that are read, see :class:`Artefact`.

        Raises:
            DataError: One of them is damaged.
        """
        dataset = artefact(self.catalog, name)
        if dataset is None or (name in self.present and not hashed_up_to):
            return
        lineage = dataset.lineage(hashed_up_to=hashed_up_to)
        if lineage is not None and name not in self.present:
            self.add(name, lineage.identity, lineage)

    def add(self, name: str, identity: str, lineage: Lineage | None) -> None:
        """Note an artefact that is there, and follow what it was made from."""
        self.present[name] = identity
        if lineage is None or lineage.origin is None:
            return
        for source, claimed in lineage.origin.made_from.items():
            self.made.setdefault(source, []).append((claimed, name, lineage.origin))
            self.follow(source)

    def differing(self) -> dict[str, Problem]:
        """The artefacts whose claims differ from others or from what is there, by name."""
        problems = {}
        for source, claims in self.made.items():
            if source in self.present:
                stale = [claim for claim in claims if claim[0] != self.present[source]]
                why = f"it was made from another {self._named(source)} than the one that lies there"
            else:
                stale = claims if len({claimed for claimed, _, _ in claims}) > 1 else []
                others = " and ".join(sorted(self._named(name) for _, name, _ in claims))
                why = f"{others} were not made from the same {source}"
            for _, name, origin in stale:
                problems[name] = Problem(self._named(name), None, why, self._remedy(origin))
        return problems

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


def place_of(catalog: CatalogProtocol, name: str) -> Path | None:
    """Where a dataset lies on the disk; None for one that lies nowhere."""
    dataset = catalog.get(name)
    places = (getattr(dataset, name, None) for name in ("_filepath", "_folder", "_path"))
    return next((Path(str(place)) for place in places if place is not None), None)
