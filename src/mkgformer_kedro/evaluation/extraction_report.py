"""The page that a run of relation extraction or entity recognition ends with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.counts import NEGATIVE
from mkgformer_kedro.evaluation.entity_recognition import (
    EntityRecognitionEvaluation,
    entities_of,
)
from mkgformer_kedro.evaluation.extraction import METRICS, ExtractionEvaluation
from mkgformer_kedro.evaluation.intervals import Interval
from mkgformer_kedro.evaluation.mentions import OUTSIDE
from mkgformer_kedro.evaluation.relation_extraction import RelationExtractionEvaluation
from mkgformer_kedro.evaluation.report import (
    ComparisonRow,
    GroupRow,
    Metric,
    Published,
    ScoreRow,
    confusion_figure,
    curve_figure,
    inline_svg,
    render_page,
    thumbnail,
)

_PRECISION, _RECALL, _F1 = (
    Metric(key, label) for key, label in zip(METRICS, ("Precision", "Recall", "F1"), strict=True)
)
_ACCURACY = Metric("accuracy", "Accuracy")
_IMAGES_SHOWN = 4
_CURVE_PANELS = {"Training loss": "loss", "Dev F1": "dev_f1"}
_KINDS = {
    "decided": "Right with images, wrong without images",
    "misled": "Wrong with images, right without images",
    "right": "Right",
    "wrong": "Wrong",
}
_ERRORS = {
    "gold": "Gold",
    "correct": "Right",
    "type": "Wrong type",
    "boundary": "Wrong boundary",
    "boundary_and_type": "Both wrong",
    "missed": "Missed",
    "spurious": "Spurious",
}
_TASKS = {
    "relation_extraction": {
        "title": "Relation extraction",
        "asked": "each asked for the relation of its two mentions",
        "how": (
            "Micro scores of all relations but the negative one; the accuracy is over all "
            "relations, the negative one included."
        ),
        "baseline": (
            "The majority baseline gives every post the most frequent relation of train that is "
            "not the negative one."
        ),
        "confused": "Posts by their relation (rows) and the predicted one (columns).",
    },
    "entity_recognition": {
        "title": "Entity recognition",
        "asked": "each searched for its entities and their types",
        "how": (
            "Micro scores of entities: one is right only with its exact words and its type "
            "(strict, IOB2)."
        ),
        "baseline": (
            "The gazetteer baseline finds the mentions of train again, the longest first, each "
            "with its most frequent type."
        ),
        "confused": (
            "Gold entities by their type (rows) and the type of the predicted entity that "
            "overlaps them (columns). The last column holds entities without such a prediction, "
            "the last row predictions without a gold entity."
        ),
    },
}
# By task, of each cut: heading of the section, heading of the rows, column of the counts, and what
# they are counts of.
_CUTS = {
    "relation_extraction": {
        "images": ("Images", "Posts", "posts", "test posts"),
        "mentions": (
            "Mentions that train holds, whatever their case", "Mentions", "posts", "test posts",
        ),
        "relation": ("Relation", "Relation", "gold", "test posts of that relation"),
    },
    "entity_recognition": {
        "images": ("Images", "Posts", "posts", "test posts"),
        "mention": (
            "Mentions that train holds, whatever their case", "Mention", "gold", "gold entities",
        ),
        "type": ("Entity type", "Type", "gold", "gold entities"),
    },
}  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """A run of words of a post.

    Attributes:
        text: The words.
        label: What they are marked as; empty where they are not marked.
        series: Number of the mark's colour, from 1.
    """

    text: str
    label: str = ""
    series: int = 1


@dataclass(frozen=True)
class ExtractionExample:
    """A test post with what the model made of it.

    Attributes:
        kind: Why it is shown, in words.
        right: Whether the model is right.
        post: Name of the post.
        share: Its share of a synthetic sample, or an empty text.
        readings: The post's words, marked, under the name of whoever reads them so.
        answers: Answers by whoever gives them, for answers that are not marks.
        images: Data URIs of thumbnails.
    """

    kind: str
    right: bool
    post: str
    share: str
    readings: Mapping[str, Sequence[Piece]]
    answers: Mapping[str, str]
    images: Sequence[str]


def choose_examples(
    right: pd.Series,
    right_without_images: pd.Series,
    about: pd.Series,
    has_images: pd.Series,
    *,
    examples: int,
    seed: int,
) -> list[tuple[str, str]]:
    """Choose test posts to show.

    Posts that images turn right and those that they turn wrong come first, then others that are
    right and wrong. Posts with images are preferred, and what a post is about is not repeated as
    long as there is something else.

    Args:
        right: Whether the model is right about a post (the index).
        right_without_images: Whether it is right without images.
        about: What the post is about; posts with a missing value hold nothing to find, and are
            not shown as right.
        has_images: Whether the post has images.
        examples: Number of posts of each kind.
        seed: Seed of the choice.

    Returns:
        Kind (``decided``, ``misled``, ``right`` or ``wrong``) and post; fewer where there are not
        that many.
    """
    table = pd.DataFrame(
        {
            "right": right,
            "right_without_images": right_without_images,
            "about": about,
            "without_images": ~has_images.reindex(right.index),
        }
    ).sample(frac=1, random_state=seed)
    table["seen"] = table.groupby("about", dropna=False).cumcount()
    table = table.sort_values(["without_images", "seen"], kind="stable")
    changed = table["right"] != table["right_without_images"]
    found = table["about"].notna()
    chosen = {
        "decided": table[changed & table["right"]],
        "misled": table[changed & ~table["right"]],
        "right": table[~changed & table["right"] & found],
        "wrong": table[~changed & ~table["right"]],
    }
    return [(kind, str(post)) for kind, rows in chosen.items() for post in rows.index[:examples]]


def relation_examples(
    model: pd.DataFrame,
    without_images: pd.DataFrame,
    posts: pd.DataFrame,
    labels: pd.DataFrame,
    has_images: np.ndarray,
    images: Callable[[int], Sequence[np.ndarray]],
    *,
    examples: int,
    seed: int,
) -> list[ExtractionExample]:
    """Test posts with their two mentions, the relation and what the model took it for.

    Args:
        model: Predictions of the model; those of the first seed are shown.
        without_images: Predictions of the same model without images.
        posts: Table ``posts`` of all splits.
        labels: Table ``labels``.
        has_images: Whether a post has images, ``(len(posts),)``.
        images: Gives the images of a row of ``posts``: ``uint8`` arrays ``(3, height, width)``.
        examples: Number of posts of each kind.
        seed: Seed of the choice.
    """
    first, second = _of_first_seed(model), _of_first_seed(without_images)
    names = labels["label"].to_numpy()
    texts = labels["text"].tolist()
    chosen = choose_examples(
        first["predicted"] == first["relation"],
        second["predicted"] == second["relation"],
        first["relation"].where(names[first["relation"]] != NEGATIVE),
        pd.Series(has_images, index=posts["post"]),
        examples=examples,
        seed=seed,
    )

    # Rows as tuples: a row as a series would turn its numbers into floats.
    answers, blind = ({row.Index: row for row in t.itertuples()} for t in (first, second))

    def answered(row: Any) -> str:
        return f"{texts[row.predicted]} ({row.score:.2f})"

    def described(kind: str, row: int, post: Any) -> ExtractionExample:
        answer = answers[post.post]
        return ExtractionExample(
            kind=_KINDS[kind],
            right=answer.predicted == answer.relation,
            post=post.post,
            share=_text_or_nothing(post.group),
            readings={"": _mention_pieces(post)},
            answers={
                "Gold": texts[answer.relation],
                "Predicted": answered(answer),
                "Without images": answered(blind[post.post]),
            },
            images=_thumbnails(images(row)),
        )

    return list(_described(chosen, posts, described))


def entity_examples(
    model: pd.DataFrame,
    without_images: pd.DataFrame,
    posts: pd.DataFrame,
    labels: pd.DataFrame,
    has_images: np.ndarray,
    images: Callable[[int], Sequence[np.ndarray]],
    *,
    examples: int,
    seed: int,
) -> list[ExtractionExample]:
    """Test posts with their entities and those that the model found.

    Args:
        model: Predictions of the model; those of the first seed are shown.
        without_images: Predictions of the same model without images.
        posts: Table ``posts`` of all splits.
        labels: Table ``labels``.
        has_images: Whether a post has images, ``(len(posts),)``.
        images: Gives the images of a row of ``posts``: ``uint8`` arrays ``(3, height, width)``.
        examples: Number of posts of each kind.
        seed: Seed of the choice.
    """
    first, second = _of_first_seed(model), _of_first_seed(without_images)
    series = {name: 1 + i % 4 for i, name in enumerate(labels["label"])}

    def right(table: pd.DataFrame) -> pd.Series:
        same = [
            entities_of(gold) == entities_of(found)
            for gold, found in zip(table["tags"], table["predicted"], strict=True)
        ]
        return pd.Series(same, index=table.index)

    types = [" ".join(sorted({e.type for e in entities_of(tags)})) for tags in first["tags"]]
    is_right = right(first)
    chosen = choose_examples(
        is_right,
        right(second),
        pd.Series([name or None for name in types], index=first.index, dtype=object),
        pd.Series(has_images, index=posts["post"]),
        examples=examples,
        seed=seed,
    )

    def described(kind: str, row: int, post: Any) -> ExtractionExample:
        readings = {
            "Gold": first.loc[post.post, "tags"],
            "Predicted": first.loc[post.post, "predicted"],
            "Without images": second.loc[post.post, "predicted"],
        }
        # Readers who agree share one line.
        lines: dict[str, list[Piece]] = {}
        for found, group in groupby(readings.items(), lambda item: entities_of(item[1])):
            members = list(group)
            name = ", ".join(reader for reader, _ in members)
            lines[name.capitalize() if len(members) > 1 else name] = _entity_pieces(
                post.words, found, series
            )
        return ExtractionExample(
            kind=_KINDS[kind],
            right=bool(is_right[post.post]),
            post=post.post,
            share=_text_or_nothing(post.group),
            readings=lines,
            answers={},
            images=_thumbnails(images(row)),
        )

    return list(_described(chosen, posts, described))


def render_extraction_report(
    evaluation: ExtractionEvaluation,
    *,
    task: str,
    data_set: str,
    synthetic: bool,
    labels: pd.DataFrame,
    published: Sequence[Published],
    curve: pd.DataFrame,
    examples: Sequence[ExtractionExample],
    facts: Mapping[str, Any],
) -> str:
    """Write the page.

    Args:
        evaluation: Scores, comparisons and groups.
        task: ``relation_extraction`` or ``entity_recognition``.
        data_set: Name of the data set.
        synthetic: Whether the data set is a synthetic sample, which the page then says.
        labels: Table ``labels``.
        published: Published results on the data set.
        curve: Training curve with the columns ``step`` and ``seed``.
        examples: Posts to show.
        facts: What is known about data and run, by section: nested mappings, lists and values.

    Returns:
        A self-contained HTML page.
    """
    names = dict(zip(labels["label"], labels["text"], strict=True))
    metrics = [_PRECISION, _RECALL, _F1]
    if "accuracy" in evaluation.model.metrics:
        metrics.append(_ACCURACY)
    words = _TASKS[task]
    baseline = evaluation.baseline_name.removeprefix("the ").capitalize()
    panels = {title: column for title, column in _CURVE_PANELS.items() if column in curve}
    matrix = evaluation.confusion.rename(index=names, columns=names)
    entities = evaluation if isinstance(evaluation, EntityRecognitionEvaluation) else None
    relations = evaluation if isinstance(evaluation, RelationExtractionEvaluation) else None
    return render_page(
        "extraction.html.j2",
        {
            "words": words,
            "data_set": data_set,
            "synthetic": synthetic,
            "posts": evaluation.posts,
            "seeds": evaluation.seeds,
            "verdicts": evaluation.verdicts,
            "metrics": metrics,
            "f1": _F1,
            "others": [_PRECISION, _RECALL],
            "scores": [
                ScoreRow(name, item.metrics, item.intervals, own=item is evaluation.model)
                for name, item in {
                    "This model": evaluation.model,
                    "This model, without images": evaluation.without_images,
                    baseline: evaluation.baseline,
                }.items()
            ],
            "seed_rows": _seed_rows(evaluation),
            "published": [result.row for result in published],
            "published_metrics": [
                metric
                for metric in (_PRECISION, _RECALL, _F1, _ACCURACY)
                if any(metric.key in result.metrics for result in published)
            ],
            "shares": _share_rows(evaluation),
            "same_answers": {item.share: item.same_answers for item in evaluation.shares},
            "cuts": [
                (heading, rows_of, counted, _group_rows(evaluation.groups[cut], count, names))
                for cut, (heading, rows_of, count, counted) in _CUTS[task].items()
            ],
            "confusion_figure": inline_svg(
                confusion_figure(matrix), f"Confusion matrix of {', '.join(matrix.index)}"
            ),
            "errors": _error_rows(entities, names) if entities else [],
            "error_columns": _ERRORS,
            "words_lost": entities.words_lost if entities else 0,
            "entities_lost": entities.entities_lost if entities else 0,
            "posts_cut": relations.posts_cut if relations else 0,
            "mentions_truncated": relations.mentions_truncated if relations else 0,
            "curve_figure": inline_svg(
                curve_figure(curve, panels, x="step", by="seed"),
                f"Training curve: {', '.join(panels)}",
            ),
            "examples": {
                kind: [example for example in examples if example.kind == kind]
                for kind in _KINDS.values()
            },
            "facts": facts,
        },
    )


def _described(
    chosen: Sequence[tuple[str, str]],
    posts: pd.DataFrame,
    describe: Callable[[str, int, Any], ExtractionExample],
) -> Iterator[ExtractionExample]:
    """Describe the chosen posts, given their row numbers and rows."""
    rows = pd.Series(np.arange(len(posts)), index=posts["post"])
    for kind, name in chosen:
        row = int(rows[name])
        yield describe(kind, row, posts.iloc[row])


def _of_first_seed(predictions: pd.DataFrame) -> pd.DataFrame:
    return predictions[predictions["seed"] == predictions["seed"].min()].set_index("post")


def _thumbnails(images: Sequence[np.ndarray]) -> list[str]:
    return [thumbnail(pixels) for pixels in images[:_IMAGES_SHOWN]]


def _text_or_nothing(value: Any) -> str:
    return "" if pd.isna(value) else str(value)


def _pieces(words: Sequence[str], marks: Sequence[tuple[Any, str, int]]) -> list[Piece]:
    """Runs of words with the same mark: an identity, a label and a colour each."""
    pieces = []
    numbered = zip(words, marks, strict=True)
    for (_, label, series), run in groupby(numbered, lambda pair: pair[1]):
        pieces.append(Piece(" ".join(word for word, _ in run), label, series))
    return pieces


def _mention_pieces(post: Any) -> list[Piece]:
    """A post with its head and its tail marked; where they overlap, both."""
    names = {
        (False, False): ("", 1),
        (True, False): ("head", 1),
        (False, True): ("tail", 2),
        (True, True): ("head and tail", 4),
    }
    marks = []
    for at in range(len(post.words)):
        inside = (
            bool(post.head_start <= at < post.head_end),
            bool(post.tail_start <= at < post.tail_end),
        )
        marks.append((inside, *names[inside]))
    return _pieces(post.words, marks)


def _entity_pieces(
    words: Sequence[str], entities: Sequence[tuple[int, int, str]], series: Mapping[str, int]
) -> list[Piece]:
    """A post with entities marked by type."""
    marks: list[tuple[Any, str, int]] = [(OUTSIDE, "", 1)] * len(words)
    for number, (start, end, kind) in enumerate(entities):
        marks[start:end] = [(number, kind, series.get(kind, 3))] * (end - start)
    return _pieces(words, marks)


def _seed_rows(evaluation: ExtractionEvaluation) -> list[ScoreRow]:
    """Scores seed by seed, their mean and deviation; nothing where there is one seed."""
    model = evaluation.model
    if not model.deviations:
        return []
    rows = [
        ScoreRow(f"Seed {seed}", {str(name): float(v) for name, v in values.items()})
        for seed, values in model.by_seed.iterrows()
    ]
    return [
        *rows,
        ScoreRow("Mean", model.metrics, own=True),
        ScoreRow("Standard deviation", model.deviations),
    ]


def _share_rows(evaluation: ExtractionEvaluation) -> list[ComparisonRow]:
    return [
        ComparisonRow(
            label=item.share,
            count=item.posts,
            scores=[
                (scores.metrics["f1"], scores.intervals["f1"])
                for scores in (item.model, item.without_images)
            ],
            difference=item.difference,
        )
        for item in evaluation.shares
    ]


def _error_rows(
    evaluation: EntityRecognitionEvaluation, names: Mapping[str, str]
) -> list[tuple[str, dict[str, float]]]:
    """Kinds of errors by type, in words."""
    return [
        (names.get(str(kind), str(kind)), {key: float(numbers[key]) for key in _ERRORS})
        for kind, numbers in evaluation.errors.iterrows()
    ]


def _group_rows(table: pd.DataFrame, count: str, names: Mapping[str, str]) -> list[GroupRow]:
    """A table of groups as rows, labels in words."""
    return [
        GroupRow(
            label=names.get(row.group, row.group),
            count=getattr(row, count),
            values={name: getattr(row, name) for name in METRICS},
            interval=Interval(row.low, row.high),
        )
        for row in table.itertuples()
    ]
