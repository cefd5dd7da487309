"""Nodes of the stage ``image_association`` for the tasks on posts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from kedro.pipeline import Node

from mkgformer_kedro.datasets.post_images import PostImages
from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.launch import LaunchParameters, engine_of
from mkgformer_kedro.pipelines.image_association import association, crops, reporting
from mkgformer_kedro.pipelines.image_association.parameters import PostImageAssociationParameters

if TYPE_CHECKING:
    from mkgformer_kedro.training.tasks.base import Task

logger = logging.getLogger(__name__)


def locate_crops(
    posts: pd.DataFrame,
    raw_images: PostImages,
    work: Path,
    parameters: PostImageAssociationParameters,
    launch: LaunchParameters,
) -> pd.DataFrame:
    """Find the crops of each post: those that maps list, or those that a detector sees.

    Args:
        posts: Table of posts.
        raw_images: Listing of the image folders.
        work: What the detector found so far; an interrupted run goes on from there.
        parameters: Where crops come from.
        launch: Where a detector looks.

    Returns:
        The table ``crops``: post, path of the image, role, phrase, box and score, best first.

    Raises:
        DataError: There is no map or folder of crops, or it cannot be used.
    """
    if parameters.crops == "none" or raw_images.root is None:
        found = []
    elif parameters.crops == "files":
        found = crops.listed_crops(posts, raw_images, parameters.crop_roles)
    else:
        found = crops.detected_crops(posts, raw_images, parameters, work, engine_of(launch))
    return crops.table_of(found)


def store_images(
    raw_images: PostImages,
    posts: pd.DataFrame,
    crops: pd.DataFrame,
    work: Path,
    parameters: PostImageAssociationParameters,
    launch: LaunchParameters,
) -> tuple[pd.DataFrame, Path]:
    """Decode every post's image and crops, once, into the visual store.

    Files that are not there are left out: most copies of a corpus lack some.

    Args:
        raw_images: Listing of the image folders.
        posts: Table of posts; the row number is the owner index in the store.
        crops: Table of crops.
        work: Where the store grows; an interrupted run goes on from there.
        parameters: Parameters of the stage.
        launch: Where images are decoded.

    Returns:
        The manifest and the folder of the finished store.

    Raises:
        DataError: The disk is full.
    """
    paths = raw_images.find(posts["split"], posts["image"])
    whole = pd.DataFrame({"owner": posts.index, "path": paths, "role": "full"}).dropna()
    if "full" not in parameters.slot_roles:
        whole = whole.head(0)
    number_of = pd.Series(posts.index, index=posts["post"])
    parts = crops.drop(columns="post").assign(owner=crops["post"].map(number_of))
    candidates = pd.concat([whole, parts], ignore_index=True)
    candidates["bytes"] = [raw_images.size_of(path) for path in candidates["path"]]
    there = candidates[candidates["bytes"].notna()]
    writer, rows = association.store_images(
        raw_images.root,
        there,
        posts["post"].tolist(),
        parameters,
        work,
        engine=engine_of(launch),
    )
    return association.finished(writer, rows)


def report_coverage(
    raw_images: PostImages,
    posts: pd.DataFrame,
    crops: pd.DataFrame,
    images: pd.DataFrame,
    visual_store: Path,
) -> dict[str, Any]:
    """Report how many posts have which images, what is missing, and what was quarantined."""
    found = raw_images.find(posts["split"], posts["image"]).notna()
    report = reporting.posts_coverage(images, VisualStore(visual_store), posts, found, crops)
    report["missing_folders"] = list(raw_images.missing_folders)
    counts = report["owners"]
    logger.info("%d of %d posts have images.", counts["with_images"], counts["all"])
    named = posts["image"].dropna()
    if len(raw_images.images) and not found.any():
        logger.warning(
            "No post names any of the %d files below %s, such as %s; %s.",
            len(raw_images.images),
            raw_images.root,
            raw_images.images["path"].iloc[0],
            f"the first that names one names {named.iloc[0]}" if len(named) else "none names one",
        )
    for role, count in report["crops"].items():
        if count["not_found"]:
            values = (count["not_found"], count["listed"], role)
            logger.warning("%d of %d listed %s crops are not there.", *values)
    return report


def draw_contact_sheet(images: pd.DataFrame, visual_store: Path, posts: pd.DataFrame) -> Any:
    """Draw a sample of the store's images with the first words of their posts.

    Returns:
        A matplotlib figure. (Kedro resolves the annotations of nodes, and matplotlib is slow.)
    """
    names = posts.set_index("post")["words"].map(" ".join)
    return reporting.contact_sheet(images, VisualStore(visual_store), names)


def nodes(task: type[Task]) -> list[Node]:
    """The stage's nodes."""
    return [
        Node(
            func=locate_crops,
            inputs=[
                "posts",
                "raw_images",
                "crops_work",
                "params:image_association",
                "params:launch",
            ],
            outputs="crops",
            name="locate_crops",
            tags="gpu",
        ),
        Node(
            func=store_images,
            inputs=[
                "raw_images",
                "posts",
                "crops",
                "visual_store_work",
                "params:image_association",
                "params:launch",
            ],
            outputs=["images", "visual_store"],
            name="store_images",
        ),
        Node(
            func=report_coverage,
            inputs=["raw_images", "posts", "crops", "images", "visual_store"],
            outputs="coverage_report",
            name="report_coverage",
        ),
        Node(
            func=draw_contact_sheet,
            inputs=["images", "visual_store", "posts"],
            outputs="contact_sheet",
            name="draw_contact_sheet",
        ),
    ]
