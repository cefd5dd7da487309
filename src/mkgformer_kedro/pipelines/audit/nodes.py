"""The node that audits a graph."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from mkgformer_kedro.datasets.graph_folder import RawGraph
from mkgformer_kedro.datasets.image_folder import ImageFolder
from mkgformer_kedro.datasets.text_files import SPLITS
from mkgformer_kedro.evaluation.ranking.tables import TRIPLE
from mkgformer_kedro.modeling.images import read_image
from mkgformer_kedro.pipelines.audit.parameters import AuditParameters
from mkgformer_kedro.pipelines.image_association.association import pillow_for_threads
from mkgformer_kedro.pipelines.image_association.decoding import Status, inspect_image
from mkgformer_kedro.pipelines.image_association.link_prediction import linked_images, match_owners
from mkgformer_kedro.pipelines.image_association.parameters import ImageAssociationParameters
from mkgformer_kedro.pipelines.ingestion.checks import described_files
from mkgformer_kedro.pipelines.ingestion.link_prediction import index_graph
from mkgformer_kedro.pipelines.ingestion.parameters import IngestionParameters
from mkgformer_kedro.progress import Progress

logger = logging.getLogger(__name__)

_LETS_PASS = {
    "on_bad_lines": "quarantine",
    "on_unexpected_counts": "report",
    "max_split_overlap": None,
    "max_inverse_leak": None,
}


def audit_graph(
    raw: RawGraph,
    raw_images: ImageFolder,
    ingestion: IngestionParameters,
    association: ImageAssociationParameters,
    parameters: AuditParameters,
) -> tuple[dict[str, Any], str]:
    """Audit a graph whatever is wrong with it: the gates of ingestion are open here.

    Args:
        raw: The graph as its files say it.
        raw_images: Listing of the image folder.
        ingestion: How the graph is read.
        association: Whose a folder of images is, and which images are usable.
        parameters: Parameters of the audit.

    Returns:
        What was found, ready for JSON, and the HTML page.
    """
    from mkgformer_kedro.evaluation.ranking import graph_audit
    from mkgformer_kedro.evaluation.report.graph_audit import render_graph_audit

    entities, relations, triples, quarantine = index_graph(
        raw, ingestion.model_copy(update=_LETS_PASS)
    )
    repeated = raw.triples.duplicated(["split", *TRIPLE])
    images = None
    if parameters.images != "none" and raw_images.root is not None:
        images = hash_images(raw_images, entities, association, look=parameters.images == "look")
    audit, verdicts = graph_audit.audit_graph(
        triples,
        entities,
        relations,
        {split: int(repeated[raw.triples["split"] == split].sum()) for split in SPLITS},
        images,
        near=parameters.near,
        least=parameters.least,
    )
    for verdict in verdicts:
        logger.info(verdict.text)
    data = {"files": described_files(raw.digests, raw.verified), **raw.facts}
    if len(quarantine):
        data["unusable_lines"] = [
            f"{row.file}:{row.line}: {row.what}" for row in quarantine.itertuples()
        ]
    page = render_graph_audit(
        audit,
        verdicts,
        data_set=raw.folder.name,
        near=parameters.near,
        facts={"Files": data, "Parameters": parameters.model_dump()},
    )
    sentences = [{"text": verdict.text, "outcome": verdict.outcome} for verdict in verdicts]
    return {"graph": raw.folder.name, "verdicts": sentences, **audit, "data": data}, page


def hash_images(
    raw_images: ImageFolder,
    entities: pd.DataFrame,
    association: ImageAssociationParameters,
    *,
    look: bool,
) -> pd.DataFrame:
    """What tells the images of entities apart: their bytes, and how they look.

    Args:
        raw_images: Listing of the image folder.
        entities: Table of entities.
        association: Whose a folder is, and which images are usable.
        look: Whether to decode each image for its perceptual hash.

    Returns:
        ``entity``, ``path``, ``sha256``, ``perceptual_hash`` (64 bits in hexadecimal; null where
        not asked for) of every usable image.
    """
    owners = match_owners(raw_images, entities["entity"].tolist(), association)
    linked, _ = linked_images(raw_images.root, entities)
    own = pd.concat([linked, raw_images.images.assign(owner=owners)[owners >= 0]])
    own = own.drop_duplicates(["owner", "path"])
    paths = own["path"].unique()

    def hashes(path: str) -> tuple[str | None, str | None]:
        file = Path(raw_images.root or "") / path
        header = inspect_image(file, association.min_side, association.max_pixels)
        if header.status is not Status.OK:
            return None, None
        return header.sha256, _perceptual_hash(file) if look else None

    found = {}
    with (
        pillow_for_threads(),
        ThreadPoolExecutor(association.workers or os.cpu_count()) as pool,
        Progress("Hashing images", len(paths), "images") as progress,
    ):
        for path, pair in zip(paths, pool.map(hashes, paths), strict=True):
            found[path] = pair
            progress.advance(1)
    table = pd.DataFrame(
        {
            "entity": entities["entity"].to_numpy()[own["owner"]],
            "path": own["path"].to_numpy(),
            "sha256": [found[path][0] for path in own["path"]],
            "perceptual_hash": [found[path][1] for path in own["path"]],
        }
    )
    return table[table["sha256"].notna()].reset_index(drop=True)


def _perceptual_hash(path: Path) -> str | None:
    import imagehash

    image = read_image(path)
    return None if image is None else str(imagehash.phash(image))
