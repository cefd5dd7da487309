"""What a run ends with."""

import pandas as pd

from mkgformer_kedro.hooks.scores import completions_table, score_table
from mkgformer_kedro.training.tasks.registry import TASKS

RANKS = {
    "both.realistic.inverse_harmonic_mean_rank": 0.5,
    "both.realistic.hits_at_1": 0.25,
    "both.realistic.arithmetic_mean_rank": 41.72,
}


def test_every_expert_has_a_row_and_what_it_lacks_is_blank():
    metrics = {
        "experts": ["model", "without_images", "complex"],
        "test": {**RANKS, "both.realistic.hits_at_10": 1.0},
        "test_without_images": RANKS,
        "test_complex": {"both.realistic.inverse_harmonic_mean_rank": 0.125},
        "test_raw": RANKS,
        "test_by_view": {"without_leaks": {"model": RANKS, "complex": RANKS}},
    }
    assert score_table(TASKS["link_prediction"], metrics).splitlines() == [
        "Test scores (filtered, both directions)",
        "                            MRR     Hits@1     Hits@3    Hits@10  mean rank",
        "model                     0.500      0.250                 1.000       41.7",
        "without images            0.500      0.250                             41.7",
        "complex                   0.125                                            ",
        "model, without leaks      0.500      0.250                             41.7",
    ]


def test_subsets_show_the_score_that_picks_models():
    scores = {"precision": 1.0, "recall": 0.5, "f1": 2 / 3}
    metrics = {
        "experts": ["model", "without_images"],
        "test": scores,
        "test_without_images": scores,
        "test_by_subset": {"clear": {"model": 0.9, "without_images": 0.8, "difference": 0.1}},
    }
    assert score_table(TASKS["entity_recognition"], metrics).splitlines()[1:] == [
        "                       precision     recall         F1",
        "model                      1.000      0.500      0.667",
        "without images             1.000      0.500      0.667",
        "model, clear                                     0.900",
        "without images, clear                            0.800",
    ]


def test_completions_are_told_in_words_the_most_probable_first():
    completions = pd.DataFrame(
        {
            "head": ["b", "a"],
            "relation": ["r", "r"],
            "tail": ["a", "b"],
            "probability": [0.25, 0.5],
        }
    )
    entities = pd.DataFrame({"entity": ["a", "b"], "name": ["Ann", "Bob"]})
    relations = pd.DataFrame({"relation": ["r", "s"], "text": ["knows", "is married to"]})
    assert completions_table(completions, entities, relations, {}).splitlines() == [
        "2 links that the graph lacks; the most probable:",
        "  0.50  Ann | knows | Bob",
        "  0.25  Bob | knows | Ann",
    ]
    report = {"keep": {"probability": 0.05, "both_directions": False}, "highest": 0.03125}
    assert completions_table(completions.head(0), entities, relations, report) == (
        "None of the links that the graph lacks is kept: completion.keep asks for a probability of "
        "0.05, and the highest is 0.0312."
    )
