from __future__ import annotations

import pytest

from mkgformer_kedro.datasets.graph_folder import GraphFolderDataset
from mkgformer_kedro.datasets.post_files import RelationPostsDataset, TaggedPostsDataset
from mkgformer_kedro.pipelines.ingestion.parameters import (
    IngestionParameters,
    RelationIngestionParameters,
    TaggedIngestionParameters,
)

_PARAMETERS = {
    "on_bad_lines": "stop",
    "candidates": "entities",
    "entity_texts": "name_and_description",
    "described_by": "description",
    "expected_counts": {},
    "on_unexpected_counts": "stop",
    "max_split_overlap": None,
    "max_inverse_leak": None,
}


@pytest.fixture
def parameters():
    """Make parameters; those given by name replace the defaults."""

    def parameters(**changes):
        return IngestionParameters(**{**_PARAMETERS, **changes})

    return parameters


@pytest.fixture
def raw_graph(write_graph, graph_files):
    """Write a graph with some files replaced, and read it."""

    def raw_graph(files=None, **roles):
        names = {**graph_files, **roles}
        return GraphFolderDataset(filepath=str(write_graph(files)), files=names).load()

    return raw_graph


_OF_POSTS = {
    "on_bad_lines": "stop",
    "expected_counts": {},
    "on_unexpected_counts": "stop",
    "max_split_overlap": None,
}
_RELATION_FILES = {
    "train": "txt/ours_train.txt",
    "dev": "txt/ours_val.txt",
    "test": "txt/ours_test.txt",
    "relations": "ours_rel2id.json",
}
_TAGGED_FILES = {"train": "train.txt", "dev": "valid.txt", "test": "test.txt"}
_TAGGED = {
    "train.txt": """
IMGID:1
Ann	B-PER
Lee	I-PER
in	O
Rome	B-LOC

IMGID:
hm	O
""",
    "valid.txt": "IMGID:1\nAnn\tB-PER\n",
    "test.txt": "IMGID:2\nROME\tB-LOC\nOscars\tB-OTHER\n\nIMGID:3\nhm\tO\n",
}


@pytest.fixture
def relation_parameters():
    """Make parameters of relation extraction; those given by name replace the defaults."""

    def relation_parameters(**changes):
        return RelationIngestionParameters(**{**_OF_POSTS, "negative_label": "None", **changes})

    return relation_parameters


@pytest.fixture
def tagged_parameters():
    """Make parameters of entity recognition; those given by name replace the defaults."""
    own = {"invalid_tags": "repair", "entity_types": ["PER", "LOC", "MISC"]}

    def tagged_parameters(**changes):
        return TaggedIngestionParameters(**{**_OF_POSTS, **own, **changes})

    return tagged_parameters


@pytest.fixture
def pair():
    """Write a line of MNRE's: words, the spans of both mentions, a relation, an image."""

    def pair(words, head, tail, relation="None", image="a.jpg", **changes):
        token = words.split(" ")
        mentions = {
            key: {"name": " ".join(token[start:end]), "pos": [start, end]}
            for key, (start, end) in (("h", head), ("t", tail))
        }
        post = {"token": token, **mentions, "img_id": image, "relation": relation}
        return f"{post | changes!r}\n"

    return pair


@pytest.fixture
def write_pairs(tmp_path, pair):
    """Write a corpus for relation extraction; files given by name replace its own."""
    lives = "/per/loc/place_of_residence"
    own = {
        "txt/ours_train.txt": pair("Ann Lee in Rome", (0, 2), (3, 4), lives)
        + pair("Ann Lee in Rome", (0, 1), (0, 2)),
        "txt/ours_val.txt": pair("Bob and Ann", (0, 1), (2, 3), image=""),
        "txt/ours_test.txt": pair("ann in Paris", (0, 1), (2, 3), lives, image="b.jpg"),
        "ours_rel2id.json": f'{{"{lives}": 1, "None": 0}}',
    }
    return _writer(tmp_path / "pairs", own)


@pytest.fixture
def write_tagged(tmp_path):
    """Write a corpus for entity recognition; files given by name replace its own."""
    return _writer(tmp_path / "tagged", _TAGGED)


def _writer(folder, own):
    def write(files=None):
        for name, content in {**own, **(files or {})}.items():
            (folder / name).parent.mkdir(exist_ok=True, parents=True)
            (folder / name).write_text(content, newline="")
        return folder

    return write


@pytest.fixture
def raw_pairs(write_pairs):
    """Write a corpus for relation extraction with some files replaced, and read it."""

    def raw_pairs(files=None, **roles):
        names = _RELATION_FILES | roles
        return RelationPostsDataset(filepath=str(write_pairs(files)), files=names).load()

    return raw_pairs


@pytest.fixture
def raw_tagged(write_tagged):
    """Write a corpus for entity recognition with some files replaced, and read it."""

    def raw_tagged(files=None, **roles):
        names = _TAGGED_FILES | roles
        return TaggedPostsDataset(filepath=str(write_tagged(files)), files=names).load()

    return raw_tagged
