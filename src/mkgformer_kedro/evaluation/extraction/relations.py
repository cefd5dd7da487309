"""How well relations are extracted: micro scores without the negative class, their origins.

Predictions tables hold a row per expert, seed and test post: ``expert``, ``seed``, ``post``,
``relation`` (gold), ``predicted`` (both rows of ``labels``), ``score`` (probability of the
predicted relation), ``tokens_truncated`` (how many the model's window could not hold) and
``mentions_truncated`` (whether some of them belong to a mention).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.experts import BASELINE, REFERENCE, by_expert, groups_of_all
from mkgformer_kedro.evaluation.extraction.counts import count_relations
from mkgformer_kedro.evaluation.extraction.evaluation import (
    F1,
    ExtractionEvaluation,
    compare_posts,
    images_categories,
    subset_categories,
)
from mkgformer_kedro.evaluation.extraction.mentions import mention_key
from mkgformer_kedro.evaluation.extraction.scores import count_groups
from mkgformer_kedro.evaluation.intervals import RESAMPLES

NAMES = {BASELINE: "majority baseline"}
_MENTIONS = ("pair in train", "both in train, not as a pair", "one in train", "none in train")


@dataclass(frozen=True)
class RelationEvaluation(ExtractionEvaluation):
    """What is known of relation extraction beyond :class:`ExtractionEvaluation`.

    Attributes:
        posts_truncated: Test posts that the model's window could not hold.
        mentions_truncated: Of these, posts of which it could not even hold the mentions.
    """

    posts_truncated: int
    mentions_truncated: int

    @property
    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds, with the posts that were truncated."""
        truncated = {
            "posts": self.posts_truncated,
            "posts_with_truncated_mentions": self.mentions_truncated,
        }
        return super().metrics | {"test_truncated": truncated}


def count_posts(predictions: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Count what each prediction adds to the scores.

    The negative relation is nothing to find and nothing found, as in scikit-learn's micro average
    over the other labels; the accuracy is over all relations.

    Args:
        predictions: A predictions table.
        labels: Table ``labels``.

    Returns:
        A counts table (see ``extraction``) in the order of the predictions.
    """
    gold = predictions["relation"].to_numpy()
    predicted = predictions["predicted"].to_numpy()
    counts = count_relations(gold, predicted, labels["negative"].to_numpy())
    return pd.DataFrame(
        {
            "seed": predictions["seed"].to_numpy(),
            "post": predictions["post"].to_numpy(),
            "correct": counts[:, 0],
            "predicted": counts[:, 1],
            "gold": counts[:, 2],
            "right": gold == predicted,
            "answer": predicted,
        }
    )


def count_each_relation(predictions: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Counts of each relation but the negative one.

    Args:
        predictions: A predictions table.
        labels: Table ``labels``.

    Returns:
        A counts table with the further column ``relation`` (the label, categories in the order of
        ``labels``): rows for what is gold and rows for what is predicted.
    """
    gold, predicted = predictions["relation"], predictions["predicted"]
    keys = predictions[["seed", "post"]]
    right = (gold == predicted).astype(np.int64)
    rows = pd.concat(
        [
            keys.assign(relation=gold, correct=right, predicted=0, gold=1),
            keys.assign(relation=predicted, correct=0, predicted=1, gold=0),
        ],
        ignore_index=True,
    )
    rows = rows[~labels["negative"].to_numpy()[rows["relation"]]]
    names = labels["label"].tolist()
    return rows.assign(relation=pd.Categorical.from_codes(rows["relation"], names, ordered=True))


def confuse_relations(predictions: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Number of posts by gold (rows) and predicted relation (columns), mean over seeds.

    Returns:
        Square frame with the labels as index and columns, in the order of ``labels``.
    """
    names = labels["label"].tolist()
    cells = np.zeros((len(names), len(names)))
    np.add.at(cells, (predictions["relation"].to_numpy(), predictions["predicted"].to_numpy()), 1)
    return pd.DataFrame(cells / predictions["seed"].nunique(), index=names, columns=names)


def seen_mentions(posts: pd.DataFrame) -> pd.Series:
    """Say of each test post whether train holds its mentions, as a pair or apart.

    Args:
        posts: Table ``posts`` of all splits. The case of mentions and the order of a pair do not
            matter.

    Returns:
        Ordered categories by post (the index).
    """
    in_train = set()
    pairs_in_train = set()
    test, categories = [], []
    for post in posts.itertuples():
        head = mention_key(post.words[post.head_start : post.head_end])
        tail = mention_key(post.words[post.tail_start : post.tail_end])
        if post.split == "train":
            in_train |= {head, tail}
            pairs_in_train.add(frozenset((head, tail)))
        elif post.split == "test":
            test.append((post.post, head, tail))
    for _, head, tail in test:
        if frozenset((head, tail)) in pairs_in_train:
            categories.append(0)
        else:
            categories.append(3 - (head in in_train) - (tail in in_train))
    values = pd.Categorical.from_codes(categories, list(_MENTIONS), ordered=True)
    return pd.Series(values, index=[post for post, _, _ in test])


def evaluate_relations(
    predictions: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    *,
    has_images: np.ndarray,
    seed: int,
    resamples: int = RESAMPLES,
    reference: str = REFERENCE,
) -> RelationEvaluation:
    """Score any number of experts on the same test posts and compare them.

    Args:
        predictions: A predictions table with the answers of all experts.
        tables: The tables ``posts`` of all splits and ``labels``.
        has_images: Whether a post has images, ``(posts,)``, by the index of the table.
        seed: Seed of every resampling.
        resamples: Number of bootstrap samples.
        reference: The expert with which the others are compared.

    Returns:
        Scores, comparisons, views of subsets, confusion, and groups by ``subset``, ``images``,
        ``mentions`` and ``relation``.

    Raises:
        ValueError: If the reference has no predictions, or experts cover different posts.
    """
    chance = {"seed": seed, "resamples": resamples}
    posts, labels = tables["posts"], tables["labels"]
    answers = by_expert(predictions, reference)
    counts = {expert: count_posts(table, labels) for expert, table in answers.items()}
    facts = posts.set_index("post")
    with_images = pd.Series(has_images[posts.index], index=facts.index)
    seen = seen_mentions(posts)

    def break_down(expert: str) -> dict[str, pd.DataFrame]:
        counted = counts[expert]
        annotated = counted.assign(
            subset=subset_categories(counted["post"].map(facts["subset"])),
            images=images_categories(counted["post"].map(with_images)),
            mentions=pd.Categorical(counted["post"].map(seen), categories=_MENTIONS, ordered=True),
        )
        shown = ("subset", "images", "mentions")
        found = {by: count_groups(annotated, by, **chance) for by in shown}
        relations = count_each_relation(answers[expert], labels)
        return found | {"relation": count_groups(relations, "relation", **chance)}

    model = answers[reference]
    one_seed = model[model["seed"] == model["seed"].min()]
    return RelationEvaluation(
        reference=reference,
        names=NAMES,
        metric=F1,
        units="test posts",
        has_images=bool(with_images[answers[reference]["post"]].any()),
        predictions=predictions,
        **compare_posts(counts, facts["subset"], **chance),
        groups=groups_of_all(answers, break_down),
        confusion=confuse_relations(model, labels),
        posts_truncated=int((one_seed["tokens_truncated"] > 0).sum()),
        mentions_truncated=int(one_seed["mentions_truncated"].sum()),
    )
