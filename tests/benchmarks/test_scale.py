"""The graph that measures scale, and one point of its curves."""

import pandas as pd
import scale


def read(path):
    return pd.read_csv(path, sep="\t", header=None, dtype=str)


def test_a_graph_is_that_of_its_seed_and_whole(tmp_path):
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        scale.make_graph(tmp_path / name, 200, seed)
    files = {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "same").iterdir()} == files
    assert (tmp_path / "other/train.tsv").read_bytes() != files["train.tsv"]

    splits = [read(tmp_path / f"one/{split}.tsv") for split in ("train", "dev", "test")]
    triples = pd.concat(splits)
    assert not triples.duplicated().any()
    assert all(len(split) > 30 for split in splits)
    entities, texts = (read(tmp_path / f"one/{name}.txt") for name in ("entities", "entity2text"))
    assert set(triples[0]) | set(triples[2]) <= set(entities[0])
    assert texts[0].tolist() == entities[0].tolist()
    assert texts[1].str.split().map(len).eq(3).all()


def test_points_of_curves(tmp_path):
    tower = scale.make_tower(tmp_path / "tower", 32)
    point = {"entities": 40, "tokens": 16, "images": 2}
    world = scale.make_world(tower, tmp_path / "store", queries=5, **point)
    assert world.model.get_input_embeddings().embedding_dim == 32
    seconds, peak = scale.rank_point(tower, tmp_path / "store", queries=5, **point)
    assert seconds > 0
    assert peak >= 0
    seconds, peak = scale.train_point(
        tower, tmp_path / "store", steps=1, sampled=True, half=True, **point
    )
    assert seconds > 0
    assert peak > 0
