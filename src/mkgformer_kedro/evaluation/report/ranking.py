"""What the page of link prediction shows beyond what all pages do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.experts import Metric
from mkgformer_kedro.evaluation.ranking.evaluation import RankingEvaluation
from mkgformer_kedro.evaluation.ranking.metrics import (
    HEADLINE,
    HEADLINE_MRR,
    HITS_AT,
    RANK_TYPES,
    SIDES,
    ranks_of,
)
from mkgformer_kedro.evaluation.ranking.tables import QUERY
from mkgformer_kedro.evaluation.report.calibration import calibration_sections
from mkgformer_kedro.evaluation.report.figures import format_number, hits_figure, inline_svg
from mkgformer_kedro.evaluation.report.page import ScoreRow, Section, heat_maps, thumbnails
from mkgformer_kedro.evaluation.report.sections import (
    Explain,
    Groups,
    Layout,
    below,
    not_explained,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = (
    Metric("inverse_harmonic_mean_rank", "MRR"),
    *(Metric(f"hits_at_{k}", f"Hits@{k}") for k in HITS_AT),
    Metric("arithmetic_mean_rank", "Mean rank", digits=1, higher_is_better=False),
    Metric("adjusted_arithmetic_mean_rank_index", "AMRI"),
    Metric("mean_average_precision", "MAP"),
)
_SIDE_NAMES = {"head": "Head (?, r, t)", "tail": "Tail (h, r, ?)", "both": "Both"}
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
    """One of the reference's best answers.

    Attributes:
        entity: The entity.
        score: Its score.
        is_answer: Whether it is the answer that was asked for.
    """

    entity: EntityCard
    score: float
    is_answer: bool


@dataclass(frozen=True)
class RankingExample:
    """One test query with what the experts made of it.

    Attributes:
        direction: ``tail`` or ``head``: the side that was asked for.
        known: The entity that was given.
        relation: Text of the relation.
        answer: The entity that was asked for.
        rank: Its realistic filtered rank.
        candidates: Number of entities in that ranking.
        guesses: The best entities of the ranking, best first.
        other_ranks: Rank of the answer by each other expert.
        looks: What looked at each image of the known entity, see ``page.heat_maps``.
    """

    direction: str
    known: EntityCard
    relation: str
    answer: EntityCard
    rank: float
    candidates: int
    guesses: Sequence[Guess]
    other_ranks: Mapping[str, float]
    looks: Sequence[Mapping[str, Sequence[str]]]


def choose_queries(
    predictions: pd.DataFrame, has_images: np.ndarray, *, number: int, seed: int
) -> pd.DataFrame:
    """Choose predictions to show: answers that came first, and answers beyond the first ten.

    Queries whose known entity has images come first, and no relation is shown twice in one
    direction as long as there are others.

    Args:
        predictions: A predictions table of one expert and seed.
        has_images: Whether an entity has images, ``(entities,)``.
        number: Number of right and of wrong answers to choose.
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
    first = ordered[ordered["rank_pessimistic"] == 1].head(number)
    missed = ordered[ordered["rank_optimistic"] > 10].head(number)
    return pd.concat([first, missed])


def describe_queries(
    chosen: pd.DataFrame,
    others: Mapping[str, pd.DataFrame],
    entities: pd.DataFrame,
    relations: Sequence[str],
    images: Callable[[int], Sequence[np.ndarray]],
    explain: Explain = not_explained,
) -> list[RankingExample]:
    """Look up names, texts and images of predictions to show.

    Args:
        chosen: Rows of the reference's predictions table.
        others: Predictions of one seed of the other experts, by what they are called.
        entities: Columns ``name`` and ``text``; row number is entity index.
        relations: Text of every relation by index.
        images: Gives the images of an entity index: ``uint8`` arrays ``(3, height, width)``.
        explain: Says what looked at the images of queries.

    Returns:
        One example per row.
    """

    @cache
    def card(entity: int) -> EntityCard:
        row = entities.iloc[entity]
        return EntityCard(row["name"], row["text"], thumbnails(images(entity)))

    ranks = {
        name: pd.Series(ranks_of(table), pd.MultiIndex.from_frame(table[["triple", "direction"]]))
        for name, table in others.items()
    }
    return [
        RankingExample(
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
            other_ranks={name: float(of[row.triple, row.direction]) for name, of in ranks.items()},
            looks=heat_maps(looks),
        )
        for row, looks in zip(chosen.itertuples(), explain(chosen[QUERY]), strict=True)
    ]


def examples_section(
    evaluation: RankingEvaluation,
    tables: Mapping[str, pd.DataFrame],
    has_images: np.ndarray,
    images: Callable[[int], Sequence[np.ndarray]],
    explain: Explain = not_explained,
    *,
    number: int,
    seed: int,
) -> Section:
    """Test queries with what the reference made of them; answers of its first seed."""
    of_one_seed = {
        expert: table[table["seed"] == table["seed"].min()]
        for expert, table in ((name, evaluation.of(name)) for name in evaluation.experts)
    }
    model = of_one_seed.pop(evaluation.reference)
    chosen = choose_queries(model, has_images, number=number, seed=seed)
    examples = describe_queries(
        chosen,
        {evaluation.name(expert): table for expert, table in of_one_seed.items()},
        tables["entities"],
        tables["relations"]["text"].tolist(),
        images,
        explain,
    )
    content = {"examples": examples, "seeds": evaluation.seeds}
    return Section.from_template("Examples", "ranking_examples.html.j2", content)


def _asked(evaluation: RankingEvaluation) -> str:
    entities = format_number(evaluation.predictions["raw_candidates"].iloc[0], 0)
    triples = format_number(evaluation.whole.count, 0)
    return (
        f"{triples} test triples, each asked for its head and for its tail, among {entities} "
        "entities."
    )


def _parts(evaluation: RankingEvaluation) -> str:
    leaks, unseen = 100 * evaluation.leak_share, 100 * evaluation.unseen_share
    return (
        "Asked for the tail, (h, r, ?), or for the head, (?, r, t). "
        f"{format_number(leaks, 1)}\u00a0% of the test triples leak: train holds the same two "
        "entities the other way round, by any relation, so that turning a training triple round "
        f"answers them. {format_number(unseen, 1)}\u00a0% have an entity that train lacks, of "
        "which only its text and images are known."
    )


def _more(evaluation: RankingEvaluation, labels: Mapping[str, str]) -> list[Section]:
    drawing = inline_svg(
        hits_of(evaluation), f"Share of answers among the first k, {len(evaluation.experts)} lines"
    )
    content = {
        "drawing": drawing,
        "metrics": METRICS,
        "reference": evaluation.name(evaluation.reference),
        "rows": _protocol_rows(evaluation),
    }
    return [Section.from_template("Ranks", "ranks.html.j2", content)]


def _protocol_rows(evaluation: RankingEvaluation) -> list[ScoreRow]:
    """The reference's metrics by side, kind of rank, filtered and raw."""
    return [
        ScoreRow(f"{_SIDE_NAMES[side]}, {rank_type}, {protocol}", values)
        for protocol, metrics in (
            ("filtered", evaluation.scores[evaluation.reference].metrics),
            ("raw", evaluation.raw),
        )
        for side in SIDES
        for rank_type in RANK_TYPES
        if (values := below(f"{side}.{rank_type}.", metrics))
    ]


def hits_of(evaluation: RankingEvaluation) -> Figure:
    """Draw the share of answers found among the first k for every expert, all seeds together."""
    return hits_figure(
        {evaluation.name(name): ranks_of(evaluation.of(name)) for name in evaluation.experts}
    )


LINK_PREDICTION = Layout(
    title="Link prediction",
    asked=_asked,
    how=(
        "Filtered ranks over all entities, both directions together, ties at their mean rank. "
        "AMRI, the adjusted mean rank index, is 0 by chance and 1 at best; MAP, the mean average "
        "precision, suits questions with many answers, of which at most one can come first."
    ),
    baseline=(
        "The popularity baseline ranks entities by how often train has them as answers of the "
        "relation."
    ),
    prefix=HEADLINE,
    metrics=METRICS,
    parts=_parts,
    groups={
        "category": Groups(
            "Kind of relation and direction",
            "Category",
            "answers",
            "count",
            "A side is “n” where the training triples hold 1.5 or more of its entities per entity "
            "of the other side. “tail” asks (h, r, ?), “head” asks (?, r, t).",
        ),
        "frequency": Groups(
            "How often the answer occurs in train",
            "Training triples with the answer",
            "answers",
            "count",
        ),
        "entity_images": Groups("Images of the known entity", "Known entity", "answers", "count"),
        "answer_images": Groups("Images of the answer", "Answer", "answers", "count"),
        "leak": Groups("Leaking triples", "Test triple", "answers", "count"),
        "relation": Groups("Relation", "Relation", "answers", "count", largest_first=True),
    },
    bars="the mean reciprocal rank",
    curve={
        "Training loss": "loss",
        "Dev MRR": f"dev_{HEADLINE_MRR}",
    },
    labels=lambda tables: dict(
        zip(tables["relations"]["relation"], tables["relations"]["text"], strict=True)
    ),
    examples=examples_section,
    more=_more,
    figure=hits_of,
    reports={"calibration_report": calibration_sections},
)
