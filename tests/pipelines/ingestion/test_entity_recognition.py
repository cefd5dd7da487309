from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandera.errors import SchemaError

from mkgformer_kedro.datasets.post_files import LineCounts, RawPosts
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.pipelines.ingestion import schemas
from mkgformer_kedro.pipelines.ingestion.entity_recognition import index_posts, report_ingestion
from mkgformer_kedro.pipelines.ingestion.parameters import TaggedIngestionParameters


@pytest.fixture
def problems_of(raw_tagged, tagged_parameters):
    """The problems that indexing a corpus raises."""

    def problems_of(files=None, **changes):
        with pytest.raises(DataError) as raised:
            index_posts(raw_tagged(files), tagged_parameters(**changes))
        return raised.value.problems

    return problems_of


def test_posts_are_numbered_in_the_order_of_their_files(raw_tagged, tagged_parameters):
    posts, labels, quarantine = index_posts(raw_tagged(), tagged_parameters())
    assert posts["post"].tolist() == ["train-0", "train-1", "dev-0", "test-0", "test-1"]
    assert posts["words"].tolist() == [
        ["Ann", "Lee", "in", "Rome"],
        ["hm"],
        ["Ann"],
        ["ROME", "Oscars"],
        ["hm"],
    ]
    assert posts["tags"].tolist() == [
        ["B-PER", "I-PER", "O", "B-LOC"],
        ["O"],
        ["B-PER"],
        ["B-LOC", "B-MISC"],
        ["O"],
    ]
    assert posts["image"].fillna("").tolist() == ["1", "", "1", "2", "3"]
    assert posts["line"].tolist() == [2, 8, 1, 1, 5]
    assert labels.to_dict("list") == {
        "label": ["PER", "LOC", "MISC"],
        "text": ["person", "place", "other"],
    }
    assert quarantine.empty
    schemas.tagged_posts.validate(posts)
    schemas.labels.validate(labels)


def test_types_are_the_configured_ones(raw_tagged, tagged_parameters):
    types = ["LOC", "OTHER", "PER"]
    posts, labels, _ = index_posts(raw_tagged(), tagged_parameters(entity_types=types))
    assert labels["label"].tolist() == types
    assert posts["tags"][3] == ["B-LOC", "B-OTHER"]


@pytest.mark.parametrize("types", [[], ["PER", ""], ["PER", "LOC", "PER"]])
def test_types_are_distinct_names(tagged_parameters, types):
    with pytest.raises(ValueError, match="entity_types"):
        tagged_parameters(entity_types=types)


def test_a_split_that_cannot_be_read_is_named_before_its_subsets(raw_tagged, tagged_parameters):
    files = {"train.txt": "IMGID:1\rhm\tO\r", "subsets.tsv": "train\t1\tclear\n"}
    with pytest.raises(DataError) as raised:
        index_posts(raw_tagged(files, subsets="subsets.tsv"), tagged_parameters())
    assert [Path(problem.where).name for problem in raised.value.problems] == [
        "train.txt",
        "subsets.tsv",
    ]


@pytest.mark.parametrize("tag", ["B-ORG", "PER", "B-", "b-PER", "S-PER", "o", "B_PER", "B-PER-X"])
def test_unknown_tag(problems_of, raw_tagged, tagged_parameters, tag):
    files = {"valid.txt": f"IMGID:1\nhm\tO\n\nIMGID:2\nhm\tO\nAnn\t{tag}\n"}
    (problem,) = problems_of(files)
    assert problem.where.endswith("tagged/valid.txt")
    assert (problem.line, problem.what) == (6, f"unknown tag '{tag}'")
    assert problem.remedy == "Write O, or B- or I- before one of PER, LOC, MISC."
    posts, _, quarantine = index_posts(
        raw_tagged(files), tagged_parameters(on_bad_lines="quarantine")
    )
    assert posts["post"].tolist()[2:] == ["dev-0", "test-0", "test-1"]
    assert quarantine.to_numpy().tolist() == [["valid.txt", 6, f"unknown tag '{tag}'"]]
    schemas.tagged_posts.validate(posts)


INVALID = "IMGID:1\nAnn\tI-PER\nRome\tI-LOC\nhm\tO\nOscars\tI-OTHER\ngala\tI-MISC\n"


def test_types_that_train_lacks_are_said(raw_tagged, tagged_parameters, caplog):
    index_posts(raw_tagged({"train.txt": "IMGID:1\nAnn\tB-PER\n"}), tagged_parameters())
    assert "Train has no example of 2 types, which no model can learn: LOC, MISC" in caplog.text


def test_invalid_tags_are_repaired_and_counted(raw_tagged, tagged_parameters, caplog):
    raw = raw_tagged({"train.txt": INVALID})
    tables = index_posts(raw, tagged_parameters())
    assert tables[0]["tags"][0] == ["B-PER", "B-LOC", "O", "B-MISC", "I-MISC"]
    assert "3 I- tags that continue no entity were made B- tags" in caplog.text
    assert "Train has no example" not in caplog.text
    report = report_ingestion(raw, *tables, tagged_parameters())
    assert report["repaired_tags"] == {"train": 3, "dev": 0, "test": 0}
    assert report["counts"]["entities"]["train"] == {"PER": 1, "LOC": 1, "MISC": 1}
    schemas.tagged_posts.validate(tables[0])


@pytest.mark.parametrize("on_bad_lines", ["stop", "quarantine"])
def test_invalid_tags_stop_the_run_where_they_may_not_be_repaired(problems_of, on_bad_lines):
    problems = problems_of({"train.txt": INVALID}, invalid_tags="stop", on_bad_lines=on_bad_lines)
    assert [(problem.line, problem.what) for problem in problems] == [
        (2, "'I-PER' continues no entity of its type"),
        (3, "'I-LOC' continues no entity of its type"),
        (5, "'I-OTHER' continues no entity of its type"),
    ]
    assert "entity_recognition.ingestion.invalid_tags" in problems[0].remedy


def test_missing_column_and_missing_opening_are_left_out_with_their_post(
    problems_of, raw_tagged, tagged_parameters
):
    files = {"test.txt": "IMGID:1\nAnn\tB-PER\nLee\n\nAnn\tB-PER\n\nIMGID:3\nhm\tO\n"}
    expected = [(3, "1 columns instead of 2"), (5, "a post without its line IMGID:")]
    assert [(problem.line, problem.what) for problem in problems_of(files)] == expected
    raw, parameters = raw_tagged(files), tagged_parameters(on_bad_lines="quarantine")
    tables = index_posts(raw, parameters)
    assert tables[0]["post"].tolist()[3:] == ["test-2"]
    report = report_ingestion(raw, *tables, parameters)
    assert report["lines"]["test"] == {
        "lines": 8,
        "blank": 2,
        "of_posts": 2,
        "left_out": 4,
        "unaccounted": 0,
    }
    assert report["quarantined_posts"]["test"] == 2


def test_empty_split(problems_of):
    (problem,) = problems_of({"valid.txt": "Ann\tB-PER"}, on_bad_lines="quarantine")
    assert problem.what == "the dev split has no posts"


def test_other_counts_than_published(problems_of):
    published = {"train": 2, "entities": {"test": {"LOC": 178, "ORG": 395}}}
    problems = problems_of(expected_counts=published)
    assert [problem.what for problem in problems] == [
        "entities.test.LOC: 1 instead of the published 178",
        "entities.test.ORG: 0 instead of the published 395",
    ]
    assert "entity_recognition.ingestion.on_unexpected_counts" in problems[0].remedy


def test_too_many_test_posts_stand_in_train(problems_of):
    (problem,) = problems_of(max_split_overlap=0.0)
    assert problem.where.endswith("test.txt")
    assert problem.what.startswith(
        "the words of 50.00% of the test posts are those of a train post"
    )


def test_report(raw_tagged, tagged_parameters):
    raw, parameters = raw_tagged(), tagged_parameters()
    tables = index_posts(raw, parameters)
    report = report_ingestion(raw, *tables, parameters)
    assert json.loads(json.dumps(report)) == report
    assert report.pop("files")["test.txt"] == {
        "sha256": raw.digests["test.txt"],
        "verified": False,
    }
    assert report == {
        "data_set": "tagged",
        "counts": {
            "train": 2,
            "dev": 1,
            "test": 2,
            "entities": {
                "train": {"PER": 1, "LOC": 1, "MISC": 0},
                "dev": {"PER": 1, "LOC": 0, "MISC": 0},
                "test": {"PER": 0, "LOC": 1, "MISC": 1},
            },
        },
        "published_counts": {},
        "unexpected_counts": {},
        "lines": {
            "train": {"lines": 9, "blank": 2, "of_posts": 7, "left_out": 0, "unaccounted": 0},
            "dev": {"lines": 2, "blank": 0, "of_posts": 2, "left_out": 0, "unaccounted": 0},
            "test": {"lines": 6, "blank": 1, "of_posts": 5, "left_out": 0, "unaccounted": 0},
        },
        "quarantined_posts": {"train": 0, "dev": 0, "test": 0},
        "quarantined_lines": 0,
        "longest_post": {"train": 4, "dev": 1, "test": 2},
        "posts_without_image_name": {"train": 1, "dev": 0, "test": 0},
        "subsets": {"train": {}, "dev": {}, "test": {}},
        "duplicate_posts": {"train": 0, "dev": 0, "test": 0},
        "posts_with_words_of_another": {"train": 0, "dev": 0, "test": 0},
        "posts_with_image_of_another": {"train": 0, "dev": 0, "test": 0},
        "posts_in_two_splits": {"train_dev": 0, "train_test": 1, "dev_test": 0},
        "images_in_two_splits": {"train_dev": 1, "train_test": 0, "dev_test": 0},
        "split_overlap": {"dev": 0.0, "test": 0.5},
        "words": {"train": 5, "dev": 1, "test": 3},
        "repaired_tags": {"train": 0, "dev": 0, "test": 0},
        "posts_without_entity": {"train": 1, "dev": 0, "test": 1},
        "mentions_seen_in_train": {
            "dev": {"mentions": 1, "in_train": 0},
            "test": {"mentions": 2, "in_train": 1},
        },
    }


@given(st.lists(st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]), min_size=1))
def test_repaired_tags_are_valid_and_valid_tags_are_not_touched(tmp_path_factory, tags):
    row = {"file": "a", "line": 1, "lines": len(tags) + 1, "number": 0, "image": None}
    row |= {"words": ["x"] * len(tags), "tags": tags}
    splits = ("train", "dev", "test")
    raw = RawPosts(
        folder=tmp_path_factory.getbasetemp(),
        files=dict.fromkeys(splits, "a"),
        digests={},
        verified=(),
        lines=dict.fromkeys(splits, LineCounts(len(tags) + 1, 0, 0, 1)),
        posts=pd.DataFrame([row | {"split": split} for split in splits]).astype({"image": "str"}),
        labels=None,
        subsets=None,
        problems=(),
    )
    parameters = TaggedIngestionParameters(
        on_bad_lines="stop",
        expected_counts={},
        on_unexpected_counts="stop",
        max_split_overlap=None,
        invalid_tags="repair",
        entity_types=["PER", "LOC"],
    )
    posts, _, _ = index_posts(raw, parameters)
    schemas.tagged_posts.validate(posts)
    repaired = posts["tags"][0]
    assert [tag[2:] for tag in repaired] == [tag[2:] for tag in tags]
    again = raw.posts.assign(tags=posts["tags"])
    assert index_posts(RawPosts(**{**vars(raw), "posts": again}), parameters)[0]["tags"][0] == (
        repaired
    )


@pytest.mark.parametrize(
    "tags",
    [
        ["B-PER", "I-LOC", "O", "O"],
        ["O", "I-PER", "O", "O"],
        ["O", "O", "O"],
        ["O", "O", "O", "X"],
        ["O", "O", "O", "B-"],
        [],
    ],
    ids=range(6),
)
def test_damaged_table_is_refused(raw_tagged, tagged_parameters, tags):
    posts, _, _ = index_posts(raw_tagged(), tagged_parameters())
    posts.at[0, "tags"] = tags
    with pytest.raises(SchemaError):
        schemas.tagged_posts.validate(posts)


def test_table_survives_parquet(tmp_path, raw_tagged, tagged_parameters):
    posts, _, _ = index_posts(raw_tagged(), tagged_parameters())
    posts.to_parquet(tmp_path / "posts.parquet")
    loaded = pd.read_parquet(tmp_path / "posts.parquet")
    schemas.tagged_posts.validate(loaded)
    lists = ["words", "tags"]
    assert loaded["tags"][0].tolist() == posts["tags"][0]
    pd.testing.assert_frame_equal(loaded.drop(columns=lists), posts.drop(columns=lists))
