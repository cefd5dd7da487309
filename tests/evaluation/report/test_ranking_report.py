from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mkgformer_kedro.evaluation.ranking.baselines import Popularity
from mkgformer_kedro.evaluation.ranking.graph import reverse_in_train
from mkgformer_kedro.evaluation.intervals import Difference, Interval
from mkgformer_kedro.evaluation.link_prediction import evaluate_link_prediction
from mkgformer_kedro.evaluation.link_prediction_report import (
    Published,
    choose_examples,
    describe_examples,
    render_link_prediction_report,
)
from mkgformer_kedro.evaluation.ranking.predictions import predict

HOSTILE = "<script>alert('x')</script>\" onload=\"x"
RELATIONS = ["part of", "kind of & more", "<b>member</b> of"]


@pytest.fixture(scope="module")
def graph(one_graph):
    return one_graph


@pytest.fixture(scope="module")
def has_images(graph) -> np.ndarray:
    return np.arange(graph.num_entities) % 2 == 0


@pytest.fixture(scope="module")
def predictions(graph) -> pd.DataFrame:
    return predict(graph.queries, [graph.scores], graph.test)


@pytest.fixture(scope="module")
def evaluation(graph, predictions, has_images):
    popularity = Popularity(graph.train, graph.num_entities).score(graph.queries)
    return evaluate_link_prediction(
        predictions,
        predict(graph.queries, [graph.scores.roll(1, dims=1)], graph.test),
        predict(graph.queries, [popularity], graph.test),
        graph.train,
        leak=reverse_in_train(graph.train, graph.test),
        has_images=has_images,
        seed=0,
        resamples=50,
    )


def examples_of(graph, predictions: pd.DataFrame, has_images: np.ndarray) -> list:
    entities = pd.DataFrame(
        {
            "name": [f"entity {i} {HOSTILE}" for i in range(graph.num_entities)],
            "text": [f"text of {i} {HOSTILE}" for i in range(graph.num_entities)],
        }
    )
    image = np.full((3, 8, 8), 90, dtype=np.uint8)
    chosen = choose_examples(predictions, has_images, right=3, wrong=2, seed=0)
    return describe_examples(
        chosen, entities, RELATIONS, lambda entity: [image] * 6 if has_images[entity] else []
    )


@pytest.fixture(scope="module")
def page(graph, predictions, has_images, evaluation) -> str:
    return render_link_prediction_report(
        evaluation,
        data_set=f"own data {HOSTILE}",
        relations=RELATIONS,
        published=[
            Published("TransE", {"hits_at_10": 0.441}, "a paper", "https://example.org/paper"),
            Published("Trap", {"hits_at_10": 0.2}, "a source", "javascript:alert(1)"),
        ],
        curve=pd.DataFrame({"step": [1, 2], "loss": [0.5, 0.25]}),
        curve_panels={"Training loss": "loss"},
        examples=examples_of(graph, predictions, has_images),
        facts={"Ingestion": {"counts": {"entities": 14541}, HOSTILE: [HOSTILE, 1, None, True]}},
    )


def test_the_page_is_well_formed_and_says_what_it_is_about(page, collect):
    collected = collect(page)
    assert collected.text.count("Link prediction on own data") == 2
    assert [tag for tag, _ in collected.tags].count("h1") == 1
    assert all(attrs.get("alt") for tag, attrs in collected.tags if tag == "img")
    targets = {attrs["href"][1:] for tag, attrs in collected.tags
               if tag == "a" and attrs["href"].startswith("#")}  # fmt: skip
    identifiers = [attrs["id"] for _, attrs in collected.tags if "id" in attrs]
    assert targets <= set(identifiers)


def test_whatever_the_data_says_is_escaped(page, collect):
    collected = collect(page)
    assert "<script" not in page.lower()
    assert HOSTILE in collected.text
    assert RELATIONS[2] in collected.text
    assert not any("onload" in attrs for _, attrs in collected.tags)
    assert "b" not in {tag for tag, _ in collected.tags}


def test_the_page_asks_nothing_of_the_network(page, collect):
    collected = collect(page)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in collected.tags}
    sources = [attrs["src"] for _, attrs in collected.tags if "src" in attrs]
    assert sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    links = [a["href"] for t, a in collected.tags if t == "a" and not a["href"].startswith("#")]
    assert links == ["https://example.org/paper"]


def test_the_page_holds_the_numbers_it_was_given(page, evaluation, collect):
    text = " ".join(collect(page).text.split())
    for assessed in (evaluation.model, evaluation.without_images, evaluation.popularity):
        for scores in (assessed.scores, assessed.without_leaks):
            for metric in ("inverse_harmonic_mean_rank", "hits_at_1", "hits_at_10"):
                key = f"both.realistic.{metric}"
                low, high = scores.intervals[key]
                assert f"{scores.metrics[key]:.3f} {low:.3f} to {high:.3f}" in text
    for side in ("head", "tail"):
        for rank_type in ("optimistic", "pessimistic"):
            key = f"{side}.{rank_type}.inverse_harmonic_mean_rank"
            assert f"{evaluation.model.scores.metrics[key]:.3f}" in text
            assert f"{evaluation.raw[key]:.3f}" in text
    assert evaluation.popularity_verdict.text.replace("\u00a0", " ") in text
    assert evaluation.images_verdict.text.replace("\u00a0", " ") in text
    assert "TransE a paper 0.441" in text
    assert "14\u202f541" in collect(page).text
    for table in evaluation.groups.values():
        for mrr in table["inverse_harmonic_mean_rank"]:
            assert f"{mrr:.3f}" in text


def test_a_verdict_is_marked_good_or_bad(page, evaluation):
    assert f'<li class="{evaluation.popularity_verdict.outcome}">' in page
    worse = replace(evaluation, against_no_images=Difference(-0.2, Interval(-0.3, -0.1)))
    assert worse.images_verdict.outcome == "bad"


def test_examples_are_right_then_wrong_and_prefer_images(predictions, has_images):
    chosen = choose_examples(predictions, has_images, right=3, wrong=2, seed=0)
    assert (chosen["rank_pessimistic"].iloc[:3] == 1).all()
    assert (chosen["rank_optimistic"].iloc[3:] > 10).all()
    assert has_images[chosen["entity"]].all()
    wrong = chosen.iloc[3:]
    assert not wrong.duplicated(["relation", "direction"]).any()
    again = choose_examples(predictions, has_images, right=3, wrong=2, seed=0)
    pd.testing.assert_frame_equal(again, chosen)


def test_examples_run_out_gracefully(predictions, has_images):
    perfect = predictions.assign(rank_optimistic=1, rank_pessimistic=1)
    chosen = choose_examples(perfect.head(2), has_images, right=5, wrong=5, seed=0)
    assert len(chosen) == 2


def test_an_example_tells_query_answer_and_guesses(graph, predictions, has_images):
    chosen = choose_examples(predictions, has_images, right=3, wrong=2, seed=0)
    examples = examples_of(graph, predictions, has_images)
    assert len(examples) == 5
    for row, example in zip(chosen.itertuples(), examples, strict=True):
        assert example.known.name.startswith(f"entity {row.entity} ")
        assert example.answer.name.startswith(f"entity {row.answer} ")
        assert example.relation == RELATIONS[row.relation]
        assert len(example.known.images) == 4
        assert [g.is_answer for g in example.guesses] == [
            entity == row.answer for entity in row.top_entities[:5]
        ]
    assert [example.guesses[0].is_answer for example in examples] == [True] * 3 + [False] * 2
