from __future__ import annotations

import base64
import io
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mkgformer_kedro.evaluation.report.figures import (
    confusion_figure,
    curve_figure,
    format_number,
    heat_colours,
    hits_figure,
    inline_svg,
)
from mkgformer_kedro.evaluation.report.page import thumbnail

CURVE = pd.DataFrame({"step": [1, 2, 3], "loss": [0.9, 0.5, 0.4], "dev_mrr": [np.nan, 0.1, np.nan]})


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.31249, 3, "0.312"),
        (14541, 0, "14\u202f541"),
        (1234567.25, 1, "1\u202f234\u202f567.2"),
        (float("nan"), 3, "–"),
    ],
)
def test_numbers(value, digits, text):
    assert format_number(value, digits) == text


def test_a_thumbnail_is_a_small_jpeg_of_the_image():
    pixels = np.zeros((3, 224, 448), dtype=np.uint8)
    pixels[0] = 200
    uri = thumbnail(pixels)
    head, body = uri.split(",")
    assert head == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(body)))
    assert image.size == (96, 48)
    red, green, blue = image.getpixel((50, 20))
    assert red > 190
    assert max(green, blue) < 10


def test_figures_are_well_formed_described_and_drawn_in_the_pages_colours():
    figure = hits_figure({"a & <b>": np.array([1.0, 3.0]), "c": np.array([2.5, 90.0])})
    drawing = inline_svg(figure, 'Lines of "a & <b>"')
    root = ET.fromstring(drawing)  # noqa: S314 (drawn a line above)
    assert root.get("aria-label") == 'Lines of "a & <b>"'
    assert root.get("viewBox")
    assert root.get("width") is None
    assert "var(--series-1)" in drawing
    assert "var(--series-2)" in drawing
    assert "#0b5cad" not in drawing
    assert "a &amp; &lt;b&gt;" in drawing


def test_figures_repeat_to_the_byte():
    panels = {"Loss": "loss", "Dev MRR": "dev_mrr"}
    first, second = (
        inline_svg(curve_figure(CURVE, panels, x="step"), "Training") for _ in range(2)
    )
    assert first == second


def test_the_hits_curve_passes_through_the_hits():
    (line,) = hits_figure({"model": np.array([1.0, 1.0, 2.5, 10.0])}).axes[0].lines
    share = dict(zip(*line.get_data(), strict=True))
    assert (share[1], share[2], share[3], share[10]) == (0.5, 0.5, 0.75, 1.0)


def test_every_expert_has_a_line_of_its_own():
    ranks = {f"expert {i}": np.array([1.0, i + 2.0]) for i in range(9)}
    lines = hits_figure(ranks).axes[0].lines
    assert [line.get_label() for line in lines] == list(ranks)
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 9


def test_a_curve_draws_what_was_logged():
    figure = curve_figure(CURVE, {"Loss": "loss", "Dev MRR": "dev_mrr"}, x="step")
    points = [axis.lines[0].get_xydata().tolist() for axis in figure.axes]
    assert points == [[[1, 0.9], [2, 0.5], [3, 0.4]], [[2, 0.1]]]


def test_a_curve_of_several_seeds_has_a_line_each():
    curve = pd.concat([CURVE.assign(seed=seed, loss=CURVE["loss"] * seed) for seed in (1, 2)])
    figure = curve_figure(curve, {"Loss": "loss"}, x="step", by="seed")
    (axis,) = figure.axes
    assert [line.get_ydata().tolist() for line in axis.lines] == [[0.9, 0.5, 0.4], [1.8, 1.0, 0.8]]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["seed 1", "seed 2"]


def test_a_confusion_matrix_shows_every_number_and_darker_shares():
    matrix = pd.DataFrame([[3.0, 1.0], [0.0, 1200.0]], index=["a", "$b$"], columns=["a", "$b$"])
    figure = confusion_figure(matrix)
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.texts] == ["3", "1", "1\u202f200"]
    shades = [patch.get_alpha() for patch in axis.patches]
    assert shades[2] > shades[0] > shades[1]
    drawing = inline_svg(figure, "Confusion")
    assert "$b$" in drawing
    assert "var(--series-1)" in drawing
    means = confusion_figure(matrix / 2)
    assert [text.get_text() for text in means.axes[0].texts] == ["1.5", "0.5", "600.0"]


def test_an_empty_confusion_matrix_is_drawn_empty():
    empty = pd.DataFrame(np.zeros((2, 2)), index=["a", "b"], columns=["a", "b"])
    assert confusion_figure(empty).axes[0].texts[:] == []


def test_heat_is_as_opaque_as_its_share_of_the_hottest_patch():
    first, second = heat_colours([np.array([[0.0, 0.5]]), np.array([[1.0], [0.25]])])
    opacity = second[0, 0, 3]
    assert first.dtype == np.uint8
    assert first[0, :, 3].tolist() == [0, opacity // 2]
    assert second[:, 0, 3].tolist() == [opacity, round(opacity / 4)]
    assert heat_colours([np.zeros((2, 2))])[0][..., 3].max() == 0
