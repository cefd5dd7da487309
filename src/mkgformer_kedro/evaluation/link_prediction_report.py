"""The page that a run of link prediction ends with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.intervals import Interval, Scores
from mkgformer_kedro.evaluation.link_prediction import LinkPredictionEvaluation
from mkgformer_kedro.evaluation.metrics import RANK_TYPES, SIDES, ranks_of
from mkgformer_kedro.evaluation.report import (
    GroupRow,
    Metric,
    ScoreRow,
    curve_figure,
    hits_figure,
    inline_svg,
    render_page,
    thumbnail,
)
from mkgformer_kedro.evaluation.report import Published as Published

_MRR = Metric("inverse_harmonic_mean_rank", "MRR")
_HITS = [Metric(f"hits_at_{k}", f"Hits@{k}") for k in (1, 3, 10)]
_MEAN_RANK = Metric("arithmetic_mean_rank", "Mean rank", digits=1, higher_is_better=False)
_ADJUSTED = Metric("adjusted_arithmetic_mean_rank_index", "Adjusted MR index")

_NAMES = {
    "model": "This model",
    "without_images": "This model, without images",
    "popularity": "Popularity baseline",
}
_SIDE_NAMES = {"head": "Head (?, r, t)", "tail": "Tail (h, r, ?)", "both": "Both"}
_Value = TypeVar("_Value")

_IMAGES_SHOWN = 4
_GUESSES_SHOWN = 5


@dataclass(frozen=True)
class EntityCard:
    """An entity as the page shows it.

    Attributes:
        name: Its name.
        text: Its description.
        images: Data URIs of thumbnails.
    """

    name: str
    text: str
    images: Sequence[str]


@dataclass(frozen=True)
class Guess:
    """One of the model's best answers.

    Attributes:
        entity: The entity.
        score: Its score.
        is_answer: Whether it is the answer that was asked for.
    """

    entity: EntityCard
    score: float
    is_answer: bool


@dataclass(frozen=True)
class Example:
    """One test query with what the model made of it.

    Attributes:
        direction: ``tail`` or ``head``: the side that was asked for.
        known: The entity that was given.
        relation: Text of the relation.
        answer: The entity that was asked for.
        rank: Its realistic filtered rank.
        candidates: Number of entities in that ranking.
        guesses: The best entities of the ranking, best first.
    """

    direction: str
    known: EntityCard
    relation: str
    answer: EntityCard
    rank: float
    candidates: int
    guesses: Sequence[Guess]


def choose_examples(
    predictions: pd.DataFrame, has_images: np.ndarray, *, right: int, wrong: int, seed: int
) -> pd.DataFrame:
    """Choose predictions to show: answers that came first, and answers beyond the first ten.

    Queries whose known entity has images come first, and no relation is shown twice in one
    direction as long as there are others.

    Args:
        predictions: A predictions table.
        has_images: Whether an entity has images, ``(entities,)``.
        right: Number of right answers to choose.
        wrong: Number of wrong ones.
        seed: Seed of the choice.

    Returns:
        Rows of ``predictions``, the right ones first; fewer where there are not that many.
    """
    shuffled = predictions.sample(frac=1, random_state=seed)
    seen = shuffled.groupby(["relation", "direction"]).cumcount()
    with_images = has_images[shuffled["entity"].to_numpy()]
    ordered = (
        shuffled.assign(with_images=~with_images, seen=seen)
        .sort_values(["with_images", "seen"], kind="stable")
        .drop(columns=["with_images", "seen"])
    )
    first = ordered[ordered["rank_pessimistic"] == 1].head(right)
    missed = ordered[ordered["rank_optimistic"] > 10].head(wrong)
    return pd.concat([first, missed])


def describe_examples(
    chosen: pd.DataFrame,
    entities: pd.DataFrame,
    relations: Sequence[str],
    images: Callable[[int], Sequence[np.ndarray]],
) -> list[Example]:
    """Look up names, texts and images of predictions to show.

    Args:
        chosen: Rows of a predictions table.
        entities: Columns ``name`` and ``text``; row number is entity index.
        relations: Text of every relation by index.
        images: Gives the images of an entity index: ``uint8`` arrays ``(3, height, width)``.

    Returns:
        One example per row.
    """

    @cache
    def card(entity: int) -> EntityCard:
        row = entities.iloc[entity]
        shown = [thumbnail(pixels) for pixels in images(entity)[:_IMAGES_SHOWN]]
        return EntityCard(row["name"], row["text"], shown)

    return [
        Example(
            direction=row.direction,
            known=card(row.entity),
            relation=relations[row.relation],
            answer=card(row.answer),
            rank=(row.rank_optimistic + row.rank_pessimistic) / 2,
            candidates=row.candidates,
            guesses=[
                Guess(card(int(entity)), float(score), int(entity) == row.answer)
                for entity, score in zip(
                    row.top_entities[:_GUESSES_SHOWN], row.top_scores[:_GUESSES_SHOWN], strict=True
                )
            ],
        )
        for row in chosen.itertuples()
    ]


def render_link_prediction_report(
    evaluation: LinkPredictionEvaluation,
    *,
    data_set: str,
    relations: Sequence[str],
    published: Sequence[Published],
    curve: pd.DataFrame,
    curve_panels: Mapping[str, str],
    examples: Sequence[Example],
    facts: Mapping[str, Any],
) -> str:
    """Write the page.

    Args:
        evaluation: Scores, comparisons and groups.
        data_set: Name of the data set.
        relations: Text of every relation by index.
        published: Published results on the data set.
        curve: Training curve with a column ``step``.
        curve_panels: Columns of the curve to draw, by panel title.
        examples: Queries to show.
        facts: What is known about data and run, by section: nested mappings, lists and values.

    Returns:
        A self-contained HTML page.
    """
    assessed = {key: getattr(evaluation, key) for key in _NAMES}
    both = [
        _own_row(_NAMES[key], item.scores, own=key == "model") for key, item in assessed.items()
    ]
    without_leaks = [
        _own_row(_NAMES[key], item.without_leaks, own=key == "model")
        for key, item in assessed.items()
        if item.without_leaks
    ]
    ranks = {_NAMES[key]: ranks_of(item.predictions) for key, item in assessed.items()}
    return render_page(
        "link_prediction.html.j2",
        {
            "data_set": data_set,
            "triples": int(evaluation.model.predictions["triple"].nunique()),
            "entities": int(evaluation.model.predictions["raw_candidates"].iloc[0]),
            "verdicts": [evaluation.popularity_verdict, evaluation.images_verdict],
            "metrics": [_MRR, *_HITS, _MEAN_RANK, _ADJUSTED],
            "rank_metrics": [_MRR, *_HITS, _MEAN_RANK],
            "published_metrics": [
                metric
                for metric in (_MRR, *_HITS, _MEAN_RANK)
                if any(metric.key in result.metrics for result in published)
            ],
            "mrr": _MRR,
            "hits": _HITS,
            "scores": both,
            "published": [result.row for result in published],
            "protocols": _protocol_rows(evaluation),
            "leak_share": evaluation.leak_share,
            "without_leaks": without_leaks,
            "groups": _group_rows(evaluation.groups, relations),
            "hits_figure": inline_svg(
                hits_figure(ranks), f"Share of answers among the first k: {', '.join(ranks)}"
            ),
            "curve_figure": inline_svg(
                curve_figure(curve, curve_panels, x="step"),
                f"Training curve: {', '.join(curve_panels)}",
            ),
            "examples": examples,
            "facts": facts,
        },
    )


def _own_row(name: str, scores: Scores, *, own: bool) -> ScoreRow:
    """Both directions, realistic filtered ranks, under bare metric names."""
    prefix = "both.realistic."
    return ScoreRow(
        name,
        _below(prefix, scores.metrics),
        intervals=_below(prefix, scores.intervals),
        own=own,
    )


def _protocol_rows(evaluation: LinkPredictionEvaluation) -> list[ScoreRow]:
    """The model's metrics by side, kind of rank, filtered and raw."""
    return [
        ScoreRow(f"{_SIDE_NAMES[side]}, {rank_type}, {protocol}", values)
        for protocol, metrics in (
            ("filtered", evaluation.model.scores.metrics),
            ("raw", evaluation.raw),
        )
        for side in SIDES
        for rank_type in RANK_TYPES
        if (values := _below(f"{side}.{rank_type}.", metrics))
    ]


def _below(prefix: str, values: Mapping[str, _Value]) -> dict[str, _Value]:
    """The entries whose key starts with the prefix, without it."""
    return {key.removeprefix(prefix): v for key, v in values.items() if key.startswith(prefix)}


def _group_rows(
    groups: Mapping[str, pd.DataFrame], relations: Sequence[str]
) -> dict[str, list[GroupRow]]:
    """Tables of groups as rows with words for labels."""
    labels: dict[str, Callable[[Any], str]] = {
        "category": lambda row: f"{row.category}, {_SIDE_NAMES[row.direction]}",
        "frequency": lambda row: str(row.frequency),
        "entity_images": lambda row: _has_images_in_words(row.entity_images),
        "answer_images": lambda row: _has_images_in_words(row.answer_images),
        "leak": lambda row: "reverse in train" if row.leak else "reverse not in train",
        "relation": lambda row: relations[row.relation],
    }
    return {
        name: [
            GroupRow(
                label=labels[name](row),
                count=row.count,
                values={m.key: getattr(row, m.key) for m in (_MRR, *_HITS)},
                interval=Interval(row.low, row.high),
            )
            for row in _ordered(name, table).itertuples()
        ]
        for name, table in groups.items()
    }


def _ordered(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Relations by how much they weigh, other groups as they come."""
    if name == "relation":
        return table.sort_values("count", ascending=False, kind="stable")
    return table


def _has_images_in_words(has_images: bool) -> str:
    return "with images" if has_images else "without images"
