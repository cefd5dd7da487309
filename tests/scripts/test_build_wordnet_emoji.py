"""The embedded sample: what it holds, and that the script makes it, always the same."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mkgformer_kedro.errors import DataError

PROJECT = Path(__file__).parents[2]
SAMPLE = PROJECT / "data/01_raw/wordnet_emoji"
SCRIPT = PROJECT / "scripts/build_wordnet_emoji.py"
SPLITS = ("train", "dev", "test")


def load_script() -> ModuleType:
    specification = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    module = importlib.util.module_from_spec(specification)
    sys.modules[SCRIPT.stem] = module
    specification.loader.exec_module(module)
    return module


script = load_script()


def rows(name: str) -> list[tuple[str, ...]]:
    lines = (SAMPLE / name).read_text(encoding="utf-8").splitlines()
    return [tuple(line.split("\t")) for line in lines]


class TestEmbeddedSample:
    @pytest.fixture(scope="class")
    def triples(self) -> dict[str, list[tuple[str, ...]]]:
        return {name: rows(f"{name}.tsv") for name in SPLITS}

    @pytest.fixture(scope="class")
    def entities(self) -> list[str]:
        return [entity for (entity,) in rows("entities.txt")]

    @pytest.fixture(scope="class")
    def images(self) -> dict[str, list[Path]]:
        return {folder.name: sorted(folder.iterdir()) for folder in sorted(SAMPLE.glob("images/*"))}

    def test_the_readme_gives_the_counts_of_the_files(self, triples, entities, images):
        readme = (SAMPLE / "README.md").read_text(encoding="utf-8")
        table = dict(re.findall(r"^\| (.+?) \| ([\d,]+) \|$", readme, flags=re.MULTILINE))
        counts = {name: int(count.replace(",", "")) for name, count in table.items()}
        sizes = Counter(relation for part in triples.values() for _, relation, _ in part)
        assert counts == {
            "entities": len(entities),
            "of these with images": len(images),
            "images": sum(map(len, images.values())),
            "relations": len(rows("relations.txt")),
            **{f"{name} triples": len(part) for name, part in triples.items()},
            **{f"`{relation}`": size for relation, size in sizes.items()},
        }

    def test_it_has_the_size_that_was_planned(self, triples, entities):
        assert 1_500 <= len(entities) <= 2_100
        assert 3_000 <= sum(map(len, triples.values())) <= 4_500
        assert 230 <= len(triples["dev"]) <= 270
        assert 230 <= len(triples["test"]) <= 270
        files = [path for path in SAMPLE.rglob("*") if path.is_file()]
        assert sum(path.stat().st_size for path in files) <= 6_000_000

    def test_the_digests_name_every_file(self):
        lines = (SAMPLE / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        recorded = dict(reversed(line.split("  ", 1)) for line in lines)
        actual = {
            path.relative_to(SAMPLE).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in SAMPLE.rglob("*")
            if path.is_file() and path.name != "SHA256SUMS"
        }
        assert recorded == actual

    def test_entities_are_wordnet_offsets_that_occur(self, triples, entities):
        assert entities == sorted(set(entities))
        assert all(re.fullmatch(r"\d{8}", entity) for entity in entities)
        used = {end for part in triples.values() for h, _, t in part for end in (h, t)}
        assert used == set(entities)

    def test_texts_are_a_name_and_a_gloss(self, entities):
        texts = rows("entity2text.txt")
        assert [entity for entity, _ in texts] == entities
        for _, text in texts:
            name, comma, gloss = text.partition(", ")
            assert name.strip() == name == name.lower() != ""
            assert comma
            assert gloss.strip() == gloss != ""

    def test_relations_have_texts_as_in_wn18(self, triples):
        used = {relation for part in triples.values() for _, relation, _ in part}
        assert [relation for (relation,) in rows("relations.txt")] == sorted(used)
        assert rows("relation2text.txt") == [
            (relation, relation[1:].replace("_", " ")) for relation in sorted(used)
        ]

    def test_no_pair_of_dev_or_test_is_linked_anywhere_else(self, triples):
        pairs = {
            name: Counter(frozenset((head, tail)) for head, _, tail in part)
            for name, part in triples.items()
        }
        for one, other in itertools.permutations(SPLITS, 2):
            assert not set(pairs[one]) & set(pairs[other])
        assert set(pairs["dev"].values()) == set(pairs["test"].values()) == {1}

    def test_no_relation_holds_in_both_directions(self, triples):
        everything = {triple for part in triples.values() for triple in part}
        assert len(everything) == sum(map(len, triples.values()))
        assert not everything & {(tail, relation, head) for head, relation, tail in everything}

    @pytest.mark.parametrize("name", ["dev", "test"])
    def test_nothing_is_asked_that_train_does_not_know(self, triples, name):
        seen = {value for triple in triples["train"] for value in triple}
        assert all(value in seen for triple in triples[name] for value in triple)

    def test_images_matter_in_the_test_split(self, triples, images):
        known = [end for head, _, tail in triples["test"] for end in (head, tail)]
        assert sum(f"n{entity}" in images for entity in known) / len(known) > 0.5

    def test_every_image_folder_is_an_entity(self, entities, images):
        assert set(images) <= {f"n{entity}" for entity in entities}
        assert all(1 <= len(files) <= 5 for files in images.values())

    def test_every_image_opens(self, images):
        for path in itertools.chain.from_iterable(images.values()):
            with Image.open(path) as image:
                assert (image.format, image.size) == ("PNG", (64, 64))
                image.load()

    @pytest.mark.parametrize(
        ("short_name", "text"),
        [
            ("bikini", "a woman's very brief bathing suit"),
            ("hammer", "a hand tool with a heavy rigid head and a handle"),
            ("dolphin", "any of various small toothed whales"),
            ("runner", "someone who travels on foot by running"),
            ("flag-ge", "a republic in Asia Minor on the Black Sea"),
        ],
    )
    def test_an_emoji_shows_the_sense_that_it_depicts(self, images, short_name, text):
        (owner,) = (
            owner
            for owner, files in images.items()
            if any(path.stem.endswith(f"_{short_name}") for path in files)
        )
        assert text in dict(rows("entity2text.txt"))[owner.removeprefix("n")]


# A made-up WordNet: animals with a part, a garment and an atoll of one name, a country.
NOUNS = """\
  1 A licence line
  2
00000010 03 n 01 entity 0 000 | that which is
00000020 05 n 02 animal 0 beast 0 001 @ 00000010 n 0000 | a living thing that moves
00000030 05 n 01 cat 0 004 @ 00000020 n 0000 %p 00000050 n 0000 \
+ 00000040 n 0101 + 00000090 v 0101 | a  feline
00000040 05 n 01 mouse 0 003 @ 00000020 n 0000 %p 00000050 n 0000 + 00000030 n 0101 | a rodent
00000050 05 n 01 paw 0 003 @ 00000010 n 0000 #p 00000030 n 0000 #p 00000040 n 0000 | a foot
00000060 15 n 01 bikini 0 001 @i 00000010 n 0000 | an atoll
00000070 06 n 02 bikini 1 two-piece 0 001 @ 00000010 n 0000 | a bathing suit
00000080 15 n 01 Chad 0 001 @i 00000010 n 0000 | a republic
"""
INDEX = """\
  1 A licence line
animal n 1 1 @ 1 0 00000020
beast n 1 1 @ 1 0 00000020
bikini n 2 1 @ 2 0 00000060 00000070
cat n 1 1 @ 1 0 00000030
chad n 1 1 @ 1 0 00000080
entity n 1 0 1 0 00000010
mouse n 1 1 @ 1 0 00000040
paw n 1 1 @ 1 0 00000050
two-piece n 1 1 @ 1 0 00000070
"""


def entry(name: str, short_name: str, category: str, image: str, order: int, **tones: str) -> dict:
    return {
        "name": name,
        "short_name": short_name,
        "short_names": [short_name],
        "subcategory": category,
        "sort_order": order,
        "image": image,
        "skin_variations": {tone: {"image": file} for tone, file in tones.items()},
    }


EMOJI = [
    entry("BIKINI", "bikini", "clothing", "b.png", 6),
    entry("CAT FACE", "cat", "animal-mammal", "c1.png", 1, dark="c3.png"),
    entry("CAT", "cat2", "animal-mammal", "c2.png", 2),
    entry("THREE MICE", "three_mice", "animal-mammal", "m.png", 3),
    entry("MICE", "mice", "animal-mammal", "m.png", 4),
    entry("Chad Flag", "flag-td", "country-flag", "td.png", 5),
    entry("PAW", "not_the_foot", "animal-mammal", "p.png", 7),
    entry("GRINNING CAT", "cat_grin", "cat-face", "g.png", 8),
]


@pytest.fixture
def wordnet_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "wordnet"
    folder.mkdir()
    (folder / "data.noun").write_text(NOUNS)
    (folder / "index.noun").write_text(INDEX)
    (folder / "noun.exc").write_text("mice mouse\n")
    return folder


@pytest.fixture
def wordnet(wordnet_folder: Path):
    return script.WordNet(wordnet_folder)


@pytest.fixture
def emoji_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    images = folder / "img/google/64"
    images.mkdir(parents=True)
    (folder / "emoji.json").write_text(json.dumps(EMOJI))
    for name in ("b", "c1", "c2", "c3", "m", "td", "p", "g"):
        (images / f"{name}.png").write_bytes(name.encode())
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    folder = tmp_path / "recipe"
    shutil.copytree(script.RECIPE, folder)
    (folder / "matches.tsv").write_text("# decisions\nnot_the_foot\t-\tfor the test\n")
    return folder


class TestWordNet:
    def test_a_line_of_data(self):
        line = NOUNS.splitlines()[4]
        assert script.parse_synset(line) == script.Synset(
            id="00000030",
            file="animal",
            words=("cat",),
            gloss="a feline",
            pointers=(("@", "00000020"), ("%p", "00000050"), ("+", "00000040")),
        )

    def test_the_count_of_words_is_hexadecimal(self):
        words = " ".join(f"word{number} 0" for number in range(16))
        synset = script.parse_synset(f"00000001 06 n 10 {words} 001 ~ 00000002 n 0000 | sixteen")
        assert len(synset.words) == 16
        assert synset.pointers == (("~", "00000002"),)

    def test_text_is_written_as_in_wn18(self):
        synset = script.Synset("00000001", "location", ("New_York", "NY"), "a state", ())
        assert synset.text == "new york, a state"

    def test_senses_keep_their_order(self, wordnet):
        assert wordnet.senses["bikini"] == ("00000060", "00000070")
        assert wordnet.sense("bikini.n.02") == "00000070"
        for name in ("bikini.n.03", "bikini.n.00", "bikinis.n.01"):
            with pytest.raises(KeyError):
                wordnet.sense(name)

    @pytest.mark.parametrize(
        ("phrase", "lemmas"),
        [
            ("two piece", ["two-piece"]),
            ("mice", ["mouse"]),
            ("beasts", ["beast"]),
            ("paws", ["paw"]),
            ("dog", []),
        ],
    )
    def test_lemmas_of_a_phrase(self, wordnet, phrase, lemmas):
        assert wordnet.lemmas(phrase) == lemmas

    def test_a_relation_and_its_inverse_make_one_triple(self, wordnet):
        lower = {"00000030", "00000040", "00000050"}
        assert {triple for triple in wordnet.triples() if {triple[0], triple[2]} <= lower} == {
            ("00000030", "_derivationally_related_form", "00000040"),
            ("00000030", "_has_part", "00000050"),
            ("00000040", "_has_part", "00000050"),
        }

    def test_a_missing_file_is_named(self, wordnet_folder):
        (wordnet_folder / "noun.exc").unlink()
        with pytest.raises(DataError, match=r"noun\.exc: no such file"):
            script.WordNet(wordnet_folder)


class TestMatching:
    def choose(self, wordnet, **changes) -> str | None:
        return script.choose_sense(script.parse_emoji({**EMOJI[0], **changes}), wordnet)

    def test_the_category_chooses_the_sense(self, wordnet):
        assert self.choose(wordnet) == "00000070"
        assert self.choose(wordnet, subcategory="zodiac") == "00000060"
        assert self.choose(wordnet, subcategory="animal-bug") is None
        assert self.choose(wordnet, subcategory="face-smiling") is None

    def test_names_are_spelled_as_wordnet_spells_them(self):
        spell = lambda **values: script.parse_emoji({**EMOJI[0], **values}).names  # noqa: E731
        assert spell(name="CAT FACE", short_names=["cat2"]) == ("cat2", "cat", "cat face")
        assert spell(name="St. Lucia Flag", subcategory="country-flag") == ("saint lucia",)
        assert spell(name="X & Y Flag", subcategory="country-flag") == ("x and y",)
        assert spell(name=None, short_names=["female-cook"], subcategory="person-role") == (
            "female-cook",
            "cook",
        )

    def test_every_emoji_of_a_synset_is_kept_in_order(self, wordnet):
        emoji = [script.parse_emoji(one) for one in reversed(EMOJI)]
        matches = script.match(emoji, wordnet, {"not_the_foot": None, "cat_grin": "00000030"})
        names = {synset: [one.short_name for one in found] for synset, found in matches.items()}
        assert names == {
            "00000030": ["cat", "cat2", "cat_grin"],
            "00000040": ["mice"],
            "00000080": ["flag-td"],
            "00000070": ["bikini"],
        }

    def test_plain_images_come_before_skin_tones_and_none_twice(self, emoji_folder):
        package = script.read_package(emoji_folder)
        cats = [script.parse_emoji(one) for one in EMOJI[1:3]]
        images = script.choose_images(cats, package)
        assert list(images) == ["c1_cat.png", "c2_cat2.png", "c3_cat.png"]
        mice = [script.parse_emoji(one) for one in EMOJI[3:5]]
        assert list(script.choose_images(mice, package)) == ["m_three_mice.png"]

    def test_wrong_decisions_are_named_with_their_lines(self, wordnet, tmp_path):
        path = tmp_path / "matches.tsv"
        path.write_text("# head\ncat,dog\tcat.n.01\t\nmice\tmouse.n.07\t\ncat\t-\t\n")
        emoji = [script.parse_emoji(one) for one in EMOJI]
        with pytest.raises(DataError) as caught:
            script.read_decisions(path, wordnet, emoji)
        lines = str(caught.value).splitlines()
        assert [line.split(": ")[0].rpartition(":")[2] for line in lines] == ["2", "3", "4"]
        assert "dog" in lines[0]
        assert "mouse.n.07" in lines[1]
        assert "twice" in lines[2]


class TestGraph:
    def test_a_synset_with_a_chain_of_its_own_is_dropped(self):
        chain = [("loner", "a"), ("a", "b"), ("b", "c"), ("c", "root")]
        others = [("one", "root"), ("two", "root"), ("three", "kind"), ("kind", "root")]
        triples = [(low, "_hypernym", high) for low, high in chain + others]
        graph = script.Neighbourhood(triples)
        matched = {"loner", "one", "two", "three"}
        assert script.drop_loners(matched, graph) == {"one", "two", "three"}

    def test_nouns_that_tie_loose_ends_are_added_first(self):
        triples = [
            ("one", "_hypernym", "root"),
            ("two", "_hypernym", "root"),
            ("one", "_has_part", "tie"),
            ("two", "_has_part", "tie"),
            ("root", "_has_part", "weak"),
            ("one", "_has_part", "weak"),
            ("one", "_has_part", "alone"),
        ]
        graph = script.Neighbourhood(triples)
        closed = {"one", "two", "root"}
        assert script.choose_entities({"one", "two"}, graph, 3) == closed
        assert script.choose_entities({"one", "two"}, graph, 4) == closed | {"tie"}
        assert script.choose_entities({"one", "two"}, graph, 9) == closed | {"tie", "weak"}

    @given(
        st.sets(
            st.tuples(
                st.sampled_from("abcdefgh"),
                st.sampled_from(["_hypernym", "_has_part"]),
                st.sampled_from("abcdefgh"),
            ).filter(lambda triple: triple[0] != triple[2]),
        ),
        st.sets(st.sampled_from("abcdefgh")),
        st.integers(0, 3),
    )
    def test_the_split_leaks_nothing_and_leaves_nobody_unseen(self, triples, with_images, seed):
        parts = script.split(triples, with_images, seed)
        assert sorted(itertools.chain(*parts.values())) == sorted(triples)
        assert parts == script.split(sorted(triples, reverse=True), with_images, seed)
        pairs = {
            name: [frozenset((head, tail)) for head, _, tail in part]
            for name, part in parts.items()
        }
        held_out = pairs["dev"] + pairs["test"]
        assert len(set(held_out)) == len(held_out)
        assert not set(held_out) & set(pairs["train"])
        seen = {value for triple in parts["train"] for value in triple}
        assert all(value in seen for name in ("dev", "test") for t in parts[name] for value in t)

    def test_the_split_depends_on_the_seed_and_prefers_images(self):
        nodes = [f"{number:02}" for number in range(40)]
        ring = list(zip(nodes, ["_hypernym"] * 40, [*nodes[1:], nodes[0]], strict=True))
        with_images = set(nodes[5:19])
        parts = script.split(ring, with_images, seed=0)
        held_out = {name: [head for head, _, _ in parts[name]] for name in ("dev", "test")}
        assert held_out == {"dev": ["07", "11", "17"], "test": ["04", "09", "14"]}
        assert script.split(ring, with_images, seed=1) != parts


class TestRebuild:
    EXPECTED = (
        "LICENSE-noto-emoji.txt",
        "LICENSE-wordnet.txt",
        "README.md",
        "SHA256SUMS",
        "dev.tsv",
        "entities.txt",
        "entity2text.txt",
        "images/n00000030/c1_cat.png",
        "images/n00000030/c2_cat2.png",
        "images/n00000030/c3_cat.png",
        "images/n00000040/m_mice.png",
        "images/n00000070/b_bikini.png",
        "images/n00000080/td_flag-td.png",
        "relation2text.txt",
        "relations.txt",
        "test.tsv",
        "train.tsv",
    )

    def contents(self, folder: Path) -> dict[str, bytes]:
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    def test_the_files(self, wordnet_folder, emoji_folder, recipe, tmp_path):
        target = tmp_path / "data/sample"
        counts = script.build(wordnet_folder, emoji_folder, recipe, target)
        contents = self.contents(target)
        assert tuple(sorted(contents)) == self.EXPECTED
        assert contents["LICENSE-wordnet.txt"] == b"A licence line\n\n"
        assert b"_has_part\thas part\n" in contents["relation2text.txt"]
        assert b"00000030\tcat, a feline\n" in contents["entity2text.txt"]
        assert counts["with_images"] == 4
        assert counts["images"] == 6
        assert list(target.parent.iterdir()) == [target]

    def test_the_bytes_depend_on_nothing_else(self, wordnet_folder, emoji_folder, recipe, tmp_path):
        tarball = tmp_path / "package.tgz"
        with tarfile.open(tarball, "w:gz") as archive:
            archive.add(emoji_folder, arcname="package")
        target = tmp_path / "sample"
        program = (
            "import sys; from pathlib import Path; from build_wordnet_emoji import build;"
            "build(*map(Path, sys.argv[1:]))"
        )
        contents = []
        for seed, package in (("1", emoji_folder), ("2", tarball), ("3", emoji_folder)):
            subprocess.run(
                [sys.executable, "-c", program, wordnet_folder, package, recipe, target],
                env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": self.path()},
                check=True,
            )
            contents.append(self.contents(target))
        assert contents[0] == contents[1] == contents[2]

    def path(self) -> str:
        return os.pathsep.join([str(SCRIPT.parent), str(PROJECT / "src")])

    def test_a_failed_build_leaves_the_old_sample(self, wordnet_folder, recipe, tmp_path):
        target = tmp_path / "sample"
        target.mkdir()
        (target / "train.tsv").write_text("old")
        with pytest.raises(DataError, match=r"no emoji\.json"):
            script.build(wordnet_folder, tmp_path, recipe, target)
        assert self.contents(target) == {"train.tsv": b"old"}
