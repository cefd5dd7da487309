"""A small random graph, and random posts, whose every part the evaluation tests can look up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from mkgformer_kedro.evaluation.ranking.baselines import Popularity
from mkgformer_kedro.evaluation.ranking.graph import reverse_in_train
from mkgformer_kedro.evaluation.ranking.predictions import rank_queries


@dataclass(frozen=True)
class Graph:
    """Triples of train and test, the test queries and a score for every entity of each query."""

    num_entities: int
    train: pd.DataFrame
    test: pd.DataFrame
    queries: pd.DataFrame
    scores: Tensor

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables of the ingestion, with leaks marked."""
        splits = [
            frame.assign(split=name) for name, frame in (("train", self.train), ("test", self.test))
        ]
        triples = pd.concat(splits, ignore_index=True)
        return {
            "triples": triples.assign(leak=reverse_in_train(self.train, triples)),
            "relations": pd.DataFrame({"relation": list("rst"), "text": ["R", "S", "T"]}),
            "entities": pd.DataFrame(
                {"name": [f"entity {i}" for i in range(self.num_entities)], "text": "a text"}
            ),
            "queries": self.queries.assign(split="test"),
        }

    def answers(self, expert: str, scores: Tensor | None = None, seed: int = 7) -> pd.DataFrame:
        """An expert's predictions table, from the graph's scores or others."""
        scores = self.scores if scores is None else scores
        ranked = rank_queries(self.queries, [(np.arange(len(scores)), scores)], self.test)
        ranked.insert(0, "expert", expert)
        ranked.insert(1, "seed", seed)
        return ranked

    @property
    def perfect(self) -> Tensor:
        """Scores that put every answer first."""
        scores = self.scores.clone()
        for row, answers in enumerate(self.queries["answers"]):
            scores[row, answers] = 1e6
        return scores

    @property
    def popularity(self) -> Tensor:
        """Scores of the baseline."""
        return Popularity(self.train, self.num_entities).score(self.queries)


def queries_of(test: pd.DataFrame, everything: pd.DataFrame) -> pd.DataFrame:
    """The ``queries`` table of a test split, written independently of the ingestion."""
    rows = []
    for direction, given, asked in (("tail", "head", "tail"), ("head", "tail", "head")):
        for (entity, relation), answers in test.groupby([given, "relation"])[asked]:
            same = (everything[given] == entity) & (everything["relation"] == relation)
            rows.append(
                {
                    "direction": direction,
                    "entity": entity,
                    "relation": relation,
                    "answers": sorted(answers),
                    "known": sorted(set(everything.loc[same, asked])),
                }
            )
    return pd.DataFrame(rows)


def _random_graph(seed: int, *, levels: int, num_entities: int = 23) -> Graph:
    """A graph with dense relations, so that filtering and ties matter.

    ``levels`` is the number of different score values: few levels, many ties.
    """
    generator = np.random.default_rng(seed)
    triples = pd.DataFrame(
        {
            "head": generator.integers(num_entities, size=260),
            "relation": generator.integers(3, size=260),
            "tail": generator.integers(num_entities, size=260),
        }
    ).drop_duplicates(ignore_index=True)
    test = triples.iloc[:60].reset_index(drop=True)
    queries = queries_of(test, triples)
    scores = generator.integers(levels, size=(len(queries), num_entities)).astype(np.float32)
    train = triples.iloc[60:].reset_index(drop=True)
    return Graph(num_entities, train, test, queries, torch.from_numpy(scores))


@pytest.fixture(params=[2, 6, 10_000], ids=["many ties", "some ties", "hardly any ties"])
def graph(request: pytest.FixtureRequest) -> Graph:
    return _random_graph(seed=7, levels=request.param)


@pytest.fixture(scope="session")
def one_graph() -> Graph:
    """The same graph for all tests that only read what was made from it."""
    return _random_graph(seed=3, levels=50)


@dataclass(frozen=True)
class Posts:
    """Posts of all splits, and the answers of three experts to the test posts."""

    posts: pd.DataFrame
    labels: pd.DataFrame
    has_images: np.ndarray
    predictions: pd.DataFrame

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        return {"posts": self.posts, "labels": self.labels}

    def of(self, expert: str) -> pd.DataFrame:
        return self.predictions[self.predictions["expert"] == expert]

    def with_answers(self, expert: str, answers: pd.DataFrame) -> Posts:
        """The same with other answers of one expert, or with a further expert."""
        others = self.predictions[self.predictions["expert"] != expert]
        both = pd.concat([answers.assign(expert=expert), others], ignore_index=True)
        return replace(self, predictions=both)


SUBSETS = ("ambiguous", "clear", "misleading")
NAMES = [f"Name{i}" for i in range(12)]


def _posts(generator: np.random.Generator, size: int) -> pd.DataFrame:
    """The columns that both tasks have: two thirds of the posts are train's, the rest test's."""
    split = ["train" if i < 2 * size // 3 else "test" for i in range(size)]
    return pd.DataFrame(
        {
            "post": [f"{name}-{i}" for i, name in enumerate(split)],
            "split": split,
            "words": [
                [str(generator.choice(NAMES)) for _ in range(generator.integers(3, 9))]
                for _ in range(size)
            ],
            "image": None,
            "line": np.arange(size, dtype=np.int32) + 1,
            "subset": [SUBSETS[i % 3] for i in range(size)],
        }
    )


@pytest.fixture(scope="session")
def relation_sample() -> Posts:
    """Relation extraction: two seeds, right about 80 % with images and 40 % without."""
    generator = np.random.default_rng(0)
    posts = _posts(generator, 180)
    labels = pd.DataFrame(
        {
            "label": ["None", "/a/a/peer", "/a/b/of"],
            "text": ["none", "peer", "of"],
            "negative": [True, False, False],
        }
    )
    posts = posts.assign(head_start=0, head_end=1, tail_start=1, tail_end=2)
    posts["relation"] = generator.integers(3, size=len(posts)).astype(np.int32)
    test = posts[posts["split"] == "test"]

    def guesses(expert: str, share: float, seeds: tuple[int, ...]) -> pd.DataFrame:
        tables = []
        for seed in seeds:
            right = generator.random(len(test)) < share
            other = (test["relation"] + generator.integers(1, 3, size=len(test))) % 3
            tables.append(
                pd.DataFrame(
                    {
                        "expert": expert,
                        "seed": seed,
                        "post": test["post"],
                        "relation": test["relation"],
                        "predicted": test["relation"].where(right, other).astype(np.int32),
                        "score": np.float32(0.75),
                        "tokens_truncated": np.int32(0),
                        "mentions_truncated": False,
                    }
                )
            )
        return pd.concat(tables, ignore_index=True)

    has_images = np.arange(len(posts)) % 4 != 0
    answers = [
        guesses("model", 0.8, (1, 2)),
        guesses("without_images", 0.4, (1, 2)),
        guesses("baseline", 0.1, (0,)),
    ]
    return Posts(posts, labels, has_images, pd.concat(answers, ignore_index=True))


def random_tags(generator: np.random.Generator, length: int, types: list[str]) -> list[str]:
    """Valid IOB2 tags."""
    tags: list[str] = []
    for _ in range(length):
        kind = str(generator.choice(types))
        continues = bool(tags) and tags[-1] != "O" and generator.random() < 0.4
        if continues:
            tags.append(f"I-{tags[-1][2:]}")
        else:
            tags.append(f"B-{kind}" if generator.random() < 0.35 else "O")
    return tags


@pytest.fixture(scope="session")
def entity_sample() -> Posts:
    """Entity recognition: two seeds whose tags are right for 80 % of the posts, 40 % without."""
    generator = np.random.default_rng(1)
    posts = _posts(generator, 180)
    types = ["PER", "LOC", "ORG"]
    labels = pd.DataFrame({"label": types, "text": ["person", "place", "organisation"]})
    posts["tags"] = [random_tags(generator, len(words), types) for words in posts["words"]]
    test = posts[posts["split"] == "test"]

    def guesses(expert: str, share: float, seeds: tuple[int, ...]) -> pd.DataFrame:
        rows = []
        for seed in seeds:
            for post in test.itertuples():
                predicted = post.tags
                if generator.random() > share:
                    predicted = random_tags(generator, len(post.words), types)
                rows.append((expert, seed, post.post, post.tags, predicted, np.int32(0)))
        columns = ["expert", "seed", "post", "tags", "predicted", "words_lost"]
        return pd.DataFrame(rows, columns=columns)

    has_images = np.arange(len(posts)) % 4 != 0
    answers = [
        guesses("model", 0.8, (1, 2)),
        guesses("without_images", 0.4, (1, 2)),
        guesses("baseline", 0.1, (0,)),
    ]
    return Posts(posts, labels, has_images, pd.concat(answers, ignore_index=True))


class Collected(HTMLParser):
    """Tags, attributes and text of a page; fails on tags closed out of order."""

    VOID = frozenset({"meta", "img", "path", "use", "rect", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="session")
def collect() -> type[Collected]:
    """Reads a page: ``collect(page)`` has its tags and its text."""
    return Collected
