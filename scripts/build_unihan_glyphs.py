"""Rebuild the embedded sample `unihan_glyphs` from Unicode's tables and the Noto CJK fonts.

    apt-get install unicode-data fonts-noto-cjk
    python scripts/build_unihan_glyphs.py

Chinese characters, and how they are written. The text of a character is its English definition
and its reading, never the character; its images are the glyph in two fonts. Radical, corners,
components, strokes and sound element are facts that only a look answers. Dev and test are
characters of which train tells none of these, so that none follows from another. The same input
gives the same bytes.

Fields: https://www.unicode.org/reports/tr38/
"""

from __future__ import annotations

import argparse
import bz2
import hashlib
import io
import re
import shutil
import string
import tempfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from PIL import Image, ImageDraw, ImageFont

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import replace_folder, sha256_of

PROJECT = Path(__file__).parents[1]
RECIPE = Path(__file__).with_name("unihan_glyphs")

SEED = 0
# One in so many characters, and of the readings and variants of others, is held out for dev, and
# one for test.
ONE_IN = 20
# An answer that fewer characters have is left out: it could not be learned.
LEAST = 4

SIDE = 64
FACE = 3  # Traditional Chinese, whose shapes the codes of corners and components describe
# Of the em, above the baseline: the fonts' ideographs fill their em box.
ASCENT = 0.88
FONTS = {"sans": "NotoSansCJK-Regular.ttc", "serif": "NotoSerifCJK-Regular.ttc"}

UNICODE_FILES = {
    "UnicodeData.txt": "806e9aed65037197f1ec85e12be6e8cd870fc5608b4de0fffd990f689f376a73",
    "CJKRadicals.txt": "eab71fa920ac3bba7678c3d0ebb40de9fa30fda24eebf85aa24745b5400a1427",
    "Unihan_DictionaryLikeData.txt.bz2": (
        "58ee7e91841fc5c87cedc1ee03351a898a60fa16532368ebbba04163be777012"
    ),
    "Unihan_IRGSources.txt.bz2": "52e6e55d22dd124d61dfbb845033fe354caf9a62ab84ac89aa0c374b0f8b99c5",
    "Unihan_Readings.txt.bz2": "216d9e19e44195522b84a05bf7308e385356615121258869faf919e96824ddd5",
    "Unihan_Variants.txt.bz2": "42f42d18fe0368ca8dfb76d91bb2612b4bb34fe7960a4aa770687c0bf48a0cce",
}
FONT_FILES = {
    "NotoSansCJK-Regular.ttc": "b76b0433203017ca80401b2ee0dd69350349871c4b19d504c34dbdd80541690a",
    "NotoSerifCJK-Regular.ttc": "a04178ec485dffdff7cc0c0c20e1fce9202d7e2160d805e8e44a4c8841c58481",
}
VARIANTS = (
    "kSemanticVariant", "kSimplifiedVariant", "kSpecializedSemanticVariant", "kTraditionalVariant",
)  # fmt: skip
CORNERS = ("upper_left", "upper_right", "lower_left", "lower_right")

# Text of a character where texts are to tell nothing. A code point would tell: they are numbered by
# radical.
KIND = "a character"

# What would show a character in a text: itself, a code point, or the number of its radical.
REVEALING = re.compile(r"[^\u0000-\u024f\u2010-\u2027]|U\+[0-9A-F]|radical", re.IGNORECASE)

NUMBERS = (
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty")

Triple = tuple[str, str, str]


class Unihan:
    """Tables of the Unicode Character Database.

    Args:
        folder: Folder of Debian's package `unicode-data`.

    Attributes:
        fields: Value by code point (`U+6CB3`), by field.
        variants: Variants of a code point, by whichever of the two they are named.
        radicals: (code point of its glyph, English name) by number.

    Raises:
        DataError: A file is missing, or another version.
    """

    def __init__(self, folder: Path) -> None:
        for name, digest in UNICODE_FILES.items():
            check(folder / name, digest, "unicode-data 15.0.0-1")
        self.fields: dict[str, dict[str, str]] = defaultdict(dict)
        for name in UNICODE_FILES:
            if name.endswith(".bz2"):
                for line in bz2.decompress((folder / name).read_bytes()).decode().splitlines():
                    if line.startswith("U+"):
                        point, key, value = line.split("\t")
                        self.fields[key][point] = value
        self.variants: dict[str, set[str]] = defaultdict(set)
        for field in VARIANTS:
            for point, value in self.fields[field].items():
                for variant in re.findall(r"U\+[0-9A-F]+", value):
                    self.variants[point].add(variant)
                    self.variants[variant].add(point)
        names = dict(
            line.split(";", 2)[:2]
            for line in (folder / "UnicodeData.txt").read_text(encoding="utf-8").splitlines()
        )
        self.radicals: dict[int, tuple[str, str]] = {}
        for line in (folder / "CJKRadicals.txt").read_text(encoding="utf-8").splitlines():
            number, *points = line.split("; ")
            if number.isdigit():
                symbol, ideograph = points
                name = names[symbol].removeprefix("KANGXI RADICAL ").lower()
                self.radicals[int(number)] = (f"U+{ideograph}", name)

    def first(self, field: str, point: str) -> str:
        """The first value of a field."""
        return self.fields[field][point].split()[0]


def check(path: Path, digest: str, package: str) -> None:
    """Make sure that a file is the one that the sample is made of.

    Raises:
        DataError: It is missing, or another version.
    """
    remedy = f"Install Debian's {package}"
    if not path.is_file():
        raise DataError(Problem(str(path), None, "no such file", remedy))
    if sha256_of(path) != digest:
        raise DataError(Problem(str(path), None, "another version of the file", remedy))


def shorten(definition: str) -> str:
    """A definition without the parts that show a character.

    Args:
        definition: Value of `kDefinition`, meanings separated by semicolons.

    Returns:
        The meanings that are left, "" for none.
    """
    plain = re.sub(
        r"\s*\([^)]*\)", lambda part: "" if REVEALING.search(part[0]) else part[0], definition
    )
    meanings = (meaning.strip() for meaning in plain.split(";"))
    return "; ".join(one for one in meanings if one and not REVEALING.search(one))


def describe(definition: str, reading: str) -> str:
    """Text of a character: first meaning, comma, other meanings and reading."""
    first, separator, rest = re.fullmatch(r"([^,;]*)([,;]?)\s*(.*)", definition).groups()
    return f"{first.strip()}, {f'{rest}; ' if separator else ''}read {reading}"


def syllable_of(reading: str) -> str:
    """A reading in Pinyin without its tone: `xiū` becomes `xiu`, `lǜ` becomes `lü`."""
    parts = unicodedata.normalize("NFD", reading)
    kept = "".join(part for part in parts if part.isascii() or part == "\u0308")
    return unicodedata.normalize("NFC", kept)


def in_words(number: int) -> str:
    """A number from 1 to 49 in words."""
    if number < 20:
        return NUMBERS[number - 1]
    tens, ones = divmod(number, 10)
    return TENS[tens - 2] + (f"-{NUMBERS[ones - 1]}" if ones else "")


def choose_characters(unihan: Unihan) -> dict[str, str]:
    """Text of every character of the sample, in the order of code points.

    These are the characters with a grade level, a definition that can be told, and all codes.
    """
    needed = ("kDefinition", "kMandarin", "kFourCornerCode", "kCangjie", "kTotalStrokes")
    texts = {}
    for point in sorted(unihan.fields["kGradeLevel"]):
        if all(point in unihan.fields[field] for field in needed):
            definition = shorten(unihan.fields["kDefinition"][point])
            if definition:
                texts[point] = describe(definition, unihan.first("kMandarin", point))
    return texts


def look_facts(unihan: Unihan, point: str) -> Iterator[tuple[str, str]]:
    """(relation, answer) for what a look at a character tells."""
    radical = unihan.first("kRSUnicode", point).partition(".")[0].strip("'")
    yield "radical", f"radical_{radical}"
    for corner, digit in zip(CORNERS, unihan.first("kFourCornerCode", point), strict=False):
        yield corner, f"shape_{digit}"
    components = unihan.first("kCangjie", point)
    yield "first_component", f"component_{components[0]}"
    if len(components) > 1:
        yield "last_component", f"component_{components[-1]}"
    yield "strokes", f"strokes_{unihan.first('kTotalStrokes', point)}"
    groups = unihan.fields["kPhonetic"].get(point, "").split()
    for group in sorted({re.sub(r"\D", "", group) for group in groups}):
        yield "phonetic_group", f"phonetic_{group}"


def text_facts(unihan: Unihan, point: str) -> Iterator[tuple[str, str]]:
    """(relation, answer) for what the text of a character tells, one direction of variants."""
    yield "reading", f"syllable_{syllable_of(unihan.first('kMandarin', point))}"
    for variant in sorted(unihan.variants[point]):
        if variant > point:
            yield "variant", variant


def describe_answers(unihan: Unihan, words: Mapping[str, Any]) -> dict[str, str]:
    """Text of every entity that is no character, of whatever number or name; by its id."""
    texts = {
        f"radical_{number}": f"radical {name}" for number, (_, name) in unihan.radicals.items()
    }
    texts |= {f"shape_{digit}": text for digit, text in enumerate(words["shapes"])}
    texts |= {f"component_{key}": f"component {name}" for key, name in words["components"].items()}
    texts |= {f"strokes_{n}": f"{in_words(n)} stroke{'s' * (n > 1)}" for n in range(1, 50)}
    return texts


def text_of(answer: str, known: Mapping[str, str]) -> str:
    """Text of an answer: its own, or the words of its id (`syllable_xiu`, `phonetic_487`)."""
    kind, _, name = answer.partition("_")
    return known.get(answer) or f"{'phonetic group' if kind == 'phonetic' else kind} {name}"


def keep_frequent(triples: Sequence[Triple], characters: Mapping[str, str]) -> list[Triple]:
    """The triples whose answer is a character of the sample, or one that enough characters have."""
    sizes = Counter((relation, tail) for _, relation, tail in triples)
    return [
        (head, relation, tail)
        for head, relation, tail in triples
        if (tail in characters if tail.startswith("U+") else sizes[relation, tail] >= LEAST)
    ]


def rank(key: str) -> bytes:
    """Where something stands in the order in which it is held out."""
    return hashlib.sha256(f"{SEED}/{key}".encode()).digest()


def split(look: Mapping[str, Sequence[Triple]], text: Sequence[Triple]) -> dict[str, list[Triple]]:
    """Hold out characters from what a look tells, and single triples from what the text tells.

    Args:
        look: Triples that a look at a character answers, by character.
        text: Triples that its text answers.

    Returns:
        Triples of train, dev and test, sorted. Every entity of dev and test is in train, and every
        answer in a triple of the same relation.
    """
    parts: dict[str, list[Triple]] = {"train": [], "dev": [], "test": []}
    told = {entity for head, _, tail in text for entity in (head, tail)}
    left = Counter((relation, tail) for part in look.values() for _, relation, tail in part)
    size = len(look) // ONE_IN
    wanted = {"test": size, "dev": size}
    held_out = set()
    for point in sorted(look, key=rank):
        answers = Counter((relation, tail) for _, relation, tail in look[point])
        name = next((name for name, count in wanted.items() if count), "train")
        if point not in told or any(left[one] <= count for one, count in answers.items()):
            name = "train"
        parts[name] += look[point]
        if name != "train":
            wanted[name] -= 1
            left -= answers
            held_out.add(point)

    left = Counter((relation, tail) for _, relation, tail in text)
    places = {name: len(text) // ONE_IN for name in ("test", "dev")}
    for triple in sorted(text, key=lambda triple: rank("/".join(triple))):
        head, relation, tail = triple
        name = next((name for name, count in places.items() if count), "train")
        answered = relation == "variant" or left[relation, tail] > 1
        if not answered or held_out & {head, tail}:
            name = "train"
        parts[name].append(triple)
        if name != "train":
            places[name] -= 1
            left[relation, tail] -= 1
    return {name: sorted(part) for name, part in parts.items()}


@cache
def font(path: Path) -> ImageFont.FreeTypeFont:
    """A font at the size of the images."""
    engine = ImageFont.Layout.BASIC
    return ImageFont.truetype(path, SIDE, index=FACE, layout_engine=engine)


def draw_glyph(point: str, path: Path) -> Image.Image:
    """Draw a character, black on white.

    Args:
        point: Its code point, `U+6CB3`.
        path: The font.

    Returns:
        Grey image, SIDE pixels wide and high.
    """
    image = Image.new("L", (SIDE, SIDE), 255)
    place = (0, round(ASCENT * SIDE))
    character = chr(int(point[2:], 16))
    ImageDraw.Draw(image).text(place, character, fill=0, font=font(path), anchor="ls")
    return image


def png(image: Image.Image) -> bytes:
    """An image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@dataclass(frozen=True)
class Sample:
    """The sample before it is written.

    Attributes:
        texts: Text by entity.
        glyphs: Code point of the glyph by entity that has images.
        relations: Text by relation.
        look: Relations that only a look answers.
        parts: Triples by split.
    """

    texts: dict[str, str]
    glyphs: dict[str, str]
    relations: dict[str, str]
    look: frozenset[str]
    parts: dict[str, list[Triple]]


def make_sample(unihan: Unihan, words: Mapping[str, Any]) -> Sample:
    """Make entities, relations and triples.

    Args:
        unihan: Unicode's tables.
        words: Content of `words.yml`.
    """
    characters = choose_characters(unihan)

    def triples(facts: Any) -> list[Triple]:
        found = [(point, *fact) for point in characters for fact in facts(unihan, point)]
        return keep_frequent(found, characters)

    look = defaultdict(list)
    for triple in triples(look_facts):
        look[triple[0]].append(triple)
    parts = split(look, triples(text_facts))

    known = describe_answers(unihan, words) | characters
    used = sorted(
        {one for part in parts.values() for head, _, tail in part for one in (head, tail)}
    )
    glyphs = {f"radical_{number}": point for number, (point, _) in unihan.radicals.items()}
    glyphs |= {point: point for point in characters}
    return Sample(
        texts={entity: text_of(entity, known) for entity in used},
        glyphs={entity: glyphs[entity] for entity in used if entity in glyphs},
        relations={**words["relations"]["look"], **words["relations"]["text"]},
        look=frozenset(words["relations"]["look"]),
        parts=parts,
    )


def build(unicode_folder: Path, fonts: Path, target: Path) -> dict[str, int]:
    """Build the sample and put it in the place of ``target``.

    Args:
        unicode_folder: Folder of `unicode-data`.
        fonts: Folder of `fonts-noto-cjk`.
        target: Folder to write.

    Returns:
        The counts that the README gives.

    Raises:
        DataError: Input is missing or another version.
    """
    for name, digest in FONT_FILES.items():
        check(fonts / name, digest, "fonts-noto-cjk 1:20220127+repack1-1")
    words = yaml.safe_load((RECIPE / "words.yml").read_text(encoding="utf-8"))
    sample = make_sample(Unihan(unicode_folder), words)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        folder = Path(scratch) / target.name
        for entity, point in sample.glyphs.items():
            (folder / "images" / entity).mkdir(parents=True)
            for name, file in FONTS.items():
                content = png(draw_glyph(point, fonts / file))
                (folder / "images" / entity / f"{name}.png").write_bytes(content)
        counts = write_texts(sample, folder)
        replace_folder(folder, target)
    return counts


def write_texts(sample: Sample, folder: Path) -> dict[str, int]:
    """Write everything but the images, and the digests of all.

    Args:
        sample: The sample.
        folder: Folder that holds the images.

    Returns:
        The counts that the README gives.
    """
    for name, part in sample.parts.items():
        _write_lines(folder / f"{name}.tsv", map("\t".join, part))
    _write_lines(folder / "entities.txt", sample.texts)
    _write_lines(folder / "relations.txt", sample.relations)
    kinds = {one: KIND if one.startswith("U+") else text for one, text in sample.texts.items()}
    names = {one: text.partition(",")[0] for one, text in sample.texts.items()}
    for name, texts in (("text", sample.texts), ("name", names), ("kind", kinds)):
        _write_lines(folder / f"entity2{name}.txt", map("\t".join, texts.items()))
    _write_lines(folder / "relation2text.txt", map("\t".join, sample.relations.items()))
    for name in ("LICENSE-unicode.txt", "LICENSE-noto-cjk.txt"):
        shutil.copyfile(RECIPE / name, folder / name)

    held_out = {head for head, relation, _ in sample.parts["test"] if relation in sample.look}
    counts = {
        "entities": len(sample.texts),
        "characters": sum(entity.startswith("U+") for entity in sample.texts),
        "with_images": len(sample.glyphs),
        "images": len(sample.glyphs) * len(FONTS),
        "relations": len(sample.relations),
        **{name: len(part) for name, part in sample.parts.items()},
    }
    sizes = Counter(relation for part in sample.parts.values() for _, relation, _ in part)
    answered_by = {name: "a look" if name in sample.look else "text" for name in sample.relations}
    table = "\n".join(f"| `{name}` | {by} | {sizes[name]:,} |" for name, by in answered_by.items())
    template = string.Template((RECIPE / "README.md.template").read_text(encoding="utf-8"))
    readme = template.substitute(
        {name: f"{count:,}" for name, count in counts.items()},
        relation_table=table,
        least=LEAST,
        held_out=len(held_out),
    )
    (folder / "README.md").write_text(readme, encoding="utf-8")
    files = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    _write_lines(folder / "SHA256SUMS", (f"{sha256_of(folder / name)}  {name}" for name in files))
    return counts


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Build the sample as the command line says."""
    parser = argparse.ArgumentParser(description="Rebuild the embedded sample unihan_glyphs.")
    parser.add_argument(
        "--unicode", type=Path, default=Path("/usr/share/unicode"), help="folder of unicode-data"
    )
    parser.add_argument(
        "--fonts",
        type=Path,
        default=Path("/usr/share/fonts/opentype/noto"),
        help="folder of fonts-noto-cjk",
    )
    parser.add_argument("--target", type=Path, default=PROJECT / "data/01_raw/unihan_glyphs")
    arguments = parser.parse_args()
    try:
        counts = build(arguments.unicode, arguments.fonts, arguments.target)
    except DataError as error:
        parser.exit(1, f"{error}\n")
    print(", ".join(f"{count} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
