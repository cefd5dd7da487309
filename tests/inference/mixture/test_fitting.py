from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from mixing import all_scores, fit, log_likelihood, split
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.inference.mixture import (
    Mixture,
    choose_experts,
    judge_calibration,
)
from mkgformer_kedro.inference.mixture.expert import held_out
from mkgformer_kedro.inference.parameters import MixtureParameters
from mkgformer_kedro.pipelines.ingestion.link_prediction import group_queries


def test_it_is_better_than_each_of_its_experts(world, mixture, experts, parameters):
    test = split(world.queries, "test")
    mixed = log_likelihood(all_scores(mixture, test), test)
    facts = mixture.facts["log_likelihood"]
    for number, expert in enumerate(experts):
        alone = mixture.weights.standardised(all_scores(expert, test), number)
        best = max(log_likelihood(scale * alone, test) for scale in np.geomspace(0.1, 10, 40))
        assert mixed > best
        assert facts["mixture"] > facts[expert.name]
    # Of two that know half each, one left out leaves the other alone.
    without = mixture.facts["log_likelihood_without"]
    assert without["left"] == pytest.approx(facts["right"], abs=0.01)
    assert without["right"] == pytest.approx(facts["left"], abs=0.01)


@pytest.fixture(scope="module")
def halves(world):
    """Two that know half the entities each, and are as sure of the others."""
    experts = [world.expert("first"), world.expert("second")]
    for number, (expert, unknown) in enumerate(
        zip(experts, np.split(np.arange(30), 2), strict=True)
    ):
        expert.table = expert.table.copy()
        wrong = np.random.default_rng(number).permuted(expert.table[:, unknown], axis=-1)
        expert.table[:, unknown] = wrong
    return experts


def test_what_one_expert_alone_is_sure_of_is_heard(world, halves, parameters, tmp_path):
    mixture = fit(halves, world, tmp_path, parameters)
    summed = replace(mixture.weights, linear=np.zeros(2))
    test = split(world.queries, "test")
    both, alone = (
        log_likelihood(
            all_scores(Mixture(halves, weights, mixture.calibration, {}, 30), test), test
        )
        for weights in (mixture.weights, summed)
    )
    gain = mixture.facts["log_likelihood_gained_by_linear"]
    assert both - alone > 0.015
    assert gain == pytest.approx(both - alone, abs=0.04)
    assert sum(mixture.facts["linear"].values()) > 0.1
    report = judge_calibration(mixture, world.queries, list("abcd"), parameters, seed=0)
    assert report["test"]["proposals"]["expected_calibration_error"] < 0.05


def test_weights_of_the_linear_pool_are_the_likeliest(world, halves, parameters, tmp_path):
    mixture = fit(halves, world, tmp_path / "all", parameters)
    test = split(world.queries, "test")
    grid = {}
    for linear in np.ndindex(8, 8):
        if sum(linear) < 10:
            weights = replace(mixture.weights, linear=np.array(linear) / 10)
            given = Mixture(halves, weights, mixture.calibration, {}, 30)
            grid[linear] = log_likelihood(all_scores(given, test), test)
    # Of other queries than those they were fitted to.
    assert log_likelihood(all_scores(mixture, test), test) > max(grid.values()) - 0.03

    # Five answers say less than the prior's ten.
    few = replace(world, queries=split(world.queries, "dev").head(5))
    assert fit(halves, few, tmp_path / "few", parameters).weights.linear.sum() < 0.5


def test_a_useless_expert_gets_no_weight_and_scale_makes_no_difference(mixture):
    left, right, useless = mixture.weights.whole
    assert useless < 0.1 * left
    assert right == pytest.approx(left, rel=0.3)
    # The linear pool would hardly gain anything either.
    assert not mixture.weights.linear.any()
    assert 0 <= mixture.facts["log_likelihood_gained_by_linear"] < 0.01


def test_weights_follow_the_relation_where_it_has_enough_dev_answers(world, parameters, tmp_path):
    first, second = (world.expert(name, noise=0.2, seed=i) for i, name in enumerate("ab"))
    rng = np.random.default_rng(5)
    # a knows relation 0 alone, b all the others.
    for expert, relations in ((first, [1, 2, 3]), (second, [0])):
        expert.table = expert.table.copy()
        for relation in relations:
            shape = expert.table[:, :, relation].shape
            expert.table[:, :, relation] = 2.5 * rng.standard_normal(shape)
    count = split(world.queries, "dev")["relation"].value_counts()
    assert count[3] < 200 < count[1]
    mixture = fit([first, second], world, tmp_path, parameters)
    weights = mixture.weights
    assert (weights.relation[0, :, 0] > 3 * weights.relation[0, :, 1]).all()
    assert (weights.relation[1, :, 1] > 3 * weights.relation[1, :, 0]).all()
    assert mixture.facts["shrinkage"] < 100

    rare = parameters.model_copy(update={"least_answers": 120})
    weights = fit([first, second], world, tmp_path, rare).weights
    assert weights.own[0].all()
    assert not weights.own[2:].any()
    for relation in (2, 3):
        assert np.array_equal(weights.relation[relation], weights.direction)


def test_the_prior_draws_relations_to_their_direction_and_these_to_the_whole(
    world, experts, parameters, tmp_path
):
    def spread(strength):
        given = parameters.model_copy(update={"shrinkage": strength, "least_answers": 1})
        weights = fit(experts[:2], world, tmp_path, given).weights
        return (
            np.abs(weights.relation - weights.direction).max(),
            np.abs(weights.direction - weights.whole).max(),
        )

    loose, middle, tight = spread(0.01), spread(10.0), spread(1e4)
    assert loose[0] > middle[0] > tight[0]
    assert tight[0] < 0.02
    assert tight[1] < 0.02


def test_what_an_expert_has_not_learned_is_scored_by_the_others(world, parameters, tmp_path):
    learned = np.arange(30) < 25
    structure = world.expert("structure", noise=0.5, seed=1, learned=learned)
    # What it says of the others is noise, and loud.
    structure.table[..., ~learned] = 30 * np.random.default_rng(0).standard_normal(
        structure.table[..., ~learned].shape
    )
    text = world.expert("text", noise=1.5, seed=2)
    mixture = fit([structure, text], world, tmp_path, parameters)
    test = split(world.queries, "test")
    mixed = torch.log_softmax(all_scores(mixture, test), dim=1)
    alone = torch.log_softmax(
        float(mixture.weights.alone[1]) * mixture.weights.standardised(all_scores(text, test), 1), 1
    )
    # The same to a constant: among themselves they stand as text alone has them.
    ahead = mixed[:, ~learned] - alone[:, ~learned]
    assert torch.allclose(ahead, ahead[:, :1].expand_as(ahead), atol=1e-3)
    known = test["answers"].map(lambda answers: bool(learned[answers].all())).to_numpy()
    held_back = mixture.facts["held_back"]
    for kept, least in ((known, 0.1), (~known, -held_back - 1e-3), (known | True, 0.05)):
        rows, asked = torch.from_numpy(kept.copy()), test[kept].reset_index(drop=True)
        ahead = log_likelihood(mixed[rows], asked) - log_likelihood(alone[rows], asked)
        assert ahead > least
    again = Mixture.load(
        mixture.save(tmp_path / "saved"), [structure, text], entities=30, relations=4
    )
    assert torch.equal(all_scores(again, test), all_scores(mixture, test))
    assert mixture.learned is None
    assert replace(structure, learned=learned).learned is learned


def test_an_expert_that_says_what_another_says_is_asked_no_more(world, parameters, tmp_path):
    model = world.expert("model", noise=0.5, seed=1)
    twin = replace(model, name="without_images", table=2 * model.table)
    other = world.expert("structure", noise=0.5, seed=2)
    found = fit([model, replace(model, name="twin"), other], world, tmp_path / "one", parameters)
    assert [expert.name for expert in found.experts] == ["model", "structure"]
    # Weights are measured by scale, so that only what is the same is left out.
    found = fit([model, twin, other], world, tmp_path / "two", parameters)
    assert [expert.name for expert in found.experts] == ["model", "without_images", "structure"]


def test_an_expert_without_any_weight_is_not_asked_again(world, parameters, tmp_path):
    good, wrong = world.expert("good", noise=0.1, seed=1), world.expert("wrong", seed=2)
    # Its favourites are the worst answers: any weight would hurt.
    wrong.table = -wrong.table
    mixture = fit([good, wrong], world, tmp_path / "a", parameters)
    assert [expert.name for expert in mixture.experts] == ["good"]
    assert mixture.facts["weights"]["wrong"] < 0.01 * mixture.facts["weights"]["good"]
    test = split(world.queries, "test")
    assert torch.equal(all_scores(mixture, test), all_scores(good, test))
    report = judge_calibration(mixture, world.queries, list("abcd"), parameters, seed=0)
    assert report["test"]["proposals"]["expected_calibration_error"] < 0.05
    # Where it alone answers, it stays.
    needed = replace(good, silent=frozenset([3]))
    kept = fit([needed, wrong], world, tmp_path / "b", parameters)
    assert [expert.name for expert in kept.experts] == ["good", "wrong"]


@pytest.mark.parametrize("factor", [1e-5, 1e5])
def test_of_one_expert_the_size_of_its_scores_makes_no_difference(
    world, parameters, tmp_path, factor
):
    plain, scaled = (
        fit([world.expert("one", noise=1.5, factor=each)], world, tmp_path / str(each), parameters)
        for each in (1.0, factor)
    )
    assert scaled.calibration.scale * factor == pytest.approx(plain.calibration.scale, rel=1e-3)


def test_test_answers_make_no_difference(world, experts, parameters, tmp_path):
    small = parameters.model_copy(update={"fit_queries": 300})
    one = fit(experts, world, tmp_path / "work", small).save(tmp_path / "one")
    shuffled = world.queries.copy()
    is_test = shuffled["split"] == "test"
    shuffled.loc[is_test, "answers"] = (
        shuffled.loc[is_test, "answers"].sample(frac=1, random_state=0).to_numpy()
    )
    other = fit(experts, replace(world, queries=shuffled), tmp_path / "more", small)
    other.save(tmp_path / "two")
    for name in ("expert.json", "mixture.safetensors"):
        assert (one / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_beside_train_no_split_knows_another():
    triples = pd.DataFrame(
        [
            *[(0, 0, 1, "train"), (4, 0, 5, "train")],
            *[(0, 0, 1, "dev"), (0, 0, 2, "dev"), (4, 0, 5, "dev")],
            (0, 0, 3, "test"),
        ],
        columns=["head", "relation", "tail", "split"],
    ).astype(dict.fromkeys(("head", "relation", "tail"), "int32"))
    queries = group_queries(triples)

    def laid_out(split):
        rows = held_out(queries, split)
        names = ["direction", "entity", "answers", "known"]
        return [
            tuple(np.asarray(value).tolist() for value in row) for row in rows[names].to_numpy()
        ]

    assert laid_out("dev") == [("tail", 0, [2], [1, 2]), ("head", 2, [0], [0])]
    assert laid_out("test") == [("tail", 0, [3], [1, 3]), ("head", 3, [0], [0])]


def test_an_empty_dev_split_is_an_error(world, experts, parameters, tmp_path):
    none = replace(world, queries=split(world.queries, "test"))
    with pytest.raises(DataError, match="there are no queries to fit a mixture on"):
        fit(experts, none, tmp_path, parameters)


def test_a_tiny_dev_split_fits_and_judges(world, experts, parameters, tmp_path, caplog):
    few = pd.concat(
        [split(world.queries, "dev").head(4), split(world.queries, "test")], ignore_index=True
    )
    mixture = fit(experts, replace(world, queries=few), tmp_path, parameters)
    assert "4 dev queries are too few to split" in caplog.text
    asked = split(world.queries, "test")
    blocks = [scores for _, scores in mixture.scores(asked, batch_size=len(asked))]
    assert sum(map(len, blocks)) == len(asked)
    assert all(scores.isfinite().all() for scores in blocks)


def test_a_relation_without_dev_answers_takes_its_direction(world, experts, parameters, tmp_path):
    queries = world.queries
    without = queries[(queries["split"] == "test") | (queries["relation"] != 1)]
    mixture = fit(experts, replace(world, queries=without), tmp_path, parameters)
    assert not mixture.weights.own[1].any()
    assert np.array_equal(mixture.weights.relation[1], mixture.weights.direction)
    assert not mixture.calibration.own[1].any()
    assert mixture.calibration.calibrator.relation[1].tolist() == [0, 0]
    report = judge_calibration(mixture, world.queries, list("abcd"), parameters, seed=0)
    assert report["test"]["proposals"]["expected_calibration_error"] < 0.05


def test_experts_are_chosen_by_name_and_lowest_seed(world):
    experts = [world.expert(name) for name in ("model", "text", "model")]
    experts[0].seed = 7
    assert choose_experts(experts, None) == [experts[2], experts[1]]
    assert choose_experts(experts, ["text"]) == [experts[1]]
    with pytest.raises(DataError, match=r"no expert 'complex'.*model, text"):
        choose_experts(experts, ["text", "complex"])


def test_parameters_are_checked(parameters):
    values = parameters.model_dump()
    with pytest.raises(ValueError, match="did you mean 'shrinkage'"):
        MixtureParameters(**{**values, "shrinkag": 1})


def test_a_query_without_a_candidate_does_not_undo_the_fit(world, experts, parameters, tmp_path):
    parameters = parameters.model_copy(
        update={"standardization": "by_query", "top": 30, "shrinkage": 10.0}
    )
    dev = split(world.queries, "dev").head(4)
    expected = fit(experts, replace(world, queries=dev), tmp_path / "a", parameters).facts
    sure = dev.head(1).assign(entity=29, answers=[np.array([3], dtype=np.int32)])
    assert 29 not in set(dev["entity"])
    others = np.delete(np.arange(30, dtype=np.int32), 3)
    more = pd.concat([dev, sure, sure.assign(split="train", answers=[others])], ignore_index=True)
    found = fit(experts, replace(world, queries=more), tmp_path / "b", parameters).facts
    assert found["weights"] == pytest.approx(expected["weights"], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("learned", [None, np.arange(30) < 5])
def test_where_every_entity_is_known_all_experts_count_alike(
    world, experts, parameters, tmp_path, learned, caplog
):
    queries = world.queries.groupby("split").head(20).reset_index(drop=True)
    queries = queries.drop_duplicates(["direction", "entity", "relation"], ignore_index=True)
    everything = np.arange(30, dtype=np.int32)
    others = [np.setdiff1d(everything, answers) for answers in queries["answers"]]
    learned_from = queries.assign(split="train", answers=others)
    queries = pd.concat([queries, learned_from], ignore_index=True)
    queries["known"] = [everything] * len(queries)
    experts = [replace(experts[0], learned=learned), *experts[1:]]
    mixture = fit(experts, replace(world, queries=queries), tmp_path, parameters)
    assert "Dev does not say whose word counts" in caplog.text
    assert mixture.weights.whole.tolist() == [1 / 3] * 3
    assert all_scores(mixture, split(queries, "test")).isfinite().all()
    json.dumps(judge_calibration(mixture, queries, list("abcd"), parameters, 0), allow_nan=False)


def test_an_expert_that_answers_no_dev_query_cannot_be_weighed(world, parameters, tmp_path, caplog):
    """Dev asks about entities that train lacks alone; test asks about the others too."""
    caplog.set_level("INFO")
    text = world.expert("text", noise=1.0, seed=1)
    structure = world.expert("structure", seed=2, silent=frozenset(range(15)))
    queries = world.queries
    is_new = queries["entity"] < 15
    inductive = replace(world, queries=queries[is_new | (queries["split"] != "dev")])
    mixture = fit([text, structure], inductive, tmp_path, parameters)
    assert [expert.name for expert in mixture.experts] == ["text"]
    assert "Answers no dev query that weights are fitted to, so left out: structure" in caplog.text
    test = split(queries[~is_new], "test")
    assert torch.equal(all_scores(mixture, test), all_scores(text, test))


@pytest.mark.parametrize("seed", range(3))
def test_weights_that_dev_says_nothing_about_make_no_ties(world, parameters, tmp_path, seed):
    """Nine of ten dev queries are answered by one expert alone: the scale of weights is free."""
    both = [
        world.expert("text", noise=1.0, seed=1),
        world.expert("structure", noise=1.0, seed=2, silent=frozenset(range(29))),
    ]
    dev = split(world.queries, "dev")
    few = pd.concat(
        [dev[dev["entity"] < 29].iloc[seed * 9 :].head(9), dev[dev["entity"] == 29].head(1)]
    )
    tiny = replace(world, queries=pd.concat([few, split(world.queries, "test")]))
    mixture = fit(both, tiny, tmp_path, parameters)
    test = split(world.queries, "test")
    asked = test[test["entity"] == 29].reset_index(drop=True)
    scores = all_scores(mixture, asked)
    assert (scores.std(dim=1) > 0.01).all()
