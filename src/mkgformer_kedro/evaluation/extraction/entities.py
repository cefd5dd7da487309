"""How well entities are recognised: strict span scores, kinds of errors, where they come from.

An entity is right only with its exact words and its type, as CoNLL-2003 and seqeval's strict mode
have it.

Predictions tables hold a row per expert, seed and test post: ``expert``, ``seed``, ``post``,
``tags`` (gold), ``predicted`` (as long) and ``words_lost`` (words behind the model's window,
predicted outside).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.experts import BASELINE, REFERENCE, by_expert, groups_of_all
from mkgformer_kedro.evaluation.extraction.counts import count_entities
from mkgformer_kedro.evaluation.extraction.evaluation import (
    F1,
    ExtractionEvaluation,
    compare_posts,
    images_categories,
    subset_categories,
)
from mkgformer_kedro.evaluation.extraction.mentions import Entity, entities_of, mention_key
from mkgformer_kedro.evaluation.extraction.scores import count_groups
from mkgformer_kedro.evaluation.intervals import RESAMPLES

NAMES = {BASELINE: "gazetteer baseline"}
NO_ENTITY = "no entity"
ALL_TYPES = "all types"
OUTCOMES = ("correct", "type", "boundary", "boundary_and_type", "missed")
_SEEN = ("in train", "not in train")


@dataclass(frozen=True)
class EntityEvaluation(ExtractionEvaluation):
    """What is known of entity recognition beyond :class:`ExtractionEvaluation`.

    Attributes:
        errors: Table as :func:`count_errors` makes it, for the reference.
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


def count_each_entity(alignment: pd.DataFrame) -> pd.DataFrame:
    """Counts of each gold and each predicted entity, beside what the alignment says of it."""
    gold = alignment["side"] == "gold"
    return alignment.assign(
        correct=(gold & (alignment["outcome"] == "correct")).astype(np.int64),
        predicted=(~gold).astype(np.int64),
        gold=gold.astype(np.int64),
    )


def count_posts(predictions: pd.DataFrame) -> pd.DataFrame:
    """Count what each post adds to the scores.

    Args:
        predictions: A predictions table.

    Returns:
        A counts table (see ``scores``) in the order of the predictions.
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


def confuse_types(alignment: pd.DataFrame, types: Sequence[str]) -> pd.DataFrame:
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


def evaluate_entities(
    predictions: pd.DataFrame,
    tables: Mapping[str, pd.DataFrame],
    *,
    has_images: np.ndarray,
    seed: int,
    resamples: int = RESAMPLES,
    reference: str = REFERENCE,
) -> EntityEvaluation:
    """Score any number of experts on the same test posts and compare them.

    Args:
        predictions: A predictions table with the answers of all experts.
        tables: The tables ``posts`` of all splits and ``labels``, the entity types.
        has_images: Whether a post has images, ``(posts,)``, by the index of the table.
        seed: Seed of every resampling.
        resamples: Number of bootstrap samples.
        reference: The expert with which the others are compared.

    Returns:
        Scores, comparisons, views of subsets, errors, confusion, and groups by ``subset``,
        ``images``, ``mention`` (whether train holds an entity of the same text) and ``type``.

    Raises:
        ValueError: If the reference has no predictions, or experts cover different posts.
    """
    chance = {"seed": seed, "resamples": resamples}
    posts, types = tables["posts"], tables["labels"]["label"].tolist()
    answers = by_expert(predictions, reference)
    counts = {expert: count_posts(table) for expert, table in answers.items()}
    alignments = {expert: align(table, posts) for expert, table in answers.items()}
    facts = posts.set_index("post")
    with_images = pd.Series(has_images[posts.index], index=facts.index)
    in_train = _train_mentions(posts)

    def break_down(expert: str) -> dict[str, pd.DataFrame]:
        annotated = counts[expert].assign(
            subset=subset_categories(counts[expert]["post"].map(facts["subset"])),
            images=images_categories(counts[expert]["post"].map(with_images)),
        )
        aligned = alignments[expert]
        mention = np.where(aligned["mention"].isin(in_train), *_SEEN)
        entities = count_each_entity(aligned).assign(
            mention=pd.Categorical(mention, categories=_SEEN, ordered=True),
            type=pd.Categorical(aligned["type"], categories=types, ordered=True),
        )
        found = {by: count_groups(annotated, by, **chance) for by in ("subset", "images")}
        return found | {by: count_groups(entities, by, **chance) for by in ("mention", "type")}

    model, alignment = answers[reference], alignments[reference]
    one_seed = model["seed"] == model["seed"].min()
    return EntityEvaluation(
        reference=reference,
        names=NAMES,
        metric=F1,
        units="test posts",
        has_images=bool(with_images[answers[reference]["post"]].any()),
        predictions=predictions,
        **compare_posts(counts, facts["subset"], **chance),
        groups=groups_of_all(answers, break_down),
        confusion=confuse_types(alignment, types),
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
