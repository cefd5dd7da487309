from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kedro.io import DatasetError

from mkgformer_kedro.datasets.post_files import (
    MAX_LINE,
    LineCounts,
    RelationPostsDataset,
    TaggedPostsDataset,
)
from mkgformer_kedro.errors import DataError

_SPLITS = {"train": "train.txt", "dev": "dev.txt", "test": "test.txt"}
_WORDS = ["Ann", "of", "Rome", "smiles"]
_RELATIONS = '{"None": 0, "/per/loc/lives_in": 1}'


def post(**changes):
    """A line of MNRE's; ``without`` drops a key."""
    without = changes.pop("without", None)
    values = {
        "token": _WORDS,
        "h": {"name": "Ann", "pos": [0, 1]},
        "t": {"name": "Rome", "pos": [2, 3]},
        "img_id": "ann.jpg",
        "relation": "/per/loc/lives_in",
    }
    return repr({key: value for key, value in (values | changes).items() if key != without})


@pytest.fixture
def load_relations(tmp_path):
    """Write posts with two mentions, some files replaced, and read them."""

    def load(files=None, **options):
        contents = {name: post() + "\n" for name in _SPLITS.values()} | {"ids.json": _RELATIONS}
        roles = {**_SPLITS, "relations": "ids.json", **options.pop("roles", {})}
        _write(tmp_path, contents | (files or {}))
        return RelationPostsDataset(filepath=str(tmp_path), files=roles, **options).load()

    return load


@pytest.fixture
def load_tagged(tmp_path):
    """Write posts with tagged words, some files replaced, and read them."""

    def load(files=None, **options):
        contents = dict.fromkeys(_SPLITS.values(), "IMGID:a\nAnn\tB-PER\nsmiles\tO\n\n")
        roles = {**_SPLITS, **options.pop("roles", {})}
        _write(tmp_path, contents | (files or {}))
        return TaggedPostsDataset(filepath=str(tmp_path), files=roles, **options).load()

    return load


def _write(folder, files):
    for name, content in files.items():
        if content is not None:
            raw = content.encode() if isinstance(content, str) else content
            (folder / name).write_bytes(raw)


def of_train(raw):
    return raw.posts[raw.posts["split"] == "train"]


def cause_of(load, *args, **options):
    """The problems of the one error that loading raises."""
    with pytest.raises(DatasetError) as raised:
        load(*args, **options)
    assert isinstance(raised.value.__cause__, DataError)
    return raised.value.__cause__.problems


def test_relation_post_knows_where_it_stands(load_relations):
    raw = load_relations({"test.txt": "\n" + post()})
    assert raw.problems == ()
    assert raw.labels == ("None", "/per/loc/lives_in")
    assert raw.subsets is None
    assert raw.posts.to_dict("records")[-1] == {
        "file": "test.txt",
        "line": 2,
        "lines": 1,
        "split": "test",
        "number": 0,
        "words": _WORDS,
        "image": "ann.jpg",
        "head_name": "Ann",
        "head_start": 0,
        "head_end": 1,
        "tail_name": "Rome",
        "tail_start": 2,
        "tail_end": 3,
        "relation": "/per/loc/lives_in",
    }
    assert raw.lines["test"] == LineCounts(lines=2, blank=1, left_out=0, begun=1)


@pytest.mark.parametrize(
    "line", [post(img_id=""), post(img_id=None), post(without="img_id")], ids=["empty", "None", ""]
)
def test_relation_post_without_image_is_normal(load_relations, line):
    raw = load_relations({"train.txt": line})
    assert raw.problems == ()
    assert raw.posts["image"].isna().tolist() == [True, False, False]


@pytest.mark.parametrize(
    "content",
    ["{0}\n{1}\n", "{0}\n{1}", "{0}\r\n{1}\r\n", "\ufeff{0}\n{1}\n", "{0}\n{1}\n\n\r\n \n"],
    ids=["plain", "no final newline", "crlf", "byte order mark", "blank lines"],
)
def test_line_ends_and_byte_order_marks_make_no_difference(load_relations, content):
    raw = load_relations({"train.txt": content.format(post(), post(img_id="b.jpg"))})
    assert of_train(raw)[["line", "image"]].to_numpy().tolist() == [[1, "ann.jpg"], [2, "b.jpg"]]
    assert raw.problems == ()


_NO_DICT = "not a Python dict of plain values"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("[]", _NO_DICT),
        ("{'token': ['Ann'", _NO_DICT),
        ("__import__('os').abort()", _NO_DICT),
        ("{'token': open('x')}", _NO_DICT),
        ("{[]: 1}", _NO_DICT),
        ("[" * 10_000, _NO_DICT),
        ("-" * 15_000 + "1", _NO_DICT),
        ("1" + "+1" * 9_000, _NO_DICT),
        ("9" * 10_000, _NO_DICT),
        ("\0", _NO_DICT),
        (
            post(token=["x" * MAX_LINE]),
            f"a line of {len(post(token=['x' * MAX_LINE])):,} bytes, more than the 20,000 that a "
            "post may take",
        ),
        (post(without="token"), "no key 'token'"),
        (post(without="h"), "no key 'h'"),
        (post(without="relation"), "no key 'relation'"),
        (post(t={"name": "Rome"}), "no key 't.pos'"),
        (post(t={"pos": [2, 3]}), "no key 't.name'"),
        (post(token={"Ann": 0}), "token is not a list of words"),
        (post(token=[]), "a post without words"),
        (post(token=["Ann", 2, "Rome"]), "token holds more than words"),
        (post(token=["Ann", "", "Rome"]), "token holds more than words"),
        (post(token=["Ann", "\ud83d", "Rome"]), "a text holds half a character"),
        (post(h=["Ann"]), "h is not a dict with name and pos"),
        (post(h={"name": "Ann", "pos": (0, 1)}), "h.pos is not [start, end]"),
        (post(h={"name": "Ann", "pos": [0]}), "h.pos is not two whole numbers"),
        (post(h={"name": "Ann", "pos": [0, True]}), "h.pos is not two whole numbers"),
        (post(h={"name": "Ann", "pos": [0.0, 1.0]}), "h.pos is not two whole numbers"),
        (post(h={"name": 7, "pos": [0, 1]}), "h.name is not a string"),
        (post(img_id=7), "img_id is not a string"),
        (post(relation=1), "relation is not a string"),
        (b"{'token': ['caf\xe9']}", "not UTF-8 (byte 0xe9 at column 16)"),
    ],
    ids=range(30),
)
def test_unreadable_relation_post_is_reported_and_left_out(load_relations, line, what):
    line = line if isinstance(line, bytes) else line.encode()
    last = post(img_id="last.jpg").encode()
    raw = load_relations({"train.txt": b"\n".join([post().encode(), line, last])})
    (problem,) = raw.problems
    assert (problem.where, problem.line) == (str(raw.folder / "train.txt"), 2)
    assert problem.what == what
    assert problem.remedy.endswith(".")
    # Posts keep their number in the file, whatever becomes of their neighbours.
    assert of_train(raw)[["line", "number", "image"]].to_numpy().tolist() == [
        [1, 0, "ann.jpg"],
        [3, 2, "last.jpg"],
    ]
    assert raw.lines["train"] == LineCounts(lines=3, blank=0, left_out=1, begun=3)


def test_backslashes_that_escape_nothing_are_no_warning(load_relations, recwarn):
    line = post(token=["Ann", "x", "Rome"]).replace("'x'", r"'\o/'")
    assert of_train(load_relations({"train.txt": line}))["words"][0] == ["Ann", "\\o/", "Rome"]
    assert not [warning for warning in recwarn if "escape" in str(warning.message)]


def test_span_of_any_size_is_read(load_relations):
    raw = load_relations({"train.txt": post(h={"name": "Ann", "pos": [-1, 10**30]})})
    assert of_train(raw)[["head_start", "head_end"]].to_numpy().tolist() == [[-1, 10**30]]


def test_split_of_which_nothing_is_readable_has_no_posts(load_relations):
    raw = load_relations({"dev.txt": "nothing"})
    assert raw.posts["split"].tolist() == ["train", "test"]
    assert [type(start) for start in raw.posts["head_start"]] == [int, int]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("{", "not the JSON object that numbers the relations"),
        (b"\xff", "not the JSON object that numbers the relations"),
        ("[" * 100_000, "not the JSON object that numbers the relations"),
        ('["None"]', "not a JSON object"),
        ('{"None": 0, "None": 1}', "relation 'None' is there twice"),
        ('{"": 0}', "a relation without a name"),
        ('{"None": "0"}', "a relation's number is not a whole number"),
        ('{"None": 0, "a": 2}', "the numbers of 2 relations are not 0 to 1"),
        ('{"None": 0, "\\ud800": 1}', "a relation's name holds half a character"),
    ],
    ids=range(9),
)
def test_file_that_does_not_number_the_relations(load_relations, content, what):
    (problem,) = cause_of(load_relations, {"ids.json": content})
    assert problem.where.endswith("ids.json")
    assert problem.what.startswith(what)


def test_relations_stand_in_the_order_of_their_numbers(load_relations):
    assert load_relations({"ids.json": '{"b": 2, "None": 0, "a": 1}'}).labels == ("None", "a", "b")


def test_tagged_post_knows_where_it_stands(load_tagged):
    raw = load_tagged()
    assert raw.problems == ()
    assert raw.labels is None
    assert raw.posts.to_dict("records")[-1] == {
        "file": "test.txt",
        "line": 1,
        "lines": 3,
        "split": "test",
        "number": 0,
        "words": ["Ann", "smiles"],
        "image": "a",
        "tags": ["B-PER", "O"],
    }
    assert raw.lines["test"] == LineCounts(lines=4, blank=1, left_out=0, begun=1)


@pytest.mark.parametrize(
    "content",
    [
        "IMGID:a\nAnn\tB-PER\n\nIMGID:\nhm\tO\n\n",
        "IMGID:a\nAnn\tB-PER\n\nIMGID:\nhm\tO",
        "IMGID:a\r\nAnn\tB-PER\r\n\r\nIMGID:\r\nhm\tO\r\n\r\n",
        "\ufeffIMGID:a\nAnn\tB-PER\n\nIMGID:\nhm\tO\n\n",
        "\n\nIMGID:a\nAnn\tB-PER\n \n\t\n\nIMGID:\nhm\tO\n\n\n\n",
        "IMGID:a\nAnn\tB-PER\nIMGID:\nhm\tO\n",
    ],
    ids=["plain", "no final blank", "crlf", "byte order mark", "blank lines", "no blank between"],
)
def test_tagged_posts_are_told_apart(load_tagged, content):
    raw = load_tagged({"train.txt": content})
    assert raw.problems == ()
    assert of_train(raw)[["words", "tags", "number"]].to_numpy().tolist() == [
        [["Ann"], ["B-PER"], 0],
        [["hm"], ["O"], 1],
    ]
    assert of_train(raw)["image"].isna().tolist() == [False, True]
    assert raw.lines["train"].begun == 2


@pytest.mark.parametrize(
    ("lines", "line", "what"),
    [
        (["IMGID:b", "Ann"], 5, "1 columns instead of 2"),
        (["IMGID:b", "Ann\tB-PER\tx"], 5, "3 columns instead of 2"),
        (["IMGID:b", "Ann B-PER"], 5, "1 columns instead of 2"),
        (["IMGID:b", "\tO"], 5, "empty word"),
        (["IMGID:b", "Ann\t "], 5, "empty tag"),
        (["IMGID:b", b"Ann\tO", b"caf\xe9\tO"], 6, "not UTF-8 (byte 0xe9 at column 4)"),
        ([b"IMGID:\xe9", "Ann\tB-PER"], 4, "not UTF-8 (byte 0xe9 at column 7)"),
        (["Ann\tB-PER", "smiles\tO"], 4, "a post without its line IMGID:"),
        (["IMGID:b"], 4, "a post without words"),
    ],
    ids=range(9),
)
def test_unreadable_tagged_post_is_reported_and_left_out(load_tagged, lines, line, what):
    lines = [text if isinstance(text, bytes) else text.encode() for text in lines]
    before, after = [b"IMGID:a", b"hm\tO", b""], [b"", b"IMGID:c", b"hm\tO"]
    raw = load_tagged({"train.txt": b"\n".join([*before, *lines, *after])})
    (problem,) = raw.problems
    assert (problem.where, problem.line) == (str(raw.folder / "train.txt"), line)
    assert problem.what == what
    assert of_train(raw)[["number", "image"]].to_numpy().tolist() == [[0, "a"], [2, "c"]]
    counts = raw.lines["train"]
    assert counts == LineCounts(lines=len(lines) + 6, blank=2, left_out=len(lines), begun=3)
    assert counts.lines == counts.blank + counts.left_out + of_train(raw)["lines"].sum()


def test_every_bad_line_of_a_post_is_named(load_tagged):
    raw = load_tagged({"train.txt": "IMGID:b\nAnn\nof\tO\nRome\n\nIMGID:c\nhm\tO\n"})
    assert [problem.line for problem in raw.problems] == [2, 4]


_WORD = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\t\n\r\ufeff"), min_size=1
) | st.sampled_from(["\u200b", "\xad", "\u2028", "\x85", "\x0b", "\x1c", "\xa0", "IMGID:", "a\rb"])
_POST = st.tuples(
    st.sampled_from(["", "17_06_12483", "O_1926"]),
    st.lists(st.tuples(_WORD, st.sampled_from(["O", "B-PER", "I-OTHER"])), min_size=1),
)


@given(
    posts=st.lists(_POST, min_size=1),
    line_end=st.sampled_from(["\n", "\r\n"]),
    end=st.integers(0, 2),
)
def test_what_is_written_is_read(tmp_path_factory, posts, line_end, end):
    folder = tmp_path_factory.mktemp("posts")
    blocks = [
        line_end.join([f"IMGID:{image}", *(f"{word}\t{tag}" for word, tag in words)])
        for image, words in posts
    ]
    content = (line_end * 2).join(blocks) + line_end * end
    (folder / "posts.txt").write_bytes(content.encode())
    files = dict.fromkeys(["train", "dev", "test"], "posts.txt")
    raw = TaggedPostsDataset(filepath=str(folder), files=files).load()
    assert raw.problems == ()
    train = of_train(raw)
    assert train["words"].tolist() == [[word for word, _ in words] for _, words in posts]
    assert train["tags"].tolist() == [[tag for _, tag in words] for _, words in posts]
    assert train["image"].fillna("").tolist() == [image for image, _ in posts]
    counts = raw.lines["train"]
    assert counts.lines == counts.blank + train["lines"].sum()


def test_groups_are_read_as_they_stand(load_tagged):
    raw = load_tagged(
        {"subsets.tsv": "train\t0\tclear\ndev\t0\n"}, roles={"subsets": "subsets.tsv"}
    )
    assert raw.subsets.to_dict("records") == [
        {"split": "train", "number": "0", "subset": "clear", "file": "subsets.tsv", "line": 1}
    ]
    (problem,) = raw.problems
    assert (problem.line, problem.what) == (2, "2 columns instead of 3")


def test_all_missing_empty_and_differing_files_are_in_one_error(load_relations):
    found = hashlib.sha256(_RELATIONS.encode()).hexdigest()
    problems = cause_of(
        load_relations,
        {"train.txt": None, "dev.txt": "\n"},
        roles={"subsets": "subsets.tsv"},
        checksums={"ids.json": "0" * 64},
    )
    by_name = {problem.where.rpartition("/")[2]: problem.what for problem in problems}
    assert by_name == {
        "train.txt": "no such file",
        "dev.txt": "the file is empty",
        "subsets.tsv": "no such file",
        "ids.json": f"differs from the published file (SHA-256 {found} instead of {'0' * 64})",
    }


def test_known_files_are_verified(load_tagged):
    digest = load_tagged().digests["train.txt"]
    assert load_tagged(checksums={"train.txt": digest}).verified == ("train.txt",)


def test_missing_folder_and_writing_are_refused(tmp_path):
    dataset = TaggedPostsDataset(filepath=str(tmp_path / "nowhere"), files=_SPLITS)
    assert not dataset.exists()
    with pytest.raises(DatasetError, match=r"nowhere: no such folder\. docs/data\.md says"):
        dataset.load()
    with pytest.raises(DatasetError, match="never written"):
        dataset.save("anything")


def test_misspelt_role_names_the_near_miss(tmp_path):
    files = {**_SPLITS, "relation": "ids.json"}
    with pytest.raises(ValueError, match="unknown parameter 'relation'; did you mean 'relations'"):
        RelationPostsDataset(filepath=str(tmp_path), files=files)


def test_relations_are_json_as_distributed(load_relations):
    numbers = {f"relation {number}": number for number in range(23)}
    assert load_relations({"ids.json": json.dumps(numbers)}).labels == tuple(numbers)
