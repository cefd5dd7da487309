"""Nodes of the stage ``image_association`` for link prediction."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from kedro.pipeline import Node

from mkgformer_kedro.datasets.image_folder import ImageFolder
from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.pipelines.image_association import association, reporting
from mkgformer_kedro.pipelines.image_association.parameters import ImageAssociationParameters

if TYPE_CHECKING:
    from mkgformer_kedro.training.tasks.base import Task

logger = logging.getLogger(__name__)


def store_images(
    raw_images: ImageFolder,
    entities: pd.DataFrame,
    relations: pd.DataFrame,
    triples: pd.DataFrame,
    work: Path,
    parameters: ImageAssociationParameters,
) -> tuple[pd.DataFrame, Path]:
    """Choose every entity's images and decode them, once, into the visual store.

    Args:
        raw_images: Listing of the image folder.
        entities: Table of entities; the row number is the owner index in the store.
        relations: Table of relations, to find the one along which images are borrowed.
        triples: Triples; only those of the training split lend images.
        work: Where the store grows; an interrupted run goes on from there.
        parameters: Parameters of the stage.

    Returns:
        The manifest and the folder of the finished store.

    Raises:
        DataError: The disk is full, or the relation to borrow along is unknown.
    """
    ids = entities["entity"].tolist()
    donors = None
    if parameters.borrow is not None:
        donors = association.find_donors(triples, relations["relation"].tolist(), parameters.borrow)
    owners = match_owners(raw_images, ids, parameters)
    candidates = raw_images.images.assign(owner=owners)[owners >= 0]
    writer, rows = association.store_images(
        raw_images.root,
        candidates,
        ids,
        parameters,
        work,
        largest_first=parameters.order == "resolution",
    )
    if donors is not None:
        loans = association.borrow(writer.slots, donors, parameters.slot_roles)
        rows += association.loan_rows(loans, rows, ids)
    return association.finished(writer, rows)


def match_owners(
    listing: ImageFolder, entities: Sequence[str], parameters: ImageAssociationParameters
) -> pd.Series:
    """The entity index of each listed image, -1 where its folder stands for no entity."""
    folders = listing.images["folder"].drop_duplicates()
    index = {entity: position for position, entity in enumerate(entities)}
    known = {folder: index.get(parameters.owner_of(folder), -1) for folder in folders}
    return listing.images["folder"].map(known).astype("int64").rename("owner")


def report_coverage(
    raw_images: ImageFolder,
    entities: pd.DataFrame,
    triples: pd.DataFrame,
    images: pd.DataFrame,
    visual_store: Path,
    parameters: ImageAssociationParameters,
) -> dict[str, Any]:
    """Report what the images cover, what was quarantined, and folders of no entity."""
    owners = match_owners(raw_images, entities["entity"].tolist(), parameters)
    unknown = raw_images.images.loc[owners < 0, "folder"].drop_duplicates().tolist()
    report = reporting.graph_coverage(images, VisualStore(visual_store), triples, unknown)
    counts = report["owners"]
    logger.info(
        "%d of %d entities have images, %d borrow some.",
        counts["with_images"],
        counts["all"],
        counts["borrowing"],
    )
    if unknown:
        logger.warning(
            "%d image folders stand for no entity, %s first (owner_pattern: %s).",
            len(unknown),
            unknown[0],
            parameters.owner_pattern,
        )
    return report


def draw_contact_sheet(images: pd.DataFrame, visual_store: Path, entities: pd.DataFrame) -> Any:
    """Draw a sample of the store's images with the names of their entities.

    Returns:
        A matplotlib figure. (Kedro resolves the annotations of nodes, and matplotlib is slow.)
    """
    names = entities.set_index("entity")["name"]
    return reporting.contact_sheet(images, VisualStore(visual_store), names)


def nodes(task: type[Task]) -> list[Node]:
    """The stage's nodes."""
    return [
        Node(
            func=store_images,
            inputs=[
                "raw_images",
                "entities",
                "relations",
                "triples",
                "visual_store_work",
                "params:image_association",
            ],
            outputs=["images", "visual_store"],
            name="store_images",
        ),
        Node(
            func=report_coverage,
            inputs=[
                "raw_images",
                "entities",
                "triples",
                "images",
                "visual_store",
                "params:image_association",
            ],
            outputs="coverage_report",
            name="report_coverage",
        ),
        Node(
            func=draw_contact_sheet,
            inputs=["images", "visual_store", "entities"],
            outputs="contact_sheet",
            name="draw_contact_sheet",
        ),
    ]
