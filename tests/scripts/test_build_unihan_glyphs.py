"""The sample of characters: what it holds, that no text shows one, and that the script makes it."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from mkgformer_kedro.errors import DataError

PROJECT = Path(__file__).parents[2]
SAMPLE = PROJECT / "data/01_raw/unihan_glyphs"
SCRIPT = PROJECT / "scripts/build_unihan_glyphs.py"
PACKAGES = (Path("/usr/share/unicode"), Path("/usr/share/fonts/opentype/noto"))
SPLITS = ("train", "dev", "test")
TEXT = {"reading", "variant"}

Triple = tuple[str, str, str]


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


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def triples() -> dict[str, list[Triple]]:
    return {name: rows(f"{name}.tsv") for name in SPLITS}


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return dict(rows("entity2text.txt"))


@pytest.fixture(scope="module")
def images() -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = {}
    for path in sorted(SAMPLE.glob("images/*/*")):
        with Image.open(path) as image:
            assert (image.mode, image.size, image.format) == ("L", (64, 64), "PNG")
            found.setdefault(path.parent.name, {})[path.stem] = np.asarray(image)
    return found


class TestEmbeddedSample:
    def test_the_readme_gives_the_counts_of_the_files(self, triples, texts, images):
        readme = (SAMPLE / "README.md").read_text(encoding="utf-8")
        table = dict(
            re.findall(r"^\| (.+?) \| (?:[a-z ]+ \| )?([\d,]+) \|$", readme, flags=re.MULTILINE)
        )
        sizes = Counter(relation for part in triples.values() for _, relation, _ in part)
        assert {name: int(count.replace(",", "")) for name, count in table.items()} == {
            "entities": len(texts),
            "of these characters": sum(entity.startswith("U+") for entity in texts),
            "entities with images": len(images),
            "images": sum(map(len, images.values())),
            "relations": len(rows("relations.txt")),
            **{f"{name} triples": len(part) for name, part in triples.items()},
            **{f"`{relation}`": size for relation, size in sizes.items()},
        }

    def test_no_text_shows_a_character(self, texts):
        for text in [*texts.values(), *dict(rows("relation2text.txt")).values()]:
            for letter in text:
                script_of = unicodedata.name(letter).split()[0]
                assert script_of not in {"CJK", "KANGXI", "HIRAGANA", "KATAKANA", "HANGUL"}, text
                assert ord(letter) < 0x3000, text
            assert not re.search(r"U\+[0-9A-F]{4}", text), text

    def test_no_text_of_a_character_names_its_radical_or_strokes(self, texts):
        for entity, text in texts.items():
            if entity.startswith("U+"):
                assert "radical" not in text.lower()
                assert not re.search(r"\bstrokes?\b.*\bcharacter", text)
                assert re.search(r"read \w+$", text), text

    def test_every_entity_is_used_and_has_a_text_and_every_relation_too(self, triples, texts):
        used = {one for part in triples.values() for head, _, tail in part for one in (head, tail)}
        assert list(texts) == [entity for (entity,) in rows("entities.txt")] == sorted(used)
        assert all(texts.values())
        relations = {relation for part in triples.values() for _, relation, _ in part}
        assert relations == {name for (name,) in rows("relations.txt")}
        assert relations == set(dict(rows("relation2text.txt")))

    def test_characters_and_radicals_have_two_images_each(self, texts, images):
        pictured = {entity for entity in texts if entity.startswith(("U+", "radical_"))}
        assert set(images) == pictured
        for glyphs in images.values():
            assert set(glyphs) == {"sans", "serif"}

    def test_images_are_glyphs_that_fill_their_square(self, images):
        """No two characters look alike, so none is drawn as the box of a missing glyph."""
        for style in ("sans", "serif"):
            drawn = {
                entity: glyphs[style].tobytes()
                for entity, glyphs in images.items()
                if entity.startswith("U+")
            }
            assert len(set(drawn.values())) == len(drawn)
        for glyphs in images.values():
            for glyph in glyphs.values():
                ink = (glyph < 128).any(axis=0).sum(), (glyph < 128).any(axis=1).sum()
                assert max(ink) >= 36
                assert glyph.max() == 255

    def test_facts_of_one_character_are_those_one_sees(self, triples):
        """The character of U+6CB3: three drops of water, and a box within a corner."""
        facts = [
            (relation, tail)
            for part in triples.values()
            for head, relation, tail in part
            if head == "U+6CB3"
        ]
        assert sorted(facts) == [
            ("first_component", "component_E"),
            ("last_component", "component_R"),
            ("lower_left", "shape_1"),
            ("lower_right", "shape_2"),
            ("phonetic_group", "phonetic_487"),
            ("radical", "radical_85"),
            ("reading", "syllable_he"),
            ("strokes", "strokes_8"),
            ("upper_left", "shape_3"),
            ("upper_right", "shape_1"),
        ]

    def test_answers_are_worded(self, texts):
        assert texts["radical_85"] == "radical water"
        assert texts["component_E"] == "component water"
        assert texts["strokes_21"] == "twenty-one strokes"
        assert texts["U+6CB3"] == "river, stream; the Yellow River; read hé"
        assert texts["U+99AC"] == "horse, surname; read mǎ"

    def test_every_answer_is_had_by_enough_characters(self, triples):
        everything = [triple for part in triples.values() for triple in part]
        assert len(set(everything)) == len(everything)
        counts = Counter((relation, tail) for _, relation, tail in everything)
        assert min(count for (name, _), count in counts.items() if name != "variant") >= 4

    def test_the_digests_name_every_file(self):
        recorded = {
            name: digest for digest, name in (row.split("  ") for (row,) in rows("SHA256SUMS"))
        }
        assert recorded == {
            name: hashlib.sha256(content).hexdigest()
            for name, content in contents(SAMPLE).items()
            if name != "SHA256SUMS"
        }

    def test_it_is_small(self):
        assert sum(map(len, contents(SAMPLE).values())) <= 8_000_000


class TestSplit:
    def test_train_does_not_say_how_a_character_of_dev_and_test_looks(self, triples):
        seen = {
            name: {head for head, relation, _ in part if relation not in TEXT}
            for name, part in triples.items()
        }
        assert not seen["train"] & (seen["dev"] | seen["test"])
        assert not seen["dev"] & seen["test"]
        assert len(seen["dev"]) == len(seen["test"]) == sum(map(len, seen.values())) // 20

    def test_train_knows_every_entity_and_every_answer_by_its_relation(self, triples):
        known = {one for head, _, tail in triples["train"] for one in (head, tail)}
        answers = {(relation, tail) for _, relation, tail in triples["train"]}
        for name in ("dev", "test"):
            for head, relation, tail in triples[name]:
                assert {head, tail} <= known
                assert relation == "variant" or (relation, tail) in answers

    def test_no_two_characters_are_linked_twice(self, triples):
        pairs = [
            frozenset((head, tail))
            for part in triples.values()
            for head, relation, tail in part
            if relation == "variant"
        ]
        assert len(set(pairs)) == len(pairs)

    def test_it_is_made_of_all_triples_whatever_their_order(self):
        look = {
            f"U+{number:04X}": [
                (f"U+{number:04X}", "strokes", f"strokes_{number % 3}"),
                (f"U+{number:04X}", "radical", f"radical_{number % 5}"),
            ]
            for number in range(60)
        }
        text = [(point, "reading", f"syllable_{int(point[2:], 16) % 7}") for point in look]
        parts = script.split(look, text)
        turned = dict(reversed(look.items()))
        assert parts == script.split(turned, text[::-1])
        whole = sorted(triple for part in parts.values() for triple in part)
        assert whole == sorted([*text, *(triple for part in look.values() for triple in part)])
        assert Counter(relation for _, relation, _ in parts["test"]) == {
            "strokes": 3,
            "radical": 3,
            "reading": 3,
        }

    def test_a_character_with_an_answer_of_its_own_stays_in_train(self):
        look = {f"U+{n:04X}": [(f"U+{n:04X}", "radical", f"radical_{n}")] for n in range(40)}
        text = [(point, "reading", "syllable_a") for point in look]
        parts = script.split(look, text)
        assert {relation for name in ("dev", "test") for _, relation, _ in parts[name]} == {
            "reading"
        }


class TestTexts:
    @pytest.mark.parametrize(
        ("definition", "shown"),
        [
            ("horse; surname; Kangxi radical 187", "horse; surname"),
            ("gather; (same as U+6ED9 \u6ed9) to remit", "gather; to remit"),
            ("water (liquid), juice", "water (liquid), juice"),
            ("variant of \u6ed9; river", "river"),
            ("non-standard form of U+6ED9 \u6ed9", ""),
        ],
    )
    def test_parts_that_show_a_character_are_left_out(self, definition, shown):
        assert script.shorten(definition) == shown

    @pytest.mark.parametrize(
        ("definition", "text"),
        [
            ("dog", "dog, read x"),
            ("rest, stop; retire", "rest, stop; retire; read x"),
            ("inch; small", "inch, small; read x"),
        ],
    )
    def test_the_first_meaning_is_the_name(self, definition, text):
        assert script.describe(definition, "x") == text

    def test_syllables_have_no_tone(self):
        readings = ("xiū", "lǜ", "a", "ér")
        assert [script.syllable_of(one) for one in readings] == ["xiu", "lü", "a", "er"]

    def test_numbers_are_words(self):
        numbers = {1: "one", 19: "nineteen", 20: "twenty", 21: "twenty-one", 40: "forty"}
        assert {number: script.in_words(number) for number in numbers} == numbers


class TestScript:
    def test_a_missing_table_and_another_version_are_named(self, tmp_path):
        with pytest.raises(DataError, match=r"no such file.*unicode-data"):
            script.Unihan(tmp_path)
        (tmp_path / "UnicodeData.txt").write_text("0041;A\n")
        with pytest.raises(DataError, match="another version"):
            script.Unihan(tmp_path)

    def test_it_makes_the_embedded_sample(self, tmp_path, lacks):
        tables, fonts = PACKAGES
        try:
            script.Unihan(tables)
            for name, digest in script.FONT_FILES.items():
                script.check(fonts / name, digest, "fonts-noto-cjk")
        except DataError as error:
            lacks(str(error))
        target = tmp_path / "sample"
        subprocess.run(
            [sys.executable, SCRIPT, "--target", target],
            env={**os.environ, "PYTHONHASHSEED": "1"},
            check=True,
        )
        made, kept = contents(target), contents(SAMPLE)
        assert made.keys() == kept.keys()
        assert [name for name in made if made[name] != kept[name]] == []
