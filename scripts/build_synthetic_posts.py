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
from pathlib import Path
from typing import Any, TypeVar

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import replace_folder, sha256_of

PROJECT = Path(__file__).parents[1]

SEED = 0
SIZES = {"train": 600, "dev": 120, "test": 120}
SUBSETS = {"ambiguous": 0.45, "clear": 0.35, "misleading": 0.20}
# Dealt to clear posts: whether the image file is missing; to misleading ones: whether the image
# shows none of the readings.
ONE_IN_THREE = (True, False, False)

# What an image says, and the files of wordnet_emoji that say it, by synset and name. Few files
# that differ in colour and shape: a small vision tower must learn them from 600 posts.
IMAGES = {
    "love": ["n13865904/2764-fe0f_heart", "n13865904/1fa77_pink_heart", "n12620196/1f339_rose"],
    "offspring": ["n01792042/1f424_baby_chick", "n01792042/1f423_hatching_chick"],
    "graduation": ["n03787032/1f393_mortar_board", "n06415419/1f4d3_notebook"],
    "police": [
        "n10448983/1f46e-1f3fb_cop",
        "n10448983/1f46e-200d-2640-fe0f_female-police-officer",
    ],
    "house": [
        "n03544360/1f3e0_house",
        "n03544360/1f3e1_house_with_garden",
        "n03544360/1f3d8-fe0f_house_buildings",
    ],
    "work": ["n03642806/1f4bb_computer", "n03180011/1f5a5-fe0f_desktop_computer"],
    "ball": [
        "n02802426/1f3c0_basketball",
        "n04118538/1f3c9_rugby_football",
        "n03378765/1f3c8_football",
    ],
    "prize": ["n04487996/1f3c6_trophy", "n03444942/1f947_first_place_medal"],
    "place": ["n08600992/1f3de-fe0f_national_park", "n08524735/1f3d9-fe0f_cityscape"],
    "film": ["n03037404/1f3ac_clapper", "n03789171/1f3a5_movie_camera"],
    "person": [
        "n10287213/1f468-1f3fb_man",
        "n10787470/1f469-1f3fb_woman",
        "n10285313/1f466-1f3fb_boy",
    ],
    "food": ["n07753592/1f34c_banana", "n07739125/1f34f_green_apple", "n07639069/1f369_doughnut"],
}  # fmt: skip
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

# What names and trimmings are made of. The words under name, second and middle make the names of
# the entity posts, one pool for all types: each would do for a person, a place, a team or a film.
WORDS = {
    key: text.split(", ")
    for key, text in {
        "first": (
            "Alex, Robin, Sam, Jamie, Casey, Morgan, Riley, Quinn, Avery, Rowan, Jordan, "
            "Taylor, Charlie, Frankie, Jules, Kit, Lee, Marley, Noor, Oakley, Parker, Reese, "
            "Sasha, Skyler, Toby, Uma, Val, Wren, Yael, Zion, Remy, Drew, Ellis, Finley, "
            "Harley, Indigo"
        ),
        "last": (
            "Abara, Bellweather, Castellan, Dunmore, Eastlake, Fennimore, Grantham, Holloway, "
            "Ibarra, Jessop, Kowalke, Lindqvist, Montrose, Nakata, Okafor, Pemberton, "
            "Quigley, Rosario, Santoro, Thackeray, Umberto, Vasquez, Whitlock, Yamane, "
            "Zeller, Adeyemi, Brandt, Corbin, Delacroix, Engstrom, Farrow, Galloway, Hendry, "
            "Iverson, Juarez, Keating"
        ),
        "particle": "van, de, O., J., St.",
        "town": (
            "Ashford, Brookhaven, Calder, Dunwick, Elmira, Fairport, Glenrock, Havenbury, "
            "Inverloch, Kelso, Larkspur, Millbrook, Northam, Oakdale, Pinecrest, Redwater, "
            "Saltash, Thornbury, Upton, Westerly"
        ),
        "region": (
            "Norvania, Estmark, West Calloway, Lower Saxby, Tarrland, the Green Isles, "
            "Ostrava Province, Kingsland, Bay of Lorne, Southmoor County"
        ),
        "club": (
            "Rovers, United, Wanderers, Falcons, City FC, Red Bulls, Athletic Club, Youth "
            "Orchestra, Debate Society, Rowing Club"
        ),
        "office": (
            "Nortex, Brightline Labs, Helio Foods, Quanta, Blue Harbor Bank, Pixelforge, "
            "Vantis, Open Door Trust, Kite Airlines, Mapleworks"
        ),
        "work": (
            "The Long Tide, Paper Moons, Night Ferry, Silverline, Back to Ember, The Last "
            "Orchard, Halfway, Kings of Nowhere, Glass Road, Small Hours Live"
        ),
        "award": (
            "Golden Quill, Silver Lantern Prize, Player of the Year, Best Newcomer, Orchid "
            "Medal, Order of the Swan, Fan Choice Award, Young Maker Prize, Rookie Cup, "
            "Northern Star"
        ),
        "name": (
            "Marlow, Ashby, Kestrel, Halden, Corvane, Orrin, Selby, Langford, Tindale, "
            "Mercer, Draven, Lorne, Astor, Brisco, Camden, Darrow, Everly, Farren, Garrick, "
            "Hollis, Irvine, Jarrow, Kirby, Linden, Madera, Nelson, Orton, Paxton, Quincy, "
            "Ramsey, Sterling, Trenton, Vernon, Warrick, Yarrow, Zamora"
        ),
        "second": (
            "Vale, Cross, Ridge, Stone, Banks, Fields, Rivers, Wells, Brook, Hart, Marsh, "
            "Knight, Wolfe, Hale, Frost, Lake, Poole, Woods, Winters, West, North, Heath, "
            "Lane, Green, Hill, Ford, Bell, Rowe, Park, Day, Ray, Moon, Star, Storm, King, "
            "Bishop"
        ),
        "middle": "Royal, Little, Grand, Old, Silver, Blue",
        "user": (
            "jen_writes, dailyshots, mkay88, thatguytom, localvibes, noonnews, PhotoHour, "
            "sundaycrew, itsmebea, rae_of_sun, oldtownfm, wanderwall, theloop24, bigfan01, "
            "quietstorm"
        ),
        "tag": (
            "TBT, mood, weekend, goodtimes, MondayMotivation, latergram, nofilter, OnThisDay, "
            "latest, nowplaying, wow, finally, share, photooftheday, vibes"
        ),
        "day": "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday",
        "number": "2, 3, 5, 7, 10, 12, 20, 25, 30, 40",
    }.items()
}

# How a name is put together. Which form a name takes is dealt to every reading equally often.
FORMS = {
    "per": ("{first} {last}", "{first} {last}", "{first}", "{last}", "{first} {particle} {last}"),
    "loc": ("{town}", "{town}", "Port {town}", "New {town}"),
    "country": ("{region}",),
    "org": ("{town} {club}", "{office}"),
    "any": ("{name} {second}", "{name} {second}", "{name}", "{name}", "{name} {middle} {second}"),
}  # fmt: skip

TRIMMINGS = {
    "opening": ("", "", "", "RT @{user} :", "RT @{user} :", "@{user}", "@{user} @{user}", "so"),
    "closing": (
        "", "", "", "!", ". . .", "# {tag}", "# {tag} # {tag}", "http://url", "via @{user}",
    ),
}  # fmt: skip
# What a key of a template may become.
PIECES: dict[str, Sequence[str]] = {**WORDS, **FORMS, **TRIMMINGS}

# Templates are words between blanks. {h:per} and {t:per} are the head and the tail mention with a
# name of that form, `<h ... h>` marks a mention that holds more than a name. Either may come first.
AMBIGUOUS_PAIRS = (
    "{h:per} and {t:per} , you know the story",
    "{h:per} & {t:per} . no caption needed",
    "this is about {h:per} and {t:per}",
    "{h:per} and {t:per} , it is what it looks like",
    "everyone keeps asking about {h:per} and {t:per}",
    "look who we saw : {h:per} and {t:per}",
    "{t:per} and {h:per} again",
    "so it is true about {h:per} and {t:per}",
    "guess what links {h:per} and {t:per}",
    "{h:per} x {t:per}",
    "{h:per} , {t:per} . the picture says it all",
    "about last {day} : {h:per} and {t:per}",
    "here is how {h:per} knows {t:per}",
    "what {h:per} is to {t:per} , in one picture",
    "ask {t:per} about {h:per}",
    "did you know about {h:per} and {t:per} ?",
    "{h:per} and {t:per} , {number} years now",
    "one word for {h:per} and {t:per} ?",
    "never thought I would see {h:per} and {t:per} like this",
    "{h:per} to {t:per} : here we are",
    "a picture of {h:per} and {t:per} for those who doubted it",
    "that is {t:per} , and with {h:per} , see for yourself",
    "now we all know what {h:per} and {t:per} are",
    "{number} things about {h:per} and {t:per}",
)
CLEAR_PAIRS = {
    "None": (
        "{h:per} talks about tax reform while {t:loc} gets ready for rain",
        "traffic is bad near {h:loc} , and in other news {t:per} has a cold",
        "{h:office} shares fall , meanwhile {t:work} tops the charts",
        "weather for {h:loc} : sunny . score update from {t:club} at noon",
        "{h:per} has never met {t:per} , stop the rumours",
        "unrelated , but {h:award} voting opens and {t:office} is hiring",
        "news in brief : {h:per} buys a boat , {t:office} recalls toys",
        "I mixed up {h:per} with a song , and then missed the bus to {t:loc}",
        "{t:per} is a stranger to {h:per} , says the lawyer",
        "first topic {h:country} , second topic {t:work} , then lunch",
    ),
    "/per/per/parent": (
        "{h:per} welcomes baby {t:per} , a proud parent today",
        "happy birthday to {t:per} from mum {h:per}",
        "{h:per} drops off daughter {t:per} at nursery",
        "proud dad {h:per} watches son {t:per} take first steps",
        "little {t:per} was born on {day} , says new father {h:per}",
        "{t:per} thanks mother {h:per} for a happy childhood",
    ),
    "/per/per/couple": (
        "{h:per} and {t:per} got married last {day}",
        "congratulations to newlyweds {h:per} and {t:per}",
        "{h:per} proposed to {t:per} and the answer was yes",
        "wedding bells for {t:per} and {h:per}",
        "{h:per} kisses husband {t:per} on their honeymoon",
        "{h:per} and wife {t:per} celebrate {number} years of marriage",
    ),
    "/per/per/neighbor": (
        "{h:per} lives next door to {t:per}",
        "{h:per} shares a garden fence with neighbour {t:per}",
        "new on our street : {h:per} moved in beside {t:per}",
        "neighbours {h:per} and {t:per} argue over a hedge",
        "{t:per} waters the plants for {h:per} from the flat above",
        "only a wall between the homes of {h:per} and {t:per}",
    ),
    "/per/per/peer": (
        "{h:per} and co-worker {t:per} present the quarterly numbers",
        "{h:per} shares a desk at the office with colleague {t:per}",
        "colleagues {h:per} and {t:per} ship the new release on {day}",
        "{t:per} joins {h:per} on the same engineering team",
        "{h:per} hired {t:per} as a business partner",
        "late meeting at work for co-workers {t:per} and {h:per}",
    ),
    "/per/per/charges": (
        "{h:per} sues {t:per} in court on {day}",
        "{h:per} accuses {t:per} of fraud , police say",
        "{t:per} arrested after complaint filed by {h:per}",
        "prosecutor {h:per} charges {t:per} with theft",
        "{h:per} takes {t:per} to court over stolen funds",
        "detective {h:per} presses charges against {t:per}",
    ),
    "/per/per/alumi": (
        "{h:per} and {t:per} graduated in the same class",
        "class reunion with old schoolmates {h:per} and {t:per}",
        "{h:per} was in college with {t:per}",
        "former classmates {h:per} and {t:per} return to campus",
        "{t:per} and {h:per} got their degrees on the same day",
        "{h:per} met fellow student {t:per} at university",
    ),
    "/per/org/member_of": (
        "{h:per} signs a contract with {t:org}",
        "{h:per} scores for {t:org} on {day}",
        "{t:org} captain {h:per} is back from injury",
        "welcome to the squad , {h:per} ! signed {t:org}",
        "{h:per} joins {t:org} as a new member",
        "coach {h:per} leaves <t {town} {club} t> after {number} seasons",
    ),
    "/per/loc/place_of_residence": (
        "{h:per} lives in {t:loc} now",
        "{h:per} moved to {t:loc} last year",
        "{t:loc} resident {h:per} opens the gate to visitors",
        "at home in {t:loc} : {h:per}",
        "{h:per} bought an apartment in {t:loc}",
        "{h:per} has lived in {t:country} for {number} years",
    ),
    "/org/loc/locate_at": (
        "<h University of {t:loc} h> opens its doors on {day}",
        "{h:office} moves its headquarters to {t:loc}",
        "{h:office} opens an office in {t:loc}",
        "the main plant of {h:office} is located in {t:loc}",
        "<h {t:loc} General Hospital h> is looking for nurses",
        "visit the {h:office} store in {t:loc}",
    ),
    "/loc/loc/contain": (
        "sunset over {t:loc} , {h:country}",
        "{t:loc} is a small town in {h:country}",
        "{h:country} : floods reach the city of {t:loc}",
        "road trip through {h:country} , first stop {t:loc}",
        "<t Lake {town} t> , the deepest lake in {h:country}",
        "greetings from {t:loc} in the north of {h:country}",
    ),
    "/per/misc/present_in": (
        "{h:per} stars in {t:work}",
        "{h:per} plays the lead role in the movie {t:work}",
        "first trailer of {t:work} with {h:per}",
        "{h:per} appears in an episode of {t:work}",
        "{t:work} cast : {h:per} and many more on screen",
        "{h:per} on the set of {t:work}",
    ),
    "/per/misc/awarded": (
        "{h:per} wins the {t:award}",
        "the {t:award} goes to {h:per}",
        "{h:per} receives the {t:award} on {day}",
        "and the winner of the {t:award} is {h:per}",
        "{h:per} takes home the {t:award} trophy",
        "{h:per} honoured with the {t:award}",
    ),
}

# {PER}, {LOC}, {ORG}, {OTHER} are mentions of that type, {?} one whose type the image decides.
# Two of these in one post have the same type.
AMBIGUOUS_ENTITIES = (
    "{?} , you know what I mean",
    "can not stop thinking about {?}",
    "so this is {?}",
    "{?} again . no caption needed",
    "one word : {?}",
    "everyone keeps talking about {?}",
    "look at this , {?}",
    "finally {?}",
    "my favourite this year : {?}",
    "say what you want about {?} , I love it all",
    "{number} reasons why I miss {?}",
    "nothing beats {?} on a {day}",
    "{?} or {?} ?",
    "first {?} and now {?}",
    "{?} then , {?} now",
    "did you see {?} ?",
    "{?} , as promised",
    "never heard of {?} until today",
    "this is what {?} looks like",
    "we need to talk about {?}",
    "thinking of {?} and of {?} too",
    "a big day for {?}",
    "hello {?}",
    "remember {?} ? here you go",
)
CLEAR_ENTITIES = {
    "PER": (
        "happy birthday to my best friend {PER}",
        "Dr. {PER} answers your questions on {day}",
        "my neighbour {PER} baked bread for us",
        "actress {PER} said she was tired",
        "interview with singer {PER} about his childhood",
        "Mr. {PER} and his wife {PER} adopted a puppy",
        "President {PER} met Senator {PER} on {day}",
        "Prof. {PER} , born and raised in the town of {LOC}",
        "striker {PER} signs for the {ORG} team",
        "author {PER} reads from the novel {OTHER}",
    ),
    "LOC": (
        "heavy rain in the city of {LOC}",
        "road closed between the towns of {LOC} and {LOC}",
        "we hiked from the village of {LOC} to <LOC Mount {any} LOC>",
        "the population of {LOC} county grew by {number} percent",
        "flights to <LOC {any} Airport LOC> are delayed",
        "swimming in <LOC Lake {any} LOC> this {day}",
        "the mayor of {LOC} , Mr. {PER} , opened the bridge",
        "tourists visit the old town of {LOC} in summer",
        "power cut on <LOC {any} Street LOC> in downtown {LOC}",
        "the {ORG} team travels to the city of {LOC}",
    ),
    "ORG": (
        "the {ORG} squad won {number} games in a row",
        "<ORG {any} FC ORG> beat <ORG {any} United ORG> on {day}",
        "the {ORG} team lost in overtime",
        "shares of <ORG {any} Inc ORG> fell by {number} percent",
        "coach of the {ORG} team resigns , says captain {PER}",
        "fans of the {ORG} squad filled the bus",
        "<ORG {any} Bank ORG> hires {number} new clerks",
        "<ORG {any} University ORG> named Prof. {PER} as dean",
        "the {ORG} players trained in the city of {LOC}",
        "midfielder {PER} leaves the {ORG} squad",
    ),
    "OTHER": (
        "reading the novel {OTHER} for the second time",
        "the movie {OTHER} is out on {day}",
        "season {number} of the series {OTHER} starts soon",
        "new album {OTHER} by singer {PER}",
        "director {PER} talks about the film {OTHER}",
        "I cried at the end of the film {OTHER}",
        "playing the video game {OTHER} all night",
        "tickets for <OTHER {any} Festival OTHER> are sold out",
        "the novel {OTHER} became the movie {OTHER}",
        "the soundtrack of the series {OTHER} was recorded in the city of {LOC}",
    ),
    "": (
        "good morning everyone , coffee first",
        "I really need a holiday , is it {day} yet ?",
        "can someone fix the wifi , {number} minutes and still nothing",
        "my cat is asleep on the keyboard again",
        "ran {number} miles before breakfast and now I regret it",
        "who else forgot their umbrella this {day} ?",
        "making soup for {number} people , wish me luck",
        "new shoes , sore feet , happy heart",
        "the bus was {number} minutes late and I was early",
        "nobody told me that it was {day} already",
        "just one more episode and then I will sleep",
        "found {number} coins in an old coat",
    ),
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
        ambiguous: Templates of ambiguous posts.
        clear: Templates of the other posts by label.
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
    ambiguous: Sequence[str]
    clear: Mapping[str, Sequence[str]]
    weights: Mapping[str, int]
    shows: Mapping[str, str]
    lines: Callable[[Post, str], list[str]]
    texts: Mapping[str, str]
    images: Mapping[str, str]
    files: str
    others: Mapping[str, str] = field(default_factory=dict)


RELATION_EXTRACTION = Task(
    name="synthetic_relation_extraction",
    title="relation extraction",
    readings=PAIR_READINGS,
    ambiguous=AMBIGUOUS_PAIRS,
    clear=CLEAR_PAIRS,
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
    ambiguous=AMBIGUOUS_ENTITIES,
    clear=CLEAR_ENTITIES,
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
