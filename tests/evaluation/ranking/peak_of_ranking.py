"""Print by how many MiB the peak of memory grows from ranking 2,000 queries to ranking 20,000."""

import resource

import numpy as np
import pandas as pd
import torch

from mkgformer_kedro.evaluation.ranking.predictions import rank_queries

ENTITIES, BLOCK = 2000, 64


def peak_of(queries: int) -> float:
    """Rank so many queries in blocks; the highest memory of the process until then, in MiB."""
    head, tail = np.arange(queries), np.arange(queries) % ENTITIES
    triples = pd.DataFrame({"head": head, "relation": 0, "tail": tail})
    asked = triples.rename(columns={"head": "entity"}).assign(
        direction="tail", answers=list(tail[:, None]), known=list(tail[:, None])
    )
    blocks = (
        (rows, torch.rand(len(rows), ENTITIES)) for rows in torch.from_numpy(head).split(BLOCK)
    )
    rank_queries(asked, ((rows.numpy(), scores) for rows, scores in blocks), triples)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


few = peak_of(2000)
print(peak_of(20_000) - few)
