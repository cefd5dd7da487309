"""Nodes of the stage ``image_association`` for link prediction."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pandas as pd
from kedro.pipeline import Node

from mkgformer_kedro.datasets import image_folder
from mkgformer_kedro.datasets.image_folder import ImageFolder
from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.launch import LaunchParameters, engine_of
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
    launch: LaunchParameters,
) -> tuple[pd.DataFrame, Path]:
    """Choose every entity's images and decode them, once, into the visual store.

    Args:
        raw_images: Listing of the image folder.
        entities: Table of entities; the row number is the owner index in the store. Images that
            the graph itself links come before those of the entity's folder.
        relations: Table of relations, to find the one along which images are borrowed.
        triples: Triples; only those of the training split lend images.
        work: Where the store grows; an interrupted run goes on from there.
        parameters: Parameters of the stage.
        launch: Where images are decoded.

    Returns:
        The manifest and the folder of the finished store.

    Raises:
        DataError: The disk is full, no image is an entity's, or the relation to borrow along is
            unknown.
    """
    ids = entities["entity"].tolist()
    donors = None
    if parameters.borrow is not None:
        donors = association.find_donors(triples, relations["relation"].tolist(), parameters.borrow)
    owners = match_owners(raw_images, ids, parameters)
    candidates = raw_images.images.assign(owner=owners, linked=False)[owners >= 0]
    linked, _ = linked_images(raw_images.root, entities)
    candidates = pd.concat([linked.assign(linked=True), candidates], ignore_index=True)
    candidates = candidates.drop_duplicates(["owner", "path"], ignore_index=True)
    if raw_images.root is not None and candidates.empty:
        raise DataError(_no_image_matches(raw_images, ids, parameters))
    writer, rows = association.store_images(
        raw_images.root,
        candidates,
        ids,
        parameters,
        work,
        largest_first=parameters.order == "resolution",
        engine=engine_of(launch),
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


def linked_images(root: Path | None, entities: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The files that the graph's own image links lead to.

    Args:
        root: The image folder. A link is a path below it, or else the name of a file in it.
        entities: Table of entities; the column ``image_links`` may be missing.

    Returns:
        ``owner``, ``folder``, ``path`` and ``bytes`` of each image, and the links without a file.
    """
    rows, missing = [], []
    if root is not None and "image_links" in entities:
        for owner, links in enumerate(entities["image_links"]):
            for link in links:
                paths = (link, PurePosixPath(link).name)
                path = next((path for path in paths if (root / path).is_file()), None)
                if path is None:
                    missing.append(link)
                else:
                    size = (root / path).stat().st_size
                    rows.append((owner, str(PurePosixPath(path).parent), path, size))
    table = pd.DataFrame(rows, columns=["owner", "folder", "path", "bytes"])
    kinds = {"owner": "int64", "folder": "str", "path": "str", "bytes": "int64"}
    return table.astype(kinds), missing


def _no_image_matches(
    raw_images: ImageFolder, entities: Sequence[str], parameters: ImageAssociationParameters
) -> Problem:
    """Why images that are there are no entity's."""
    folders = raw_images.images["folder"].drop_duplicates()
    if len(folders):
        what = (
            f"none of the {len(folders):,} folders in it stands for an entity (a folder: "
            f"'{folders.iloc[0]}'; an entity: '{entities[0]}')"
        )
        remedy = (
            "Set link_prediction.image_association.owner_pattern (now "
            f"{parameters.owner_pattern}) and owner_replacement so that a folder's name gives "
            "the entity's id."
        )
    elif raw_images.deeper:
        what = "the folders in it hold folders, not images: the images lie one level too deep"
        remedy = "Set `images` in globals.yml to the folder that has one folder per entity."
    elif raw_images.beside:
        what = f"its {raw_images.beside:,} files lie beside the folders of entities, none in one"
        remedy = "Put each image into a folder named for its entity."
    else:
        what, remedy = "no image lies in it", image_folder.REMEDY
    return Problem(str(raw_images.root), None, what, remedy)


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
    linked, missing = linked_images(raw_images.root, entities)
    idle = (owners < 0) & ~raw_images.images["path"].isin(linked["path"])
    unknown = raw_images.images.loc[idle, "folder"].drop_duplicates().tolist()
    report = reporting.graph_coverage(images, VisualStore(visual_store), triples, unknown)
    if "image_links" in entities:
        links = int(entities["image_links"].map(len).sum())
        report["image_links"] = {"count": links, "without_file": sorted(set(missing))}
        if missing:
            logger.warning("%d of %d image links lead to no file.", len(missing), links)
    counts = report["owners"]
    logger.info(
        "%d of %d entities have images, %d borrow some.",
        counts["with_images"],
        counts["all"],
        counts["borrowing"],
    )
    if unknown:
        logger.warning(
            "Folders of images that stand for no entity: %d, such as '%s' (owner_pattern: %s).",
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
                "params:launch",
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
