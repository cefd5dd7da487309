"""Which images fill the slots of each owner, and the store they end up in."""

from __future__ import annotations

import difflib
import logging
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mkgformer_kedro.datasets.visual_store import VisualStoreWriter
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import fingerprint
from mkgformer_kedro.launch import LOCAL, Engine
from mkgformer_kedro.modeling.images import Box, decode_image, fit_square, read_image
from mkgformer_kedro.pipelines.image_association.decoding import (
    BROKEN,
    Status,
    inspect_image,
)
from mkgformer_kedro.pipelines.image_association.parameters import (
    Borrowing,
    ImageParameters,
)
from mkgformer_kedro.progress import Progress

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")

logger = logging.getLogger(__name__)

# Owners whose images a worker elsewhere decodes at a time: some tenths of a second.
_OWNERS = 32


class Candidate(NamedTuple):
    """An image that may fill a slot of its owner: a file, or a part of one.

    Attributes:
        path: Path below the image folder.
        role: Role of the slots that it may fill; None: any.
        phrase: What was looked for in the image, None for an image as it is.
        box: Where that was found; None: the whole file is the image.
        score: How sure the detector was, 0 to 1; None where nothing was detected.
        linked: Whether the graph itself names it as an image of its owner.
    """

    path: str
    role: str | None = None
    phrase: str | None = None
    box: Box | None = None
    score: float | None = None
    linked: bool | None = None


class ImageRow(NamedTuple):
    """One row of the manifest: a candidate, or a slot that was filled by borrowing.

    Attributes:
        owner: Id of the entity or post.
        path: Path below the image folder.
        role: Role of the slot it fills, or could have filled alone; None where it fills none
            though it might have filled any.
        slot: Slot it fills (column of the store's ``slots``), -1 where it fills none.
        sha256: Hash of the file, None where it cannot be read.
        width: Width of the file's image in pixels as stored, 0 where unknown.
        height: Height of the file's image in pixels as stored, 0 where unknown.
        mode: Pillow's pixel format, None where unknown.
        status: A value of :class:`~.decoding.Status`.
        borrowed_from: Id of the donor, None for an owner's own image.
        phrase: What a crop was looked for as, None for all else.
        box_x0: Left side of a crop in pixels of the upright image, None for whole files.
        box_y0: Its upper side.
        box_x1: Its right side, the first column outside.
        box_y1: Its lower side, the first row outside.
        score: How sure the detector was of a crop, 0 to 1.
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
    phrase: str | None = None
    box_x0: int | None = None
    box_y0: int | None = None
    box_x1: int | None = None
    box_y1: int | None = None
    score: float | None = None


class OwnerImages(NamedTuple):
    """An owner's manifest rows and, per filled slot, content key and pixels."""

    rows: list[ImageRow]
    slots: dict[int, tuple[str, NDArray[np.uint8]]]


BOX = ("box_x0", "box_y0", "box_x1", "box_y1")
"""Columns of a box, null where the whole file is the image."""

_TYPES = dict.fromkeys(("slot", "width", "height"), "int32") | dict.fromkeys(
    (*BOX, "score"), "float32"
)


def manifest(rows: Iterable[ImageRow]) -> pd.DataFrame:
    """The table ``images``."""
    table = pd.DataFrame(rows, columns=ImageRow._fields)
    return table.astype({name: _TYPES.get(name, "str") for name in table})


def associate_owner(
    root: Path,
    owner: str,
    candidates: Sequence[Candidate],
    parameters: ImageParameters,
    largest_first: bool = False,
) -> OwnerImages:
    """Fill one owner's slots, in order, from the candidates that prove usable.

    Content that comes twice for the same role is used once, and an image that fails to decode
    makes room for the next, so no image is decoded twice and none in vain but the damaged ones.

    Args:
        root: The image folder.
        owner: Id of the owner.
        candidates: What may fill its slots, first choice first.
        parameters: Parameters of the stage.
        largest_first: Choose images of more pixels before others, but linked ones before all.
    """
    headers = {
        path: inspect_image(root / path, parameters.min_side, parameters.max_pixels)
        for path in dict.fromkeys(candidate.path for candidate in candidates)
    }
    roles = parameters.slot_roles
    free = list(range(len(roles)))
    outcome = [(headers[candidate.path].status, -1) for candidate in candidates]
    order = [number for number, (status, _) in enumerate(outcome) if status is Status.OK]
    if largest_first:
        order.sort(
            key=lambda number: (
                not candidates[number].linked,
                -headers[candidates[number].path].pixels,
            )
        )
    slots: dict[int, tuple[str, NDArray[np.uint8]]] = {}
    seen: set[tuple[str | None, str]] = set()
    in_full: dict[str, Image.Image | None] = {}
    for number in order:
        path, role, _, box, *_ = candidates[number]
        content = content_key(headers[path].sha256, box)
        slot = next((each for each in free if role in (None, roles[each])), None)
        if (role, content) in seen:
            outcome[number] = (Status.DUPLICATE, -1)
        elif slot is None:
            outcome[number] = (Status.UNUSED, -1)
        else:
            size = parameters.slots[roles[slot]].size
            if box is None:
                pixels = decode_image(root / path, size)
            else:
                if path not in in_full:
                    in_full[path] = read_image(root / path)
                image = in_full[path]
                pixels = None if image is None else fit_square(image, size, box)
            if pixels is None:
                outcome[number] = (headers[path].undecodable, -1)
            else:
                outcome[number] = (Status.OK, slot)
                slots[slot] = (content, pixels)
                free.remove(slot)
        seen.add((role, content))
    rows = []
    for candidate, (status, slot) in zip(candidates, outcome, strict=True):
        path, role, phrase, box, score, _ = candidate
        header = headers[path]
        rows.append(
            ImageRow(
                owner,
                path,
                roles[slot] if slot >= 0 else role,
                slot,
                header.sha256,
                header.width,
                header.height,
                header.mode,
                status,
                None,
                phrase,
                *(box or (None,) * 4),
                score,
            )
        )
    return OwnerImages(rows, slots)


def content_key(sha256: str | None, box: Box | None) -> str:
    """What tells the content of one image from that of any other: its file, and the box cut."""
    return f"{sha256}{'' if box is None else ':' + ','.join(map(str, box))}"


@dataclass(frozen=True)
class Decoding:
    """Fills the slots of one owner after the other, on several threads.

    Attributes:
        root: The image folder.
        parameters: Parameters of the stage.
        largest_first: As in :func:`associate_owner`.
        threads: Threads that decode.
    """

    root: Path | None
    parameters: ImageParameters
    largest_first: bool
    threads: int

    def __call__(self, owners: Iterable[tuple[str, Sequence[Candidate]]]) -> Iterator[OwnerImages]:
        """What fills the slots of each owner, given its id and candidates."""
        with pillow_for_threads(), ThreadPoolExecutor(self.threads) as pool:
            tasks = (
                pool.submit(
                    associate_owner, self.root, owner, own, self.parameters, self.largest_first
                )
                for owner, own in owners
            )
            for task in _look_ahead(tasks, 4 * self.threads):
                yield task.result()


def store_images(
    root: Path | None,
    candidates: pd.DataFrame,
    owners: Sequence[str],
    parameters: ImageParameters,
    work: Path,
    largest_first: bool = False,
    engine: Engine = LOCAL,
) -> tuple[VisualStoreWriter, list[ImageRow]]:
    """Put every owner's images into the store, on all cores, owners in order.

    Args:
        root: The image folder; None only where there are no candidates.
        candidates: What may fill the slots of each owner, first choice first: ``owner`` (index),
            ``bytes`` (size of the file), and the attributes of :class:`Candidate` with ``box`` in
            the columns ``BOX``; those that are null throughout may be left out.
        owners: Ids of the owners; the position is the owner index.
        parameters: Parameters of the stage.
        work: Folder of the unfinished store; what an interrupted run left there is used.
        largest_first: As in :func:`associate_owner`.
        engine: Where images are decoded.

    Returns:
        The writer, not yet finished, and the manifest rows of all owners with candidates.
    """
    chosen = _by_owner(candidates)
    fingerprint = _fingerprint(candidates, owners, parameters, largest_first)
    writer = VisualStoreWriter(work, parameters.layouts, len(owners), fingerprint)
    waiting = [(owner, chosen[owner]) for owner in sorted(chosen) if owner not in writer.notes]
    threads = parameters.workers or engine.threads("image_association")
    decode = Decoding(root, parameters, largest_first, threads)
    chosen_for = [(owners[owner], own) for owner, own in waiting]
    with (
        closing(engine.map("image_association", decode, chosen_for, at_a_time=_OWNERS)) as images,
        Progress("Storing images", sum(len(own) for _, own in waiting), "images") as progress,
    ):
        for (owner, _), found in zip(waiting, images, strict=True):
            writer.append(owner, found.slots, found.rows)
            progress.advance(len(found.rows))
    rows = [ImageRow(*row) for owner in sorted(writer.notes) for row in writer.notes[owner]]
    return writer, rows


def finished(writer: VisualStoreWriter, rows: Iterable[ImageRow]) -> tuple[pd.DataFrame, Path]:
    """The manifest, and the finished store; a warning counts the files that cannot be used."""
    images = manifest(rows)
    broken = images.loc[images["status"].isin(BROKEN), "path"].nunique()
    if broken:
        logger.warning("%d files cannot be used; the coverage report names each.", broken)
    return images, writer.finish()


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
    donor = borrowing.images_of
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
    """Fill the slots of owners without images from their donors' slots of the same role.

    Donors take turns: the first image of each, then the second of each. Only own images are
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
    loans: Iterable[Loan], rows: Iterable[ImageRow], entities: Sequence[str]
) -> list[ImageRow]:
    """Manifest rows of borrowed images: the donor's row under the borrower's name."""
    lent = {(row.owner, row.slot): row for row in rows}
    return [
        lent[entities[loan.donor], loan.donor_slot]._replace(
            owner=entities[loan.borrower], slot=loan.slot, borrowed_from=entities[loan.donor]
        )
        for loan in loans
    ]


def _by_owner(candidates: pd.DataFrame) -> dict[int, list[Candidate]]:
    """The candidates of each owner, null cells as None."""
    columns = ["path", "role", "phrase", *BOX, "score", "linked"]
    table = candidates.reindex(columns=columns).astype("object")
    table = table.where(table.notna(), None)
    found: dict[int, list[Candidate]] = {}
    for owner, path, role, phrase, *box, score, linked in zip(
        candidates["owner"], *(table[column] for column in columns), strict=True
    ):
        whole = box[0] is None
        candidate = Candidate(path, role, phrase, None if whole else _box(box), score, linked)
        found.setdefault(int(owner), []).append(candidate)
    return found


def _box(sides: Sequence[float]) -> Box:
    x0, y0, x1, y1 = map(int, sides)
    return x0, y0, x1, y1


def _fingerprint(
    candidates: pd.DataFrame,
    owners: Sequence[str],
    parameters: ImageParameters,
    largest_first: bool,
) -> str:
    decisive = {"slots", "min_side", "max_pixels"}
    settings = {**parameters.model_dump(include=decisive), "largest_first": largest_first}
    rows = candidates.to_json(orient="split", index=False)
    return fingerprint(settings, list(owners), rows)


def _look_ahead(items: Iterable[T], window: int) -> Iterator[T]:
    """Yield items in order while up to ``window`` later ones have been drawn already."""
    drawn: deque[T] = deque()
    for item in items:
        drawn.append(item)
        if len(drawn) > window:
            yield drawn.popleft()
    yield from drawn


@contextmanager
def pillow_for_threads() -> Iterator[None]:
    """Load Pillow's readers before threads race for it, and silence its warnings meanwhile.

    What is wrong with an image stands in the manifest.
    """
    from PIL import Image

    Image.init()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
