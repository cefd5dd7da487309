"""Rebuild the embedded sample `wordnet_emoji` from the two packages it is made of.

    apt-get install wordnet-base
    npm pack emoji-datasource-google@16.0.0
    python scripts/build_wordnet_emoji.py \
        --wordnet /usr/share/wordnet --emoji emoji-datasource-google-16.0.0.tgz

An emoji is matched to the WordNet noun that it shows: by its names, and by the lexicographer file
(noun.animal, noun.food, ...) that fits its subcategory, for the first sense of a word is often
another thing (the first "bikini" is an atoll). `wordnet_emoji/matches.tsv` decides where that rule
would go wrong; all matches were reviewed by eye. The graph is what WordNet says about the matched
synsets, their hypernyms and the nouns that tie them together. The same input gives the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import string
import tarfile
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import replace_folder, sha256_of

PROJECT = Path(__file__).parents[1]
RECIPE = Path(__file__).with_name("wordnet_emoji")

ENTITIES = 2_050
EVALUATION_SHARE = 1 / 12
MAX_IMAGES = 5
MAX_PRIVATE_HYPERNYMS = 2
SEED = 0

# One direction of each relation, the one that WN18RR keeps: no triple has an inverse by another
# name. domain_usage is left out: it leaves fewer than ten triples.
RELATIONS = {
    "@": ("_hypernym", False),
    "@i": ("_instance_hypernym", False),
    "%m": ("_member_meronym", False),
    "#m": ("_member_meronym", True),
    "%p": ("_has_part", False),
    "#p": ("_has_part", True),
    ";c": ("_synset_domain_topic_of", False),
    "-c": ("_synset_domain_topic_of", True),
    "-r": ("_member_of_domain_region", False),
    ";r": ("_member_of_domain_region", True),
    "+": ("_derivationally_related_form", False),
}
SYMMETRIC = {"_derivationally_related_form"}
UPWARDS = {"_hypernym", "_instance_hypernym"}

# Numbers of WordNet's noun files, see lexnames(5WN).
LEXICOGRAPHER_FILES = {
    "03": "Tops", "04": "act", "05": "animal", "06": "artifact", "07": "attribute", "08": "body",
    "09": "cognition", "10": "communication", "11": "event", "12": "feeling", "13": "food",
    "14": "group", "15": "location", "16": "motive", "17": "object", "18": "person",
    "19": "phenomenon", "20": "plant", "21": "possession", "22": "process", "23": "quantity",
    "24": "relation", "25": "shape", "26": "state", "27": "substance", "28": "time",
}  # fmt: skip

# Lexicographer files in which the emoji of a subcategory are looked up, in this order. Emoji of
# the other subcategories (smileys, gestures, signs) show a noun only where matches.tsv says so.
SUBCATEGORIES = {
    "animal-mammal": ["animal"], "animal-bird": ["animal"], "animal-amphibian": ["animal"],
    "animal-reptile": ["animal"], "animal-marine": ["animal"], "animal-bug": ["animal"],
    "plant-flower": ["plant", "artifact"], "plant-other": ["plant"],
    "food-fruit": ["food"], "food-vegetable": ["food", "plant"], "food-prepared": ["food"],
    "food-asian": ["food"], "food-sweet": ["food"],
    "drink": ["food", "artifact"], "dishware": ["artifact"],
    "sky & weather": ["object", "phenomenon", "artifact", "time"], "time": ["artifact"],
    "place-map": ["artifact"], "place-geographic": ["object", "location"],
    "place-building": ["artifact", "group"], "place-religious": ["artifact"],
    "place-other": ["artifact", "phenomenon"], "hotel": ["artifact"],
    "transport-ground": ["artifact"], "transport-water": ["artifact"],
    "transport-air": ["artifact"],
    "body-parts": ["body"], "person": ["person"], "person-role": ["person"],
    "person-fantasy": ["person"], "person-sport": ["person"], "person-activity": ["person"],
    "face-costume": ["person", "artifact"],
    "clothing": ["artifact"], "musical-instrument": ["artifact"], "tool": ["artifact"],
    "music": ["artifact", "communication"], "light & video": ["artifact"],
    "computer": ["artifact"], "phone": ["artifact"], "office": ["artifact", "communication"],
    "writing": ["artifact"], "mail": ["artifact"], "lock": ["artifact"], "medical": ["artifact"],
    "science": ["artifact", "substance"], "sound": ["artifact"], "household": ["artifact"],
    "book-paper": ["artifact", "communication"], "other-object": ["artifact"],
    "money": ["possession", "artifact", "communication"], "award-medal": ["artifact"],
    "sport": ["artifact", "act"], "game": ["artifact", "act"], "arts & crafts": ["artifact"],
    "event": ["artifact", "communication"], "flag": ["artifact"], "zodiac": ["location"],
    "country-flag": ["location"], "subdivision-flag": ["location"],
}  # fmt: skip
FLAGS = {"country-flag", "subdivision-flag"}
# Roles come as a person, a man and a woman: three images of one noun.
GENDERED = {"person-role", "person-fantasy"}

Triple = tuple[str, str, str]


@dataclass(frozen=True)
class Synset:
    """A noun synset of WordNet.

    Attributes:
        id: Offset in `data.noun`, eight digits, as in WN18.
        file: Lexicographer file without `noun.`.
        words: Its lemmas, underscores for blanks.
        gloss: Definition and examples.
        pointers: (pointer symbol, id) for every pointer to a noun.
    """

    id: str
    file: str
    words: tuple[str, ...]
    gloss: str
    pointers: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """First word and gloss, written as WN18 writes them."""
        return f"{self.words[0].replace('_', ' ').lower()}, {self.gloss}"


class WordNet:
    """The nouns of a WordNet 3.0 database folder. Formats: wndb(5WN), morphy(7WN)."""

    _DETACHMENTS = (
        ("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"),
        ("men", "man"), ("ies", "y"),
    )  # fmt: skip

    def __init__(self, folder: Path) -> None:
        self.licence = "".join(
            f"{line[2:].partition(' ')[2].rstrip()}\n"
            for line in _lines(folder / "data.noun")
            if line.startswith("  ")
        )
        self.synsets = {
            synset.id: synset for synset in map(parse_synset, _records(folder / "data.noun"))
        }
        self.senses = dict(map(parse_index, _records(folder / "index.noun")))
        self._exceptions = {
            words[0]: words[1:] for words in map(str.split, _records(folder / "noun.exc"))
        }

    def sense(self, name: str) -> str:
        """Id of a sense named `lemma.n.number`; KeyError where there is none."""
        lemma, _, number = name.rsplit(".", 2)
        senses = self.senses.get(lemma, ())
        if not 1 <= int(number) <= len(senses):
            raise KeyError(name)
        return senses[int(number) - 1]

    def lemmas(self, phrase: str) -> list[str]:
        """Lemmas that a phrase may stand for: as one word or several, in singular or plural."""
        spellings = [re.sub(r"[ _-]", joint, phrase) for joint in ("_", "-", "")]
        forms = []
        for spelling in [phrase.replace(" ", "_"), *spellings]:
            forms += [spelling, *self._exceptions.get(spelling, ())]
            forms += [
                spelling.removesuffix(ending) + singular
                for ending, singular in self._DETACHMENTS
                if spelling.endswith(ending)
            ]
        return [form for form in dict.fromkeys(forms) if form in self.senses]

    def triples(self) -> set[Triple]:
        """Every triple between two different nouns, by RELATIONS, in one direction."""
        found = set()
        for synset in self.synsets.values():
            for symbol, other in synset.pointers:
                if symbol not in RELATIONS or other == synset.id:
                    continue
                relation, reversed_ = RELATIONS[symbol]
                head, tail = (other, synset.id) if reversed_ else (synset.id, other)
                if relation in SYMMETRIC:
                    head, tail = sorted((head, tail))
                found.add((head, relation, tail))
        return found


def parse_synset(line: str) -> Synset:
    """Read a line of `data.noun`; pointers to other parts of speech are left out."""
    fields, _, gloss = line.partition(" | ")
    offset, file, _, count, *rest = fields.split()
    words, rest = rest[: 2 * int(count, 16) : 2], rest[2 * int(count, 16) :]
    pointers = [rest[i : i + 3] for i in range(1, 1 + 4 * int(rest[0]), 4)]
    return Synset(
        id=offset,
        file=LEXICOGRAPHER_FILES[file],
        words=tuple(words),
        gloss=" ".join(gloss.split()),
        pointers=tuple((symbol, target) for symbol, target, part in pointers if part == "n"),
    )


def parse_index(line: str) -> tuple[str, tuple[str, ...]]:
    """Read a line of `index.noun`: a lemma and the ids of its senses, most frequent first."""
    fields = line.split()
    return fields[0], tuple(fields[-int(fields[2]) :])


@dataclass(frozen=True)
class Emoji:
    """An entry of `emoji.json`.

    Attributes:
        short_name: Its key, e.g. `hot_pepper`.
        names: Every name of it, blanks between words, lower case; short names come first.
        subcategory: Unicode's subcategory, e.g. `food-vegetable`.
        order: Unicode's sort order.
        images: File names: the plain image, then its skin tones.
    """

    short_name: str
    names: tuple[str, ...]
    subcategory: str
    order: int
    images: tuple[str, ...]


def parse_emoji(entry: Mapping) -> Emoji:
    """Read an entry of `emoji.json`, spelling its names as WordNet would."""
    name = (entry["name"] or "").lower()
    subcategory = entry["subcategory"]
    if subcategory in FLAGS:
        country = name.removesuffix(" flag").replace("&", "and").replace("st. ", "saint ")
        names = [country]
    else:
        names = []
        for raw in [*entry["short_names"], name]:
            plain = re.sub(r"[_-]", " ", raw).rstrip("0123456789").removesuffix(" face")
            if subcategory in GENDERED:
                plain = re.sub(r"^(?:man|woman|male|female) ", "", plain)
            names += [raw.replace("_", " "), plain]
    variations = entry.get("skin_variations", {}).values()
    return Emoji(
        short_name=entry["short_name"],
        names=tuple(dict.fromkeys(name for name in names if name)),
        subcategory=subcategory,
        order=entry["sort_order"],
        images=(entry["image"], *(variation["image"] for variation in variations)),
    )


def choose_sense(emoji: Emoji, wordnet: WordNet) -> str | None:
    """Id of the first sense of the emoji's names that lies in a file of its subcategory."""
    for name in emoji.names:
        for lemma in wordnet.lemmas(name):
            for file in SUBCATEGORIES.get(emoji.subcategory, ()):
                for sense in wordnet.senses[lemma]:
                    if wordnet.synsets[sense].file == file:
                        return sense
    return None


def read_decisions(path: Path, wordnet: WordNet, emoji: Iterable[Emoji]) -> dict[str, str | None]:
    """Read the reviewed matches: short name of an emoji -> id of a synset, None for no match.

    Raises:
        DataError: A line names no emoji, no sense, or an emoji decided before.
    """
    known = {one.short_name for one in emoji}
    decisions: dict[str, str | None] = {}
    problems = []
    for number, line in enumerate(_lines(path), start=1):
        if line.startswith("#"):
            continue
        short_names, sense, _reason = line.rstrip("\n").split("\t")
        try:
            synset = None if sense == "-" else wordnet.sense(sense)
        except KeyError:
            problems.append(Problem(str(path), number, f"no sense {sense}", "Correct the name"))
            continue
        for short_name in short_names.split(","):
            if short_name not in known or short_name in decisions:
                what = f"emoji {short_name} is unknown or decided twice"
                problems.append(Problem(str(path), number, what, "Correct or remove it"))
            decisions[short_name] = synset
    if problems:
        raise DataError(problems)
    return decisions


def match(
    emoji: Iterable[Emoji], wordnet: WordNet, decisions: Mapping[str, str | None]
) -> dict[str, list[Emoji]]:
    """Match emoji to synsets: id -> its emoji in Unicode's order."""
    matches = defaultdict(list)
    for one in sorted(emoji, key=lambda one: one.order):
        if one.short_name in decisions:
            synset = decisions[one.short_name]
        else:
            synset = choose_sense(one, wordnet)
        if synset is not None:
            matches[synset].append(one)
    return dict(matches)


class Neighbourhood:
    """Who is linked to whom, and who lies above whom, in a set of triples."""

    def __init__(self, triples: Iterable[Triple]) -> None:
        self.partners: dict[str, set[str]] = defaultdict(set)
        self.hypernyms: dict[str, set[str]] = defaultdict(set)
        for head, relation, tail in triples:
            self.partners[head].add(tail)
            self.partners[tail].add(head)
            if relation in UPWARDS:
                self.hypernyms[head].add(tail)

    def above(self, synset: str) -> set[str]:
        """All hypernyms of a synset, up to the root."""
        found: set[str] = set()
        waiting = [synset]
        while waiting:
            new = self.hypernyms[waiting.pop()] - found
            found |= new
            waiting += new
        return found


def drop_loners(matched: Iterable[str], graph: Neighbourhood) -> set[str]:
    """Matched synsets without those that would need a chain of hypernyms of their own.

    A hypernym is private to a synset when it lies above no other matched synset. Its triples
    say little that could be learned from the rest of the graph.
    """
    matched = set(matched)
    above = {synset: graph.above(synset) for synset in matched}
    served = Counter(other for synset in matched for other in above[synset] | {synset})
    return {
        synset
        for synset in matched
        if served[synset] > 1
        or sum(served[other] == 1 for other in above[synset]) <= MAX_PRIVATE_HYPERNYMS
    }


def choose_entities(with_images: set[str], graph: Neighbourhood, size: int) -> set[str]:
    """Close over hypernyms, then add nouns that tie the graph together, up to ``size``.

    The noun added next is the one linked to most entities that have one partner only; among
    equals, to most entities; then the greater id. Only nouns with at least two partners and all
    their hypernyms in the graph are added.
    """
    entities = set(with_images).union(*(graph.above(synset) for synset in with_images))
    degree = {entity: len(graph.partners[entity] & entities) for entity in entities}
    links = Counter(other for entity in entities for other in graph.partners[entity])
    candidates = {other for other in links if other not in entities}
    while len(entities) < size:
        best = None
        for other in candidates:
            if links[other] < 2 or not graph.hypernyms[other] <= entities:
                continue
            loose = sum(degree.get(one) == 1 for one in graph.partners[other])
            best = max(best or ((0, 0), ""), ((loose, links[other]), other))
        if best is None:
            break
        added = best[1]
        degree[added] = links[added]
        entities.add(added)
        candidates.discard(added)
        for other in graph.partners[added]:
            links[other] += 1
            if other in entities:
                degree[other] += 1
            else:
                candidates.add(other)
    return entities


def split(triples: Iterable[Triple], with_images: set[str], seed: int) -> dict[str, list[Triple]]:
    """Split triples so that nothing about dev and test can be looked up in train.

    Dev and test each get the same share of every relation. A triple goes there only if it is the
    only one between its two entities, and both keep a partner in train; triples with an image at
    either end go first. The order is that of a keyed hash: no generator's version changes it.

    Args:
        triples: All triples.
        with_images: Entities with images.
        seed: Key of the hash.

    Returns:
        Sorted triples by split: train, dev, test.
    """
    triples = sorted(triples)
    pairs = Counter(frozenset((head, tail)) for head, _, tail in triples)
    degree = Counter(entity for pair in pairs for entity in pair)
    sizes = Counter(relation for _, relation, _ in triples)

    def priority(triple: Triple) -> tuple[bool, str]:
        unseen = triple[0] not in with_images and triple[2] not in with_images
        key = "\t".join((str(seed), *triple))
        return unseen, hashlib.sha256(key.encode()).hexdigest()

    parts: dict[str, list[Triple]] = {"train": [], "dev": [], "test": []}
    taken: Counter[tuple[str, str]] = Counter()
    for triple in sorted(triples, key=priority):
        head, relation, tail = triple
        part = "train"
        if pairs[frozenset((head, tail))] == 1 and min(degree[head], degree[tail]) > 1:
            part = min(("dev", "test"), key=lambda name: taken[name, relation])
            if taken[part, relation] >= round(EVALUATION_SHARE * sizes[relation]):
                part = "train"
        if part != "train":
            taken[part, relation] += 1
            degree[head] -= 1
            degree[tail] -= 1
        parts[part].append(triple)
    return {name: sorted(part) for name, part in parts.items()}


def choose_images(emoji: list[Emoji], package: Mapping[str, bytes]) -> dict[str, bytes]:
    """Images of an entity by file name: plain ones of every emoji, then skin tones in turn."""
    depth = max(len(one.images) for one in emoji)
    ordered = [
        (one.images[i], one.short_name)
        for i in range(depth)
        for one in emoji
        if i < len(one.images)
    ]
    images: dict[str, bytes] = {}
    for image, short_name in ordered:
        content = package[f"img/google/64/{image}"]
        if len(images) < MAX_IMAGES and content not in images.values():
            images[f"{image.removesuffix('.png')}_{short_name}.png"] = content
    return images


def read_package(path: Path) -> dict[str, bytes]:
    """Read `emoji.json` and the 64-pixel images of the npm package, packed or unpacked.

    Raises:
        DataError: The path is neither a folder nor a tarball that holds them.
    """
    wanted = re.compile(r"emoji\.json|img/google/64/[^/]+\.png")
    files: dict[str, bytes] = {}
    if path.is_dir():
        for file in [path / "emoji.json", *(path / "img/google/64").glob("*.png")]:
            if file.is_file():
                files[file.relative_to(path).as_posix()] = file.read_bytes()
    elif path.is_file() and tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.removeprefix("package/")
                if wanted.fullmatch(name) and (file := archive.extractfile(member)):
                    files[name] = file.read()
    if "emoji.json" not in files:
        remedy = "Name the tarball of `npm pack emoji-datasource-google@16.0.0` or its folder"
        raise DataError(Problem(str(path), None, "no emoji.json in it", remedy))
    return files


def build(wordnet_folder: Path, emoji_package: Path, recipe: Path, target: Path) -> dict[str, int]:
    """Build the sample and put it in the place of ``target``.

    Args:
        wordnet_folder: Folder with `data.noun`, `index.noun`, `noun.exc` of WordNet 3.0.
        emoji_package: Tarball or folder of emoji-datasource-google.
        recipe: Folder with `matches.tsv`, `README.md.template` and `LICENSE-noto-emoji.txt`.
        target: Folder to write.

    Returns:
        The counts that the README gives.

    Raises:
        DataError: Input is missing or wrong.
    """
    wordnet = WordNet(wordnet_folder)
    package = read_package(emoji_package)
    emoji = [parse_emoji(entry) for entry in json.loads(package["emoji.json"])]
    matches = match(emoji, wordnet, read_decisions(recipe / "matches.tsv", wordnet, emoji))

    everything = wordnet.triples()
    graph = Neighbourhood(everything)
    with_images = drop_loners(matches, graph)
    entities = choose_entities(with_images, graph, ENTITIES)
    triples = [one for one in everything if one[0] in entities and one[2] in entities]
    parts = split(triples, with_images, SEED)
    relations = sorted({relation for _, relation, _ in triples})
    images = {
        f"n{synset}": choose_images(matches[synset], package) for synset in sorted(with_images)
    }
    counts = {
        "entities": len(entities),
        "relations": len(relations),
        **{name: len(part) for name, part in parts.items()},
        "with_images": len(with_images),
        "images": sum(map(len, images.values())),
    }

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        folder = Path(scratch) / target.name
        folder.mkdir()
        for name, part in parts.items():
            _write_lines(folder / f"{name}.tsv", map("\t".join, part))
        _write_lines(folder / "entities.txt", sorted(entities))
        _write_lines(folder / "relations.txt", relations)
        _write_lines(
            folder / "entity2text.txt",
            (f"{entity}\t{wordnet.synsets[entity].text}" for entity in sorted(entities)),
        )
        _write_lines(
            folder / "relation2text.txt",
            (f"{relation}\t{relation.strip('_').replace('_', ' ')}" for relation in relations),
        )
        for owner, files in images.items():
            (folder / "images" / owner).mkdir(parents=True)
            for name, content in files.items():
                (folder / "images" / owner / name).write_bytes(content)
        (folder / "LICENSE-wordnet.txt").write_text(wordnet.licence, encoding="utf-8")
        shutil.copyfile(recipe / "LICENSE-noto-emoji.txt", folder / "LICENSE-noto-emoji.txt")
        template = string.Template((recipe / "README.md.template").read_text(encoding="utf-8"))
        sizes = Counter(relation for _, relation, _ in triples)
        table = "\n".join(f"| `{name}` | {sizes[name]:,} |" for name in relations)
        numbers = {name: f"{count:,}" for name, count in counts.items()}
        readme = template.substitute(numbers, relation_table=table)
        (folder / "README.md").write_text(readme, encoding="utf-8")
        files = sorted(path.relative_to(folder).as_posix() for path in _files(folder))
        _write_lines(
            folder / "SHA256SUMS", (f"{sha256_of(folder / name)}  {name}" for name in files)
        )
        replace_folder(folder, target)
    return counts


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError as error:
        remedy = "Name the folder of Debian's wordnet-base, /usr/share/wordnet"
        raise DataError(Problem(str(path), None, "no such file", remedy)) from error


def _records(path: Path) -> list[str]:
    return [line for line in _lines(path) if not line.startswith("  ")]


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Build the sample as the command line says."""
    parser = argparse.ArgumentParser(description="Rebuild the embedded sample wordnet_emoji.")
    parser.add_argument("--wordnet", type=Path, required=True, help="folder of WordNet 3.0")
    parser.add_argument(
        "--emoji", type=Path, required=True, help="tarball or folder of the package"
    )
    parser.add_argument("--target", type=Path, default=PROJECT / "data/01_raw/wordnet_emoji")
    arguments = parser.parse_args()
    try:
        counts = build(arguments.wordnet, arguments.emoji, RECIPE, arguments.target)
    except DataError as error:
        parser.exit(1, f"{error}\n")
    print(", ".join(f"{count} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
