"""What was kept in case a run is interrupted goes when its results are in place."""

from __future__ import annotations

from kedro.framework.hooks import hook_impl
from kedro.io import CatalogProtocol
from kedro.pipeline.node import Node

from mkgformer_kedro.datasets.folder import WorkFolderDataset


class WorkHooks:
    """Clears a node's work folder, where the catalog says so, once all its outputs are saved.

    Not before: a training whose result cannot be saved, since the disk is full, is not lost.
    """

    def __init__(self) -> None:
        self._catalog: CatalogProtocol = {}
        self._unsaved: dict[str, set[str]] = {}

    @hook_impl
    def before_pipeline_run(self, catalog: CatalogProtocol) -> None:
        """Know the catalog."""
        self._catalog, self._unsaved = catalog, {}

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Clear up behind the last output."""
        unsaved = self._unsaved.setdefault(node.name, set(node.outputs))
        unsaved.discard(dataset_name)
        if unsaved:
            return
        for name in node.inputs:
            work = self._catalog.get(name)
            if isinstance(work, WorkFolderDataset) and work.clear:
                work.remove()
