"""The visual feature store: every used image decoded and resized once, read by memory map.

A store is a folder:

* ``<role>.u8`` for each role with slots (``full``, ``grounding``, ``detection``): raw uint8 of
  shape ``(rows, 3, size, size)``, RGB, channels first;
* ``slots.npy``: int32 ``(owners, slots)``, the row in the file of the slot's role or -1 where
  there is no image; slots are ordered by role, then by rank;
* ``store.json``: version, owners, size, count and rows of each role, and ``content``: a hash of
  what the store holds, by which later stages notice that images changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import storage_explained, written_atomically
from mkgformer_kedro.parameters import typed

logger = logging.getLogger(__name__)

VERSION = 1
_GOES_ON = "the next run goes on where this one was"
INPUT_NAMES = {
    "full": "pixel_values",
    "grounding": "grounding_pixel_values",
    "detection": "detection_pixel_values",
}
"""Roles in slot order, and the model input that carries each."""


@dataclass(frozen=True)
class RoleLayout:
    """How the images of one role are kept.

    Attributes:
        size: Side of the square images, in pixels.
        count: Slots of this role that every owner has.
        rows: Images in the role's file.
    """

    size: int
    count: int
    rows: int = 0

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return 3 * self.size * self.size


@dataclass(frozen=True)
class _Header:
    """What ``store.json`` says, as far as reading needs it."""

    owners: int
    roles: dict[str, RoleLayout]


def slot_roles(counts: Mapping[str, int]) -> list[str]:
    """The role of each slot, in slot order, given the count of each role."""
    return [role for role in INPUT_NAMES for _ in range(counts.get(role, 0))]


class VisualStore:
    """A finished store, opened by memory map whatever its size.

    It can be pickled into a worker process, which opens the files again by their path.

    Args:
        folder: The store's folder.
        source: Which images it shows: each owner's ``own``, ``none``, or, as a control, those of
            another owner that has images (``shuffled``) or noise in the place of each (``random``),
            which is each owner's own, since noise that owners share would tell that they share an
            image.
        seed: Of the shuffling and the noise, which are the same whenever the store is opened.

    Attributes:
        roles: Layout of each role that has slots, in slot order.
        slots: int32 ``(owners, slots)``: row in the role's file, -1 for no image.

    Raises:
        DataError: The folder is no store, or a file's size does not fit ``store.json``.
    """

    def __init__(self, folder: str | Path, source: str = "own", seed: int = 0) -> None:
        self.folder = Path(folder)
        self.source = source
        self.seed = seed
        header = self._read_header()
        self.roles = header.roles
        self.slots = self._open_slots(header.owners)
        self._images = {role: self._open_images(role) for role in self.roles}
        if source == "none":
            self.slots = np.full(self.slots.shape, -1, dtype=np.int32)
        elif source == "shuffled":
            owners = np.random.default_rng(seed).permutation(np.flatnonzero(self.has_images))
            if len(owners) < 2:
                what = f"{len(owners)} of {len(self)} owners have images: there are no others'"
                remedy = "Set model.images.source to random, or give more of them images."
                raise DataError(Problem(str(self.folder), None, what, remedy))
            self.slots = np.array(self.slots)
            self.slots[owners] = self.slots[np.roll(owners, 1)]

    def __len__(self) -> int:
        return len(self.slots)

    def __reduce__(self) -> tuple:
        return type(self), (self.folder, self.source, self.seed)

    @cached_property
    def has_images(self) -> NDArray[np.bool_]:
        """Whether each owner has at least one image, ``(owners,)``."""
        return (np.asarray(self.slots) >= 0).any(axis=1)

    def _noise(
        self, role: str, owners: NDArray[np.int64], places: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        shape = self._images[role].shape[1:]
        number = [*INPUT_NAMES].index(role)
        noise = [
            np.random.default_rng([self.seed, number, owner, place]).integers(
                256, size=shape, dtype=np.uint8
            )
            for owner, place in zip(owners, places, strict=True)
        ]
        return np.array(noise, dtype=np.uint8).reshape(len(owners), *shape)

    def read(self, owners: ArrayLike) -> dict[str, NDArray]:
        """Gather the images of some owners.

        Args:
            owners: Owner indices, ``(n,)``.

        Returns:
            For each role its model input, uint8 ``(n, count, 3, size, size)`` with zeros where
            there is no image, and ``image_mask``, bool ``(n, slots)``.

        Raises:
            IndexError: An index is negative or beyond the last owner.
        """
        index = np.asarray(owners, dtype=np.int64)
        if index.size and index.min() < 0:
            raise IndexError(f"owner {index.min()} is out of bounds")
        slots = self.slots[index]
        inputs: dict[str, NDArray] = {}
        start = 0
        for role, layout in self.roles.items():
            rows = slots[:, start : start + layout.count]
            pixels = np.zeros((*rows.shape, 3, layout.size, layout.size), dtype=np.uint8)
            present = rows >= 0
            if self.source == "random":
                at, places = np.nonzero(present)
                pixels[present] = self._noise(role, index[at], places)
            else:
                pixels[present] = self._images[role][rows[present]]
            inputs[INPUT_NAMES[role]] = pixels
            start += layout.count
        return {**inputs, "image_mask": np.asarray(slots >= 0)}

    def images(self, owner: int) -> list[NDArray[np.uint8]]:
        """The images of one owner in slot order, each uint8 ``(3, size, size)``."""
        inputs = self.read([owner])
        mask = inputs.pop("image_mask")[0]
        slots = [pixels for images in inputs.values() for pixels in images[0]]
        return [pixels for pixels, present in zip(slots, mask, strict=True) if present]

    def _read_header(self) -> _Header:
        try:
            header = json.loads((self.folder / "store.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise self._damaged("store.json", "the file is missing") from None
        except (OSError, ValueError) as error:
            raise self._damaged("store.json", f"the file is no JSON ({error})") from error
        if not isinstance(header, dict) or header.get("version") != VERSION:
            raise self._damaged("store.json", f"the store is not of version {VERSION}")
        try:
            return typed(_Header, header)
        except DataError as error:
            raise self._damaged("store.json", str(error)) from None

    def _open_slots(self, owners: int) -> NDArray[np.int32]:
        expected = (owners, sum(layout.count for layout in self.roles.values()))
        try:
            slots = np.load(self.folder / "slots.npy", mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise self._damaged("slots.npy", "the file is missing") from None
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged("slots.npy", f"the file cannot be read ({error})") from error
        if slots.shape != expected or slots.dtype != np.int32:
            what = f"expected int32 {expected}, found {slots.dtype} {slots.shape}"
            raise self._damaged("slots.npy", what)
        start = 0
        for role, layout in self.roles.items():
            most = slots[:, start : start + layout.count].max(initial=-1)
            if most >= layout.rows:
                what = f"row {most} of {role}.u8, which has {layout.rows}"
                raise self._damaged("slots.npy", what)
            start += layout.count
        return slots

    def _open_images(self, role: str) -> NDArray[np.uint8]:
        layout = self.roles[role]
        path = self.folder / f"{role}.u8"
        found = path.stat().st_size if path.is_file() else 0
        expected = layout.rows * layout.image_bytes
        if found != expected:
            raise self._damaged(path.name, f"expected {expected} bytes, found {found}")
        shape = (layout.rows, 3, layout.size, layout.size)
        if not layout.rows:  # an empty file cannot be mapped
            return np.empty(shape, dtype=np.uint8)
        return np.memmap(path, dtype=np.uint8, mode="r", shape=shape)

    def _damaged(self, name: str, what: str) -> DataError:
        remedy = f"Delete {self.folder} and run the stage image_association again."
        return DataError(Problem(str(self.folder / name), None, what, remedy))


class VisualStoreWriter:
    """Writes a store owner by owner; killed at any moment, it goes on where it was.

    The work folder holds the growing store and ``journal.jsonl``: a line with the fingerprint,
    then one line per finished owner. Images reach the disk before the journal names them, so
    whatever lies beyond the journal is cut off when the folder is opened again. Another
    fingerprint means other images or settings: the writer starts over.

    Args:
        work: Work folder, on the file system of the finished store.
        roles: Layout of each role.
        owners: Number of owners, with images or not.
        fingerprint: Hash of everything that decides the store's content.

    Attributes:
        slots: int32 ``(owners, slots)`` so far. Rows may be shared by writing here before
            :meth:`finish`.
        notes: What was noted about each finished owner, as given to :meth:`append`.
    """

    owners_per_commit = 64

    def __init__(
        self, work: Path, roles: Mapping[str, RoleLayout], owners: int, fingerprint: str
    ) -> None:
        self.folder = work / "store"
        self.roles = {role: roles[role] for role in INPUT_NAMES if role in roles}
        self.notes: dict[int, Any] = {}
        self._journal = work / "journal.jsonl"
        self._slot_roles = slot_roles({role: each.count for role, each in self.roles.items()})
        self._header = (
            json.dumps({"version": VERSION, "fingerprint": fingerprint}) + "\n"
        ).encode()
        self.slots = np.full((owners, len(self._slot_roles)), -1, dtype=np.int32)
        # The row of each content that a role holds.
        self._rows: dict[str, dict[str, int]] = {role: {} for role in self.roles}
        self._waiting_images: dict[str, list[bytes]] = {role: [] for role in self.roles}
        self._waiting_lines: list[bytes] = []
        self._resume()

    def append(self, owner: int, images: Mapping[int, tuple[str, NDArray]], note: Any) -> None:
        """Add one finished owner.

        Args:
            owner: Owner index.
            images: For each filled slot the content's hash and the uint8 pixels
                ``(3, size, size)``. Content that the role already holds is not written again.
            note: JSON value to find in ``notes`` when a later run goes on from here.

        Raises:
            DataError: The disk is full.
        """
        for slot, (content, pixels) in images.items():
            role = self._slot_roles[slot]
            rows = self._rows[role]
            if content not in rows:
                rows[content] = len(rows)
                self._waiting_images[role].append(pixels.tobytes())
            self.slots[owner, slot] = rows[content]
        self.notes[owner] = note
        contents = {slot: content for slot, (content, _) in images.items()}
        self._waiting_lines.append((json.dumps([owner, contents, note]) + "\n").encode())
        if len(self._waiting_lines) >= self.owners_per_commit:
            self._commit()

    def finish(self) -> Path:
        """Complete the store and return its folder, ready to be moved to its place.

        Raises:
            DataError: The disk is full.
        """
        self._commit()
        roles = {
            role: {**asdict(layout), "rows": len(self._rows[role])}
            for role, layout in self.roles.items()
        }
        header = {
            "version": VERSION,
            "owners": len(self.slots),
            "roles": roles,
            "content": self._content(),
        }
        with storage_explained(self.folder, _GOES_ON):
            with written_atomically(self.folder / "slots.npy") as path, path.open("wb") as file:
                np.save(file, self.slots)
            with written_atomically(self.folder / "store.json") as path:
                path.write_text(json.dumps(header, indent=2) + "\n", encoding="utf-8")
        return self.folder

    def _content(self) -> str:
        content = hashlib.sha256(self.slots.tobytes())
        content.update(json.dumps([[*rows] for rows in self._rows.values()]).encode())
        return content.hexdigest()

    def _commit(self) -> None:
        with storage_explained(self.folder, _GOES_ON):
            for role, waiting in self._waiting_images.items():
                _append(self.folder / f"{role}.u8", waiting)
            _append(self._journal, self._waiting_lines)
        self._waiting_images = {role: [] for role in self.roles}
        self._waiting_lines = []

    def _resume(self) -> None:
        lines: list[bytes] = []
        if self._journal.exists() and self.folder.is_dir():
            lines = self._journal.read_bytes().splitlines(keepends=True)
        if lines[:1] != [self._header]:
            if lines:
                logger.info("Images or settings differ from the interrupted run: starting over.")
            self._start_over()
            return
        kept = len(self._header)
        for line in lines[1:]:
            if not line.endswith(b"\n"):  # torn by the kill
                break
            owner, contents, note = json.loads(line)
            for slot, content in contents.items():
                rows = self._rows[self._slot_roles[int(slot)]]
                self.slots[owner, int(slot)] = rows.setdefault(content, len(rows))
            self.notes[owner] = note
            kept += len(line)
        self._cut_back(kept)
        logger.info("Going on where the interrupted run was: %d owners stored.", len(self.notes))

    def _start_over(self) -> None:
        self._journal.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        with storage_explained(self.folder, _GOES_ON):
            for role in self.roles:
                (self.folder / f"{role}.u8").touch()
            _append(self._journal, [self._header])

    def _cut_back(self, journal_bytes: int) -> None:
        lengths = {self._journal: journal_bytes}
        for role, layout in self.roles.items():
            path = self.folder / f"{role}.u8"
            lengths[path] = len(self._rows[role]) * layout.image_bytes
        for path, length in lengths.items():
            found = path.stat().st_size if path.is_file() else 0
            if found < length:
                what = f"the journal tells of {length} bytes, found {found}"
                remedy = f"Delete {self.folder.parent} and run again."
                raise DataError(Problem(str(path), None, what, remedy))
            os.truncate(path, length)


def _append(path: Path, chunks: list[bytes]) -> None:
    with path.open("ab") as file:
        file.writelines(chunks)
        file.flush()
        os.fsync(file.fileno())
