"""Which pictures fill the slots of each owner, and the store they end up in."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mkgformer_kedro.datasets.picture_folder import PictureFolder
from mkgformer_kedro.datasets.visual_store import VisualStoreWriter
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.pipelines.image_association.decoding import (
    Status,
    decode_picture,
    inspect_picture,
)
from mkgformer_kedro.pipelines.image_association.parameters import (
    Borrowing,
    ImageAssociationParameters,
)
from mkgformer_kedro.progress import Progress

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Picture(NamedTuple):
    """One row of the manifest: a file of an owner, or a slot that was filled by borrowing.

    Attributes:
        owner: Entity id.
        path: Path below the image folder.
        role: Role of the slot it fills, None where it fills none.
        slot: Slot it fills (column of the store's ``slots``), -1 where it fills none.
        sha256: Hash of the file, None where it cannot be read.
        width: Width in pixels as stored, 0 where unknown.
        height: Height in pixels as stored, 0 where unknown.
        mode: Pillow's pixel format, None where unknown.
        status: A value of :class:`~.decoding.Status`.
        borrowed_from: Entity id of the donor, None for an owner's own picture.
    """

    owner: str
    path: str
    role: str | None
    slot: int
    sha256: str | None
    width: int
    height: int
    mode: str | None
    status: str
    borrowed_from: str | None = None


class OwnerPictures(NamedTuple):
    """An owner's manifest rows and, per filled slot, content hash and pixels."""

    rows: list[Picture]
    slots: dict[int, tuple[str, NDArray[np.uint8]]]


def manifest(rows: Iterable[Picture]) -> pd.DataFrame:
    """The table ``pictures``."""
    table = pd.DataFrame(rows, columns=Picture._fields)
    numbers = {"slot", "width", "height"}
    return table.astype({name: "int32" if name in numbers else "str" for name in table})


def match_owners(
    listing: PictureFolder, entities: Sequence[str], parameters: ImageAssociationParameters
) -> pd.Series:
    """The entity index of each listed picture, -1 where its folder stands for no entity."""
    folders = listing.pictures["folder"].drop_duplicates()
    index = {entity: position for position, entity in enumerate(entities)}
    known = {folder: index.get(parameters.owner_of(folder), -1) for folder in folders}
    return listing.pictures["folder"].map(known).astype("int64").rename("owner")


def associate_owner(
    root: Path, owner: str, paths: Sequence[str], parameters: ImageAssociationParameters
) -> OwnerPictures:
    """Fill one owner's slots, in order, from the pictures that prove usable.

    Content that comes twice is used once, and a picture that fails to decode makes room for the
    next, so no file is decoded twice and none in vain but the damaged ones.
    """
    headers = {
        path: inspect_picture(root / path, parameters.min_side, parameters.max_pixels)
        for path in sorted(paths)
    }
    order = [path for path, header in headers.items() if header.status is Status.OK]
    if parameters.order == "resolution":
        order.sort(key=lambda path: -headers[path].width * headers[path].height)
    roles = parameters.slot_roles
    outcome = {path: (header.status, -1) for path, header in headers.items()}
    slots: dict[int, tuple[str, NDArray[np.uint8]]] = {}
    seen: set[str | None] = set()
    for path in order:
        content = headers[path].sha256
        if content in seen:
            outcome[path] = (Status.DUPLICATE, -1)
        elif len(slots) == len(roles):
            outcome[path] = (Status.UNUSED, -1)
        else:
            slot = len(slots)
            pixels = decode_picture(root / path, parameters.slots[roles[slot]].size)
            if pixels is None:
                outcome[path] = (Status.DAMAGED, -1)
            else:
                outcome[path] = (Status.OK, slot)
                slots[slot] = (content, pixels)
        seen.add(content)
    rows = []
    for path, (status, slot) in outcome.items():
        header = headers[path]
        role = roles[slot] if slot >= 0 else None
        size = (header.width, header.height, header.mode)
        rows.append(Picture(owner, path, role, slot, header.sha256, *size, status))
    return OwnerPictures(rows, slots)


def store_pictures(
    listing: PictureFolder,
    entities: Sequence[str],
    parameters: ImageAssociationParameters,
    work: Path,
) -> tuple[VisualStoreWriter, list[Picture]]:
    """Put every owner's pictures into the store, on all cores, owners in order.

    Args:
        listing: The image folder.
        entities: Entity ids; the position is the owner index.
        parameters: Parameters of the stage.
        work: Folder of the unfinished store; what an interrupted run left there is used.

    Returns:
        The writer, not yet finished, and the manifest rows of all owners with pictures.
    """
    owners = match_owners(listing, entities, parameters)
    files = listing.pictures.groupby(owners)["path"].agg(list).drop(-1, errors="ignore")
    fingerprint = _fingerprint(listing.pictures[owners >= 0], entities, parameters)
    writer = VisualStoreWriter(work, parameters.layouts, len(entities), fingerprint)
    waiting = [(owner, paths) for owner, paths in files.items() if owner not in writer.notes]
    workers = parameters.workers or os.cpu_count() or 1
    with (
        _pillow_for_threads(),
        ThreadPoolExecutor(workers) as pool,
        Progress(
            "Storing pictures", sum(len(paths) for _, paths in waiting), "pictures"
        ) as progress,
    ):
        tasks = (
            (owner, pool.submit(associate_owner, listing.root, entities[owner], paths, parameters))
            for owner, paths in waiting
        )
        for owner, task in _look_ahead(tasks, 4 * workers):
            found = task.result()
            writer.append(owner, found.slots, found.rows)
            progress.advance(len(found.rows))
    rows = [Picture(*row) for owner in sorted(writer.notes) for row in writer.notes[owner]]
    return writer, rows


def find_donors(
    triples: pd.DataFrame, relations: Sequence[str], borrowing: Borrowing
) -> dict[int, list[int]]:
    """The possible donors of each entity: those that a training triple links to it.

    Raises:
        DataError: There is no such relation.
    """
    if borrowing.relation not in relations:
        near = difflib.get_close_matches(borrowing.relation, relations, n=1)
        remedy = f"Did you mean '{near[0]}'?" if near else "See the table `relations` for the ids."
        what = f"there is no relation '{borrowing.relation}'"
        raise DataError(Problem("image_association.borrow.relation", None, what, remedy))
    donor = borrowing.pictures_of
    borrower = "tail" if donor == "head" else "head"
    linking = triples["relation"] == list(relations).index(borrowing.relation)
    linked = triples[linking & (triples["split"] == "train")]
    return linked.groupby(borrower)[donor].agg(lambda column: sorted(set(column))).to_dict()


class Loan(NamedTuple):
    """A slot filled from another owner's slot; owners as indices."""

    borrower: int
    slot: int
    donor: int
    donor_slot: int


def borrow(
    slots: NDArray[np.int32], donors: Mapping[int, Sequence[int]], roles: Sequence[str]
) -> list[Loan]:
    """Fill the slots of owners without pictures from their donors' slots of the same role.

    Donors take turns: the first picture of each, then the second of each. Only own pictures are
    lent, never borrowed ones. Rows of the store are shared, so nothing is decoded for it.

    Args:
        slots: int32 ``(owners, slots)``, changed in place.
        donors: Donors of each owner, in order.
        roles: Role of each slot.
    """
    has_own = (slots >= 0).any(axis=1)
    loans = []
    for borrower in sorted(donors):
        if has_own[borrower]:
            continue
        lenders = [donor for donor in donors[borrower] if has_own[donor]]
        for role in dict.fromkeys(roles):
            columns = [slot for slot, each in enumerate(roles) if each == role]
            offers: dict[int, tuple[int, int]] = {}
            for column, donor in product(columns, lenders):
                if slots[donor, column] >= 0:
                    offers.setdefault(slots[donor, column], (donor, column))
            for slot, (row, (donor, column)) in zip(columns, offers.items(), strict=False):
                slots[borrower, slot] = row
                loans.append(Loan(borrower, slot, donor, column))
    return loans


def loan_rows(
    loans: Iterable[Loan], rows: Iterable[Picture], entities: Sequence[str]
) -> list[Picture]:
    """Manifest rows of borrowed pictures: the donor's row under the borrower's name."""
    lent = {(row.owner, row.slot): row for row in rows}
    return [
        lent[entities[loan.donor], loan.donor_slot]._replace(
            owner=entities[loan.borrower], slot=loan.slot, borrowed_from=entities[loan.donor]
        )
        for loan in loans
    ]


def _fingerprint(
    pictures: pd.DataFrame, entities: Sequence[str], parameters: ImageAssociationParameters
) -> str:
    settings = parameters.model_dump(exclude={"workers", "borrow"})
    content = [settings, list(entities), pictures[["path", "bytes"]].to_numpy().tolist()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _look_ahead(items: Iterable[T], window: int) -> Iterator[T]:
    """Yield items in order while up to ``window`` later ones have been drawn already."""
    drawn: deque[T] = deque()
    for item in items:
        drawn.append(item)
        if len(drawn) > window:
            yield drawn.popleft()
    yield from drawn


@contextmanager
def _pillow_for_threads() -> Iterator[None]:
    """Load Pillow's readers before threads race for it, and silence its warnings meanwhile.

    What is wrong with a picture stands in the manifest.
    """
    from PIL import Image

    Image.init()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
