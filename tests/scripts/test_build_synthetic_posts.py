"""The synthetic posts: what they hold, that the image decides, and that the script makes them."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from mkgformer_kedro.errors import DataError

PROJECT = Path(__file__).parents[2]
RAW = PROJECT / "data/01_raw"
EMOJI = RAW / "wordnet_emoji"
SCRIPT = PROJECT / "scripts/build_synthetic_posts.py"
SIZES = {"train": 600, "dev": 120, "test": 120}
SAMPLES = ("synthetic_relation_extraction", "synthetic_entity_recognition")


def load_script() -> ModuleType:
    specification = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(specification)
    sys.modules[SCRIPT.stem] = module
    specification.loader.exec_module(module)
    return module


script = load_script()


@dataclass
class Post:
    """A post as it is read from the files, without anything of the script.

    `mentions` are (reading, first word, word behind the last): both mentions of a pair have the
    pair's relation. `image` is None where the file that the post names is not there.
    """

    words: list[str]
    mentions: list[tuple[str, int, int]]
    labels: list[str]
    named: str
    image: Path | None
    subset: str


Posts = dict[str, list[Post]]


def read_subsets(folder: Path) -> dict[tuple[str, int], str]:
    lines = (folder / "subsets.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    subsets = {(split, int(number)): subset for split, number, subset in rows}
    assert len(subsets) == len(rows) == sum(SIZES.values())
    return subsets


def read_relations() -> Posts:
    folder = RAW / "synthetic_relation_extraction"
    subsets = read_subsets(folder)
    posts: Posts = {}
    for split, name in {"train": "train", "dev": "val", "test": "test"}.items():
        lines = (folder / f"txt/ours_{name}.txt").read_text(encoding="utf-8").splitlines()
        posts[split] = []
        for number, line in enumerate(map(ast.literal_eval, lines)):
            assert list(line) == ["token", "h", "t", "img_id", "relation"]
            for mention in (line["h"], line["t"]):
                assert " ".join(line["token"][slice(*mention["pos"])]) == mention["name"] != ""
            relation = line["relation"]
            mentions = [(relation, *line[role]["pos"]) for role in ("h", "t")]
            image = folder / "img_org" / name / line["img_id"]
            posts[split].append(
                Post(
                    line["token"], mentions, [relation], line["img_id"],
                    image if image.is_file() else None, subsets[split, number],
                )
            )  # fmt: skip
    return posts


def read_entities() -> Posts:
    folder = RAW / "synthetic_entity_recognition"
    subsets = read_subsets(folder)
    posts: Posts = {}
    for split, name in {"train": "train", "dev": "valid", "test": "test"}.items():
        blocks = (folder / f"{name}.txt").read_text(encoding="utf-8").split("\n\n")
        assert blocks.pop() == ""
        posts[split] = []
        for number, block in enumerate(blocks):
            first, *lines = block.split("\n")
            key, named = first.split(":")
            assert key == "IMGID"
            words, tags = map(list, zip(*(line.split("\t") for line in lines), strict=True))
            image = folder / "images" / f"{named}.png"
            mentions = spans(tags)
            posts[split].append(
                Post(
                    words, mentions, [kind for kind, _, _ in mentions], named,
                    image if image.is_file() else None, subsets[split, number],
                )
            )  # fmt: skip
    return posts


def spans(tags: list[str]) -> list[tuple[str, int, int]]:
    """Entities of valid IOB2 tags: an I- follows a B- or I- of its type."""
    found: list[tuple[str, int, int]] = []
    for place, tag in enumerate(tags):
        mark, _, kind = tag.partition("-")
        if mark == "B":
            found.append((kind, place, place + 1))
        elif mark == "I":
            assert found
            assert found[-1][0] == kind
            assert found[-1][2] == place
            found[-1] = (kind, found[-1][1], place + 1)
        else:
            assert tag == "O"
    return found


def texts_of(post: Post, *, masked: bool) -> list[tuple[str, str]]:
    """For each reading of a post: the text with its mentions marked or masked, and the reading."""
    examples = []
    pair = post.mentions[0][0].startswith("/") or post.mentions[0][0] == "None"
    for asked in [post.mentions] if pair else [[mention] for mention in post.mentions]:
        starts = {start: f"[{n}]" for n, (_, start, _) in enumerate(asked)}
        names = {place for _, start, end in post.mentions for place in range(start, end)}
        text = []
        for place, word in enumerate(post.words):
            if place in starts:
                text.append(starts[place])
            if not (masked and place in names):
                text.append(word)
        examples.append((" ".join(text), asked[0][0]))
    return examples


@pytest.fixture(scope="module")
def samples() -> dict[str, Posts]:
    return dict(zip(SAMPLES, (read_relations(), read_entities()), strict=True))


@pytest.fixture(params=SAMPLES)
def sample(request) -> str:
    return request.param


@pytest.fixture
def posts(samples, sample) -> Posts:
    return samples[sample]


@pytest.fixture
def task(sample):
    return next(task for task in script.TASKS if task.name == sample)


def in_group(part: list[Post], subset: str) -> list[Post]:
    return [post for post in part if post.subset == subset]


def shows(post: Post) -> str | None:
    return post.image and script.SHOWN[post.image.stem]


class TestEmbeddedSamples:
    def test_every_split_has_its_size_and_its_shares(self, posts):
        assert {split: len(part) for split, part in posts.items()} == SIZES
        for part in posts.values():
            counts = Counter(post.subset for post in part)
            assert counts == {
                "ambiguous": round(0.45 * len(part)),
                "clear": round(0.35 * len(part)),
                "misleading": round(0.2 * len(part)),
            }

    def test_labels_are_those_of_the_benchmark(self, samples):
        relations, entities = (samples[name] for name in SAMPLES)
        path = RAW / SAMPLES[0] / "ours_rel2id.json"
        ids = json.loads(path.read_text(encoding="utf-8"))
        assert next(iter(ids.items())) == ("None", 0)
        assert sorted(ids.values()) == list(range(len(ids)))
        assert len(ids) >= 9
        for part in relations.values():
            assert {post.labels[0] for post in part} == set(ids)
        for part in entities.values():
            assert {kind for post in part for kind in post.labels} == {"PER", "LOC", "ORG", "OTHER"}

    def test_mentions_are_of_many_shapes(self, samples):
        relations, entities = (
            [post for part in samples[name].values() for post in part] for name in SAMPLES
        )
        for part in (relations, entities):
            lengths = {end - start for post in part for _, start, end in post.mentions}
            assert {1, 2, 3} <= lengths
            for post in part:
                placed = [(start, end) for _, start, end in post.mentions]
                assert len(set(placed)) == len(placed)
        nested = [
            post
            for post in relations
            for (_, a, b), (_, c, d) in itertools.permutations(post.mentions)
            if a <= c and d <= b
        ]
        assert 5 <= len(nested) <= 30
        counts = Counter(min(len(post.mentions), 2) for post in entities)
        assert min(counts.values()) >= 50
        assert set(counts) == {0, 1, 2}

    def test_no_text_occurs_twice(self, posts):
        texts = [tuple(post.words) for part in posts.values() for post in part]
        assert len(set(texts)) == len(texts)

    def test_a_third_of_the_clear_posts_and_no_other_lacks_its_image(self, posts):
        for part in posts.values():
            missing = [post for post in part if post.image is None]
            assert {post.subset for post in missing} == {"clear"}
            assert len(missing) == pytest.approx(len(in_group(part, "clear")) / 3, rel=0.05)
            assert len({post.named for post in missing}) == len(missing)

    def test_images_are_few_files_that_train_knows(self, posts, task):
        known = {post.image.name for post in posts["train"] if post.image}
        assert len(known) <= 30
        for part in posts.values():
            assert {post.image.name for post in part if post.image} <= known
        for path in {post.image for part in posts.values() for post in part if post.image}:
            with Image.open(path) as image:
                assert image.size == (64, 64)
        assert 1 <= len({task.shows[one] for one in task.readings}) <= 10

    def test_images_that_decide_can_be_told_apart(self, task):
        """The nearest image of a smaller and shifted copy shows the same thing."""
        files = {
            file: thing
            for thing in {*(task.shows[one] for one in task.readings), script.IRRELEVANT}
            for file in script.IMAGES[thing]
        }

        def pixels(file: str, box: tuple[int, int, int, int]) -> np.ndarray:
            with Image.open(EMOJI / "images" / f"{file}.png") as image:
                rgba = image.convert("RGBA")
            white = Image.new("RGBA", rgba.size, "white")
            white.alpha_composite(rgba)
            small = white.convert("RGB").crop(box).resize((8, 8), Image.Resampling.BOX)
            return np.asarray(small, dtype=float).ravel()

        whole = {file: pixels(file, (0, 0, 64, 64)) for file in files}
        for file, thing in files.items():
            for box in ((2, 2, 60, 60), (6, 0, 64, 58), (0, 6, 58, 64)):
                part = pixels(file, box)
                nearest = min(whole, key=lambda one: np.abs(whole[one] - part).sum())
                assert files[nearest] == thing

    def test_the_digests_name_every_file(self, sample):
        folder = RAW / sample
        lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        recorded = dict(reversed(line.split("  ", 1)) for line in lines)
        actual = {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*")
            if path.is_file() and path.name != "SHA256SUMS"
        }
        assert recorded == actual

    def test_both_are_small(self):
        files = [path for name in SAMPLES for path in (RAW / name).rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) < 1_000_000

    def test_the_readme_says_synthetic_and_gives_the_counts(self, sample, posts, task):
        readme = (RAW / sample / "README.md").read_text(encoding="utf-8")
        assert "SYNTHETIC" in readme.splitlines()[0]
        found = re.findall(r"^\| (\S+) \| ([\d|, ]+) \|$", readme, flags=re.MULTILINE)
        tables = {name: [int(n.replace(",", "")) for n in row.split(" | ")] for name, row in found}
        expected = {}
        for split, part in posts.items():
            sizes = [len(in_group(part, subset)) for subset in ("ambiguous", "clear", "misleading")]
            without = sum(post.image is None for post in part)
            expected[split] = [len(part), *sizes, without]
        for label in {label for post in posts["train"] for label in post.labels}:
            expected[f"`{label}`"] = [
                sum(post.labels.count(label) for post in part) for part in posts.values()
            ]
        for thing in {shows(post) for post in posts["train"]} - {None}:
            numbers = [sum(shows(post) == thing for post in part) for part in posts.values()]
            expected[thing] = [len(script.IMAGES[thing]), *numbers]
        assert tables == expected


class TestAmbiguousPosts:
    def test_the_image_decides(self, posts, task):
        readings = {task.shows[reading]: reading for reading in task.readings}
        assert len(readings) == len(task.readings)
        for part in posts.values():
            for post in in_group(part, "ambiguous"):
                assert {reading for reading, _, _ in post.mentions} == {readings[shows(post)]}

    def test_readings_are_equally_frequent(self, posts, task):
        for part in posts.values():
            counts = Counter(post.mentions[0][0] for post in in_group(part, "ambiguous"))
            assert set(counts) == set(task.readings)
            assert max(counts.values()) - min(counts.values()) <= 1

    def test_every_word_is_as_frequent_with_every_reading(self, posts, task):
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for post in in_group(posts["train"], "ambiguous"):
            for word in post.words:
                counts[word][post.mentions[0][0]] += 1
        for counter in counts.values():
            numbers = [counter[reading] for reading in task.readings]
            assert max(numbers) - min(numbers) <= max(3, 0.3 * max(numbers))

    def test_the_wording_differs_from_clear_posts(self, task):
        clear = {template for templates in task.clear.values() for template in templates}
        assert len(set(task.ambiguous)) == len(task.ambiguous) >= 20
        assert not clear & set(task.ambiguous)

    @pytest.mark.parametrize("masked", [False, True], ids=["names", "names masked"])
    def test_a_text_classifier_is_at_chance(self, posts, task, masked):
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.naive_bayes import MultinomialNB
        from sklearn.pipeline import make_pipeline

        def examples(part: list[Post]) -> tuple[list[str], list[str]]:
            found = [one for post in part if post.mentions for one in texts_of(post, masked=masked)]
            texts, readings = zip(*found, strict=True)
            return list(texts), list(readings)

        words = CountVectorizer(ngram_range=(1, 2), tokenizer=str.split, token_pattern=None)
        model = make_pipeline(words, MultinomialNB())
        model.fit(*examples(posts["train"]))
        held_out = [post for split in ("dev", "test") for post in posts[split]]
        ambiguous = model.score(*examples(in_group(held_out, "ambiguous")))
        clear = model.score(*examples(in_group(held_out, "clear")))
        assert ambiguous <= 1 / len(task.readings) + 0.12 < 0.45
        assert clear > 0.85


class TestOtherPosts:
    def test_the_image_of_a_clear_post_agrees(self, posts, task):
        for part in posts.values():
            for post in in_group(part, "clear"):
                agreeing = {task.shows[label] for label in post.labels or [""]}
                assert post.image is None or shows(post) in agreeing

    def test_the_image_of_a_misleading_post_agrees_with_nothing_in_it(self, posts, task):
        wrong = {task.shows[reading] for reading in task.readings} | {script.IRRELEVANT}
        for part in posts.values():
            misleading = in_group(part, "misleading")
            for post in misleading:
                assert shows(post) in wrong - {task.shows[label] for label in post.labels or [""]}
            irrelevant = sum(shows(post) == script.IRRELEVANT for post in misleading)
            assert 0.15 <= irrelevant / len(misleading) <= 0.4

    def test_misleading_posts_have_all_labels(self, posts, task):
        labels = {label for post in in_group(posts["test"], "misleading") for label in post.labels}
        assert labels == set(task.shows) - {""}


class TestScript:
    @pytest.fixture(scope="class")
    def target(self, tmp_path_factory) -> Path:
        return tmp_path_factory.mktemp("raw")

    def test_it_makes_the_embedded_samples(self, target):
        command = [sys.executable, str(SCRIPT), "--target", str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == [
            f"{name}: 600 train, 120 dev, 120 test" for name in SAMPLES
        ]
        assert {path.name for path in target.iterdir()} == set(SAMPLES)
        for name in SAMPLES:
            made, kept = (
                {
                    path.relative_to(root).as_posix(): path.read_bytes()
                    for path in (root / name).rglob("*")
                    if path.is_file()
                }
                for root in (target, RAW)
            )
            assert made.keys() == kept.keys()
            assert [path for path in made if made[path] != kept[path]] == []

    def test_a_missing_image_is_named_and_the_old_sample_stays(self, tmp_path):
        emoji, target = tmp_path / "emoji", tmp_path / "sample"
        (emoji / "images").mkdir(parents=True)
        shutil.copy(EMOJI / "LICENSE-noto-emoji.txt", emoji)
        target.mkdir()
        (target / "old.txt").touch()
        with pytest.raises(DataError, match="no such image"):
            script.build(script.ENTITY_RECOGNITION, emoji, target)
        assert [path.name for path in tmp_path.iterdir() if path != emoji] == ["sample"]
        assert [path.name for path in target.iterdir()] == ["old.txt"]

    def test_find_mentions_takes_nested_and_neighbouring_ones(self):
        words, mentions = script.find_mentions("at <h Old <t Elmira t> h> <t x t>")
        assert words == ("at", "Old", "Elmira", "x")
        assert sorted(mentions) == [("h", 1, 3), ("t", 2, 3), ("t", 3, 4)]

    def test_fill_replaces_keys_in_what_is_said(self):
        said = {"a": "{b} and {b}", "b": "x"}
        assert script.fill("{a} , {b}", said.__getitem__) == "x and x , x"

    def test_a_dealer_deals_all_before_one_comes_again(self):
        dealer = script.Dealer("key")
        for _ in range(3):
            hand = [dealer.deal("abcde", "reading") for _ in range(5)]
            assert sorted(hand) == list("abcde")

    def test_a_dealer_deals_alike_for_the_same_key_only(self):
        one, same, other = (script.Dealer(key).shuffled(range(50)) for key in ("a", "a", "b"))
        assert one == same != other
        assert sorted(one) == sorted(other) == list(range(50))
