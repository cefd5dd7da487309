"""How well entities are recognised: strict span scores, kinds of errors, where they come from.

Tags are IOB2 (Tjong Kim Sang and Veenstra, 1999, "Representing text chunks"). An entity is right
only with its exact words and its type, as CoNLL-2003 and seqeval's strict mode have it.

Predictions tables hold a row per seed and test post: ``post``, ``seed``, ``tags`` (gold),
``predicted`` (as long) and ``words_lost`` (words behind the model's window, predicted outside).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.counts import count_entities
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
from mkgformer_kedro.evaluation.mentions import OUTSIDE, Entity, entities_of, mention_key

BASELINE = "the gazetteer baseline"
NO_ENTITY = "no entity"
ALL_TYPES = "all types"
OUTCOMES = ("correct", "type", "boundary", "boundary_and_type", "missed")
_SEEN = ("in train", "not in train")


@dataclass(frozen=True)
class EntityRecognitionEvaluation(ExtractionEvaluation):
    """What is known of entity recognition beyond :class:`ExtractionEvaluation`.

    Attributes:
        errors: Table as :func:`count_errors` makes it, for the model.
        words_lost: Words of the test posts that lie behind the model's window.
        entities_lost: Gold entities with such words: none of them can be right.
    """

    errors: pd.DataFrame
    words_lost: int
    entities_lost: int

    @property
    def metrics(self) -> dict[str, Any]:
        """What ``metrics.json`` holds, with the kinds of errors by type and what was lost."""
        return super().metrics | {
            "test_errors": self.errors.to_dict("index"),
            "test_lost": {"words": self.words_lost, "entities": self.entities_lost},
        }


def align(predictions: pd.DataFrame, posts: pd.DataFrame) -> pd.DataFrame:
    """Lay gold and predicted entities side by side.

    Each gold entity is looked at beside the predicted entity that overlaps it: the one with the
    same words if there is one, else one of the same type, else the one that shares most words.

    Args:
        predictions: A predictions table.
        posts: Table ``posts``; at least the test posts.

    Returns:
        One row per seed and gold entity (``side`` is ``gold``) and per seed and predicted entity
        (``predicted``): ``seed``, ``post``, ``side``, ``start``, ``end``, ``type``, ``mention``
        (its text, case folded), ``outcome`` (of a gold entity one of ``OUTCOMES``, of a predicted
        one ``spurious`` or ``overlaps``), ``other`` (type of the predicted entity beside a gold
        one, or ``no entity``) and ``lost`` (whether a gold entity has words behind the window).

    Raises:
        ValueError: If a post has not as many tags predicted as it has words.
    """
    words_of = dict(zip(posts["post"], posts["words"], strict=True))
    rows = []
    for answer in predictions.itertuples():
        words = words_of[answer.post]
        if not len(words) == len(answer.tags) == len(answer.predicted):
            raise ValueError(
                f"post {answer.post} has {len(words)} words, {len(answer.tags)} gold tags and "
                f"{len(answer.predicted)} predicted ones"
            )
        gold, predicted = entities_of(answer.tags), entities_of(answer.predicted)
        window = len(words) - answer.words_lost
        for entity in gold:
            outcome, other = _outcome(entity, predicted)
            rows.append(("gold", answer.seed, answer.post, *entity, outcome, other,
                         entity.end > window))  # fmt: skip
        for entity in predicted:
            touched = any(_overlap(entity, other) for other in gold)
            rows.append(("predicted", answer.seed, answer.post, *entity,
                         "overlaps" if touched else "spurious", NO_ENTITY, False))  # fmt: skip
    columns = ["side", "seed", "post", "start", "end", "type", "outcome", "other", "lost"]
    table = pd.DataFrame(rows, columns=columns)
    table["mention"] = [
        mention_key(words_of[row.post][row.start : row.end]) for row in table.itertuples()
    ]
    return table


def entity_counts(alignment: pd.DataFrame) -> pd.DataFrame:
    """Counts of each gold and each predicted entity, beside what the alignment says of it."""
    gold = alignment["side"] == "gold"
    return alignment.assign(
        correct=(gold & (alignment["outcome"] == "correct")).astype(np.int64),
        predicted=(~gold).astype(np.int64),
        gold=gold.astype(np.int64),
    )


def post_counts(predictions: pd.DataFrame) -> pd.DataFrame:
    """Count what each post adds to the scores.

    Args:
        predictions: A predictions table.

    Returns:
        A counts table (see ``extraction``) in the order of the predictions.
    """
    counts = count_entities(predictions["tags"], predictions["predicted"])
    return pd.DataFrame(
        {
            "seed": predictions["seed"].to_numpy(),
            "post": predictions["post"].to_numpy(),
            "correct": counts[:, 0],
            "predicted": counts[:, 1],
            "gold": counts[:, 2],
            "answer": [set(entities_of(tags)) for tags in predictions["predicted"]],
        }
    )


def count_errors(alignment: pd.DataFrame, types: Sequence[str]) -> pd.DataFrame:
    """Sort the gold entities by what became of them.

    Args:
        alignment: What :func:`align` gives.
        types: Entity types.

    Returns:
        One row for ``all types`` and one per type (the index), mean numbers over seeds: ``gold``,
        the five ``OUTCOMES``, ``lost`` (of these, entities with words behind the window) and
        ``spurious`` (predicted entities of the type that overlap no gold one).
    """
    seeds = max(alignment["seed"].nunique(), 1)
    rows = {}
    for name in (ALL_TYPES, *types):
        members = alignment if name == ALL_TYPES else alignment[alignment["type"] == name]
        gold = members[members["side"] == "gold"]
        rows[name] = {
            "gold": len(gold),
            **{outcome: int((gold["outcome"] == outcome).sum()) for outcome in OUTCOMES},
            "lost": int(gold["lost"].sum()),
            "spurious": int((members["outcome"] == "spurious").sum()),
        }
    return pd.DataFrame(rows).T / seeds


def confusion(alignment: pd.DataFrame, types: Sequence[str]) -> pd.DataFrame:
    """Number of entities by gold type (rows) and predicted type (columns), mean over seeds.

    A gold entity counts as the type of the predicted entity beside it, whether or not the
    boundaries agree.

    Returns:
        Square frame; the last row holds predicted entities that overlap no gold one, the last
        column gold entities that no predicted one overlaps.
    """
    names = [*types, NO_ENTITY]
    gold = alignment[alignment["side"] == "gold"]
    spurious = alignment[alignment["outcome"] == "spurious"]
    pairs = Counter(zip(gold["type"], gold["other"], strict=True))
    pairs.update((NO_ENTITY, kind) for kind in spurious["type"])
    cells = [[float(pairs[row, column]) for column in names] for row in names]
    seeds = max(alignment["seed"].nunique(), 1)
    return pd.DataFrame(cells, index=names, columns=names) / seeds


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
        tags = [OUTSIDE] * len(words)
        at = 0
        while at < len(words):
            for length in self._lengths.get(words[at], ()):
                end = at + length
                if end <= len(words) and (kind := self._types.get(tuple(words[at:end]))):
                    tags[at:end] = [f"B-{kind}"] + [f"I-{kind}"] * (end - at - 1)
                    at = end
                    break
            else:
                at += 1
        return tags


def predict_gazetteer(posts: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Tag the test posts by the mentions of train.

    Args:
        posts: Table ``posts`` of all splits.
        labels: Table ``labels``: the entity types.

    Returns:
        A predictions table with seed 0.
    """
    train, test = (posts[posts["split"] == split] for split in ("train", "test"))
    gazetteer = Gazetteer(train["words"], train["tags"], labels["label"].tolist())
    return pd.DataFrame(
        {
            "post": test["post"].to_numpy(),
            "seed": np.int64(0),
            "tags": [list(tags) for tags in test["tags"]],
            "predicted": [gazetteer.tag(words) for words in test["words"]],
            "words_lost": np.int32(0),
        }
    )


def evaluate_entity_recognition(
    model: pd.DataFrame,
    without_images: pd.DataFrame,
    baseline: pd.DataFrame,
    posts: pd.DataFrame,
    labels: pd.DataFrame,
    *,
    has_images: np.ndarray,
    seed: int,
    resamples: int = RESAMPLES,
) -> EntityRecognitionEvaluation:
    """Score three predictions tables of the same test posts and compare them.

    Args:
        model: Predictions of the model, of one or several seeds.
        without_images: Predictions of the same model without images.
        baseline: Predictions of the gazetteer baseline.
        posts: Table ``posts`` of all splits.
        labels: Table ``labels``: the entity types.
        has_images: Whether a post has images, ``(len(posts),)``.
        seed: Seed of every resampling.
        resamples: Number of bootstrap samples.

    Returns:
        Scores, comparisons, errors, confusion, and groups cut by ``group`` (share of a synthetic
        sample), ``images``, ``mention`` (whether train holds an entity of the same text) and
        ``type``.

    Raises:
        ValueError: If the tables are empty or cover different posts.
    """
    chance = {"seed": seed, "resamples": resamples}
    tables = (model, without_images, baseline)
    seen, blind, trivial = (post_counts(table) for table in tables)
    facts = posts.set_index("post")
    with_images = pd.Series(has_images, index=facts.index)
    annotated = seen.assign(
        group=share_categories(seen["post"].map(facts["group"])),
        images=images_categories(seen["post"].map(with_images)),
    )
    types = labels["label"].tolist()
    alignment = align(model, posts)
    in_train = alignment["mention"].isin(_train_mentions(posts))
    entities = entity_counts(alignment).assign(
        mention=pd.Categorical(np.where(in_train, *_SEEN), categories=_SEEN, ordered=True),
        type=pd.Categorical(alignment["type"], categories=types, ordered=True),
    )
    groups = {cut: break_down(annotated, cut, **chance) for cut in ("group", "images")}
    groups |= {cut: break_down(entities, cut, **chance) for cut in ("mention", "type")}
    one_seed = model["seed"] == model["seed"].min()
    return EntityRecognitionEvaluation(
        posts=seen["post"].nunique(),
        model=score(seen, **chance),
        without_images=score(blind, **chance),
        baseline=score(trivial, **chance),
        baseline_name=BASELINE,
        against_baseline=f1_difference(seen, trivial, **chance),
        against_no_images=f1_difference(seen, blind, **chance),
        shares=compare_shares(seen, blind, facts["group"], **chance),
        groups=groups,
        confusion=confusion(alignment, types),
        errors=count_errors(alignment, types),
        words_lost=int(model.loc[one_seed, "words_lost"].sum()),
        entities_lost=int(alignment.loc[alignment["seed"] == model["seed"].min(), "lost"].sum()),
    )


def _train_mentions(posts: pd.DataFrame) -> set[str]:
    train = posts[posts["split"] == "train"]
    return {
        mention_key(words[start:end])
        for words, tags in zip(train["words"], train["tags"], strict=True)
        for start, end, _ in entities_of(tags)
    }


def _overlap(first: Entity, second: Entity) -> int:
    """Number of words that two entities share."""
    return max(0, min(first.end, second.end) - max(first.start, second.start))


def _outcome(entity: Entity, predicted: Sequence[Entity]) -> tuple[str, str]:
    """What became of a gold entity, and the type it was taken for."""
    near = [other for other in predicted if _overlap(entity, other)]
    if not near:
        return "missed", NO_ENTITY
    best = max(
        near,
        key=lambda other: (
            other[:2] == entity[:2],
            other.type == entity.type,
            _overlap(entity, other),
        ),
    )
    if best[:2] == entity[:2]:
        return ("correct" if best.type == entity.type else "type"), best.type
    return ("boundary" if best.type == entity.type else "boundary_and_type"), best.type
