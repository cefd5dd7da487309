"""How well relations are extracted: micro scores without the negative class, their origins.

Predictions tables hold a row per seed and test post: ``post``, ``seed``, ``relation`` (gold),
``predicted`` (both rows of ``labels``), ``score`` (probability of the predicted relation),
``tokens_truncated`` (how many the model's window could not hold) and ``mentions_truncated`` (whether some of
them belong to a mention).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.counts import NEGATIVE, count_relations
from mkgformer_kedro.evaluation.extraction import (
    ExtractionEvaluation,
    break_down,
    compare_shares,
    f1_difference,
    images_categories,
    score,
    share_categories,
)
from mkgformer_kedro.evaluation.intervals import RESAMPLES
from mkgformer_kedro.evaluation.mentions import mention_key

BASELINE = "the majority baseline"
_MENTIONS = ("pair in train", "both in train, not as a pair", "one in train", "none in train")


@dataclass(frozen=True)
class RelationExtractionEvaluation(ExtractionEvaluation):
    """What is known of relation extraction beyond :class:`ExtractionEvaluation`.

    Attributes:
        posts_cut: Test posts that the model's window could not hold.
        mentions_truncated: Of these, posts of which it could not even hold the mentions.
    """

    posts_cut: int
    mentions_truncated: int

    @property
    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds, with the posts that were cut."""
        cut = {"posts": self.posts_cut, "posts_with_cut_mentions": self.mentions_truncated}
        return super().metrics | {"test_cut": cut}


def post_counts(predictions: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Count what each prediction adds to the scores.

    The negative relation is nothing to find and nothing found, as in scikit-learn's micro average
    over the other labels; the accuracy is over all relations.

    Args:
        predictions: A predictions table.
        labels: Table ``labels``; the negative relation is named ``None``.

    Returns:
        A counts table (see ``extraction``) in the order of the predictions.
    """
    gold = predictions["relation"].to_numpy()
    predicted = predictions["predicted"].to_numpy()
    counts = count_relations(gold, predicted, labels["label"].tolist())
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


def relation_counts(predictions: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
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
    names = labels["label"].tolist()
    rows["relation"] = pd.Categorical.from_codes(rows["relation"], names, ordered=True)
    return rows[rows["relation"] != NEGATIVE]


def confusion(predictions: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Number of posts by gold (rows) and predicted relation (columns), mean over seeds.

    Returns:
        Square frame with the labels as index and columns, in the order of ``labels``.
    """
    names = labels["label"].tolist()
    cells = np.zeros((len(names), len(names)))
    np.add.at(cells, (predictions["relation"].to_numpy(), predictions["predicted"].to_numpy()), 1)
    return pd.DataFrame(cells / predictions["seed"].nunique(), index=names, columns=names)


def predict_majority(posts: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Predict for every test post the most frequent relation of train that is not negative.

    Args:
        posts: Table ``posts`` of all splits.
        labels: Table ``labels``. Of relations equally frequent the first is taken.

    Returns:
        A predictions table with seed 0 and scores that are not a number.
    """
    train = posts.loc[posts["split"] == "train", "relation"]
    frequency = np.bincount(train, minlength=len(labels))
    frequency[(labels["label"] == NEGATIVE).to_numpy()] = -1
    test = posts[posts["split"] == "test"]
    return pd.DataFrame(
        {
            "post": test["post"].to_numpy(),
            "seed": np.int64(0),
            "relation": test["relation"].to_numpy(np.int32),
            "predicted": np.int32(frequency.argmax()),
            "score": np.float32("nan"),
            "tokens_truncated": np.int32(0),
            "mentions_truncated": False,
        }
    )


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


def evaluate_relation_extraction(
    model: pd.DataFrame,
    without_images: pd.DataFrame,
    baseline: pd.DataFrame,
    posts: pd.DataFrame,
    labels: pd.DataFrame,
    *,
    has_images: np.ndarray,
    seed: int,
    resamples: int = RESAMPLES,
) -> RelationExtractionEvaluation:
    """Score three predictions tables of the same test posts and compare them.

    Args:
        model: Predictions of the model, of one or several seeds.
        without_images: Predictions of the same model without images.
        baseline: Predictions of the majority baseline.
        posts: Table ``posts`` of all splits.
        labels: Table ``labels``.
        has_images: Whether a post has images, ``(len(posts),)``.
        seed: Seed of every resampling.
        resamples: Number of bootstrap samples.

    Returns:
        Scores, comparisons, confusion, and groups cut by ``group`` (share of a synthetic sample),
        ``images``, ``mentions`` and ``relation``.

    Raises:
        ValueError: If the tables are empty or cover different posts.
    """
    chance = {"seed": seed, "resamples": resamples}
    counts = [post_counts(table, labels) for table in (model, without_images, baseline)]
    seen, blind, trivial = counts
    facts = posts.set_index("post")
    with_images = pd.Series(has_images, index=facts.index)
    annotated = seen.assign(
        group=share_categories(seen["post"].map(facts["group"])),
        images=images_categories(seen["post"].map(with_images)),
        mentions=pd.Categorical(
            seen["post"].map(seen_mentions(posts)), categories=_MENTIONS, ordered=True
        ),
    )
    groups = {cut: break_down(annotated, cut, **chance) for cut in ("group", "images", "mentions")}
    groups["relation"] = break_down(relation_counts(model, labels), "relation", **chance)
    one_seed = model[model["seed"] == model["seed"].min()]
    return RelationExtractionEvaluation(
        posts=seen["post"].nunique(),
        model=score(seen, **chance),
        without_images=score(blind, **chance),
        baseline=score(trivial, **chance),
        baseline_name=BASELINE,
        against_baseline=f1_difference(seen, trivial, **chance),
        against_no_images=f1_difference(seen, blind, **chance),
        shares=compare_shares(seen, blind, facts["group"], **chance),
        groups=groups,
        confusion=confusion(model, labels),
        posts_cut=int((one_seed["tokens_truncated"] > 0).sum()),
        mentions_truncated=int(one_seed["mentions_truncated"].sum()),
    )
