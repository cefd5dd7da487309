"""A mixture of experts on a graph of known distributions: fitting it, asking it, judging it."""

from __future__ import annotations

import numpy as np
import torch

from mkgformer_kedro.inference.mixture import (
    fit_mixture,
)


def fit(experts, world, work_folder, parameters, seed=0):
    entities, relations = world.logits.shape[1:3]
    return fit_mixture(
        experts,
        world.queries,
        work_folder,
        parameters,
        entities=entities,
        relations=relations,
        seed=seed,
    )


def all_scores(expert, queries, batch_size=64):
    whole = None
    for rows, scores in expert.scores(queries, batch_size=batch_size):
        if whole is None:
            whole = torch.full((len(queries), scores.shape[1]), torch.nan)
        assert torch.isnan(whole[rows]).all()
        whole[rows] = scores
    assert not torch.isnan(whole).any()
    return whole


def log_likelihood(scores, queries):
    answers = np.concatenate(queries["answers"].to_list())
    return torch.log_softmax(scores, dim=1)[np.arange(len(queries)), answers].mean().item()


def split(queries, name):
    return queries[queries["split"] == name].reset_index(drop=True)
