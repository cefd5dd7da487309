"""What the pages of relation extraction and entity recognition show beyond what all pages do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.experts import WITHOUT_IMAGES, Evaluation, Metric
from mkgformer_kedro.evaluation.extraction.counts import METRICS as MICRO
from mkgformer_kedro.evaluation.extraction.entities import EntityEvaluation
from mkgformer_kedro.evaluation.extraction.evaluation import ExtractionEvaluation
from mkgformer_kedro.evaluation.extraction.mentions import OUTSIDE, entities_of
from mkgformer_kedro.evaluation.extraction.relations import RelationEvaluation
from mkgformer_kedro.evaluation.report.figures import (
    confusion_figure,
    format_number,
    inline_svg,
)
from mkgformer_kedro.evaluation.report.page import Section, heat_maps, thumbnails
from mkgformer_kedro.evaluation.report.sections import Explain, Groups, Layout, not_explained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = tuple(
    Metric(key, label) for key, label in zip(MICRO, ("Precision", "Recall", "F1"), strict=True)
)
ACCURACY = Metric("accuracy", "Accuracy")
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
_SHADES = "The darker a cell, the larger its share of the row."


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
    """A test post with what the experts made of it.

    Attributes:
        kind: Why it is shown, in words.
        right: Whether the reference is right.
        post: Name of the post.
        subset: Its subset of a synthetic sample, or an empty text.
        readings: The post's words, marked, under the names of those who read them so.
        answers: Answers by whoever gives them, for answers that are not marks.
        images: Data URIs of thumbnails.
        looks: What looked at each image, see ``page.heat_maps``.
    """

    kind: str
    right: bool
    post: str
    subset: str
    readings: Mapping[str, Sequence[Piece]]
    answers: Mapping[str, str]
    images: Sequence[str]
    looks: Sequence[Mapping[str, Sequence[str]]]


def choose_posts(
    right: pd.Series,
    right_without_images: pd.Series | None,
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
        right: Whether the reference is right about a post (the index).
        right_without_images: Whether it is right without images; None: nobody was asked without.
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
            "right_without_images": right if right_without_images is None else right_without_images,
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
    evaluation: Evaluation,
    tables: Mapping[str, pd.DataFrame],
    has_images: np.ndarray,
    images: Callable[[int], Sequence[np.ndarray]],
    explain: Explain = not_explained,
    *,
    number: int,
    seed: int,
) -> list[ExtractionExample]:
    """Test posts with their two mentions, the relation and what experts took it for.

    Args:
        evaluation: Holds the answers; those of each expert's first seed are shown.
        tables: The tables ``posts`` of all splits and ``labels``.
        has_images: Whether a post has images, ``(posts,)``.
        images: Gives the images of a row of ``posts``: ``uint8`` arrays ``(3, height, width)``.
        explain: Says what looked at the images of posts.
        number: Number of posts of each kind.
        seed: Seed of the choice.
    """
    posts, labels = tables["posts"], tables["labels"]
    answers = _of_first_seeds(evaluation)
    model = answers[evaluation.reference]
    texts = labels["text"].tolist()
    right = {name: table["predicted"] == table["relation"] for name, table in answers.items()}
    chosen = choose_posts(
        right[evaluation.reference],
        right.get(WITHOUT_IMAGES),
        model["relation"].mask(labels["negative"].to_numpy()[model["relation"]]),
        pd.Series(has_images, index=posts["post"]),
        examples=number,
        seed=seed,
    )

    # Rows as tuples: a row as a series would turn its numbers into floats.
    rows = {name: {row.Index: row for row in t.itertuples()} for name, t in answers.items()}

    def answered(row: Any) -> str:
        sure = "" if np.isnan(row.score) else f" ({row.score:.2f})"
        return f"{texts[row.predicted]}{sure}"

    found = []
    for kind, row, post, looks in _posts_of(chosen, posts, explain):
        given = {name: answered(of[post.post]) for name, of in rows.items()}
        gold = {"Gold": texts[rows[evaluation.reference][post.post].relation]}
        found.append(
            ExtractionExample(
                kind=_KINDS[kind],
                right=bool(right[evaluation.reference][post.post]),
                post=post.post,
                subset=_text_or_nothing(post.subset),
                readings={"": _mention_pieces(post)},
                answers=gold | {_reader(evaluation, name): one for name, one in given.items()},
                images=thumbnails(images(row)),
                looks=looks,
            )
        )
    return found


def entity_examples(
    evaluation: Evaluation,
    tables: Mapping[str, pd.DataFrame],
    has_images: np.ndarray,
    images: Callable[[int], Sequence[np.ndarray]],
    explain: Explain = not_explained,
    *,
    number: int,
    seed: int,
) -> list[ExtractionExample]:
    """Test posts with their entities and those that experts found.

    Args:
        evaluation: Holds the answers; those of each expert's first seed are shown.
        tables: The tables ``posts`` of all splits and ``labels``.
        has_images: Whether a post has images, ``(posts,)``.
        images: Gives the images of a row of ``posts``: ``uint8`` arrays ``(3, height, width)``.
        explain: Says what looked at the images of posts.
        number: Number of posts of each kind.
        seed: Seed of the choice.
    """
    posts = tables["posts"]
    answers = _of_first_seeds(evaluation)
    model = answers[evaluation.reference]
    series = {name: 1 + i % 4 for i, name in enumerate(tables["labels"]["label"])}

    def right(table: pd.DataFrame) -> pd.Series:
        same = [
            entities_of(gold) == entities_of(found)
            for gold, found in zip(table["tags"], table["predicted"], strict=True)
        ]
        return pd.Series(same, index=table.index)

    types = [" ".join(sorted({e.type for e in entities_of(tags)})) for tags in model["tags"]]
    is_right = right(model)
    chosen = choose_posts(
        is_right,
        right(answers[WITHOUT_IMAGES]) if WITHOUT_IMAGES in answers else None,
        pd.Series([name or None for name in types], index=model.index, dtype=object),
        pd.Series(has_images, index=posts["post"]),
        examples=number,
        seed=seed,
    )
    found = []
    for kind, row, post, looks in _posts_of(chosen, posts, explain):
        readings = {"Gold": model.loc[post.post, "tags"]} | {
            _reader(evaluation, name): table.loc[post.post, "predicted"]
            for name, table in answers.items()
        }
        # Readers who agree share one line.
        lines: dict[tuple[Any, ...], list[str]] = {}
        for reader, tags in readings.items():
            lines.setdefault(tuple(entities_of(tags)), []).append(reader)
        found.append(
            ExtractionExample(
                kind=_KINDS[kind],
                right=bool(is_right[post.post]),
                post=post.post,
                subset=_text_or_nothing(post.subset),
                readings={
                    ", ".join(readers).capitalize() if len(readers) > 1 else readers[0]: (
                        _entity_pieces(post.words, entities, series)
                    )
                    for entities, readers in lines.items()
                },
                answers={},
                images=thumbnails(images(row)),
                looks=looks,
            )
        )
    return found


def relation_sections(evaluation: RelationEvaluation, labels: Mapping[str, str]) -> list[Section]:
    """What is confused with what, and posts that were too long."""
    truncated, mentions = evaluation.posts_truncated, evaluation.mentions_truncated
    text = "Every post fits into the model's window."
    if truncated:
        text = (
            f"{format_number(truncated, 0)} posts are longer than the model's window and were "
            f"truncated around their mentions; of {format_number(mentions, 0)} the mentions alone "
            "are longer."
        )
    caption = f"Posts by their relation (rows) and the predicted one (columns). {_SHADES}"
    return [_errors_section(evaluation, labels, [text], {}, caption)]


def entity_sections(evaluation: EntityEvaluation, labels: Mapping[str, str]) -> list[Section]:
    """What became of the entities, and what types are confused with what."""
    lost = "Every word lies within the model's window."
    if evaluation.words_lost:
        lost = (
            f"{format_number(evaluation.words_lost, 0)} words lie behind the model's window and "
            "are predicted to be no part of an entity: "
            f"{format_number(evaluation.entities_lost, 0)} gold entities reach into them, and none "
            "of these can be right."
        )
    explained = (
        "What became of each gold entity. A boundary is wrong where the predicted entity overlaps "
        "the gold one without having the same words. Spurious entities overlap no gold one."
    )
    errors = {
        labels.get(str(kind), str(kind)): {key: float(numbers[key]) for key in _ERRORS}
        for kind, numbers in evaluation.errors.iterrows()
    }
    caption = (
        "Gold entities by their type (rows) and the type of the predicted entity that overlaps "
        "them (columns). The last column holds entities without such a prediction, the last row "
        f"predictions without a gold entity. {_SHADES}"
    )
    return [_errors_section(evaluation, labels, [explained, lost], errors, caption)]


def _errors_section(
    evaluation: ExtractionEvaluation,
    labels: Mapping[str, str],
    texts: Sequence[str],
    errors: Mapping[str, Mapping[str, float]],
    caption: str,
) -> Section:
    matrix = evaluation.confusion.rename(index=labels, columns=labels)
    drawing = inline_svg(
        confusion_figure(matrix), f"Confusion matrix of {', '.join(map(str, matrix.index))}"
    )
    several = " Numbers are means over seeds." if len(evaluation.seeds) > 1 else ""
    return Section.from_template(
        "Errors",
        "errors.html.j2",
        {
            "reference": evaluation.name(evaluation.reference),
            "texts": texts,
            "columns": _ERRORS,
            "errors": errors,
            "drawing": drawing,
            "caption": caption + several,
        },
    )


def _examples_section(choose: Callable[..., list[ExtractionExample]]) -> Callable[..., Section]:
    """A section of the examples that ``choose`` chooses."""

    def section(
        evaluation: Evaluation,
        tables: Mapping[str, pd.DataFrame],
        has_images: np.ndarray,
        images: Callable[[int], Sequence[np.ndarray]],
        explain: Explain = not_explained,
        *,
        number: int,
        seed: int,
    ) -> Section:
        found = choose(evaluation, tables, has_images, images, explain, number=number, seed=seed)
        kinds = [
            kind
            for key, kind in _KINDS.items()
            if WITHOUT_IMAGES in evaluation.differences or key in ("right", "wrong")
        ]
        return Section.from_template(
            "Examples",
            "extraction_examples.html.j2",
            {
                "examples": {
                    kind: [example for example in found if example.kind == kind] for kind in kinds
                },
                "seeds": evaluation.seeds,
            },
        )

    return section


def _posts_of(
    chosen: Sequence[tuple[str, str]], posts: pd.DataFrame, explain: Explain
) -> list[tuple[str, int, Any, list[dict[str, list[str]]]]]:
    """The chosen posts: why each was chosen, its row number, its row, and what looked at it."""
    rows = pd.Series(np.arange(len(posts)), index=posts["post"])
    numbers = [int(rows[name]) for _, name in chosen]
    looks = map(heat_maps, explain(posts.iloc[numbers]))
    return [
        (kind, number, posts.iloc[number], of_post)
        for (kind, _), number, of_post in zip(chosen, numbers, looks, strict=True)
    ]


def _of_first_seeds(evaluation: Evaluation) -> dict[str, pd.DataFrame]:
    """Answers of each expert's first seed by post."""
    tables = {name: evaluation.of(name) for name in evaluation.experts}
    return {
        name: table[table["seed"] == table["seed"].min()].set_index("post")
        for name, table in tables.items()
    }


def _reader(evaluation: Evaluation, expert: str) -> str:
    """What an expert is called beside its answer."""
    name = evaluation.name(expert)
    return name[:1].upper() + name[1:]


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


def confusion_of(evaluation: ExtractionEvaluation) -> Figure:
    """Draw what the reference takes for what."""
    return confusion_figure(evaluation.confusion)


def _texts_of_labels(tables: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    return dict(zip(tables["labels"]["label"], tables["labels"]["text"], strict=True))


def _parts(evaluation: ExtractionEvaluation) -> str:
    return (
        "In ambiguous posts the text leaves several readings open and the image alone decides. In "
        "clear posts the text decides, and the image agrees or is missing. In misleading posts the "
        "text decides, and the image shows something else."
    )


def _asked(what: str) -> Callable[[Any], str]:
    return lambda evaluation: f"{format_number(evaluation.whole.count, 0)} test posts, {what}."


_IMAGES = Groups("Images", "Posts", "test posts", "posts")
_SEEN = "Mentions that train holds, whatever their case"
_CURVE = {"Training loss": "loss", "Dev F1": "dev_f1"}
RELATIONS = Layout(
    title="Relation extraction",
    asked=_asked("each asked for the relation of its two mentions"),
    how=(
        "Micro scores of all relations but the negative one; the accuracy is over all relations, "
        "the negative one included."
    ),
    baseline=(
        "The majority baseline gives every post the most frequent relation of train that is not "
        "the negative one."
    ),
    prefix="",
    metrics=(*METRICS, ACCURACY),
    parts=_parts,
    groups={
        "images": _IMAGES,
        "mentions": Groups(_SEEN, "Mentions", "test posts", "posts"),
        "relation": Groups("Relation", "Relation", "test posts of that relation", "gold"),
    },
    bars="F1",
    curve=_CURVE,
    labels=_texts_of_labels,
    examples=_examples_section(relation_examples),
    more=relation_sections,
    figure=confusion_of,
)
ENTITIES = Layout(
    title="Entity recognition",
    asked=_asked("each searched for its entities and their types"),
    how=(
        "Micro scores of entities: one is right only with its exact words and its type (strict, "
        "IOB2)."
    ),
    baseline=(
        "The gazetteer baseline finds the mentions of train again, the longest first, each with "
        "its most frequent type."
    ),
    prefix="",
    metrics=METRICS,
    parts=_parts,
    groups={
        "images": _IMAGES,
        "mention": Groups(_SEEN, "Mention", "gold entities", "gold"),
        "type": Groups("Entity type", "Type", "gold entities", "gold"),
    },
    bars="F1",
    curve=_CURVE,
    labels=_texts_of_labels,
    examples=_examples_section(entity_examples),
    more=entity_sections,
    figure=confusion_of,
)
