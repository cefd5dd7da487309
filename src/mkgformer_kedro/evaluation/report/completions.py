"""The page on which people accept or reject completions: one file, no network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.ranking.tables import TRIPLE
from mkgformer_kedro.evaluation.report.page import render_template, thumbnail

_TEXT = 320


def render_completions(
    completions: pd.DataFrame,
    report: Mapping[str, Any],
    triples: pd.DataFrame,
    entities: pd.DataFrame,
    relations: pd.DataFrame,
    images: Callable[[int], Sequence[np.ndarray]],
    *,
    data_set: str,
    shown: int,
    images_shown: int,
    nearest: int,
) -> str:
    """Fill the page.

    Args:
        completions: ``head``, ``relation``, ``tail`` (ids), ``probability``, ``found_by``,
            ``in_answer_set``, ``score_<expert>``; the most probable first.
        report: What judging them gave: ``questions``, ``kept``, ``by_threshold``, ``meaning``,
            ``keep`` and ``highest``.
        triples: All known triples, by index.
        entities: Columns ``entity``, ``name``, ``text``; row number is entity index.
        relations: Columns ``relation``, ``text``.
        images: Gives the images of an entity index: ``uint8`` arrays ``(3, height, width)``.
        data_set: Name of the graph.
        shown: Completions on the page, the most probable of them.
        images_shown: Entities that get a thumbnail.
        nearest: Known triples beside each completion.

    Returns:
        An HTML page with all it needs.
    """
    rows = completions.head(shown)
    numbers = pd.Series(np.arange(len(entities)), index=entities["entity"])
    head, tail = (numbers.loc[rows[side]].to_numpy() for side in ("head", "tail"))
    relation = pd.Series(np.arange(len(relations)), index=relations["relation"]).loc[
        rows["relation"]
    ]
    known = _Neighbours(triples)
    scores = [name for name in rows if name.startswith("score_")]
    items, met = [], dict[int, None]()
    for row, h, r, t in zip(
        rows.to_dict("records"), head.tolist(), relation.tolist(), tail.tolist(), strict=True
    ):
        near = known.nearest(h, r, t, nearest)
        met |= dict.fromkeys((h, t))
        items.append(
            {
                "head": h,
                "relation": r,
                "tail": t,
                "probability": round(float(row["probability"]), 4),
                "found": row["found_by"],
                "inSet": bool(row["in_answer_set"]),
                "scores": {
                    name.removeprefix("score_"): round(float(row[name]), 2)
                    for name in scores
                    if np.isfinite(row[name])
                },
                "near": near,
            }
        )
    named = dict(met)
    for item in items:
        named |= dict.fromkeys(entity for h, _, t in item["near"] for entity in (h, t))
    cards = {}
    for entity in named:
        row = entities.iloc[entity]
        cards[entity] = {"id": row["entity"], "name": row["name"]}
        if entity in met:
            cards[entity]["text"] = _shortened(row["text"])
    with_image = 0
    for entity in met:
        if with_image == images_shown:
            break
        if found := images(entity)[:1]:
            cards[entity]["image"] = thumbnail(found[0])
            with_image += 1
    texts = relations[["relation", "text"]].rename(columns={"relation": "id"}).to_dict("records")
    return render_template(
        "completions.html.j2",
        {
            "data_set": data_set,
            "kept": report["kept"],
            "by_threshold": report["by_threshold"],
            "questions": report["questions"],
            "meaning": report["meaning"],
            "new": len(completions),
            "none_kept": none_kept(report),
            "expected": float(completions["probability"].sum()),
            "content": {
                "dataSet": data_set,
                "items": items,
                "entities": cards,
                "relations": texts,
            },
        },
    )


def none_kept(report: Mapping[str, Any]) -> str:
    """Why there are no completions, in a sentence.

    Args:
        report: ``keep``, what ``completion.keep`` says, and ``highest``, the highest probability of
            a link that the graph lacks.
    """
    least = report["keep"]["probability"] or 0
    return (
        "None of the links that the graph lacks is kept: completion.keep asks for a probability "
        f"of {least:.3g}{', found from both ends' if report['keep']['both_directions'] else ''}, "
        f"and the highest is {report['highest']:.3g}."
    )


class _Neighbours:
    """Known triples by any two of their three parts."""

    def __init__(self, triples: pd.DataFrame) -> None:
        self._by: list[dict[tuple[int, int], list[tuple[int, int, int]]]] = [
            defaultdict(list) for _ in range(3)
        ]
        columns = (triples[name].tolist() for name in TRIPLE)
        for h, r, t in zip(*columns, strict=True):
            for index, key in zip(self._by, ((h, r), (r, t), (h, t)), strict=True):
                index[key].append((h, r, t))

    def nearest(self, h: int, r: int, t: int, most: int) -> list[tuple[int, int, int]]:
        """Known triples that share two parts with one, of each kind in turn."""
        lists = [
            index.get(key, [])
            for index, key in zip(self._by, ((h, r), (r, t), (h, t)), strict=True)
        ]
        longest = max(map(len, lists))
        turns = [
            found[turn]
            for turn in range(min(longest, most))
            for found in lists
            if turn < len(found)
        ]
        return [near for near in dict.fromkeys(turns) if near != (h, r, t)][:most]


def _shortened(text: str) -> str:
    return text if len(text) <= _TEXT else text[:_TEXT].rsplit(" ", 1)[0] + " …"
