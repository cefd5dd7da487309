"""A graph's triples parted into train, dev and test by the project."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pydantic import Field

from mkgformer_kedro.datasets.text_files import SPLITS
from mkgformer_kedro.parameters import Parameters


class SplitParameters(Parameters):
    """How a graph that comes in one piece is split.

    Attributes:
        dev: Share of the triples to choose a model by.
        test: Share of the triples to report.
        seed: Which of all such splits; apart from the run's seed, so that models of different
            seeds are asked the same questions.
    """

    dev: float = Field(gt=0, lt=0.5)
    test: float = Field(gt=0, lt=0.5)
    seed: int = Field(ge=0)


def split_triples(triples: pd.DataFrame, parameters: SplitParameters) -> pd.Series:
    """Draw test and dev at random such that nothing can be copied and nothing is unheard of.

    Triples of the same two entities, by whatever relation and in whatever direction, stay in one
    split. Every entity and every relation of dev and test occurs in train. The shares are reached
    as far as that allows: a graph of which every entity has one triple cannot be split.

    Args:
        triples: ``head``, ``relation``, ``tail``; a triple that is there twice counts twice.
        parameters: Shares and seed.

    Returns:
        The split of each triple, in the rows of ``triples``.
    """
    ends = [triples[side].to_numpy() for side in ("head", "tail")]
    entities, names = pd.factorize(np.concatenate(ends))
    heads, tails = np.split(entities, 2)
    relations, _ = pd.factorize(triples["relation"])
    pairs, _ = pd.factorize(
        np.minimum(heads, tails).astype(np.int64) * len(names) + np.maximum(heads, tails)
    )
    # Rows of each pair, pair by pair.
    rows = np.argsort(pairs, kind="stable")
    starts = np.searchsorted(pairs[rows], np.arange(pairs.max(initial=-1) + 2))

    with_entity = np.bincount(entities) - np.bincount(heads[heads == tails], minlength=len(names))
    with_relation = np.bincount(relations)
    split = np.zeros(len(triples), dtype=np.int8)
    quotas = {
        SPLITS.index(name): max(1, round(getattr(parameters, name) * len(triples)))
        for name in ("test", "dev")
    }
    wanted = dict(quotas)
    for pair in np.random.default_rng(parameters.seed).permutation(len(starts) - 1):
        if not any(wanted.values()):
            break
        own = rows[starts[pair] : starts[pair + 1]]
        # The split that lacks more of its share comes first, so that both grow together.
        part = max(wanted, key=lambda split: wanted[split] / quotas[split])
        both = list({int(heads[own[0]]), int(tails[own[0]])})
        lost = np.bincount(relations[own])
        kinds = np.flatnonzero(lost)
        if (
            (len(own) <= wanted[part] or wanted[part] == quotas[part])
            and (with_entity[both] > len(own)).all()
            and (with_relation[kinds] > lost[kinds]).all()
        ):
            with_entity[both] -= len(own)
            with_relation[kinds] -= lost[kinds]
            split[own] = part
            wanted[part] = max(0, wanted[part] - len(own))
    return pd.Series(np.array(SPLITS)[split], index=triples.index, dtype="str", name="split")
