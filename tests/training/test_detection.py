"""A tiny zero-shot detector of each kind, randomly initialised, runs for real."""

import numpy as np
import pytest
from PIL import Image

from mkgformer_kedro.errors import DataError
from mkgformer_kedro.training.detection import ZeroShotDetector


@pytest.fixture(params=["owlv2", "grounding_dino"])
def detector_folder(request, tiny_detector):
    return tiny_detector(request.param)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    sizes = [(40, 30), (20, 50)]
    return [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]


QUERIES = [["red cat", "dog"], ["person"]]


def test_every_query_has_one_box_inside_its_image(detector_folder, images):
    found = ZeroShotDetector(str(detector_folder), 0.0001).detect(images, QUERIES)
    assert [[query for query, _, _ in each] for each in found] == QUERIES
    for image, each in zip(images, found, strict=True):
        for _, (left, upper, right, lower), score in each:
            assert 0 <= left <= right <= image.width
            assert 0 <= upper <= lower <= image.height
            assert 0.0001 < score <= 1


def test_company_changes_nothing(detector_folder, images):
    detector = ZeroShotDetector(str(detector_folder), 0.0001)
    together = detector.detect(images, QUERIES)
    for image, queries, expected in zip(images, QUERIES, together, strict=True):
        for query, (_, box, score) in zip(queries, expected, strict=True):
            (((_, alone, score_alone),),) = detector.detect([image], [[query]])
            assert alone == box
            assert score_alone == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("queries", [["cat", "a red dog"], ["person " * 40]])
def test_queries_may_differ_in_length(detector_folder, images, queries):
    detector = ZeroShotDetector(str(detector_folder), 0.0001)
    found = detector.detect(images, [queries, ["dog"]])
    assert [query for query, _, _ in found[0]] == queries
    assert len(found[1]) == 1


def test_the_best_box_is_the_best_of_those_that_are_large_enough(detector_folder, images):
    found = ZeroShotDetector(str(detector_folder), 0.0, 2).detect(images, QUERIES)
    assert [len(each) for each in found] == [2, 1]
    for _, (left, upper, right, lower), _ in [*found[0], *found[1]]:
        assert min(right - left, lower - upper) >= 2
    assert ZeroShotDetector(str(detector_folder), 0.0, 51).detect(images, QUERIES) == [[], []]


def test_boxes_below_the_threshold_are_left_out(detector_folder, images):
    detector = ZeroShotDetector(str(detector_folder), 0.0001)
    found = detector.detect(images, QUERIES)
    scores = sorted(score for each in found for _, _, score in each)
    detector.threshold = (scores[0] + scores[1]) / 2
    kept = [[each for each in found_here if each[2] > detector.threshold] for found_here in found]
    assert detector.detect(images, QUERIES) == kept
    assert detector.detect([], []) == []


def test_what_is_no_detector_is_named(tmp_path):
    with pytest.raises(DataError, match="no zero-shot detector can be loaded from"):
        ZeroShotDetector(str(tmp_path), 0.1)
