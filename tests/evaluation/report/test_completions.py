from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mkgformer_kedro.evaluation.report.completions import render_completions

TRIPLE = ["head", "relation", "tail"]


@pytest.fixture
def graph():
    names = ["Ann", "Bob <b>", "Cid </script>", "Berlin", "Rome", "Oslo"]
    entities = pd.DataFrame(
        {"entity": [f"e{i}" for i in range(6)], "name": names, "text": ["about " * 100] * 6}
    )
    relations = pd.DataFrame({"relation": ["r0", "r1"], "text": ["lives in", "knows"]})
    known = [(0, 0, 3), (0, 0, 4), (1, 0, 3), (2, 0, 5), (0, 1, 1), (2, 1, 1), (0, 1, 2)]
    return entities, relations, pd.DataFrame(known, columns=TRIPLE)


@pytest.fixture
def completions():
    rows = [
        ("e0", "r0", "e5", 0.8, "both", True, -0.5, np.nan),
        ("e1", "r1", "e0", 0.6, "head", True, -0.7, -3.0),
        ("e2", "r0", "e3", 0.5, "tail", False, -0.8, -4.0),
    ]
    columns = [*TRIPLE, "probability", "found_by", "in_answer_set"]
    return pd.DataFrame(rows, columns=[*columns, "score_model", "score_complex"])


NOTHING = dict.fromkeys(("precision", "mean_probability", "recall", "unjudged")) | {"triples": 0}
REPORT = {
    "meaning": "What it <means>.",
    "questions": {
        "asked": 1234,
        "all_pairs": 99999,
        "test_triples_covered": {"tail": 0.5, "head": 0.5, "either": 0.75},
    },
    "keep": {"probability": 0.05, "both_directions": True},
    "highest": 0.25,
    "kept": {
        "triples": 80,
        "precision": 0.25,
        "mean_probability": 0.65,
        "recall": 0.1,
        "unjudged": 0.75,
    },
    "by_threshold": [
        {
            "probability": 0.3,
            "triples": 1500,
            "mean_probability": 0.444,
            "precision": 0.456,
            "recall": 0.789,
            "unjudged": 0.544,
        },
        {"probability": 0.9, **NOTHING},
    ],
}


def render(graph, completions, report=REPORT, **changes):
    entities, relations, known = graph
    given = {"data_set": "towns", "shown": 10, "images_shown": 1, "nearest": 3} | changes

    def images(entity):
        return [np.full((3, 20, 30), entity, dtype=np.uint8)] if entity != 0 else []

    return render_completions(completions, report, known, entities, relations, images, **given)


def content_of(page):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(found[1])


def test_completions_are_on_the_page_the_most_probable_first(graph, completions):
    content = content_of(render(graph, completions))
    items = content["items"]
    assert [(i["head"], i["relation"], i["tail"]) for i in items] == [
        (0, 0, 5),
        (1, 1, 0),
        (2, 0, 3),
    ]
    assert items[0]["scores"] == {"model": -0.5}
    assert items[1]["scores"] == {"model": -0.7, "complex": -3.0}
    assert (items[1]["found"], items[1]["inSet"], items[1]["probability"]) == ("head", True, 0.6)
    assert content["relations"][0] == {"id": "r0", "text": "lives in"}
    card = content["entities"]["2"]
    assert (card["id"], card["name"]) == ("e2", "Cid </script>")
    assert card["text"].endswith(" …")
    assert len(card["text"]) < 330


def test_the_nearest_known_links_share_two_parts_of_each_kind_in_turn(graph, completions):
    items = content_of(render(graph, completions))["items"]
    # (0, 0, 5): where Ann lives, who lives in Oslo, how Ann and Oslo are linked (not at all).
    assert items[0]["near"] == [[0, 0, 3], [2, 0, 5], [0, 0, 4]]
    # (1, 1, 0): Bob knows nobody, nobody knows Ann, nothing links them.
    assert items[1]["near"] == []
    assert content_of(render(graph, completions, nearest=1))["items"][0]["near"] == [[0, 0, 3]]
    for number in {entity for item in items for h, _, t in item["near"] for entity in (h, t)}:
        assert str(number) in content_of(render(graph, completions))["entities"]


def test_so_many_are_shown_and_so_many_have_images(graph, completions):
    page = render(graph, completions, shown=2, images_shown=2)
    content = content_of(page)
    assert len(content["items"]) == 2
    assert "the 2 most probable of them on this page" in page
    with_image = {number for number, card in content["entities"].items() if "image" in card}
    # Ann has no image.
    assert with_image == {"5", "1"}
    assert content["entities"]["5"]["image"].startswith("data:image/jpeg;base64,")
    assert not any(
        "image" in c
        for c in content_of(render(graph, completions, images_shown=0))["entities"].values()
    )


def test_names_are_no_markup_and_nothing_is_fetched(graph, completions):
    page = render(graph, completions, data_set="<i>towns</i>")
    assert "<i>towns" not in page
    assert "Cid </script>" not in page
    assert "What it &lt;means&gt;." in page
    assert page.count("<script") == 2
    assert "default-src 'none'" in page
    assert not re.search(r"""(src|href)=["']?https?:""", page)
    assert "innerHTML" not in page


def test_how_it_did_is_said(graph, completions):
    page = render(graph, completions)
    for words in (
        r"1.234 questions",
        "75&nbsp;%",
        "the 80 most",
        "25.0&nbsp;% are hidden",
        "65.0&nbsp;%",
    ):
        assert re.search(words, page), words
    rows = [re.findall("<t[hd].*?>(.*?)</t[hd]>", row) for row in page.split("<tr>")[2:]]
    assert [cell.replace("\u202f", "").replace("&nbsp;", "") for row in rows for cell in row] == [
        *("0.30", "1500", "44.4%", "45.6%", "78.9%", "54.4%"),
        *("0.90", "0", "–", "–", "–", "–"),
    ]
    unknown = {
        **REPORT,
        "questions": {**REPORT["questions"], "test_triples_covered": {"either": None}},
        "kept": NOTHING,
    }
    page = render(graph, completions.iloc[:0], report=unknown)
    assert content_of(page)["items"] == []
    assert "probability of 0.05, found from both ends, and the highest is 0.25." in page


@pytest.fixture
def browser(draw_images):
    from playwright.sync_api import sync_playwright

    chromium = draw_images.find_chromium()
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


@pytest.mark.whole_run
def test_people_filter_decide_and_export(graph, completions, browser, tmp_path):
    (tmp_path / "page.html").write_text(render(graph, completions), encoding="utf-8")
    page = browser.new_page(accept_downloads=True)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text))
    page.goto((tmp_path / "page.html").as_uri())
    cards = page.locator(".proposal")

    def exported(button):
        with page.expect_download() as download:
            page.click(button)
        return Path(download.value.path()).read_text(encoding="utf-8").splitlines()

    assert cards.count() == 3
    page.select_option("#relation", label="lives in (2)")
    assert cards.count() == 2
    page.fill("#search", "ann oslo")
    assert cards.locator(".entity").all_text_contents() == ["Ann", "Oslo"]
    cards.get_by_text("Accept").click()
    page.fill("#search", "")
    page.select_option("#state", "open")
    assert cards.count() == 1
    page.select_option("#state", "")
    page.select_option("#relation", "")
    page.click("h1")
    for key in "jjrd":
        page.keyboard.press(key)
    assert page.inner_text("#progress") == "1 accepted, 1 rejected, 1 open"
    assert exported("#export-accepted") == ["e0\tr0\te5"]
    assert exported("#export-all") == [
        "head\trelation\ttail\tdecision\tprobability",
        "e0\tr0\te5\taccepted\t0.8",
        "e1\tr1\te0\trejected\t0.6",
    ]
    page.locator("summary", has_text="Texts").first.click()
    assert page.get_by_text("Ann — lives in → Berlin").first.is_visible()
    page.reload()
    assert page.inner_text("#progress") == "1 accepted, 1 rejected, 1 open"
    assert not errors
