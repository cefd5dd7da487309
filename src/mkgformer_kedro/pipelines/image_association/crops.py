"""Crops of posts' images: those that others listed, or what a zero-shot detector sees."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from mkgformer_kedro.datasets.post_images import CropMap, PostImages, read_crop_map
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import fingerprint
from mkgformer_kedro.launch import LOCAL, Engine
from mkgformer_kedro.modeling.images import Box, read_image
from mkgformer_kedro.parameters import typed
from mkgformer_kedro.pipelines.image_association.association import BOX
from mkgformer_kedro.pipelines.image_association.decoding import (
    Status,
    inspect_image,
)
from mkgformer_kedro.pipelines.image_association.parameters import PostImageAssociationParameters
from mkgformer_kedro.progress import Progress

if TYPE_CHECKING:
    from mkgformer_kedro.training.detection import Found, ZeroShotDetector

logger = logging.getLogger(__name__)

_WORD = re.compile(r"[^\W\d_]")
_NO_PHRASE = ("@", "http:", "https:", "www.")


class Crop(NamedTuple):
    """A crop of a post's image; see :class:`~.association.Candidate`."""

    post: str
    path: str
    role: str
    phrase: str | None = None
    box: Box | None = None
    score: float | None = None


def table_of(crops: Sequence[Crop]) -> pd.DataFrame:
    """The table ``crops``."""
    rows = [(*crop[:4], *(crop.box or (None,) * 4), crop.score) for crop in crops]
    columns = ["post", "path", "role", "phrase", *BOX, "score"]
    numbers = dict.fromkeys([*BOX, "score"], "float32")
    table = pd.DataFrame(rows, columns=columns)
    return table.astype({name: numbers.get(name, "str") for name in columns})


def listed_crops(posts: pd.DataFrame, images: PostImages, roles: Sequence[str]) -> list[Crop]:
    """The crops that maps list, in their order.

    Args:
        posts: Table of posts.
        images: Listing of the image folders.
        roles: Which roles' crops are wanted.

    Raises:
        DataError: There is no map or folder of crops, or it cannot be used.
    """
    found = []
    for role in roles:
        for split, rows in posts.groupby("split", sort=False):
            crops, folder = _read_map(images, role, str(split))
            for post, image in zip(rows["post"], rows["image"], strict=True):
                names = crops.of(int(post.rsplit("-", 1)[1]), None if pd.isna(image) else image)
                found += [Crop(post, str(folder / name), role) for name in names]
        if not any(crop.role == role for crop in found):
            what = f"the maps of {role} crops name none of the posts or their images"
            remedy = "Their keys are numbers of posts (not as text) or names of images."
            maps = {files.map for files in images.crops[role].values()}
            raise DataError(Problem(", ".join(sorted(maps)), None, what, remedy))
    return found


def _read_map(images: PostImages, role: str, split: str) -> tuple[CropMap, PurePosixPath]:
    files = images.crops.get(role, {}).get(split)
    if files is None:
        what = f"crops are to come from files, but none are named for {role}"
        remedy = "Name them, or set `crops` to none or detect, or the role's count to 0."
        raise DataError(Problem("globals.yml", None, what, remedy))
    root = Path(images.root or "")
    crops = read_crop_map(root / files.map)
    if not (root / files.folder).is_dir():
        remedy = "See docs/data.md for where it belongs, or set `crops` to none or detect."
        what = f"there is no such folder of {role} crops"
        raise DataError(Problem(str(root / files.folder), None, what, remedy))
    return crops, PurePosixPath(files.folder)


def phrases_of(words: Sequence[str], mentions: Sequence[Sequence[str]], most: int) -> list[str]:
    """What to look for in a post's image.

    Noun phrases are taken to be the runs of words between stop words, punctuation, numbers, names
    of users and addresses. That needs no tagger, which tweets would mislead anyway.

    Args:
        words: Words of the post.
        mentions: Words of mentions that come first.
        most: Longest list that is wanted.
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    runs: list[list[str]] = [[]]
    for word in words:
        plain = word.removeprefix("#")
        if (
            plain.lower() in ENGLISH_STOP_WORDS
            or word.lower().startswith(_NO_PHRASE)
            or not _WORD.search(plain)
        ):
            runs.append([])
        else:
            runs[-1].append(plain)
    phrases = [" ".join(run) for run in [*mentions, *runs] if len(run)]
    return list(dict.fromkeys(phrases))[:most]


def detected_crops(
    posts: pd.DataFrame,
    images: PostImages,
    parameters: PostImageAssociationParameters,
    work: Path,
    engine: Engine = LOCAL,
) -> list[Crop]:
    """What a detector sees: the best box of each phrase (grounding) and object (detection).

    Args:
        posts: Table of posts.
        images: Listing of the image folders.
        parameters: The detector, the slots to fill, and what a usable image is.
        work: Folder of the journal; what an interrupted run found is not looked for again.
        engine: Where images are looked at.

    Returns:
        Crops that scored at least the threshold, best first, as many as there are slots. Where
        several phrases are seen in the same box, the one of the best score has it.
    """
    settings, roles = parameters.detector, parameters.crop_roles
    asked = {}
    paths = images.find(posts["split"], posts["image"])
    for post, path in zip(posts.itertuples(), paths, strict=True):
        if not pd.isna(path):
            phrases = phrases_of(post.words, _mentions(post), settings.max_phrases)
            queries = {"grounding": phrases, "detection": settings.objects}
            asked[post.post] = path, {role: queries[role] for role in roles if queries[role]}
    journal = _Journal(work / "detected.jsonl", _fingerprint(asked, images, parameters))
    waiting = [post for post in asked if post not in journal.found]
    if waiting:
        size = settings.batch_size
        blocks = [
            {post: asked[post] for post in waiting[start : start + size]}
            for start in range(0, len(waiting), size)
        ]
        detect = Detection(images.root, parameters)
        with (
            closing(engine.map("image_association", detect, blocks)) as seen,
            Progress("Looking for crops", len(waiting), "images") as progress,
        ):
            for found in seen:
                journal.add(found)
                progress.advance(len(found))
    crops = []
    for post, (path, _) in asked.items():
        for role in roles:
            best: dict[Box, Crop] = {}
            for phrase, edges, score in sorted(
                journal.found[post].get(role, ()), key=lambda found: -found[2]
            ):
                left, upper, right, lower = edges
                box = (left, upper, right, lower)
                best.setdefault(box, Crop(post, path, role, phrase, box, score))
            crops += [*best.values()][: parameters.slots[role].count]
    return crops


_Entry = tuple[str, dict[str, list[tuple[str, Box, float]]]]


class _Journal:
    """What was found for which post, a JSON line each; another fingerprint starts it anew."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self._path = path
        self.found: dict[str, dict[str, list[Found]]] = {}
        head = json.dumps(fingerprint) + "\n"
        try:
            lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
            if lines[:1] != [head]:
                lines = [head]
            whole = [
                line for line in lines if line.endswith("\n")
            ]  # the last may be torn by a kill
            self.found = dict(typed(_Entry, json.loads(line)) for line in whole[1:])
        except ValueError:
            logger.warning("%s is damaged: crops are looked for from the start", path)
            self.found, whole = {}, [head]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(whole), encoding="utf-8")

    def add(self, found: dict[str, dict[str, list[Found]]]) -> None:
        """Keep what was found."""
        self.found |= found
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps([post, each]) + "\n" for post, each in found.items())


_Asked = tuple[str, dict[str, Sequence[str]]]
"""Path of an image, and what is looked for in it, by role."""


@dataclass(frozen=True)
class Detection:
    """Looks once at each image; those that cannot be opened hold nothing.

    Attributes:
        root: The image folder.
        parameters: The detector, and what a usable image is.
    """

    root: Path | None
    parameters: PostImageAssociationParameters

    def __call__(
        self, blocks: Iterable[Mapping[str, _Asked]]
    ) -> Iterator[dict[str, dict[str, list[Found]]]]:
        """What is seen, by post and role, of each block of posts."""
        return map(self._look, blocks)

    @cached_property
    def _detector(self) -> ZeroShotDetector:
        from mkgformer_kedro.training.detection import ZeroShotDetector

        settings = self.parameters.detector
        return ZeroShotDetector(settings.model, settings.threshold, self.parameters.min_side)

    def _look(self, block: Mapping[str, _Asked]) -> dict[str, dict[str, list[Found]]]:
        opened = {}
        for post, (name, by_role) in block.items():
            path = self.root / name
            header = inspect_image(path, self.parameters.min_side, self.parameters.max_pixels)
            image = read_image(path) if header.status is Status.OK else None
            if image is not None and by_role:
                opened[post] = image
        queries = [
            list(dict.fromkeys(query for of_role in block[post][1].values() for query in of_role))
            for post in opened
        ]
        found: dict[str, dict[str, list[Found]]] = {post: {} for post in block}
        seen = self._detector.detect([*opened.values()], queries)
        for post, boxes in zip(opened, seen, strict=True):
            for role, of_role in block[post][1].items():
                found[post][role] = [each for each in boxes if each[0] in of_role]
        return found


def _mentions(post: Any) -> Iterator[Sequence[str]]:
    """The two mentions of a post for relation extraction."""
    for role in ("head", "tail"):
        start = getattr(post, f"{role}_start", None)
        if start is not None:
            yield post.words[start : getattr(post, f"{role}_end")]


def _fingerprint(
    asked: Mapping[str, Any], images: PostImages, parameters: PostImageAssociationParameters
) -> str:
    settings = parameters.detector.model_dump(exclude={"batch_size"})
    settings |= parameters.model_dump(include={"min_side", "max_pixels"})
    sizes = [images.size_of(path) for path, _ in asked.values()]
    return fingerprint(settings, asked, sizes)
