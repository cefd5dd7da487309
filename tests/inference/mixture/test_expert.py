from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mixing import all_scores, fit, split
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.inference.mixture import (
    Mixture,
    Weights,
    judge_calibration,
)
from mkgformer_kedro.inference.predictions import predict_queries


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_one_expert_is_that_expert(world, parameters, tmp_path, noise):
    expert = world.expert("alone", noise=noise, factor=0.001)
    # Many ties: ranks must keep them.
    expert.table = np.round(expert.table, 3)
    mixture = fit([expert], world, tmp_path, parameters)
    test = split(world.queries, "test")
    assert torch.equal(all_scores(mixture, test), all_scores(expert, test))
    parts = {block.rows[0]: block.scores for block in mixture.blocks(test, batch_size=64)}
    for first, scores in parts.items():
        assert torch.equal(scores[0], all_scores(expert, test)[first])
    report = judge_calibration(mixture, world.queries, list("abcd"), parameters, seed=0)
    assert report["test"]["proposals"]["expected_calibration_error"] < 0.05


def test_a_silent_expert_is_left_out_and_the_others_are_raised():
    weights = Weights(
        standard=np.zeros(3, dtype=bool),
        spread=np.ones(3),
        alone=np.array([2.0, 4.0, 0.5]),
        whole=np.array([1.0, 2.0, 0.0]),
        direction=np.tile([1.0, 2.0, 0.0], (2, 1)),
        relation=np.tile([1.0, 2.0, 0.0], (4, 2, 1)),
        own=np.zeros((4, 2), dtype=bool),
        linear=np.zeros(3),
    )
    queries = pd.DataFrame({"direction": ["tail"] * 5, "relation": [0] * 5})
    answers = np.array(
        [[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 1], [0, 0, 0]],
        dtype=bool,
    )
    found = weights.of(queries, answers)
    # Half of what it has alone is raised to all of it.
    expected = [[1, 2, 0], [2, 0, 0], [0, 4, 0], [0, 0, 0.5], [1, 2, 0]]
    assert found == pytest.approx(np.array(expected, dtype=float), abs=1e-5)
    assert found[0].tolist() == [1, 2, 0]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0, 5), min_size=3, max_size=3),
    st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=6),
)
def test_weights_of_those_who_answer_sum_to_one_at_least(given_weights, answers):
    alone = np.array([0.1, 1.0, 3.0])
    weights = Weights(
        np.zeros(3, dtype=bool),
        np.ones(3),
        alone,
        np.array(given_weights),
        np.tile(given_weights, (2, 1)),
        np.tile(given_weights, (1, 2, 1)),
        np.zeros((1, 2), dtype=bool),
        np.zeros(3),
    )
    queries = pd.DataFrame({"direction": ["tail"] * len(answers), "relation": [0] * len(answers)})
    found = weights.of(queries, np.array(answers))
    for row, speaks in zip(found, np.array(answers), strict=True):
        # Weights that hardly anything is left of were fitted to nothing.
        weighed = (given_weights / alone).sum() > 0.011
        if weighed and (speaks.all() or not speaks.any()):
            assert row == pytest.approx(given_weights)
        elif speaks.all() or not speaks.any():
            assert (row / alone).sum() > 0.01 - 1e-9
        else:
            assert (row[~speaks] == 0).all()
            assert (row / alone).sum() > 1 - 1e-9
            assert (row >= np.where(speaks, given_weights, 0)).all()


def test_where_one_expert_is_silent_the_mixture_ranks_like_the_other(world, parameters, tmp_path):
    silent = frozenset(range(5))
    experts = [
        world.expert("structure", noise=0.5, seed=1, silent=silent),
        world.expert("text", noise=1.5, seed=2),
    ]
    mixture = fit(experts, world, tmp_path, parameters)
    test = split(world.queries, "test")
    unseen = test[test["entity"].isin(silent)].reset_index(drop=True)
    assert mixture.answers(test).all()
    mixed, text = all_scores(mixture, unseen), all_scores(experts[1], unseen)
    assert torch.equal(mixed.argsort(dim=1), text.argsort(dim=1))
    # Nor has the silent one a share of the probability.
    shared = replace(mixture.weights, linear=np.array([0.5, 0.2]))
    without = replace(mixture.weights, linear=np.array([0.0, 0.2]))
    halves = [
        all_scores(Mixture(experts, each, mixture.calibration, {}, 30), unseen)
        for each in (shared, without)
    ]
    assert torch.equal(*halves)
    everyone = [replace(expert, silent=frozenset(range(30))) for expert in experts]
    nobody = Mixture(everyone, mixture.weights, mixture.calibration, mixture.facts, 30)
    assert not nobody.answers(test).any()
    assert torch.isfinite(all_scores(nobody, test)).all()


def test_evaluation_asks_a_mixture_and_its_experts_once(world, mixture, experts):
    test = split(world.queries, "test").head(200)
    # A triple a row: what several queries ask for is scored once for each.
    test = test.drop_duplicates(["direction", "entity", "relation"], ignore_index=True)
    answer = test["answers"].map(lambda answers: answers[0])
    is_tail = test["direction"] == "tail"
    triples = pd.DataFrame(
        {
            "head": test["entity"].where(is_tail, answer),
            "relation": test["relation"],
            "tail": answer.where(is_tail, test["entity"]),
        }
    )
    lonely = world.expert("lonely", noise=1.0, seed=9)
    others = [replace(expert, asked=[]) for expert in mixture.experts]
    mixed = Mixture(others, mixture.weights, mixture.calibration, mixture.facts, 30)
    together = predict_queries([*others, lonely, mixed], test, triples, batch_size=64)
    assert [sum(expert.asked) for expert in others] == [len(test)] * len(others)
    assert list(together["expert"].unique()) == [*(e.name for e in others), "lonely", "mixture"]
    for expert in (*others, lonely, mixed):
        alone = predict_queries([expert], test, triples, batch_size=64)
        found = together[together["expert"] == expert.name].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, alone)


@pytest.mark.parametrize("batch_size", [7, 64, 5000])
def test_scores_do_not_depend_on_blocks(world, mixture, batch_size):
    weights = replace(mixture.weights, linear=np.array([0.1, 0.3, 0.0]))
    mixture = Mixture(mixture.experts, weights, mixture.calibration, mixture.facts, 30)
    test = split(world.queries, "test").sample(frac=0.2, random_state=0).reset_index(drop=True)
    found = all_scores(mixture, test, batch_size)
    assert torch.allclose(found, all_scores(mixture, test, 100), atol=1e-5)
    for block in mixture.blocks(test, batch_size=batch_size):
        asked = test.iloc[block.rows]
        weights = mixture.weights.of(asked, np.ones((len(asked), 3), dtype=bool))
        summed = sum(
            torch.from_numpy(w[:, None]) * p for w, p in zip(weights.T, block.logs, strict=True)
        )
        linear = mixture.weights.linear
        pooled = (1 - linear.sum()) * summed.softmax(dim=1)
        for share, alone, logs in zip(linear, mixture.weights.alone, block.logs, strict=True):
            pooled += share * (alone * logs).softmax(dim=1)
        assert torch.allclose(block.scores, pooled.log().float(), atol=1e-4)
        for expert, scores in zip(mixture.experts, block.each, strict=True):
            assert torch.equal(scores, all_scores(expert, test)[block.rows])


@pytest.fixture
def folder(tmp_path, mixture):
    """A mixture's folder, and experts with folders of their own."""
    experts = []
    for expert in mixture.experts:
        place = tmp_path / "experts" / expert.name
        place.mkdir(parents=True)
        (place / "weights").write_bytes(expert.name.encode())
        experts.append(replace(expert, folder=place))
    saved = Mixture(experts, mixture.weights, mixture.calibration, mixture.facts, 30)
    return saved.save(tmp_path / "mixture"), experts


def test_it_survives_its_folder(world, mixture, folder):
    path, experts = folder
    others = [world.expert("other"), *reversed(experts)]
    again = Mixture.load(path, others, entities=30, relations=4)
    test = split(world.queries, "test").head(100)
    assert torch.equal(all_scores(again, test), all_scores(mixture, test))
    logs = np.linspace(-8, -0.01, 20)
    which = logs, np.zeros(20, dtype=int), np.ones(20, dtype=int)
    assert np.array_equal(
        again.calibration.probabilities(*which), mixture.calibration.probabilities(*which)
    )
    assert np.array_equal(again.calibration.in_set(*which), mixture.calibration.in_set(*which))
    assert again.facts == mixture.facts


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path, experts: truncate(path / "mixture.safetensors"), "no complete mixture"),
        (lambda path, experts: truncate(path / "expert.json"), "no complete mixture"),
        (lambda path, experts: (path / "mixture.safetensors").unlink(), "no complete mixture"),
        (lambda path, experts: (path / "expert.json").write_text("{}"), "no complete mixture"),
        (lambda path, experts: experts.pop(), "mixes the expert useless of seed 0"),
        (
            lambda path, experts: (experts[1].folder / "weights").write_bytes(b"x"),
            "fitted to another expert right",
        ),
    ],
)
def test_a_damaged_folder_or_another_expert_is_one_error(folder, harm, message):
    path, experts = folder
    harm(path, experts)
    with pytest.raises(DataError, match=message) as error:
        Mixture.load(path, experts, entities=30, relations=4)
    assert len(error.value.problems) == 1
    assert "Run the stage 'mixture' again." in str(error.value)


def test_a_mixture_of_another_graph_is_refused(folder):
    with pytest.raises(DataError, match="4 relations, not 5"):
        Mixture.load(*folder, entities=30, relations=5)


def test_scores_of_one_expert_that_are_no_numbers_are_an_error(world, mixture):
    expert = world.expert("alone")
    expert.table = np.full_like(expert.table, np.nan)
    alone = Mixture([expert], mixture.weights, mixture.calibration, {}, 30)
    with pytest.raises(DataError, match=r"expert alone.*no finite numbers"):
        list(alone.scores(split(world.queries, "test").head(3), batch_size=2))


def test_of_entities_that_were_added_the_others_are_none_the_wiser(world, parameters, tmp_path):
    by_query = parameters.model_copy(update={"standardization": "by_query"})
    experts = [
        world.expert("structure", noise=1.0, seed=1),
        world.expert("text", noise=1.0, seed=2),
    ]
    mixture = fit(experts, world, tmp_path, by_query)
    test = split(world.queries, "test").head(100)
    before = all_scores(mixture, test)
    added = 90
    tables = [np.pad(each.table, [(0, 0)] * 3 + [(0, added)], mode="mean") for each in experts]
    larger = [replace(each, table=table) for each, table in zip(experts, tables, strict=True)]
    fitted = mixture.weights, mixture.calibration, mixture.facts
    after = all_scores(Mixture(larger, *fitted, 30 + added, added=added), test)[:, :30]
    # Log-scores of more entities are lower, all alike: the order and the distances stay.
    fewer = before - after
    assert torch.allclose(fewer, fewer[:, :1].expand_as(fewer), atol=1e-4)
