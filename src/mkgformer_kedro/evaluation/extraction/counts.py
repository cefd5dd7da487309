"""What posts hold and what was found in them, counted: the basis of all scores on posts."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mkgformer_kedro.evaluation.extraction.mentions import entities_of

METRICS = ("precision", "recall", "f1")


def count_relations(gold: np.ndarray, predicted: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Count relations, the negative one left out, as scikit-learn's micro average does.

    Args:
        gold: ``(posts,)`` numbers of labels.
        predicted: ``(posts,)`` likewise.
        negative: Which label is that of mentions that stand in no relation, ``(labels,)`` bool:
            nothing to find, and nothing found.

    Returns:
        ``(posts, 3)``: correct, predicted, gold.
    """
    positive = ~negative
    correct = (gold == predicted) & positive[gold]
    return np.stack([correct, positive[predicted], positive[gold]], axis=1).astype(np.int64)


def count_entities(gold: Iterable[Iterable[str]], predicted: Iterable[Iterable[str]]) -> np.ndarray:
    """Count entities; one is correct with exactly its words and its type (strict, IOB2).

    Args:
        gold: Tags of each post.
        predicted: Likewise.

    Returns:
        ``(posts, 3)``: correct, predicted, gold.
    """
    pairs = [
        (set(entities_of(one)), set(entities_of(other)))
        for one, other in zip(gold, predicted, strict=True)
    ]
    rows = [(len(one & other), len(other), len(one)) for one, other in pairs]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)


def micro_scores(counts: np.ndarray) -> np.ndarray:
    """Precision, recall and F1 of counts; 0 where there is nothing to divide by.

    Args:
        counts: ``(..., 3)``: correct, predicted, gold.

    Returns:
        Array ``(..., 3)`` in the order of ``METRICS``.
    """
    correct, predicted, gold = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    parts = [(correct, predicted), (correct, gold), (2 * correct, predicted + gold)]
    return np.stack([np.divide(a, b, out=np.zeros_like(a), where=b > 0) for a, b in parts], axis=-1)
