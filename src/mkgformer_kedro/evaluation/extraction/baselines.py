"""The trivial answers that a model has to beat."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.experts import BASELINE
from mkgformer_kedro.evaluation.extraction.mentions import Entity, entities_of, tags_of


def predict_majority(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Predict for every test post the most frequent relation of train that is not negative.

    Args:
        tables: The tables ``posts`` of all splits and ``labels``. Of relations equally frequent
            the first is taken.

    Returns:
        A predictions table with seed 0 and scores that are not a number.
    """
    posts, labels = tables["posts"], tables["labels"]
    train = posts.loc[posts["split"] == "train", "relation"]
    frequency = np.bincount(train, minlength=len(labels))
    frequency[labels["negative"].to_numpy()] = -1
    test = posts[posts["split"] == "test"]
    return pd.DataFrame(
        {
            "expert": BASELINE,
            "seed": np.int64(0),
            "post": test["post"].to_numpy(),
            "relation": test["relation"].to_numpy(np.int32),
            "predicted": np.int32(frequency.argmax()),
            "score": np.float32("nan"),
            "tokens_truncated": np.int32(0),
            "mentions_truncated": False,
        }
    )


class Gazetteer:
    """Finds the mentions of train again: the longest first, each with its most frequent type.

    This is the baseline of CoNLL-2003 (Tjong Kim Sang and De Meulder), but for mentions of several
    types, which are kept. Words are compared as they are written.

    Args:
        words: Words of each training post.
        tags: Its IOB2 tags.
        types: Entity types; of types equally frequent the first is taken.
    """

    def __init__(
        self,
        words: Iterable[Sequence[str]],
        tags: Iterable[Sequence[str]],
        types: Sequence[str],
    ) -> None:
        frequency: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        for post, post_tags in zip(words, tags, strict=True):
            for start, end, kind in entities_of(post_tags):
                frequency[tuple(post[start:end])][kind] += 1
        self._types = {
            mention: max(types, key=lambda kind: counts[kind])
            for mention, counts in frequency.items()
        }
        # By its first word, how long a mention may be, the longest first.
        self._lengths: dict[str, list[int]] = {}
        for first, length in sorted({(mention[0], len(mention)) for mention in self._types}):
            self._lengths.setdefault(first, []).insert(0, length)

    def tag(self, words: Sequence[str]) -> list[str]:
        """IOB2 tags of a post, read from left to right."""
        found = []
        at = 0
        while at < len(words):
            for length in self._lengths.get(words[at], ()):
                end = at + length
                if end <= len(words) and (kind := self._types.get(tuple(words[at:end]))):
                    found.append(Entity(at, end, kind))
                    at = end
                    break
            else:
                at += 1
        return tags_of(found, len(words))


def predict_gazetteer(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Tag the test posts by the mentions of train.

    Args:
        tables: The tables ``posts`` of all splits and ``labels``, the entity types.

    Returns:
        A predictions table with seed 0.
    """
    posts = tables["posts"]
    train, test = (posts[posts["split"] == split] for split in ("train", "test"))
    gazetteer = Gazetteer(train["words"], train["tags"], tables["labels"]["label"].tolist())
    return pd.DataFrame(
        {
            "expert": BASELINE,
            "seed": np.int64(0),
            "post": test["post"].to_numpy(),
            "tags": [list(tags) for tags in test["tags"]],
            "predicted": [gazetteer.tag(words) for words in test["words"]],
            "words_lost": np.int32(0),
        }
    )
