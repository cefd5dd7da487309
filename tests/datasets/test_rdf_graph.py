"""RDF read as a graph; rdflib is the second opinion."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from kedro.io import DatasetError
from rdflib import Dataset, Graph, Literal, URIRef

from mkgformer_kedro.datasets import rdf_graph
from mkgformer_kedro.datasets.graph_folder import GraphFolderDataset
from mkgformer_kedro.datasets.rdf_graph import RdfParameters
from mkgformer_kedro.errors import DataError

CONF = Path(__file__).parents[2] / "conf/base/globals.yml"
RDF = yaml.safe_load(CONF.read_text())["link_prediction"]["rdf"]
SPLIT = {"dev": 0.1, "test": 0.1, "seed": 0}

SPIES = """
@prefix : <http://spies.example/> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
@prefix schema: <http://schema.org/> .
@prefix owl: <http://www.w3.org/2002/07/owl#> .
:bond :likes :m, :q ; :worksWith :q ; :age 37 ; rdfs:label "Bond"@en, "Bindung"@de ;
  schema:description "A  spy\\nof some\\tfame"@en-GB ; owl:sameAs <http://elsewhere.example/007> .
:m :likes :q ; rdfs:label "M, head of MI6" ; :boss [ rdfs:label "nobody" ] .
:q :knows :bond ; schema:name "Quartermaster"@en ; rdfs:label "Q"@fr .
:likes rdfs:label "is fond of"@en ; rdfs:subPropertyOf :knows .
"""


@pytest.fixture
def read(tmp_path):
    """Write files and read them as RDF; settings given by name replace the configured ones."""

    def read(files, names=None, **settings):
        if isinstance(files, str | bytes):
            files = {"graph.ttl": files}
        for name, content in files.items():
            raw = content.encode() if isinstance(content, str) else content
            (tmp_path / name).write_bytes(raw)
        return GraphFolderDataset(
            filepath=str(tmp_path),
            layout="rdf",
            files=names or {"graph": next(iter(files))},
            split=SPLIT,
            rdf=RDF | settings,
        ).load()

    return read


@pytest.fixture
def problem_of(read):
    """The one problem that reading raises."""

    def problem_of(*args, **settings):
        with pytest.raises(DatasetError) as raised:
            read(*args, **settings)
        assert isinstance(raised.value.__cause__, DataError)
        (problem,) = raised.value.__cause__.problems
        return problem

    return problem_of


def triples(raw, strip="http://spies.example/"):
    table = raw.triples[["head", "relation", "tail"]]
    return sorted(tuple(cell.removeprefix(strip) for cell in row) for row in table.to_numpy())


def texts(table):
    return {row[0].removeprefix("http://spies.example/"): row[1] for row in table.to_numpy()}


def test_entities_become_triples_and_the_rest_is_counted(read):
    raw = read(SPIES)
    assert triples(raw) == [
        ("bond", "likes", "m"),
        ("bond", "likes", "q"),
        ("bond", "worksWith", "q"),
        ("m", "likes", "q"),
        ("q", "knows", "bond"),
    ]
    counts = raw.facts["rdf"]
    assert counts == {
        "statements": 17,
        "triples": 5,
        "labels": 6,
        "labels_in_other_languages": 2,
        "descriptions": 1,
        "with_literals": 1,
        "with_blank_nodes": 2,
        "ignored": 1,
        "about_relations": 1,
        "entities_named_by_their_ids": 0,
        "relations_named_by_their_ids": 2,
    }
    assert raw.problems == ()
    assert raw.facts["layout"] == "rdf"
    assert raw.entities is None
    assert raw.texts_are_names


def test_texts_by_predicate_and_language(read):
    raw = read(SPIES)
    names = texts(raw.entity_texts)
    assert names["bond"] == "Bond"
    assert names["m"] == "M, head of MI6"
    assert names["q"] == "Quartermaster"  # its rdfs:label is French
    assert texts(raw.entity_long_texts) == {"bond": "A spy of some fame"}
    relations = texts(raw.relation_texts)
    assert relations == {"likes": "is fond of", "worksWith": "works with", "knows": "knows"}
    german = read(SPIES, languages=["de", "fr"], label=["schema:name", "rdfs:label"])
    names = texts(german.entity_texts)
    assert (names["bond"], names["q"], names["m"]) == ("Bindung", "Q", "m")


def test_literals_and_blank_nodes_are_kept_as_told(read):
    raw = read(SPIES, literals="keep", blank_nodes="keep")
    age = '"37"^^<http://www.w3.org/2001/XMLSchema#integer>'
    assert ("bond", "age", age) in triples(raw)
    assert ("m", "boss", "_:b1") in triples(raw)
    names = texts(raw.entity_texts)
    assert (names[age], names["_:b1"]) == ("37", "nobody")
    again = read(SPIES, literals="keep", blank_nodes="keep")
    assert triples(raw) == triples(again)  # whatever a parser calls an anonymous node


def test_blank_nodes_of_two_files_are_two(read):
    files = {f"{name}.nt": f"_:x <http://a/r> <http://a/{name}> .\n" for name in ("p", "q", "s")}
    names = {"train": "p.nt", "dev": "q.nt", "test": "s.nt"}
    raw = read(files, names, blank_nodes="keep")
    assert raw.triples["head"].tolist() == ["_:b1", "_:b2", "_:b3"]
    assert raw.triples["split"].tolist() == ["train", "dev", "test"]
    assert raw.files["dev"] == "q.nt"
    assert set(raw.digests) == set(files)


def test_named_graphs(read):
    quads = (
        "<http://a/1> <http://a/r> <http://a/2> <http://a/good> .\n"
        "<http://a/1> <http://a/r> <http://a/3> <http://a/bad> .\n"
        "<http://a/1> <http://a/r> <http://a/4> .\n"
    )
    files = {"graph.nq": quads}
    assert len(read(files).triples) == 3
    raw = read(files, named_graphs=["http://a/good", "default"])
    assert raw.triples["tail"].tolist() == ["http://a/2", "http://a/4"]
    assert raw.facts["rdf"]["in_other_graphs"] == 1


def test_image_links(read):
    raw = read(
        """@base <http://a.example/> . @prefix s: <http://schema.org/> .
        <x> <r> <y> ; s:image "images/x one.png", <images/x%20two.png>,
          <https://upload.example/x.png>, "../../etc/passwd", "/etc/passwd", "file:///etc/passwd" .
        <y> s:image "y.png" .""",
        base="http://a.example/",
    )
    links = raw.image_links[["entity", "path"]].to_numpy().tolist()
    assert links == [
        ["http://a.example/x", "images/x one.png"],
        ["http://a.example/x", "images/x two.png"],
        ["http://a.example/y", "y.png"],
    ]
    counts = raw.facts["rdf"]
    assert (counts["image_links"], counts["image_links_elsewhere"]) == (7, 4)


IRI = st.integers(0, 6).map(lambda number: f"http://a.example/e{number}")
RELATION = st.integers(0, 2).map(lambda number: f"http://a.example/r{number}")
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
OBJECT = st.one_of(
    IRI.map(URIRef),
    st.tuples(TEXT, st.sampled_from([None, "en", "de"])).map(lambda it: Literal(it[0], lang=it[1])),
)


@given(
    statements=st.lists(st.tuples(IRI, RELATION, OBJECT), min_size=1, max_size=15),
    edge=st.tuples(IRI, RELATION, IRI),
    form=st.sampled_from(["nt", "ttl", "nq", "trig"]),
    packed=st.booleans(),
)
def test_another_library_wrote_it(tmp_path_factory, statements, edge, form, packed):
    graph = Dataset(default_union=True) if form in ("nq", "trig") else Graph()
    expected = {edge}
    graph.add(tuple(map(URIRef, edge)))
    for head, relation, value in statements:
        graph.add((URIRef(head), URIRef(relation), value))
        if isinstance(value, URIRef):
            expected.add((head, relation, str(value)))
    names = {"nt": "nt", "ttl": "turtle", "nq": "nquads", "trig": "trig"}
    content = graph.serialize(format=names[form], encoding="utf-8")
    folder = tmp_path_factory.mktemp("rdf")
    name = f"graph.{form}.gz" if packed else f"graph.{form}"
    (folder / name).write_bytes(gzip.compress(content, mtime=0) if packed else content)
    raw = GraphFolderDataset(
        filepath=str(folder), layout="rdf", files={"graph": name}, split=SPLIT, rdf=RDF
    ).load()
    assert set(triples(raw)) == expected
    assert len(raw.triples) == len(expected)
    literals = {(h, r, value) for h, r, value in statements if isinstance(value, Literal)}
    assert raw.facts["rdf"].get("with_literals", 0) == len(literals)


def test_byte_order_mark_and_crlf(read):
    content = "<http://a/1> <http://a/r> <http://a/2> .\r\n<http://a/2> <http://a/r> <http://a/3> ."
    for form in ("nt", "ttl"):
        assert len(read({f"graph.{form}": b"\xef\xbb\xbf" + content.encode()}).triples) == 2


EDGE = b"<http://a/1> <http://a/r> <http://a/2> .\n"


@pytest.mark.parametrize(
    ("name", "content", "line", "what"),
    [
        ("graph.nt", EDGE + b"<http://a/1> <http://a/r> .\n", 2, "column 27: The object of a"),
        ("graph.ttl", EDGE + b"x:a x:b x:c .", 2, "between columns 1 and 4: The prefix x: has"),
        ("graph.ttl", EDGE + b"<a> <b> <c> .", 2, "a relative IRI, and nothing says what it is"),
        ("graph.ttl", b"a\tr\tb\n", 1, "column 1: a is not a valid subject or graph name"),
        (
            "graph.nt",
            EDGE + b'<http://a/1> <http://a/r> "caf\xe9" .\n',
            2,
            "column 31: Invalid UTF",
        ),
        ("graph.ttl", b"", None, "the file is empty"),
        ("graph.ttl", b"# nothing\n", None, "the file holds no statement"),
        ("graph.rdf", EDGE, None, "the suffix '.rdf' stands for no RDF that is read"),
        ("graph.ttl.bz2", EDGE, None, "the suffix '.bz2' stands for no RDF that is read"),
        (
            "graph.nt.gz",
            gzip.compress(EDGE * 99, mtime=0)[:-9],
            None,
            "cannot be unpacked (Compressed file",
        ),
        ("graph.nt.gz", EDGE, None, "cannot be unpacked (Not a gzipped file"),
        (
            "graph.nt",
            EDGE + b'<http://a/1> <http://a/r> "' + b"x" * 17_000_000 + b'" .\n',
            None,
            "a value longer than 16 MiB",
        ),
        (
            "graph.nt",
            b'<http://a/1> <http://a/r> "1" .\n_:x <http://a/r> <http://a/2> .\n',
            None,
            "no statement is a triple of two entities",
        ),
    ],
)
def test_what_is_wrong_is_one_clear_error(problem_of, name, content, line, what):
    problem = problem_of({name: content})
    assert problem.where.endswith(name)
    assert problem.line == line
    assert problem.what.startswith(what)


def test_a_missing_file_and_a_pipe(problem_of, tmp_path):
    assert problem_of({}, {"graph": "graph.nt"}).what == "no such file"
    os.mkfifo(tmp_path / "graph.nt")
    problem = problem_of({}, {"graph": "graph.nt"})
    assert problem.what == "cannot be read (a pipe or device, not a file)"


def test_what_was_counted_says_why_nothing_is_left(problem_of):
    problem = problem_of(b'<http://a/1> <http://a/r> "1" .\n')
    assert "1 statements, 1 with literals" in problem.remedy.replace("_", " ")


def test_relative_iris_with_a_base(read):
    raw = read(b"<a> <b> <c> .", base="http://a.example/")
    assert triples(raw, "http://a.example/") == [("a", "b", "c")]


def test_a_long_or_broken_text_is_a_bad_line(read, monkeypatch):
    monkeypatch.setattr(rdf_graph, "MAX_TEXT", 20)
    raw = read(
        """@prefix r: <http://www.w3.org/2000/01/rdf-schema#> .
        <http://a/1> <http://a/r> <http://a/2> ; r:label "short" ; r:comment "much, much too long" .
        <http://a/2> r:label "a\\u0000b", 5 ; r:comment "LONG" , <http://a/1> .""".replace(
            "LONG", "really, really much too long"
        )
    )
    assert [problem.what for problem in raw.problems] == [
        "statement 4: a NUL character, which no text holds",
        "statement 6: a text of 28 characters, more than the 20 of a long book",
    ]
    assert raw.facts["rdf"]["descriptions_that_are_no_text"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": ["rdf-schema:label"]}, "no prefix 'rdf-schema' is known; prefixes has: dcterms"),
        ({"label": ["label"]}, "'label' is no IRI"),
        ({"literals": "drop"}, "literals"),
        ({"labels": ["rdfs:label"]}, "did you mean 'label'"),
    ],
)
def test_parameters_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        RdfParameters(**RDF | settings)


def test_configured_predicates_are_iris():
    parameters = RdfParameters(**RDF)
    assert parameters.iri("rdfs:label") == "http://www.w3.org/2000/01/rdf-schema#label"
    assert parameters.iri("http://a.example/p") == "http://a.example/p"
    assert parameters.iri("urn:example:p") == "urn:example:p"


@pytest.mark.parametrize(
    ("iri", "name"),
    [
        ("http://a.example/birthPlace", "birth place"),
        ("http://a.example/ns#New_York", "New York"),
        ("http://a.example/Q42", "Q42"),
        ("http://a.example/caf%C3%A9/", "café"),
        ("urn:isbn:123", "123"),
    ],
)
def test_what_has_no_label_goes_by_the_end_of_its_iri(read, iri, name):
    raw = read(f"<{iri}> <http://a.example/r> <http://a.example/x> .")
    assert raw.entity_texts["text"].tolist()[0] == name


def test_an_image_that_is_a_node_of_its_own_is_a_link_elsewhere(read):
    """The parser names blank nodes anew each time: nothing may depend on their names."""
    described = SPIES + ":bond schema:image [ a schema:ImageObject ; rdfs:label 'a face' ] ."
    found = [read(described) for _ in range(2)]
    for raw in found:
        assert raw.image_links.empty
        assert raw.facts["rdf"]["image_links_elsewhere"] == 1
        assert not raw.entity_texts["entity"].str.startswith("_:").any()


def test_a_link_that_no_file_can_be_named_is_a_link_elsewhere(read):
    raw = read(SPIES + f':bond schema:image "{"A" * 256}" , "{"B" * 255}" .')
    assert raw.image_links["path"].tolist() == ["B" * 255]
    assert raw.facts["rdf"]["image_links_elsewhere"] == 1
