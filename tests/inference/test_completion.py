from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
import rdflib
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from rdflib import RDF, URIRef

from mkgformer_kedro.datasets.rdf_graph import RdfParameters, read_rdf
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.evaluation.calibration import Calibrator, times_odds
from mkgformer_kedro.evaluation.ranking.tables import TRIPLE
from mkgformer_kedro.inference.completion import Roles, nearest_seen, plan_questions, propose
from mkgformer_kedro.inference.keeping import (
    FOUND_BY,
    calibrate_proposals,
    completions_as_rdf,
    hidden_to_dev,
    join_directions,
    judge_completions,
    name_completions,
    open_proposals,
    rank_proposals,
)
from mkgformer_kedro.inference.mixture import Calibration, Mixture, Weights
from mkgformer_kedro.inference.parameters import (
    CompletionParameters,
    KeepParameters,
    PublicationParameters,
    QuestionParameters,
)
from mkgformer_kedro.pipelines.completion.nodes import keep_completions
from tiny_world import COMPLETION

GLOBALS = Path(__file__).parents[2] / "conf/base/globals.yml"
ENTITIES, RELATIONS = 24, 3
NAMES = ["born in", "lives in", "knows"]


def questions(**changes):
    return QuestionParameters(**{**COMPLETION["questions"], **changes})


def completion(**changes):
    return CompletionParameters(**{**COMPLETION, **changes})


def frame(rows, split="train"):
    table = pd.DataFrame(rows, columns=TRIPLE).astype(np.int32)
    return table.assign(split=split)


def make_triples(seed=0):
    """Ten people of twelve have one birthplace each, most a place where they live; friends."""
    rng = np.random.default_rng(seed)
    rows = {(p, 0, 12 + int(rng.integers(6))) for p in range(10)}
    rows |= {(p, 1, 12 + int(rng.integers(6))) for p in range(9) for _ in range(2)}
    rows |= {(int(a), 2, int(b)) for a, b in rng.integers(12, size=(30, 2)) if a != b}
    rows = sorted(rows)
    rng.shuffle(rows)
    names = ["train"] * (len(rows) - 14) + ["dev"] * 7 + ["test"] * 7
    triples = frame(rows)
    return triples.assign(split=names)


@pytest.fixture(scope="module")
def triples():
    return make_triples()


def make_mixture(triples, table_expert):
    """An expert that knows the held-out triples, one that knows nothing and is silent on some."""
    rng = np.random.default_rng(1)
    tables = [rng.standard_normal((2, ENTITIES, RELATIONS, ENTITIES)) for _ in range(2)]
    for h, r, t in triples[TRIPLE].to_numpy():
        tables[0][0, h, r, t] += 6
        tables[0][1, t, r, h] += 6
    experts = [
        table_expert("knowing", tables[0]),
        table_expert("guessing", tables[1], silent=frozenset([3])),
    ]
    weights = Weights(
        standard=np.array([False, True]),
        spread=np.ones(2),
        alone=np.array([1.0, 1.0]),
        whole=np.array([1.0, 0.1]),
        direction=np.tile([1.0, 0.1], (2, 1)),
        relation=np.tile([1.0, 0.1], (RELATIONS, 2, 1)),
        own=np.zeros((RELATIONS, 2), dtype=bool),
        linear=np.array([0.2, 0.1]),
    )
    calibration = Calibration(
        scale=1.0,
        calibrator=Calibrator(1.0, np.zeros(2), np.zeros((RELATIONS, 2))),
        thresholds=np.full((RELATIONS, 2), 2.0),
        own=np.zeros((RELATIONS, 2), dtype=bool),
        level=0.9,
    )
    return Mixture(experts, weights, calibration, {}, ENTITIES)


@pytest.fixture(scope="module")
def mixture(triples, table_expert):
    return make_mixture(triples, table_expert)


def ask(mixture, triples, work_folder, parameters=None):
    parameters = parameters or completion()
    asked, roles, _ = plan_questions(triples, ENTITIES, NAMES, parameters.questions, seed=0)
    return asked, roles, propose(mixture, asked, triples, roles, work_folder, parameters)


# Questions


def test_roles_are_who_train_has_on_either_side():
    train = frame([(0, 0, 5), (0, 0, 6), (1, 0, 5), (2, 1, 7)])
    roles = Roles.from_train(train, 8, 2, questions())
    assert np.argwhere(roles.plausible[0]).tolist() == [[0, 0], [0, 1], [1, 2]]
    assert np.argwhere(roles.plausible[1]).tolist() == [[0, 5], [0, 6], [1, 7]]
    assert np.array_equal(roles.plausible, roles.answered)
    assert not roles.functional.any()
    assert np.array_equal(roles.asked, roles.plausible)


def test_a_role_that_mostly_comes_with_another_is_worth_asking():
    # Three of the four heads of relation 0 are heads of relation 1 too.
    train = frame([(h, 0, 9) for h in range(4)] + [(h, 1, 8) for h in range(3)])
    asked = [
        Roles.from_train(train, 10, 2, questions(implied=share)).plausible[0, 1].nonzero()[0]
        for share in (0.7, 0.8)
    ]
    assert asked[0].tolist() == [0, 1, 2, 3]
    assert asked[1].tolist() == [0, 1, 2]
    few = questions(implied=0.7, least_entities=5)
    assert Roles.from_train(train, 10, 2, few).plausible[0, 1].nonzero()[0].tolist() == [0, 1, 2]


def test_functional_questions_that_train_answers_are_left_out():
    born = [(h, 0, 9) for h in range(4)]
    lives = [(h, 1, 8) for h in range(5)] + [(0, 1, 9)]
    given = questions(functional=0.9, implied=0.7)
    roles = Roles.from_train(frame(born + lives), 10, 2, given)
    # Everybody is born in one place; one of five lives in two.
    assert roles.functional.tolist() == [[True, False], [False, False]]
    assert roles.asked[0, 0].nonzero()[0].tolist() == [4]
    assert roles.asked[0, 1].nonzero()[0].tolist() == [0, 1, 2, 3, 4]
    assert roles.asked[1, 0].nonzero()[0].tolist() == [9]
    exact = Roles.from_train(frame(born), 10, 2, questions(functional=1.0, least_entities=5))
    assert not exact.functional.any()


def test_an_entity_is_its_own_answer_only_where_train_has_loops():
    roles = Roles.from_train(frame([(0, 0, 1), (1, 0, 0), (0, 1, 1), (1, 1, 1)]), 3, 2, questions())
    assert roles.reflexive.tolist() == [False, True]
    ask = np.array([0, 0]), np.array([1, 1]), np.array([0, 1])
    assert roles.candidates(*ask).tolist() == [[True, False, False], [False, True, False]]
    assert roles.plausible[1, 0].tolist() == [True, True, False]


def test_the_plan_says_what_it_asks_and_what_that_covers():
    train = frame([(0, 0, 5), (1, 0, 6), (2, 1, 7), (3, 1, 7)])
    test = frame([(0, 0, 6), (2, 0, 5), (3, 0, 7), (2, 1, 7)], split="test")
    triples = pd.concat([train, test], ignore_index=True)
    asked, _, report = plan_questions(triples, 8, ["a", "b"], questions(), seed=0)
    assert report["all_pairs"] == 32
    assert report["asked"] == len(asked) == report["worth_asking"] == 7
    # Of the second only the answer plays its role, of the third neither.
    assert report["test_triples_covered"] == {"tail": 0.5, "head": 0.5, "either": 0.5}
    assert asked["entity"].is_monotonic_increasing
    one, _, report = plan_questions(
        triples, 8, ["a", "b"], questions(relations=["b"], directions=["head"]), seed=0
    )
    assert one.to_dict("records") == [{"direction": "head", "entity": 7, "relation": 1}]
    assert report["test_triples_covered"] == {"tail": 0.0, "head": 0.25, "either": 0.25}
    some, _, report = plan_questions(triples, 8, ["a", "b"], questions(at_most=3), seed=0)
    assert len(some) == report["asked"] == 3
    assert len(some.merge(asked)) == 3
    nothing = plan_questions(train, 8, ["a", "b"], questions(), seed=0)[2]
    assert nothing["test_triples_covered"] == {"tail": None, "head": None, "either": None}


def test_an_entity_that_train_lacks_plays_the_roles_of_those_most_like_it():
    triples = pd.concat(
        [frame([(0, 0, 5), (1, 1, 6)]), frame([(2, 0, 5), (2, 1, 6), (0, 1, 6)], "test")]
    )
    train = triples[triples["split"] == "train"]
    # 2 points where 0 does, whatever its length, and then where 1 does; 3 and 4 as 5 and 6 do.
    embeddings = np.zeros((7, 3), dtype=np.float32)
    embeddings[[0, 1, 2]] = [[1, 0, 0], [0, 1, 0], [9, 1, 0]]
    embeddings[[5, 3]], embeddings[[6, 4]] = [-1, 0, 0], [0, 0, 1]
    one, two = (nearest_seen(embeddings, train, most) for most in (1, 2))
    assert np.argwhere(one.toarray()).tolist() == [[2, 0], [3, 5], [4, 6]]
    assert two.toarray()[2].nonzero()[0].tolist() == [0, 1]
    plan = [plan_questions(triples, 7, ["a", "b"], questions(), 0, near) for near in (None, one)]
    (_, _, without), (asked, roles, report) = plan
    assert np.argwhere(roles.plausible[0]).tolist() == [[0, 0], [0, 2], [1, 1]]
    assert np.argwhere(roles.plausible[1]).tolist() == [[0, 3], [0, 5], [1, 4], [1, 6]]
    assert np.argwhere(roles.answered[0]).tolist() == [[0, 0], [1, 1]]
    assert set(asked["entity"]) == set(range(7))
    nothing = dict.fromkeys(["tail", "head", "either"], 0.0)
    counts = {"entities": 3, "questions": 0, "test_triples": 2, "test_triples_covered": nothing}
    assert without["unseen"] == counts
    half = dict.fromkeys(nothing, 0.5)
    assert report["unseen"] == counts | {"questions": 3, "test_triples_covered": half}
    everybody = nearest_seen(embeddings[[0, 1, 5, 6]], frame([(0, 0, 1), (2, 0, 3)]), 9)
    assert everybody.nnz == 0


def test_a_relation_that_is_not_there_is_named():
    with pytest.raises(DataError, match=r"no relation 'c'. It has 'a', 'b'"):
        plan_questions(frame([(0, 0, 1)]), 2, ["a", "b"], questions(relations=["c"]), seed=0)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2), st.integers(0, 7)), min_size=1),
    st.sampled_from([None, 0.3, 1.0]),
    st.sampled_from([None, 0.5, 1.0]),
)
def test_roles_of_any_graph(rows, implied, functional):
    train = frame(sorted(set(rows)))
    roles = Roles.from_train(train, 8, 3, questions(implied=implied, functional=functional))
    for h, r, t in train[TRIPLE].to_numpy():
        assert roles.answered[0, r, h]
        assert roles.answered[1, r, t]
    assert roles.answered.sum() == len({(h, r) for h, r, _ in rows}) + len(
        {(r, t) for _, r, t in rows}
    )
    assert (roles.plausible >= roles.answered).all()
    for r in range(3):
        for number, side in enumerate(("head", "tail")):
            counts = train[train["relation"] == r].groupby(side).size()
            share = (counts == 1).mean() if len(counts) else 0
            expected = functional is not None and len(counts) > 0 and share >= functional
            assert roles.functional[number, r] == expected


# Proposals


def test_proposals_are_the_best_unknown_answers(mixture, triples, tmp_path):
    asked, roles, found = ask(mixture, triples, tmp_path)
    train = {tuple(row) for row in triples.loc[triples["split"] == "train", TRIPLE].to_numpy()}
    expected = []
    for question in asked.itertuples(index=False):
        number = int(question.direction == "head")
        query = pd.DataFrame([question._asdict()])
        block = next(mixture.blocks(query, batch_size=1))
        total = block.scores[0].numpy().astype(float)
        for entity in range(ENTITIES):
            triple = (question.entity, question.relation, entity)
            if (triple if number == 0 else triple[::-1]) in train:
                total[entity] = -np.inf
        logs = total - np.log(np.exp(total).sum())
        fitting = np.flatnonzero(
            roles.plausible[1 - number, question.relation] & np.isfinite(total)
        )
        # Nobody knows himself: train has no such loop.
        fitting = fitting[fitting != question.entity]
        for entity in fitting[np.argsort(-logs[fitting])][:4]:
            odds = logs[entity] - np.log1p(-np.exp(logs[entity]))
            speaks = question.entity != 3
            expected.append(
                (
                    number,
                    question.entity,
                    question.relation,
                    entity,
                    odds,
                    -logs[entity] <= 2,
                    block.logs[0][0, entity].item(),
                    block.logs[1][0, entity].item() if speaks else np.nan,
                )
            )
    columns = [
        "direction",
        "entity",
        "relation",
        "answer",
        "log_odds",
        "in_set",
        "score_knowing",
        "score_guessing",
    ]
    expected = pd.DataFrame(expected, columns=columns)
    assert list(found) == columns
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-4, atol=1e-4)


def test_improbable_answers_are_left_out(mixture, triples, tmp_path):
    everything = ask(mixture, triples, tmp_path / "a")[2]
    probable = ask(mixture, triples, tmp_path / "b", completion(least_probability=0.2))[2]
    odds = everything["log_odds"].to_numpy(float)
    kept = everything[1 / (1 + np.exp(-odds)) >= 0.2]
    assert 0 < len(probable) < len(everything)
    pd.testing.assert_frame_equal(probable, kept.reset_index(drop=True))


def test_no_question_gives_no_proposal(mixture, triples, tmp_path):
    parameters = completion(
        questions=questions(relations=["born in"], functional=0.5, directions=["tail"]).model_dump()
    )
    asked, _, found = ask(mixture, triples, tmp_path, parameters)
    assert asked.empty
    assert found.empty
    assert {"entity", "log_odds", "score_knowing"} <= set(found)


def test_an_interrupted_run_goes_on_and_ends_with_the_same(mixture, triples, tmp_path):
    whole = ask(mixture, triples, tmp_path / "whole")[2]
    mixture.experts[0].asked.clear()

    class Dying:
        name, seed, folder, learned = "knowing", 0, None, None
        left = 6

        def answers(self, queries):
            return mixture.experts[0].answers(queries)

        def scores(self, queries, *, batch_size):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return mixture.experts[0].scores(queries, batch_size=batch_size)

    dying = Mixture(
        [Dying(), mixture.experts[1]], mixture.weights, mixture.calibration, {}, ENTITIES
    )
    with pytest.raises(KeyboardInterrupt):
        ask(dying, triples, tmp_path / "work")
    before = sum(mixture.experts[0].asked)
    asked, _, again = ask(mixture, triples, tmp_path / "work")
    pd.testing.assert_frame_equal(again, whole)
    assert sum(mixture.experts[0].asked) - before < len(asked) - 5
    # Nor are blocks that are damaged, or of other places, taken for what they are not.
    first, *_, last = sorted((tmp_path / "work").glob("*/*.parquet"))
    again.head(5).to_parquet(first)
    last.write_bytes(sorted((tmp_path / "work").glob("*/*.parquet"))[1].read_bytes())
    pd.testing.assert_frame_equal(ask(mixture, triples, tmp_path / "work")[2], whole)
    # Blocks of other questions are not taken for these.
    other = completion(questions=questions(relations=["knows"]).model_dump())
    assert set(ask(mixture, triples, tmp_path / "work", other)[2]["relation"]) == {2}


# Completions


@pytest.fixture(scope="module")
def joined(mixture, triples, tmp_path_factory):
    return join_directions(ask(mixture, triples, tmp_path_factory.mktemp("work"))[2], triples)


def test_directions_are_joined(mixture, triples, joined, tmp_path):
    proposals = ask(mixture, triples, tmp_path)[2]
    proposed = {}
    for row in proposals.itertuples():
        triple = (row.entity, row.relation, row.answer)
        triple = triple if row.direction == 0 else triple[::-1]
        proposed.setdefault(triple, {})[row.direction] = row
    assert len(joined) == len(proposed)
    splits = {tuple(row[:3]): row[3] for row in triples[[*TRIPLE, "split"]].to_numpy()}
    for row in joined.itertuples():
        triple = (row.head, row.relation, row.tail)
        found = proposed[triple]
        assert FOUND_BY[row.found_by] == (
            "both" if len(found) == 2 else ("tail", "head")[next(iter(found))]
        )
        rows = list(found.values())
        assert row.log_odds == pytest.approx(np.mean([r.log_odds for r in rows]), rel=1e-5)
        assert row.in_answer_set == all(r.in_set for r in rows)
        assert row.score_knowing == pytest.approx(
            np.mean([r.score_knowing for r in rows]), rel=1e-5
        )
        guesses = [r.score_guessing for r in rows if not np.isnan(r.score_guessing)]
        assert row.score_guessing == pytest.approx(
            np.mean(guesses) if guesses else np.nan, rel=1e-5, nan_ok=True
        )
        assert row.split == splits.get(triple, "")
        assert row.split != "train"


def with_probability(joined, probability=None, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.random(len(joined)) if probability is None else probability
    return joined.assign(probability=values)


def keep(**changes):
    given = {"probability": None, "best": None, "both_directions": False}
    return KeepParameters(**{**given, **changes})


def test_what_may_be_kept_is_ranked(joined):
    table = with_probability(joined)
    ranked = rank_proposals(table, keep(probability=0.6))
    assert ranked["probability"].is_monotonic_decreasing
    assert set(ranked["split"]) == {"", "test"}
    expected = table[(table["probability"] >= 0.6) & (table["split"] != "dev")]
    assert len(ranked) == len(expected) > 0
    both = rank_proposals(table, keep(best=1000, both_directions=True))
    assert set(both["found_by"]) == {FOUND_BY.index("both")}
    assert len(both) == ((table["found_by"] == 2) & (table["split"] != "dev")).sum()


def test_nothing_is_proposed_that_is_held_out_or_has_its_only_answer_there():
    triples = pd.concat([frame([(0, 0, 5)]), frame([(1, 0, 5)], "dev"), frame([(2, 0, 5)], "test")])
    rows = [(1, 0, 6, ""), (2, 0, 5, "test"), (2, 0, 6, ""), (3, 0, 6, "")]
    ranked = pd.DataFrame(rows, columns=[*TRIPLE, "split"])
    functional = np.zeros((2, 1), dtype=bool)
    assert open_proposals(ranked, functional, triples).index.tolist() == [0, 1, 2]
    functional[0, 0] = True
    assert open_proposals(ranked, functional, triples)[TRIPLE].to_numpy().tolist() == [[3, 0, 6]]


def test_precision_on_a_functional_relation_is_what_probabilities_say():
    """Three proposals a place, one of them true; most of the true ones are in dev or test."""
    places, rng = 3000, np.random.default_rng(0)
    rows = pd.DataFrame({"head": np.repeat(np.arange(places), 3), "relation": 0})
    rows["tail"] = places + rng.permuted(np.tile(np.arange(3), (places, 1)), axis=1).ravel()
    first = np.arange(3 * places) % 3 == 0
    split = np.repeat(rng.choice(["dev", "test", ""], p=[0.4, 0.4, 0.2], size=places), 3)
    rows["split"] = np.where(first, split, "")
    rows["found_by"], rows["log_odds"] = 0, rng.normal(2.0 * first, 1.0)
    triples = frame(rows.loc[first, TRIPLE].to_numpy(), split[first]).query("split != ''")
    # Bayes: of the third that is true, .4 are found in dev, .2 nowhere; test is not looked at.
    likelihood = np.exp(2 * rows["log_odds"] - 2)
    rows["probability"] = 0.4 * likelihood / (0.6 * likelihood + 2)
    ranked = rank_proposals(rows, keep(probability=0.3))
    calibrator = Calibrator(1.0, np.zeros(3), np.zeros((1, 3)))
    kept = judge_completions(rows, ranked, triples, calibrator)["kept"]
    noise = 2 * np.sqrt(0.25 / kept["triples"])
    assert kept["precision"] == pytest.approx(kept["mean_probability"], abs=noise)
    published = open_proposals(ranked, np.array([[True], [False]]), triples)
    assert 0 < len(published) < kept["triples"] - kept["hidden"]
    assert not published["head"].isin(triples["head"]).any()


def test_keeping_everything_is_refused():
    with pytest.raises(ValueError, match="a probability, a number of best proposals, or both"):
        keep()


def test_probabilities_are_fitted_to_dev_and_hold_on_test():
    rng = np.random.default_rng(0)
    n = 20_000
    log_odds = rng.normal(-3, 2, n)
    found_by = rng.integers(3, size=n)
    logit = 0.8 * log_odds + np.array([-1.0, -0.5, 1.0])[found_by]
    probability = 1 / (1 + np.exp(-logit))
    # A true triple is in dev or in test; the split that is not judged is left out.
    true = rng.random(n) < 2 * probability / (1 + probability)
    split = np.where(true, np.where(rng.random(n) < 0.5, "dev", "test"), "")
    joined = pd.DataFrame(
        {
            "head": rng.integers(2000, size=n),
            "relation": rng.integers(4, size=n),
            "tail": rng.integers(2000, size=n),
            "found_by": found_by,
            "log_odds": log_odds,
            "split": split,
        }
    )
    calibrator = calibrate_proposals(joined, relations=4, seed=0)
    joined["probability"] = calibrator.probabilities(log_odds, found_by, joined["relation"])
    assert np.abs(joined["probability"] - probability).mean() < 0.01
    kept = rank_proposals(joined, keep(probability=0.3))
    triples = frame(joined.loc[joined["split"] == "test", TRIPLE].to_numpy(), "test")
    report = judge_completions(joined, kept, triples, calibrator)
    hidden = (joined["split"] == "test").sum()
    assert report["calibration"]["expected_calibration_error"] < 0.01
    assert report["kept"]["precision"] == pytest.approx(
        report["kept"]["mean_probability"], abs=0.03
    )
    assert report["hidden_triples"] == hidden
    assert report["kept"]["hidden"] == (kept["split"] == "test").sum()
    assert report["kept"]["recall"] == pytest.approx(report["kept"]["hidden"] / hidden)
    assert report["kept"]["unjudged"] == pytest.approx(1 - report["kept"]["precision"])
    assert report["proposed"]["recall"] == 1
    counts = [row["triples"] for row in report["by_threshold"]]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_probabilities_are_those_of_the_hidden_however_large_dev_is(share):
    """Of the true triples that the graph lacks, dev has a share; the rest is hidden."""
    rng = np.random.default_rng(0)
    n = 20_000
    true = rng.random(n) < 0.3
    split = np.where(true, np.where(rng.random(n) < share, "dev", "test"), "")
    joined = pd.DataFrame(
        {
            "head": np.arange(n),
            "relation": 0,
            "tail": 0,
            "found_by": 0,
            "in_answer_set": True,
            "log_odds": rng.normal(2.0 * true, 1.0),
            "score_model": 0.0,
            "split": split,
        }
    )
    held_out = joined[true]
    triples = frame(held_out[TRIPLE].to_numpy(), held_out["split"].to_numpy())
    assert hidden_to_dev(triples) == pytest.approx((1 - share) / share, rel=0.1)
    calibrator = calibrate_proposals(joined, relations=1, seed=0)
    columns = (joined[name].to_numpy() for name in ("log_odds", "found_by", "relation"))
    of_dev = calibrator.probabilities(*columns)
    joined["probability"] = times_odds(of_dev, hidden_to_dev(triples))
    judged = judge_completions(joined, joined.head(0), triples, calibrator)["calibration"]
    assert judged["expected_calibration_error"] < 0.012


def test_odds_are_multiplied():
    half = times_odds(np.array([0.0, 0.5, 1.0]), 3.0)
    assert half.tolist() == [0, 0.75, 1]
    assert times_odds(half, 1 / 3) == pytest.approx([0, 0.5, 1])
    assert hidden_to_dev(frame([(0, 0, 1)], "test")) == 1
    known = [frame([(0, 0, 1), (0, 0, 2)], split) for split in ("train", "test")]
    hidden, of_dev = frame([(0, 0, 3)], "test"), frame([(0, 0, 4)], "dev")
    assert hidden_to_dev(pd.concat([*known, hidden, of_dev])) == 1
    both = pd.concat([frame([(0, 0, 1)], "dev"), frame([(0, 0, 1), (0, 0, 2)], "test")])
    assert hidden_to_dev(both) == 1


def test_where_train_has_answered_all_there_is_nothing_to_propose(mixture, tmp_path):
    known = frame([(person, 0, 12 + person % 6) for person in range(10)])
    graph = pd.concat([known, frame([(10, 2, 11)], "dev"), frame([(11, 2, 10)], "test")])
    only = {"relations": ["born in"], "directions": ["tail"]}
    functional = questions(**only, functional=0.9, least_entities=5).model_dump()
    parameters = completion(questions=functional)
    asked, _, proposals = ask(mixture, graph, tmp_path, parameters)
    assert len(asked) == len(proposals) == 0
    entities = pd.DataFrame({"entity": [f"e{number}" for number in range(ENTITIES)]})
    kept, _, report = keep_completions(
        proposals, {}, graph, entities, pd.DataFrame({"relation": NAMES}), parameters, seed=0
    )
    assert kept.empty
    assert report["highest"] == 0
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize("proposals", [None, 3, 0])
def test_without_a_dev_triple_probabilities_are_small(joined, caplog, proposals):
    rest = joined[joined["split"] != "dev"].head(len(joined) if proposals is None else proposals)
    calibrator = calibrate_proposals(rest, RELATIONS, seed=0)
    assert "No dev triple is among" in caplog.text
    columns = ("log_odds", "found_by", "relation")
    said = calibrator.probabilities(*(joined[column].to_numpy() for column in columns))
    assert np.isfinite(said).all()
    if proposals is None:
        assert said[joined["split"] != "dev"].mean() < 0.05


@pytest.fixture
def named(joined):
    kept = with_probability(joined, np.linspace(0.9, 0.1, len(joined)))
    kept = kept[kept["split"] != "dev"].head(20)
    entities = [f"/m/{number} ä" for number in range(ENTITIES)]
    entities[12] = "http://www.wikidata.org/entity/Q64"
    return name_completions(kept, entities, NAMES), kept


def test_completions_have_names(named):
    table, kept = named
    assert list(table) == [
        *TRIPLE,
        "probability",
        "found_by",
        "in_answer_set",
        "score_knowing",
        "score_guessing",
    ]
    assert table["head"].tolist() == [
        "http://www.wikidata.org/entity/Q64" if h == 12 else f"/m/{h} ä" for h in kept["head"]
    ]


PUBLICATION = completion().publication
OURS = rdflib.Namespace("urn:mkgformer:completion#")


def statements(text):
    """What rdflib finds: subject, predicate and object, as they are, and the statement's name."""
    graph = rdflib.Graph().parse(data=text, format="turtle")
    return graph, {
        tuple(graph.value(name, part) for part in (RDF.subject, RDF.predicate, RDF.object)): name
        for name in graph.subjects(RDF.type, RDF.Statement)
    }


def test_a_second_library_reads_the_rdf(named):
    table, _ = named
    graph, found = statements(completions_as_rdf(table, PUBLICATION, is_rdf=False))

    def iri(name):
        quoted = name.replace("/", "%2F").replace(" ", "%20").replace("ä", "%C3%A4")
        return URIRef(name if "://" in name else f"http://example.org/entity/{quoted}")

    assert len(found) == len(table) > 0
    for row in table.itertuples():
        relation = URIRef("http://example.org/relation/" + row.relation.replace(" ", "%20"))
        name = found[iri(row.head), relation, iri(row.tail)]
        probability = graph.value(name, OURS.probability)
        assert probability.datatype == rdflib.XSD.double
        assert probability.toPython() == pytest.approx(row.probability, rel=1e-5)
        assert graph.value(name, OURS.inAnswerSet).toPython() == row.in_answer_set
    # Nobody has accepted a completion: the triple itself is not stated.
    assert not [p for p in graph.predicates() if "example.org" in str(p)]
    # A statement has the same name in every run, and another one than all others.
    _, fewer = statements(completions_as_rdf(table.tail(3), PUBLICATION, is_rdf=False))
    assert len(set(found.values())) == len(found)
    assert fewer.items() <= found.items()


def as_completions(*triples):
    table = pd.DataFrame(triples, columns=TRIPLE)
    return table.assign(probability=0.5, in_answer_set=True)


def test_ids_are_iris_where_nothing_else_looks_like_them():
    names = [
        "Q42:foo",
        "see http://a.b c",
        "http://a.b/ c",
        "mailto:a@b.c",
        "urn:isbn:1",
        "http://a.b/c",
    ]
    text = completions_as_rdf(
        as_completions(*((name, "r", name) for name in names)), PUBLICATION, is_rdf=False
    )
    _, found = statements(text)
    own = {str(head) for head, _, _ in found}
    assert own == {
        "urn:isbn:1",
        "http://a.b/c",
        *(f"http://example.org/entity/{quote(name, safe='')}" for name in names[:4]),
    }


def test_what_was_read_of_rdf_is_written_as_it_was(tmp_path):
    """Terms of every kind go in, and come out of a second library as the same ones."""
    text = r"""@prefix x: <http://a.b/> .
    x:a x:r <mailto:a@b.c>, <tag:b,2020:c>, <Q42:foo>, "http://a b", "\"a\" \n \\ é"@fr, 5,
      "_:b", _:x . <urn:isbn:1> x:s x:a ."""
    (tmp_path / "graph.ttl").write_text(text)
    configured = yaml.safe_load(GLOBALS.read_text())["link_prediction"]["rdf"]
    keep_all = RdfParameters(**configured | {"literals": "keep", "blank_nodes": "keep"})
    read = read_rdf(tmp_path, ["graph.ttl"], keep_all).triples[TRIPLE]
    _, found = statements(
        completions_as_rdf(as_completions(*read.to_numpy()), PUBLICATION, is_rdf=True)
    )
    expected = set(rdflib.Graph().parse(data=text, format="turtle"))
    blank = {triple for triple in expected if isinstance(triple[2], rdflib.BNode)}
    assert len(found) == len(expected) == 9
    assert expected - found.keys() == blank
    ((_, _, node),) = found.keys() - expected
    assert isinstance(node, rdflib.BNode)


def test_a_namespace_that_begins_no_iri_is_refused():
    with pytest.raises(ValueError, match="should begin IRIs, such as http"):
        PublicationParameters(**PUBLICATION.model_dump() | {"entity_namespace": "no iri"})


def test_no_completion_is_an_empty_graph(named):
    text = completions_as_rdf(named[0].head(0), PUBLICATION, is_rdf=False)
    assert len(rdflib.Graph().parse(data=text, format="turtle")) == 0
