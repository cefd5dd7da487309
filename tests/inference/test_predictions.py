"""One table holds the answers of all experts; what has no images is asked once."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.inference.experts import LoadedModel, ModelPostsExpert
from mkgformer_kedro.inference.predictions import predict_posts


class Recorded(ModelPostsExpert):
    """Predicts the post's number, and remembers which posts it was asked about."""

    def __init__(self, store, seed, with_images):
        super().__init__(LoadedModel(Path("nowhere")), store, seed, with_images=with_images)
        self.asked = []

    def predict(self, posts, *, batch_size):
        self.asked += posts.index.tolist()
        predicted = posts.index.to_numpy() + 100 * self.with_images
        return pd.DataFrame({"predicted": predicted}, index=posts.index)


@pytest.fixture
def test_posts(posts):
    return posts["relation_extraction"].query("split == 'test'")


@pytest.fixture
def store(posts_store):
    return VisualStore(posts_store)


def test_experts_and_seeds_stand_one_below_the_other(test_posts, store):
    experts = [Recorded(store, seed, True) for seed in (7, 3)]
    table = predict_posts(experts, test_posts, "relation", batch_size=4)
    assert list(table) == ["expert", "seed", "post", "relation", "predicted"]
    assert table["seed"].tolist() == [7] * 6 + [3] * 6
    assert table["seed"].dtype == np.int64
    assert table["post"].tolist() == 2 * test_posts["post"].tolist()
    assert table["relation"].tolist() == 2 * test_posts["relation"].tolist()


def test_without_images_only_posts_with_images_are_asked_again(test_posts, store):
    seen, blind = Recorded(store, 7, True), Recorded(store, 7, False)
    table = predict_posts([seen, blind], test_posts, "relation", batch_size=4)
    assert blind.asked == [number for number in test_posts.index if number % 2 == 0]
    without = table[table["expert"] == "without_images"]
    expected = [number if number % 2 == 0 else number + 100 for number in test_posts.index]
    assert without["predicted"].tolist() == expected


@pytest.mark.parametrize("seeds", [(7, 8), ()])
def test_alone_it_is_asked_about_all(test_posts, store, seeds):
    blind = Recorded(store, 9, False)
    others = [Recorded(store, seed, True) for seed in seeds]
    predict_posts([*others, blind], test_posts, "relation", batch_size=4)
    assert blind.asked == test_posts.index.tolist()


def test_where_nothing_has_images_the_answers_are_those_with_images(test_posts, store):
    few = test_posts[test_posts.index % 2 == 1]
    seen, blind = Recorded(store, 7, True), Recorded(store, 7, False)
    table = predict_posts([seen, blind], few, "relation", batch_size=4)
    assert blind.asked == []
    assert table["predicted"].tolist() == 2 * (few.index + 100).tolist()
