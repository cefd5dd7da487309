from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mkgformer_kedro.errors import DataError
from mkgformer_kedro.inference.mixture import (
    Mixture,
    Weights,
    _Answered,
    _Cells,
    choose_experts,
    fit_mixture,
    judge,
    log_odds,
    report_calibration,
)
from mkgformer_kedro.inference.parameters import MixtureParameters
from mkgformer_kedro.inference.predictions import predict_queries


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


@pytest.fixture(scope="module")
def experts(world):
    """Two that know half each, and one that knows nothing."""
    return [
        world.expert("left", noise=1.5, seed=1),
        world.expert("right", noise=1.5, factor=20.0, seed=2),
        world.expert("useless", noise=1e6, seed=3),
    ]


@pytest.fixture(scope="module")
def mixture(world, experts, parameters, tmp_path_factory):
    return fit(experts, world, tmp_path_factory.mktemp("work"), parameters)


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


def test_a_useless_expert_gets_no_weight_and_scale_makes_no_difference(mixture):
    left, right, useless = mixture.weights.whole
    assert useless < 0.1 * left
    assert right == pytest.approx(left, rel=0.3)


@pytest.mark.parametrize("noise", [0.0, 2.0])
def test_one_expert_is_that_expert(world, parameters, tmp_path, noise):
    expert = world.expert("alone", noise=noise, factor=0.001)
    # Many ties: ranks must keep them.
    expert.table = np.round(expert.table, 3)
    mixture = fit([expert], world, tmp_path, parameters)
    test = split(world.queries, "test")
    assert torch.equal(all_scores(mixture, test), all_scores(expert, test))
    parts = {part.rows[0]: part.mixed for part in mixture.parts(test, batch_size=64)}
    for first, scores in parts.items():
        assert torch.equal(scores[0], all_scores(expert, test)[first])
    report = report_calibration(mixture, world.queries, list("abcd"), parameters, seed=0)
    assert report["test"]["proposals"]["expected_calibration_error"] < 0.05


def test_probabilities_and_answer_sets_hold_on_test(world, mixture, parameters):
    report = report_calibration(mixture, world.queries, list("abcd"), parameters, seed=0)
    test = report["test"]
    assert test["queries"] == 1500
    assert test["best"]["expected_calibration_error"] < 0.05
    assert test["proposals"]["expected_calibration_error"] < 0.02
    assert 0.88 <= test["answer_sets"]["coverage"] <= 0.93
    assert 1 < test["answer_sets"]["mean_size"] < 30
    risks = [row["risk"] for row in test["risk_coverage"]]
    assert risks[0] < risks[-1]
    json.dumps(report, allow_nan=False)


def test_stated_probabilities_are_the_true_ones(world, parameters, tmp_path):
    """An expert that knows the distribution: its probabilities cannot be improved."""
    mixture = fit([world.expert("oracle", factor=5.0)], world, tmp_path, parameters)
    test = split(world.queries, "test")
    blocks = mixture.scores(test, batch_size=64)
    proposals, answers = judge(mixture.calibration, test, blocks, top=10)
    columns = [proposals[name].to_numpy() for name in ("log_softmax", "direction", "relation")]
    stated = mixture.calibration.probabilities(*columns)
    asked = test.iloc[proposals["query"]]
    direction = (asked["direction"] == "head").to_numpy().astype(int)
    truth = np.exp(world.logits[direction, asked["entity"], asked["relation"]])
    truth = (truth / truth.sum(axis=1, keepdims=True))[np.arange(len(asked)), proposals["answer"]]
    assert np.abs(stated - truth).mean() < 0.01
    assert len(answers) == len(test)


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


def test_a_silent_expert_is_left_out_and_the_others_are_raised():
    weights = Weights(
        standard=np.zeros(3, dtype=bool),
        spread=np.ones(3),
        alone=np.array([2.0, 4.0, 0.5]),
        whole=np.array([1.0, 2.0, 0.0]),
        direction=np.tile([1.0, 2.0, 0.0], (2, 1)),
        relation=np.tile([1.0, 2.0, 0.0], (4, 2, 1)),
        own=np.zeros((4, 2), dtype=bool),
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
    everyone = [replace(expert, silent=frozenset(range(30))) for expert in experts]
    nobody = Mixture(everyone, mixture.weights, mixture.calibration, mixture.facts)
    assert not nobody.answers(test).any()
    assert torch.isfinite(all_scores(nobody, test)).all()


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
    again = Mixture.load(mixture.save(tmp_path / "saved"), [structure, text], relations=4)
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
    mixed = Mixture(others, mixture.weights, mixture.calibration, mixture.facts)
    together = predict_queries([*others, lonely, mixed], test, triples, batch_size=64)
    assert [sum(expert.asked) for expert in others] == [len(test)] * len(others)
    assert list(together["expert"].unique()) == [*(e.name for e in others), "lonely", "mixture"]
    for expert in (*others, lonely, mixed):
        alone = predict_queries([expert], test, triples, batch_size=64)
        found = together[together["expert"] == expert.name].reset_index(drop=True)
        pd.testing.assert_frame_equal(found, alone)


@pytest.mark.parametrize("batch_size", [7, 64, 5000])
def test_scores_do_not_depend_on_blocks(world, mixture, batch_size):
    test = split(world.queries, "test").sample(frac=0.2, random_state=0).reset_index(drop=True)
    found = all_scores(mixture, test, batch_size)
    assert torch.allclose(found, all_scores(mixture, test, 100), atol=1e-5)
    for part in mixture.parts(test, batch_size=batch_size):
        asked = test.iloc[part.rows]
        weights = mixture.weights.of(asked, np.ones((len(asked), 3), dtype=bool))
        summed = sum(
            torch.from_numpy(w[:, None]) * p for w, p in zip(weights.T, part.logs, strict=True)
        )
        assert torch.allclose(part.mixed, summed.float(), atol=1e-4)
        for expert, scores in zip(mixture.experts, part.scores, strict=True):
            assert torch.equal(scores, all_scores(expert, test)[part.rows])


def brute_force(answered, weights):
    """Negative log-likelihood of each answer among all candidates but the other known answers."""
    losses = []
    for rows, scores in answered.blocks():
        for row, at in enumerate(rows):
            total = sum(w * s[row].double() for w, s in zip(weights, scores, strict=True))
            query = answered.queries.iloc[at]
            for answer in query["answers"]:
                kept = np.setdiff1d(np.arange(len(total)), np.setdiff1d(query["known"], [answer]))
                losses.append((torch.logsumexp(total[kept], 0) - total[answer]).item())
    return np.array(losses)


@pytest.fixture
def few(world):
    """Queries with several answers, and with answers that another split knows."""
    rng = np.random.default_rng(0)
    queries = split(world.queries, "dev").head(60).copy()
    queries["known"] = [
        rng.choice(30, size=rng.integers(1, 8), replace=False).astype(np.int32) for _ in range(60)
    ]
    queries["answers"] = [known[: rng.integers(1, len(known) + 1)] for known in queries["known"]]
    return queries


def test_likelihood_is_that_of_all_candidates(world, few, experts, tmp_path):
    answered = _Answered.ask(experts, few, tmp_path, entities=30, batch_size=16)
    weights = np.array([0.7, 0.05, 0.0])
    expected = brute_force(answered, weights)
    table = torch.from_numpy(np.tile(weights, (len(few), 1)))
    whole = _Cells.gather(answered, top=30, sampled=1, seed=0)
    assert whole.losses(table).numpy() == pytest.approx(expected, abs=1e-4)
    # A part of the candidates stands for all.
    some = [
        _Cells.gather(answered, top=5, sampled=5, seed=seed).losses(table).mean().item()
        for seed in range(5)
    ]
    assert np.mean(some) == pytest.approx(expected.mean(), rel=0.02)


def test_blocks_that_are_damaged_or_of_another_expert_are_asked_again(
    world, few, experts, tmp_path, caplog
):
    def ask():
        return _Answered.ask(experts, few, tmp_path, entities=30, batch_size=16)

    answered = ask()
    whole = {name: answered.place(name, 0)[0].read_bytes() for name in answered.names}
    answered.place("left", 0)[0].write_bytes(whole["left"][:-1])
    answered.place("right", 0)[0].write_bytes(whole["useless"])
    with pytest.raises(DataError, match=r"right/00000000\.npz: the block is damaged, or of other"):
        list(answered.only(np.array([False, True, False])).blocks())
    ask()
    assert {name: answered.place(name, 0)[0].read_bytes() for name in whole} == whole
    said = [message for message in caplog.messages if message.endswith("it is made again")]
    assert len(said) == 2


def test_what_other_splits_know_is_not_proposed(world, few, mixture):
    proposals, answers = judge(mixture.calibration, few, mixture.scores(few, batch_size=16), top=30)
    for number, query in enumerate(few.itertuples()):
        proposed = proposals[proposals["query"] == number]
        others = np.setdiff1d(query.known, query.answers)
        assert set(proposed["answer"]) == set(range(30)) - set(others)
        assert set(proposed.loc[proposed["true"], "answer"]) == set(query.answers)
        assert np.exp(proposed["log_softmax"]).sum() == pytest.approx(1)
        inside = (
            -proposed["log_softmax"]
            <= mixture.calibration.thresholds[query.relation, int(query.direction == "head")]
        )
        assert (answers.loc[answers["query"] == number, "size"] == inside.sum()).all()


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


def test_a_killed_fit_goes_on_where_it_was(world, experts, parameters, tmp_path):
    whole = fit(experts, world, tmp_path / "whole", parameters).save(tmp_path / "expected")

    class Dying:
        learned = None

        def __init__(self, expert, blocks):
            self.expert, self.blocks = expert, blocks
            self.name, self.seed, self.folder = expert.name, expert.seed, expert.folder

        def answers(self, queries):
            return self.expert.answers(queries)

        def scores(self, queries, *, batch_size):
            self.blocks -= 1
            if self.blocks < 0:
                raise KeyboardInterrupt
            return self.expert.scores(queries, batch_size=batch_size)

    with pytest.raises(KeyboardInterrupt):
        fit([experts[0], Dying(experts[1], 2), experts[2]], world, tmp_path / "work", parameters)
    asked = [len(expert.asked) for expert in experts]
    again = fit(experts, world, tmp_path / "work", parameters).save(tmp_path / "again")
    assert len(experts[0].asked) == asked[0]
    assert len(experts[1].asked) > asked[1]
    for name in ("expert.json", "mixture.safetensors"):
        assert (again / name).read_bytes() == (whole / name).read_bytes()
    # Answers of other experts are removed.
    other = world.expert("other")
    fit([other], world, tmp_path / "work", parameters)
    (answers,) = (tmp_path / "work").iterdir()
    # So are those in another precision.
    other.precision = "bf16"
    fit([other], world, tmp_path / "work", parameters)
    assert [*(tmp_path / "work").iterdir()] != [answers]
    assert not answers.exists()


@pytest.fixture
def folder(tmp_path, mixture):
    """A mixture's folder, and experts with folders of their own."""
    experts = []
    for expert in mixture.experts:
        place = tmp_path / "experts" / expert.name
        place.mkdir(parents=True)
        (place / "weights").write_bytes(expert.name.encode())
        experts.append(replace(expert, folder=place))
    saved = Mixture(experts, mixture.weights, mixture.calibration, mixture.facts)
    return saved.save(tmp_path / "mixture"), experts


def test_it_survives_its_folder(world, mixture, folder):
    path, experts = folder
    others = [world.expert("other"), *reversed(experts)]
    again = Mixture.load(path, others, 4)
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
        Mixture.load(path, experts, 4)
    assert len(error.value.problems) == 1
    assert "Run the stage 'mixture' again." in str(error.value)


def test_a_mixture_of_another_graph_is_refused(folder):
    with pytest.raises(DataError, match="4 relations, not 5"):
        Mixture.load(*folder, 5)


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


def test_an_expert_of_another_graph_is_an_error(world, experts, parameters, tmp_path):
    other = replace(experts[1], table=experts[1].table[..., :20])
    with pytest.raises(DataError, match=r"expert right.*20 entities, and the graph has 30"):
        fit([experts[0], other], world, tmp_path, parameters)


def test_scores_that_are_no_numbers_are_an_error(world, experts, parameters, tmp_path):
    other = replace(experts[1], table=np.full_like(experts[1].table, np.nan))
    with pytest.raises(DataError, match=r"expert right.*no finite numbers"):
        fit([experts[0], other], world, tmp_path, parameters)


def test_a_relation_without_dev_answers_takes_its_direction(world, experts, parameters, tmp_path):
    queries = world.queries
    without = queries[(queries["split"] == "test") | (queries["relation"] != 1)]
    mixture = fit(experts, replace(world, queries=without), tmp_path, parameters)
    assert not mixture.weights.own[1].any()
    assert np.array_equal(mixture.weights.relation[1], mixture.weights.direction)
    assert not mixture.calibration.own[1].any()
    assert mixture.calibration.calibrator.relation[1].tolist() == [0, 0]
    report = report_calibration(mixture, world.queries, list("abcd"), parameters, seed=0)
    assert report["test"]["proposals"]["expected_calibration_error"] < 0.05


def test_experts_are_chosen_by_name_and_lowest_seed(world):
    experts = [world.expert(name) for name in ("model", "text", "model")]
    experts[0].seed = 7
    assert choose_experts(experts, None) == [experts[2], experts[1]]
    assert choose_experts(experts, ["text"]) == [experts[1]]
    with pytest.raises(DataError, match=r"no expert 'complex'.*model, text"):
        choose_experts(experts, ["text", "complex"])


@given(st.floats(-700, 0))
def test_log_odds_are_finite_and_exact(log_probability):
    found = log_odds(np.array([log_probability]))[0]
    assert np.isfinite(found)
    if -30 < log_probability < -1e-6:
        probability = np.exp(log_probability)
        assert found == pytest.approx(np.log(probability / (1 - probability)), rel=1e-6, abs=1e-9)


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
    )
    queries = pd.DataFrame({"direction": ["tail"] * len(answers), "relation": [0] * len(answers)})
    found = weights.of(queries, np.array(answers))
    for row, speaks in zip(found, np.array(answers), strict=True):
        if speaks.all() or not speaks.any():
            assert row == pytest.approx(given_weights)
        else:
            assert (row[~speaks] == 0).all()
            assert (row / alone).sum() > 1 - 1e-9
            assert (row >= np.where(speaks, given_weights, 0)).all()


def test_parameters_are_checked(parameters):
    values = parameters.model_dump()
    with pytest.raises(ValueError, match="did you mean 'shrinkage'"):
        MixtureParameters(**{**values, "shrinkag": 1})


def test_an_expert_without_any_weight_is_not_asked_again(world, parameters, tmp_path):
    good, wrong = world.expert("good", noise=0.1, seed=1), world.expert("wrong", seed=2)
    # Its favourites are the worst answers: any weight would hurt.
    wrong.table = -wrong.table
    mixture = fit([good, wrong], world, tmp_path / "a", parameters)
    assert [expert.name for expert in mixture.experts] == ["good"]
    assert mixture.facts["weights"]["wrong"] < 0.01 * mixture.facts["weights"]["good"]
    test = split(world.queries, "test")
    assert torch.equal(all_scores(mixture, test), all_scores(good, test))
    report = report_calibration(mixture, world.queries, list("abcd"), parameters, seed=0)
    assert report["test"]["proposals"]["expected_calibration_error"] < 0.05
    # Where it alone answers, it stays.
    needed = replace(good, silent=frozenset([3]))
    kept = fit([needed, wrong], world, tmp_path / "b", parameters)
    assert [expert.name for expert in kept.experts] == ["good", "wrong"]
