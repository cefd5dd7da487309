"""Queries as arrays."""

import numpy as np
import pandas as pd

from mkgformer_kedro.training.tasks.link_prediction import EncodedQueries


def test_queries_are_read_from_the_table():
    frame = pd.DataFrame(
        {
            "direction": ["tail", "head"],
            "entity": np.array([3, 1], np.int32),
            "relation": np.array([0, 1], np.int32),
            "answers": [np.array([1, 2], np.int32), np.array([0], np.int32)],
            "known": [np.array([1, 2, 4], np.int32), np.array([0], np.int32)],
        }
    )
    queries = EncodedQueries.from_frame(frame, prompts=None)
    assert queries.is_tail.tolist() == [True, False]
    assert queries.owners.tolist() == [3, 1]
    assert queries.answers[0].tolist() == [1, 2]
    assert queries.known[0].tolist() == [1, 2, 4]


def test_queries_without_answers_have_no_labels(entity_model, tables):
    from mkgformer_kedro.training.model_folder import load_model

    model, tokenizer, task = load_model(entity_model)
    queries = tables["queries"]
    known = task.encode(queries, tokenizer, model.config).batch(np.arange(3))
    asked = task.encode(queries.drop(columns=["answers", "known"]), tokenizer, model.config)
    assert known["labels"].shape[0] == 3
    assert "labels" not in asked.batch(np.arange(3))
