"""Rebuild the embedded samples of relation extraction and entity recognition: synthetic posts.

    python scripts/build_synthetic_posts.py

Nobody wrote these posts: a seeded generator fills templates with made-up names and sets emoji
images of the sample `wordnet_emoji` beside them, in the file formats of MNRE and Twitter-2017.
They are made so that it can be measured what an image brings. In ambiguous posts the text fits
every reading and the image alone decides; in clear posts the text decides, and the image
agrees or is missing; in misleading posts the text decides and the image shows something else.
Templates, names and trimmings are dealt to every reading equally often, so nothing in the text of
an ambiguous post hints at its reading. The same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import string
import tempfile
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import replace_folder, sha256_of

PROJECT = Path(__file__).parents[1]

SEED = 0
SIZES = {"train": 600, "dev": 120, "test": 120}
SUBSETS = {"ambiguous": 0.45, "clear": 0.35, "misleading": 0.20}
# Dealt to clear posts: whether the image file is missing; to misleading ones: whether the image
# shows none of the readings.
ONE_IN_THREE = (True, False, False)

# Word lists: names.yml, images.yml, and the templates of each task.
WORD_LISTS = Path(__file__).with_name("synthetic_posts")


def _read(name: str) -> dict[str, Any]:
    return yaml.safe_load((WORD_LISTS / f"{name}.yml").read_text(encoding="utf-8"))


# What an image says, and the files of wordnet_emoji that say it, by synset and name.
IMAGES: dict[str, list[str]] = _read("images")
IRRELEVANT = "food"
# The same by the image's name: a post names its image so.
SHOWN = {Path(file).name: shows for shows, files in IMAGES.items() for file in files}

# Relations in the order of MNRE's id file, with the image that agrees with each.
RELATIONS = {
    "None": IRRELEVANT,
    "/per/per/parent": "offspring",
    "/per/per/couple": "love",
    "/per/per/neighbor": "house",
    "/per/per/peer": "work",
    "/per/per/charges": "police",
    "/per/per/alumi": "graduation",
    "/per/org/member_of": "ball",
    "/per/loc/place_of_residence": "place",
    "/org/loc/locate_at": "place",
    "/loc/loc/contain": "place",
    "/per/misc/present_in": "film",
    "/per/misc/awarded": "prize",
}
# The readings of an ambiguous pair of people.
PAIR_READINGS = (
    "/per/per/parent", "/per/per/couple", "/per/per/neighbor", "/per/per/peer",
    "/per/per/charges", "/per/per/alumi",
)  # fmt: skip
# Entity types, with the image that agrees with each. OTHER means MISC, which readers of
# Twitter-2017 know by both names.
ENTITY_TYPES = {"PER": "person", "LOC": "place", "ORG": "ball", "OTHER": "film"}

# What a key of a template may become.
PIECES: dict[str, list[str]] = {
    key: pieces for kind in _read("names").values() for key, pieces in kind.items()
}

Item = TypeVar("Item")
Mention = tuple[str, int, int]


@dataclass(frozen=True)
class Post:
    """A post.

    Attributes:
        words: Its words.
        mentions: (role or entity type, first word, word behind the last).
        label: Relation, or type of the entities that the template is about ("" for none).
        subset: ambiguous, clear or misleading.
        image: Name of its image without extension; None where it has no image file.
    """

    words: tuple[str, ...]
    mentions: tuple[Mention, ...]
    label: str
    subset: str
    image: str | None


def relation_lines(post: Post, image: str) -> list[str]:
    """A post in MNRE's format: the literal of a dict.

    Args:
        post: The post; it has a mention `h` and a mention `t`.
        image: Name of its image without extension.

    Returns:
        The line, without its end.
    """
    mentions = {
        role: {"name": " ".join(post.words[start:end]), "pos": [start, end]}
        for role, start, end in sorted(post.mentions)
    }
    line = {
        "token": list(post.words), **mentions, "img_id": f"{image}.png", "relation": post.label,
    }  # fmt: skip
    return [repr(line)]


def entity_lines(post: Post, image: str) -> list[str]:
    """A post in Twitter-2017's format: its image, words with IOB2 tags, and a blank line."""
    tags = ["O"] * len(post.words)
    for kind, start, end in post.mentions:
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    pairs = zip(post.words, tags, strict=True)
    return [f"IMGID:{image}", *("\t".join(pair) for pair in pairs), ""]


@dataclass(frozen=True)
class Task:
    """What the posts of a task are made of, and where they are written.

    Attributes:
        name: Name of the sample's folder.
        title: The task's name for people.
        readings: Labels that the text of an ambiguous post fits.
        templates: File of the templates: of ambiguous posts, and of the other posts by label.
        weights: How often a label is dealt to these.
        shows: What the image shows that agrees with a label, a key of IMAGES.
        lines: A post and its image's name in the task's format.
        texts: File of each split.
        images: Image folder of each split.
        files: What the README says about the files.
        others: Content of other files by name.
    """

    name: str
    title: str
    readings: Sequence[str]
    templates: str
    weights: Mapping[str, int]
    shows: Mapping[str, str]
    lines: Callable[[Post, str], list[str]]
    texts: Mapping[str, str]
    images: Mapping[str, str]
    files: str
    others: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def ambiguous(self) -> list[str]:
        """Templates of ambiguous posts."""
        return _read(self.templates)["ambiguous"].splitlines()

    @cached_property
    def clear(self) -> dict[str, list[str]]:
        """Templates of the other posts by label."""
        clear = _read(self.templates)["clear"]
        return {label: templates.splitlines() for label, templates in clear.items()}


RELATION_EXTRACTION = Task(
    name="synthetic_relation_extraction",
    title="relation extraction",
    readings=PAIR_READINGS,
    templates="relation_extraction",
    weights={relation: 2 if relation == "None" else 1 for relation in RELATIONS},
    shows=RELATIONS,
    lines=relation_lines,
    texts={
        "train": "txt/ours_train.txt", "dev": "txt/ours_val.txt", "test": "txt/ours_test.txt",
    },
    images={"train": "img_org/train", "dev": "img_org/val", "test": "img_org/test"},
    files="""\
- `txt/ours_train.txt`, `txt/ours_val.txt`, `txt/ours_test.txt`: a post a line, the literal of a
  Python dict with the keys of MNRE.
- `ours_rel2id.json`: relations and their numbers.
- `img_org/{train,val,test}/`: images by `img_id`. A post without an image names a file that is
  not there.""",
    others={
        "ours_rel2id.json": json.dumps({one: number for number, one in enumerate(RELATIONS)}) + "\n"
    },
)  # fmt: skip
ENTITY_RECOGNITION = Task(
    name="synthetic_entity_recognition",
    title="entity recognition",
    readings=tuple(ENTITY_TYPES),
    templates="entity_recognition",
    weights={**dict.fromkeys(ENTITY_TYPES, 3), "": 2},
    shows={**ENTITY_TYPES, "": IRRELEVANT},
    lines=entity_lines,
    texts={"train": "train.txt", "dev": "valid.txt", "test": "test.txt"},
    images=dict.fromkeys(SIZES, "images"),
    files="""\
- `train.txt`, `valid.txt`, `test.txt`: a line `IMGID:` with the image's name, a line with word,
  tab and IOB2 tag for every word, a blank line. The type `OTHER` means MISC.
- `images/`: images by IMGID. A post without an image names a file that is not there.""",
)
TASKS = (RELATION_EXTRACTION, ENTITY_RECOGNITION)


class Dealer:
    """Deals things like cards: to every reading, each thing equally often.

    The order is that of a keyed hash: no generator's version changes it.

    Args:
        key: Two dealers with the same key deal alike.
    """

    def __init__(self, key: str) -> None:
        self._key = key
        self._decks: dict[Hashable, list[Any]] = {}
        self._shuffles = 0

    def shuffled(self, items: Iterable[Item]) -> list[Item]:
        """The items in an order of this dealer's."""
        self._shuffles += 1
        prefix = f"{self._key}/{self._shuffles}"
        keyed = {
            hashlib.sha256(f"{prefix}/{place}".encode()).digest(): item
            for place, item in enumerate(items)
        }
        return [keyed[key] for key in sorted(keyed)]

    def deal(self, items: Sequence[Item], *reading: str) -> Item:
        """The next item for a reading; all come once before one comes again."""
        deck = self._decks.setdefault((*reading, tuple(items)), [])
        if not deck:
            deck += self.shuffled(items)
        return deck.pop()


def fill(text: str, say: Callable[[str], str]) -> str:
    """Replace every `{key}` by what ``say`` says for it, which may hold keys again."""
    return re.sub(r"\{(.+?)\}", lambda key: fill(say(key[1]), say), text)


def find_mentions(text: str) -> tuple[tuple[str, ...], tuple[Mention, ...]]:
    """Words and mentions of a filled template, in which `<role` and `role>` bound a mention."""
    words: list[str] = []
    mentions: list[Mention] = []
    begun: dict[str, int] = {}
    for part in text.split():
        if part.startswith("<"):
            begun[part[1:]] = len(words)
        elif part.endswith(">"):
            mentions.append((part[:-1], begun[part[:-1]], len(words)))
        else:
            words.append(part)
    return tuple(words), tuple(mentions)


def write_text(
    dealer: Dealer, template: str, reading: str, subset: str
) -> tuple[tuple[str, ...], tuple[Mention, ...]]:
    """Fill a template with names and put an opening before it and a closing behind it.

    Args:
        dealer: Deals the names, openings and closings.
        template: The template.
        reading: Relation, or type of the entities marked `{?}`.
        subset: ambiguous, clear or misleading.

    Returns:
        Words and mentions.
    """
    # Dealt apart, so that everything is dealt evenly among the ambiguous posts alone.
    deck = "ambiguous" if subset == "ambiguous" else "clear"

    def deal(key: str, whose: str = reading) -> str:
        return dealer.deal(PIECES[key], deck, whose, key)

    def say(key: str) -> str:
        role, _, form = key.partition(":")
        whose = f"{reading} {role}"
        if key == "?" or key in ENTITY_TYPES:
            role = whose = reading if key == "?" else key
            form = "any"
        if not form:
            return deal(key)
        name = fill(deal(form, whose), lambda part: deal(part, whose))
        return f"<{role} {name} {role}>"

    opening, closing = deal("opening"), deal("closing")
    return find_mentions(fill(f"{opening} {template} {closing}", say))


def plan(task: Task, split: str, dealer: Dealer) -> Iterator[tuple[str, str, str]]:
    """Subset, label and template of every post of a split."""
    sizes = {subset: round(part * SIZES[split]) for subset, part in SUBSETS.items()}
    # All readings of a template in turn: the template says nothing about the reading.
    for done in range(0, sizes["ambiguous"], len(task.readings)):
        template = dealer.deal(task.ambiguous, "ambiguous template")
        for reading in dealer.shuffled(task.readings)[: sizes["ambiguous"] - done]:
            yield "ambiguous", reading, template
    labels = [label for label, weight in task.weights.items() for _ in range(weight)]
    for subset in ("clear", "misleading"):
        for _ in range(sizes[subset]):
            label = dealer.deal(labels, subset)
            yield subset, label, dealer.deal(task.clear[label], "clear template", label)


def choose_image(
    task: Task, dealer: Dealer, subset: str, label: str, mentioned: set[str]
) -> str | None:
    """Choose the image of a post.

    Args:
        task: The post's task.
        dealer: Deals the images.
        subset: ambiguous, clear or misleading.
        label: The post's label.
        mentioned: Other labels in the post: a misleading image agrees with none of them.

    Returns:
        The image's name without extension; None if the post has no image file.
    """
    shows = task.shows[label]
    if subset == "misleading":
        irrelevant = dealer.deal(ONE_IN_THREE, "irrelevant", label)
        if irrelevant and shows != IRRELEVANT:
            shows = IRRELEVANT
        else:
            wrong = [task.shows[one] for one in task.readings if one not in {label, *mentioned}]
            shows = dealer.deal(wrong, "misleading", label)
    if subset == "clear" and dealer.deal(ONE_IN_THREE, "missing", label):
        return None
    return Path(dealer.deal(IMAGES[shows], subset, label, shows)).name


def make_posts(task: Task, split: str, taken: set[tuple[str, ...]]) -> list[Post]:
    """Make the posts of a split.

    Args:
        task: What posts are made of.
        split: train, dev or test.
        taken: Texts of other posts, which are not written again. The texts made are added.

    Returns:
        The posts in the order of the file.
    """
    dealer = Dealer(f"{SEED}/{task.name}/{split}")
    posts = []
    for subset, label, template in plan(task, split, dealer):
        while True:
            words, mentions = write_text(dealer, template, label, subset)
            names = [words[start:end] for _, start, end in mentions]
            if words not in taken and len(set(names)) == len(names):
                break
        taken.add(words)
        mentioned = {role for role, _, _ in mentions}
        image = choose_image(task, dealer, subset, label, mentioned)
        posts.append(Post(words, mentions, label, subset, image))
    return dealer.shuffled(posts)


def copy_images(names: Iterable[str], images: Path, target: Path) -> None:
    """Copy images from the folder of `wordnet_emoji`.

    Raises:
        DataError: An image is not there.
    """
    target.mkdir(parents=True, exist_ok=True)
    sources = {Path(one).name: images / f"{one}.png" for some in IMAGES.values() for one in some}
    for name in names:
        if not sources[name].is_file():
            remedy = "Restore the sample wordnet_emoji, it is in git"
            raise DataError(Problem(str(sources[name]), None, "no such image", remedy))
        shutil.copyfile(sources[name], target / f"{name}.png")


README = string.Template("""\
# $name: SYNTHETIC posts for $title

Nobody wrote these posts. A seeded generator made them in the file format of a benchmark, so that
the pipeline can be shown without the benchmark and so that it can be measured what an image
brings. Scores on them say nothing about real posts.

| split | posts | ambiguous | clear | misleading | without image |
| --- | ---: | ---: | ---: | ---: | ---: |
$subset_table

| $labelled | train | dev | test |
| --- | ---: | ---: | ---: |
$label_table

| posts by what the image shows | files | train | dev | test |
| --- | ---: | ---: | ---: | ---: |
$image_table

## Files

$files
- `subsets.tsv`: split, number of the post in its file (from 0) and subset, separated by tabs.
- `SHA256SUMS`: digests of all other files, for `sha256sum -c`.

## How it was made

`python scripts/build_synthetic_posts.py` makes this folder from templates, made-up names and
images of the sample `wordnet_emoji`, always with the same bytes.

- ambiguous: the text fits $reading_count readings and only the image decides. The readings are
  $readings.
  Every template is used with all readings in turn, and the words of names, openings and closings
  are dealt to all readings equally often: without the image, a guess is right in one of
  $reading_count posts.
- clear: the text decides. The image agrees, or is missing (about a third).
- misleading: the text decides as in the clear posts. The image shows another reading, or food
  (about a third).

The same image files occur in all splits, as posts of the benchmarks share images. No text
occurs twice.

## Licences

- Texts: made by this project, under its licence.
- Images: Noto Emoji by Google, Apache License 2.0, `LICENSE-noto-emoji.txt`.
""")


def describe(task: Task, posts: Mapping[str, list[Post]]) -> str:
    """The README of a sample."""

    def table(counts: Mapping[str, Sequence[int]]) -> str:
        return "\n".join(
            " | ".join([f"| {name}", *(f"{number:,}" for number in numbers)]) + " |"
            for name, numbers in counts.items()
        )

    def by_split(values: Callable[[Post], Iterable[str]]) -> list[Counter[str]]:
        return [Counter(one for post in part for one in values(post)) for part in posts.values()]

    tagged = task is ENTITY_RECOGNITION
    subsets = by_split(lambda post: [post.subset])
    labels = by_split(lambda post: [m[0] for m in post.mentions] if tagged else [post.label])
    shown = by_split(lambda post: [SHOWN[post.image]] if post.image else [])
    return README.substitute(
        name=task.name,
        title=task.title,
        files=task.files,
        readings=",\n  ".join(f"`{reading}`" for reading in task.readings),
        reading_count=len(task.readings),
        labelled="mentions" if tagged else "pairs",
        subset_table=table(
            {
                split: [
                    len(part),
                    *(counts[subset] for subset in SUBSETS),
                    len(part) - some.total(),
                ]
                for (split, part), counts, some in zip(posts.items(), subsets, shown, strict=True)
            }
        ),
        label_table=table(
            {f"`{label}`": [one[label] for one in labels] for label in task.weights if label}
        ),
        image_table=table(
            {
                shows: [len(files), *(one[shows] for one in shown)]
                for shows, files in IMAGES.items()
                if shows in task.shows.values()
            }
        ),
    )


def build(task: Task, emoji: Path, target: Path) -> dict[str, int]:
    """Build a sample and put it in the place of ``target``.

    Args:
        task: Which one.
        emoji: Folder of the sample `wordnet_emoji`.
        target: Folder to write.

    Returns:
        Posts by split.

    Raises:
        DataError: An image is missing.
    """
    taken: set[tuple[str, ...]] = set()
    posts = {split: make_posts(task, split, taken) for split in SIZES}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        folder = Path(scratch) / target.name
        subsets = []
        for split, part in posts.items():
            # A post without an image names a file that is not there.
            lines = [
                line
                for number, post in enumerate(part)
                for line in task.lines(post, post.image or f"{split}_{number:04d}")
            ]
            _write_lines(folder / task.texts[split], lines)
            subsets += [f"{split}\t{number}\t{post.subset}" for number, post in enumerate(part)]
            used = sorted({post.image for post in part if post.image})
            copy_images(used, emoji / "images", folder / task.images[split])
        _write_lines(folder / "subsets.tsv", subsets)
        for name, content in {**task.others, "README.md": describe(task, posts)}.items():
            (folder / name).write_text(content, encoding="utf-8")
        shutil.copyfile(emoji / "LICENSE-noto-emoji.txt", folder / "LICENSE-noto-emoji.txt")
        names = sorted(
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        )
        digests = [f"{sha256_of(folder / name)}  {name}" for name in names]
        _write_lines(folder / "SHA256SUMS", digests)
        replace_folder(folder, target)
    return {split: len(part) for split, part in posts.items()}


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Build both samples as the command line says."""
    raw = PROJECT / "data/01_raw"
    parser = argparse.ArgumentParser(description="Rebuild the embedded samples of posts.")
    parser.add_argument(
        "--emoji", type=Path, default=raw / "wordnet_emoji", help="folder of wordnet_emoji"
    )
    parser.add_argument("--target", type=Path, default=raw, help="folder that holds both samples")
    arguments = parser.parse_args()
    for task in TASKS:
        try:
            counts = build(task, arguments.emoji, arguments.target / task.name)
        except DataError as error:
            parser.exit(1, f"{error}\n")
        print(f"{task.name}:", ", ".join(f"{count} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
