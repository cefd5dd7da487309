"""Queries as the model is shown them."""

import numpy as np


def test_queries_without_answers_have_no_labels(entity_model, tables):
    from mkgformer_kedro.training.model_folder import load_model

    model, tokenizer, task = load_model(entity_model)
    queries = tables["queries"]
    known = task.encode(queries, tokenizer, model.config).batch(np.arange(3))
    asked = task.encode(queries.drop(columns=["answers", "known"]), tokenizer, model.config)
    assert asked.owners.tolist() == queries["entity"].tolist()
    assert known["labels"].shape[0] == 3
    assert "labels" not in asked.batch(np.arange(3))
