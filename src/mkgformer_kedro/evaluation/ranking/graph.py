"""Facts about a graph that scores are read against: leaks, relation categories, frequencies.

Triples are frames with integer columns ``head``, ``relation``, ``tail``.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd

from mkgformer_kedro.evaluation.ranking.tables import TRIPLE

FREQUENCY_EDGES = (0, 1, 4, 11, 31, 101)


def reverse_in_train(train: pd.DataFrame, triples: pd.DataFrame) -> np.ndarray:
    """Mark the triples (h, r, t) for which train holds (t, r', h) by any relation r'.

    Such a triple can be answered by turning a training triple round. The phenomenon was described
    by Toutanova and Chen (2015, "Observed versus latent features for knowledge base and text
    inference").

    Args:
        train: Training triples.
        triples: Triples to check; ``train`` itself is allowed.

    Returns:
        Boolean array ``(len(triples),)``.
    """
    span = 1 + max(
        (
            int(frame[side].max())
            for frame in (train, triples)
            for side in ("head", "tail")
            if len(frame)
        ),
        default=0,
    )
    there = train["head"].to_numpy(np.int64) * span + train["tail"].to_numpy(np.int64)
    back = triples["tail"].to_numpy(np.int64) * span + triples["head"].to_numpy(np.int64)
    return np.isin(back, there)


def relation_categories(train: pd.DataFrame) -> pd.Series:
    """Sort relations into 1-1, 1-n, n-1 and n-n.

    A side counts as many (n) where, over the training triples, the other side is met with 1.5 or
    more distinct entities on this side on average: Bordes et al. (2013), "Translating embeddings
    for modeling multi-relational data", section 4.3. The head's side is named first.

    Args:
        train: Training triples; duplicates count once.

    Returns:
        Category by relation index (the series' index), for the relations that occur in ``train``.
    """
    by_relation = train[TRIPLE].drop_duplicates().groupby("relation")
    sizes = by_relation.size()
    many_heads = sizes / by_relation["tail"].nunique() >= 1.5
    many_tails = sizes / by_relation["head"].nunique() >= 1.5
    names = np.where(many_heads, "n", "1").astype(object) + "-" + np.where(many_tails, "n", "1")
    return pd.Series(names, index=sizes.index, name="category", dtype="str")


def entity_frequency(train: pd.DataFrame, num_entities: int) -> np.ndarray:
    """Count the training triples that each entity takes part in, as head or as tail.

    Args:
        train: Training triples. A triple from an entity to itself counts twice.
        num_entities: Number of entities of the graph.

    Returns:
        Integer array ``(num_entities,)``.
    """
    ends = np.concatenate([train["head"].to_numpy(), train["tail"].to_numpy()])
    return np.bincount(ends, minlength=num_entities)


def frequency_bins(frequency: np.ndarray) -> pd.Categorical:
    """Put frequencies into the ordered bins 0, 1–3, 4–10, 11–30, 31–100 and over 100."""
    edges = FREQUENCY_EDGES
    labels = [str(low) if high == low + 1 else f"{low}–{high - 1}" for low, high in pairwise(edges)]
    labels.append(f"over {edges[-1] - 1}")
    return pd.Categorical.from_codes(
        np.searchsorted(edges, frequency, side="right") - 1, categories=labels, ordered=True
    )
