from __future__ import annotations

import json

import pandas as pd
import pytest
from pandera.errors import SchemaError

from mkgformer_kedro.errors import DataError
from mkgformer_kedro.pipelines.ingestion import schemas
from mkgformer_kedro.pipelines.ingestion.relation_extraction import index_posts, report_ingestion

TRAIN, DEV, TEST = "txt/ours_train.txt", "txt/ours_val.txt", "txt/ours_test.txt"


@pytest.fixture
def problems_of(raw_pairs, relation_parameters):
    """The problems that indexing a corpus raises."""

    def problems_of(files=None, *, roles=None, **changes):
        with pytest.raises(DataError) as raised:
            index_posts(raw_pairs(files, **(roles or {})), relation_parameters(**changes))
        return raised.value.problems

    return problems_of


def test_posts_are_numbered_in_the_order_of_their_files(raw_pairs, relation_parameters, caplog):
    posts, labels, quarantine = index_posts(raw_pairs(), relation_parameters())
    assert "Train has no example" not in caplog.text
    assert posts["post"].tolist() == ["train-0", "train-1", "dev-0", "test-0"]
    assert posts["split"].tolist() == ["train", "train", "dev", "test"]
    assert posts["words"][0] == ["Ann", "Lee", "in", "Rome"]
    assert posts["image"].fillna("").tolist() == ["a.jpg", "a.jpg", "", "b.jpg"]
    assert posts["line"].tolist() == [1, 2, 1, 1]
    assert posts["subset"].isna().all()
    columns = ["head_start", "head_end", "tail_start", "tail_end", "relation"]
    assert posts[columns].to_numpy().tolist() == [
        [0, 2, 3, 4, 1],
        [0, 1, 0, 2, 0],  # one mention inside the other
        [0, 1, 2, 3, 0],
        [0, 1, 2, 3, 1],
    ]
    assert labels.to_dict("list") == {
        "label": ["None", "/per/loc/place_of_residence"],
        "text": ["no relation", "place of residence (person, place)"],
        "negative": [True, False],
    }
    assert quarantine.empty
    schemas.relation_posts.validate(posts)
    schemas.labels.validate(labels)


@pytest.mark.parametrize(
    ("head", "tail", "changes", "what"),
    [
        ((0, 1), (2, 4), {}, "tail [2, 4] is no span of the post's 3 words"),
        ((-1, 1), (2, 3), {}, "head [-1, 1] is no span of the post's 3 words"),
        ((1, 1), (2, 3), {}, "head [1, 1] is no span of the post's 3 words"),
        ((1, 0), (2, 3), {}, "head [1, 0] is no span of the post's 3 words"),
        ((0, 10**30), (2, 3), {}, f"head [0, {10**30}] is no span of the post's 3 words"),
        (
            (0, 1),
            (2, 3),
            {"t": {"name": "Rome", "pos": [2, 3]}},
            "tail [2, 3] is 'Paris', not 'Rome'",
        ),
        ((2, 3), (2, 3), {}, "head and tail are the same mention, 'Paris'"),
        ((0, 1), (2, 3), {"relation": "loves"}, "unknown relation 'loves'"),
        ((0, 1), (2, 3), {"relation": "none"}, "unknown relation 'none'"),
    ],
    ids=range(9),
)
def test_bad_post(problems_of, raw_pairs, relation_parameters, pair, head, tail, changes, what):
    good = pair("Bob and Ann", (0, 1), (2, 3))
    files = {DEV: good + pair("Ann in Paris", head, tail, **changes) + good}
    (problem,) = problems_of(files)
    assert problem.where.endswith(f"pairs/{DEV}")
    assert (problem.line, problem.what) == (2, what)
    posts, _, quarantine = index_posts(
        raw_pairs(files), relation_parameters(on_bad_lines="quarantine")
    )
    assert posts["post"].tolist()[2:] == ["dev-0", "dev-2", "test-0"]
    assert quarantine.to_numpy().tolist() == [[DEV, 2, what]]
    schemas.relation_posts.validate(posts)


def test_all_problems_are_in_one_error_in_the_order_of_their_lines(problems_of, pair):
    unknown = pair("Bob and Ann", (0, 1), (2, 3), "loves")
    problems = problems_of({TRAIN: unknown + "nothing\n" + unknown, TEST: "[]"})
    assert [(problem.where.rpartition("/")[2], problem.line) for problem in problems] == [
        ("ours_test.txt", 1),
        ("ours_train.txt", 1),
        ("ours_train.txt", 2),
        ("ours_train.txt", 3),
    ]


def test_empty_split(problems_of):
    (problem,) = problems_of({TEST: "nothing"}, on_bad_lines="quarantine")
    assert problem.where.endswith(TEST)
    assert problem.what == "the test split has no posts"
    assert problem.remedy.startswith("Put at least one post into it: a line {'token'")


def test_the_negative_relation_may_go_by_another_name(raw_pairs, relation_parameters, pair):
    line = pair("Ann in Rome", (0, 1), (2, 3), "no_relation")
    files = dict.fromkeys((TRAIN, DEV, TEST), line)
    files["ours_rel2id.json"] = '{"lives": 0, "no_relation": 1}'
    raw, parameters = raw_pairs(files), relation_parameters(negative_label="no_relation")
    posts, labels, quarantine = index_posts(raw, parameters)
    assert labels["label"].tolist() == ["lives", "no_relation"]
    assert labels["negative"].tolist() == [False, True]
    assert posts["relation"].tolist() == [1, 1, 1]
    report = report_ingestion(raw, posts, labels, quarantine, parameters)
    assert report["posts_without_relation"] == {"train": 1, "dev": 1, "test": 1}


def test_no_negative_relation(problems_of):
    (problem,) = problems_of(negative_label="Nothing")
    assert problem.where.endswith("ours_rel2id.json")
    assert problem.what == "no relation 'Nothing', which stands for none"


def test_other_counts_than_published(problems_of, raw_pairs, relation_parameters, caplog):
    counts = {"train": 12247, "test": 1, "relations": 23}
    problems = problems_of(expected_counts=counts)
    assert [problem.what for problem in problems] == [
        "train: 2 instead of the published 12,247",
        "relations: 2 instead of the published 23",
    ]
    assert "relation_extraction.ingestion.on_unexpected_counts" in problems[0].remedy
    lenient = relation_parameters(expected_counts=counts, on_unexpected_counts="report")
    index_posts(raw_pairs(), lenient)
    assert "relations: 2 instead of the published 23" in caplog.text


def test_too_many_test_posts_stand_in_train(problems_of, raw_pairs, relation_parameters, pair):
    same = pair("Ann Lee in Rome", (0, 1), (3, 4))
    files = {TEST: same + pair("Ann Lee in Rome !", (0, 1), (3, 4))}
    (problem,) = problems_of(files, max_split_overlap=0.4)
    assert problem.what == (
        "the words of 50.00% of the test posts are those of a train post, more than the 40.00% "
        "that may be"
    )
    assert "relation_extraction.ingestion.max_split_overlap" in problem.remedy
    for allowed in (0.5, None):
        posts, _, _ = index_posts(raw_pairs(files), relation_parameters(max_split_overlap=allowed))
        assert len(posts) == 5


SUBSETS = "train\t0\tclear\ntrain\t1\tambiguous\ntest\t0\tclear\n"


def test_groups_are_those_of_their_posts(raw_pairs, relation_parameters):
    raw = raw_pairs({"subsets.tsv": SUBSETS}, subsets="subsets.tsv")
    posts, labels, quarantine = index_posts(raw, relation_parameters())
    assert posts["subset"].fillna("").tolist() == ["clear", "ambiguous", "", "clear"]
    schemas.relation_posts.validate(posts)
    report = report_ingestion(raw, posts, labels, quarantine, relation_parameters())
    assert report["subsets"] == {
        "train": {"clear": 1, "ambiguous": 1},
        "dev": {},
        "test": {"clear": 1},
    }


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("train\t0\tclear", "post 0 of train is there already, on line 1"),
        ("valid\t0\tclear", "unknown split 'valid'"),
        ("dev\t1\tclear", "no post 1 in dev, which has 1"),
        ("dev\t-1\tclear", "'-1' is not the number of a post"),
        ("dev\t00\tclear", "'00' is not the number of a post"),
        ("dev\t\u0663\tclear", "'\u0663' is not the number of a post"),
        (f"dev\t{'9' * 5000}\tclear", f"'{'9' * 5000}' is not the number of a post"),
    ],
    ids=range(7),
)
def test_bad_line_of_the_subsets(problems_of, line, what):
    files = {"subsets.tsv": SUBSETS + line}
    (problem,) = problems_of(files, roles={"subsets": "subsets.tsv"})
    assert problem.where.endswith("subsets.tsv")
    assert (problem.line, problem.what) == (4, what)


def test_report(raw_pairs, relation_parameters, pair):
    same = pair("Ann Lee in Rome", (0, 2), (3, 4))
    raw = raw_pairs({TEST: "\n".join([same, pair("x y", (0, 1), (1, 3)), "[]"]) + same})
    parameters = relation_parameters(on_bad_lines="quarantine", expected_counts={"relations": 2})
    posts, labels, quarantine = index_posts(raw, parameters)
    report = report_ingestion(raw, posts, labels, quarantine, parameters)
    assert json.loads(json.dumps(report)) == report
    files = report.pop("files")
    assert files[TRAIN] == {"sha256": raw.digests[TRAIN], "verified": False}
    assert report == {
        "data_set": "pairs",
        "counts": {"train": 2, "dev": 1, "test": 1, "relations": 2},
        "published_counts": {"relations": 2},
        "unexpected_counts": {},
        "lines": {
            "train": {"lines": 2, "blank": 0, "of_posts": 2, "left_out": 0, "unaccounted": 0},
            "dev": {"lines": 1, "blank": 0, "of_posts": 1, "left_out": 0, "unaccounted": 0},
            "test": {"lines": 5, "blank": 2, "of_posts": 1, "left_out": 2, "unaccounted": 0},
        },
        "quarantined_posts": {"train": 0, "dev": 0, "test": 2},
        "quarantined_lines": 2,
        "longest_post": {"train": 4, "dev": 3, "test": 4},
        "posts_without_image_name": {"train": 0, "dev": 1, "test": 0},
        "subsets": {"train": {}, "dev": {}, "test": {}},
        "duplicate_posts": {"train": 0, "dev": 0, "test": 0},
        "posts_with_words_of_another": {"train": 1, "dev": 0, "test": 0},
        "posts_with_image_of_another": {"train": 1, "dev": 0, "test": 0},
        "posts_in_two_splits": {"train_dev": 0, "train_test": 1, "dev_test": 0},
        "images_in_two_splits": {"train_dev": 0, "train_test": 1, "dev_test": 0},
        "split_overlap": {"dev": 0.0, "test": 1.0},
        "relations": {
            "None": {"train": 1, "dev": 1, "test": 1},
            "/per/loc/place_of_residence": {"train": 1, "dev": 0, "test": 0},
        },
        "posts_without_relation": {"train": 1, "dev": 1, "test": 1},
        "posts_with_overlapping_mentions": {"train": 1, "dev": 0, "test": 0},
        "mentions_seen_in_train": {
            "dev": {"mentions": 2, "in_train": 1},
            "test": {"mentions": 2, "in_train": 2},
        },
    }


def test_posts_alike_in_everything_are_duplicates(raw_pairs, relation_parameters, pair):
    post = pair("Bob and Ann", (0, 1), (2, 3))
    turned = pair("Bob and Ann", (2, 3), (0, 1))
    raw = raw_pairs({DEV: post + turned + post})
    tables = index_posts(raw, relation_parameters())
    report = report_ingestion(raw, *tables, relation_parameters())
    assert report["duplicate_posts"]["dev"] == 1
    assert report["posts_with_words_of_another"]["dev"] == 2


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("words", []),
        ("words", ["Ann", ""]),
        ("words", ["Ann", None]),
        ("words", "Ann Lee in Rome"),
        ("words", ["Ann"]),
        ("head_start", 2),
        ("tail_end", 5),
        ("head_start", -1),
        ("post", "train-1"),
        ("post", "a post"),
        ("split", "valid"),
        ("image", ""),
        ("line", 0),
    ],
    ids=range(13),
)
def test_damaged_table_is_refused(raw_pairs, relation_parameters, column, value):
    posts, _, _ = index_posts(raw_pairs(), relation_parameters())
    posts.at[0, column] = value
    with pytest.raises(SchemaError):
        schemas.relation_posts.validate(posts)


def test_table_whose_mentions_are_the_same_is_refused(raw_pairs, relation_parameters):
    posts, _, _ = index_posts(raw_pairs(), relation_parameters())
    posts[["tail_start", "tail_end"]] = posts[["head_start", "head_end"]]
    with pytest.raises(SchemaError, match="head and tail are two mentions"):
        schemas.relation_posts.validate(posts)


def test_table_survives_parquet(tmp_path, raw_pairs, relation_parameters):
    posts, _, _ = index_posts(raw_pairs(), relation_parameters())
    posts.to_parquet(tmp_path / "posts.parquet")
    loaded = pd.read_parquet(tmp_path / "posts.parquet")
    schemas.relation_posts.validate(loaded)
    assert loaded["words"][0].tolist() == posts["words"][0]
    pd.testing.assert_frame_equal(loaded.drop(columns="words"), posts.drop(columns="words"))
