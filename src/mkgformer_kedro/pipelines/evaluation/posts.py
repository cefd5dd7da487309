"""Node of the stage ``evaluation`` that both tasks on posts share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mkgformer_kedro.pipelines.evaluation.parameters import PostsEvaluationParameters
from mkgformer_kedro.training.parameters import ModelParameters

_GOLD = ["relation", "tags"]


def predict_test_posts(
    models: Path,
    posts: pd.DataFrame,
    visual_store: Path,
    model: ModelParameters,
    parameters: PostsEvaluationParameters,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predict the test posts with pictures, and by the same models with pictures withheld.

    Args:
        models: Folder with one model folder ``seed_<seed>`` per seed.
        posts: Table ``posts``.
        visual_store: Visual store of the posts.
        model: For the attention implementation.
        parameters: For the batch size.

    Returns:
        Two predictions tables: a row per seed and test post.
    """
    from mkgformer_kedro.training.posts import PostsPredictor

    test = posts[posts["split"] == "test"]
    gold = test[["post", *(name for name in _GOLD if name in test)]]
    seen, withheld = [], []
    for folder in sorted(models.glob("seed_*"), key=lambda path: int(path.name[5:])):
        seed = int(folder.name.removeprefix("seed_"))
        predictor = PostsPredictor(
            folder, visual_store, attention=model.attention, batch_size=parameters.batch_size
        )
        named = gold.assign(seed=np.int64(seed))
        predicted = predictor.predict(test, what=f"Predicting test posts (seed {seed})")
        seen.append(named.join(predicted))
        # A post without pictures is answered the same either way.
        pictured = test[predictor.store.has_pictures[test.index]]
        if len(pictured):
            blind = predictor.predict(
                pictured, with_pictures=False, what=f"Predicting without pictures (seed {seed})"
            )
            predicted = pd.concat([blind, predicted.drop(pictured.index)]).loc[test.index]
        withheld.append(named.join(predicted))
    return pd.concat(seen, ignore_index=True), pd.concat(withheld, ignore_index=True)
