"""Batches: images once per owner, neighbours together."""

from itertools import pairwise
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.training.batches import asking_order, image_inputs, one_ahead


def test_images_of_an_entity_are_read_once(store_folder):
    entity = np.array([4, 1, 2, 4, 4, 3])
    inputs = image_inputs(VisualStore(store_folder), entity)
    assert inputs["pixel_values"].shape == (2, 2, 3, 16, 16)
    assert inputs["image_mask"].shape == (2, 2)
    assert inputs["image_index"].tolist() == [1, -1, 0, 1, 1, -1]
    assert inputs["image_rows"].tolist() == [0, 2, 3, 4]


def test_without_images_nothing_is_read(store_folder):
    assert image_inputs(VisualStore(store_folder), np.array([1, 3])) == {}
    assert image_inputs(None, np.array([0, 2])) == {}


@pytest.mark.parametrize("rows", [np.arange(6), np.array([5, 1, 3])])
def test_queries_of_one_entity_are_neighbours(rows):
    entity = np.array([0, 1, 0, 1, 2, 2])
    items = SimpleNamespace(owners=entity, lengths=np.array([9, 5, 7])[entity])
    order = asking_order(items, rows)
    assert sorted(order) == sorted(rows)
    changes = sum(a != b for a, b in pairwise(entity[order]))
    assert changes == len(set(entity[rows])) - 1
    lengths = np.array([9, 5, 7])[entity[order]]
    assert (np.diff(lengths) >= 0).all()


def test_the_next_is_made_while_one_is_used():
    begun = [Event() for _ in range(4)]

    def make(number):
        begun[number].set()
        return number * number

    made = one_ahead(make, range(4))
    for number, square in enumerate(made):
        assert square == number * number
        assert number == 3 or begun[number + 1].wait(timeout=60)
    assert list(one_ahead(make, [])) == []
    with pytest.raises(IndexError):
        list(one_ahead(make, [0, 9]))
