"""Whole runs as a person starts them, on a copy of the project."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import rdflib
from PIL import Image

from mkgformer_kedro.configuration import ExtendingConfigLoader
from mkgformer_kedro.settings import CONFIG_LOADER_ARGS

pytestmark = pytest.mark.whole_run

CI = "sample_ci"


def last_line(output):
    return output.rstrip().splitlines()[-1]


def test_a_run_leaves_scores_predictions_and_a_report(finished_project):
    project = finished_project
    reporting = project.folder / f"data/08_reporting/{CI}/link_prediction"
    metrics = json.loads((reporting / "metrics.json").read_text())
    assert metrics["test"]["both.realistic.count"] == 40
    assert 0 < metrics["test"]["both.realistic.hits_at_10"] <= 1
    assert {"test_baseline", "test_without_images"} <= metrics.keys()
    assert "</html>" in (reporting / "index.html").read_text()
    assert rows_by_expert(project, "link_prediction") == {
        "model": 40,
        "without_images": 40,
        "complex": 40,
        "mixture": 40,
        "baseline": 40,
    }
    assert not list(project.folder.glob("data/**/*.tmp")), "half-written files are left behind"


def rows_by_expert(project, task):
    output = project.folder / f"data/07_model_output/{CI}/{task}"
    tables = [pd.read_parquet(output / f"{name}.parquet") for name in ("predictions", "baseline")]
    return pd.concat(tables)["expert"].value_counts().to_dict()


@pytest.mark.parametrize(
    ("task", "scores"),
    [
        ("relation_extraction", {"precision", "recall", "f1", "accuracy"}),
        ("entity_recognition", {"precision", "recall", "f1"}),
    ],
)
def test_a_run_on_posts_leaves_the_same(finished_project, task, scores):
    reporting = finished_project.folder / f"data/08_reporting/{CI}/{task}"
    metrics = json.loads((reporting / "metrics.json").read_text())
    assert set(metrics["test"]) == scores
    assert set(metrics["test_by_subset"]) == {"ambiguous", "clear", "misleading"}
    assert {"test_baseline", "test_without_images"} <= metrics.keys()
    assert "synthetic sample" in (reporting / "index.html").read_text()
    rows = rows_by_expert(finished_project, task)
    assert rows == {"model": 120, "without_images": 120, "baseline": 120}
    assert (finished_project.folder / f"data/06_models/{CI}/{task}/finetuning/seed_42").is_dir()


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ("sed=1", "unknown parameter 'sed'; did you mean 'seed'?"),
        (
            "link_prediction.finetuning.learning_rates.default=.nan",
            "learning_rates.default: Input should be a finite number",
        ),
    ],
)
def test_a_parameter_that_is_wrong_is_refused_before_any_node(finished_project, parameter, message):
    output = finished_project.run("kedro", "run", "--params", parameter, fails=True)
    assert message in output
    assert "Traceback" not in output
    assert "Running node" not in output


def test_globals_are_checked_too(own_data):
    (own_data.folder / "conf/strange").mkdir()
    (own_data.folder / "conf/strange/globals.yml").write_text("datasett: x\n")
    output = own_data.run("kedro", "run", "--env", "strange", fails=True)
    assert "unknown key of globals.yml 'datasett'; did you mean 'dataset'" in output
    assert "Traceback" not in output


def test_whole_images_are_no_input_of_the_faithful_preset(finished_project):
    command = ("kedro", "run", "--pipelines", "relation_extraction", "--env", "ci")
    output = finished_project.run(*command, "--params", "preset=faithful", fails=True)
    assert "relation_extraction.image_association.slots.full.count: the preset" in output
    assert "Traceback" not in output
    assert "Running node" not in output


@pytest.mark.parametrize(
    ("task", "env", "where"),
    [
        ("link_prediction", "wn18_img", "data/01_raw/wn18_img/WN18: no such folder"),
        ("relation_extraction", "mnre", "data/01_raw/mnre/ours_rel2id.json: no such file"),
        ("entity_recognition", "twitter_2017", "01_raw/twitter_2017/twitter2017: no such folder"),
    ],
)
def test_a_benchmark_without_its_files_ends_with_one_message(finished_project, task, env, where):
    output = finished_project.run("kedro", "run", "--pipelines", task, "--env", env, fails=True)
    assert where in last_line(output)
    assert "docs/data.md" in last_line(output)
    assert "Traceback" not in output


def test_the_pipelines_are_listed_without_torch(finished_project):
    listing = (
        "import sys; from kedro.framework.cli.cli import main\n"
        "sys.argv = ['kedro', 'registry', 'list']\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'transformers', 'matplotlib', 'PIL'} & {*sys.modules}))"
    )
    output = finished_project.run("python", "-c", listing)
    assert "link_prediction" in output
    assert last_line(output) == "[]"


@pytest.fixture(scope="module")
def own_data(tmp_path_factory, copy_project):
    """The data set of docs/own_data.md: its YAML as printed there, and files as it says."""
    project = copy_project(tmp_path_factory.mktemp("own") / "project")
    page = (Path(__file__).parents[1] / "docs/own_data.md").read_text()
    for file, text in re.findall(r"```yaml\n# (\S+)\n(.+?)```", page, flags=re.DOTALL):
        (project.folder / file).parent.mkdir(exist_ok=True)
        (project.folder / file).write_text(text)
    folder = project.folder / "data/01_raw/my_graph"
    cities = ["Oslo", "Bergen", "Lyon", "Paris", "Graz", "Wien", "Bern", "Basel"]
    countries = ["Norway", "Norway", "France", "France", "Austria", "Austria", "Swiss", "Swiss"]
    splits = {
        "train": [
            *((city, "in", country) for city, country in zip(cities, countries, strict=True)),
            *((one, "near", other) for one, other in zip(cities[::2], cities[2::2], strict=False)),
        ],
        "dev": [("Bergen", "near", "Lyon"), ("Wien", "in", "Swiss")],
        "test": [("Paris", "near", "Bergen"), ("Basel", "in", "Austria")],
    }
    folder.mkdir()
    for split, triples in splits.items():
        lines = ["\t".join(triple) for triple in triples]
        (folder / f"{split}.tsv").write_text("\n".join(lines))
    entities = [f"{name}\t{name}, a place" for name in [*cities, *sorted(set(countries))]]
    (folder / "entity2text.txt").write_text("\n".join(entities))
    (folder / "relation2text.txt").write_text("in\tlies in\nnear\tis close to\n")
    for number, city in enumerate(cities[:5]):
        (folder / "images" / city).mkdir(parents=True)
        image = Image.new("RGB", (40, 30), (50 * number, 90, 120))
        image.save(folder / "images" / city / "a photo.jpg")
    return project


OWN_GRAPH = (
    "kedro", "run", "--pipelines", "link_prediction", "--env", "my_graph",
    "--params", "link_prediction.finetuning.epochs=1",
)  # fmt: skip
OWN_POSTS = (
    "kedro", "run", "--pipelines", "entity_recognition", "--env", "my_posts",
    "--params", "entity_recognition.finetuning.epochs=1",
)  # fmt: skip


@pytest.mark.parametrize("with_images", [True, False])
def test_own_posts_run_as_the_documentation_says(own_data, with_images):
    folder = own_data.folder / "data/01_raw/my_posts"
    (folder / "images").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), "red").save(folder / "images/beach.png")
    cities = {"train": ["Oslo", "Bergen", "Lyon", "Graz"], "dev": ["Paris"], "test": ["Basel"]}
    for split, names in cities.items():
        words = "Anna\tB-PER\nBerg\tI-PER\nin\tO\n"
        posts = [
            f"IMGID:{'' if number % 2 else 'beach'}\n{words}{name}\tB-LOC\n"
            for number, name in enumerate(names)
        ]
        (folder / f"{split}.txt").write_text("\n".join(posts))
    if not with_images:
        images = "images: data/01_raw/my_posts "
        own_data.replace("conf/my_posts/globals.yml", images, "images: null ")
    own_data.run(*OWN_POSTS)
    reporting = own_data.folder / "data/08_reporting/my_posts/entity_recognition"
    assert "My posts" in (reporting / "index.html").read_text()
    coverage = json.loads((reporting / "image_association/coverage.json").read_text())
    assert coverage["owners"]["with_images"] == (4 if with_images else 0)


def test_own_data_runs_as_the_documentation_says(own_data):
    own_data.run(*OWN_GRAPH)
    reporting = own_data.folder / "data/08_reporting/my_graph/link_prediction"
    assert "</html>" in (reporting / "index.html").read_text()
    coverage = json.loads((reporting / "image_association/coverage.json").read_text())
    assert coverage["owners"]["with_images"] == 5
    assert coverage["owners"]["all"] == 12


def test_a_variant_of_own_data_names_only_what_differs(own_data):
    conf = str(own_data.folder / "conf")
    variants = ("my_graph", "my_graph_text")
    graph, text = (
        ExtendingConfigLoader(conf, env=variant, **CONFIG_LOADER_ARGS)["globals"]
        for variant in variants
    )
    assert (graph.pop("dataset"), text.pop("dataset")) == variants
    assert graph["link_prediction"].pop("images") == "data/01_raw/my_graph/images"
    assert text["link_prediction"].pop("images") is None
    assert {**graph, "extends": "my_graph"} == text


SYNSETS = """
extends: ci
dataset: synsets
link_prediction:
  folder: data/01_raw/synsets
  layout: rdf
  files: {graph: graph.ttl}
  images: null
"""
# Of 40 links nobody learns what is probable.
KEEP_THE_BEST = """
link_prediction:
  completion:
    keep: {probability: null, best: 20}
"""


def test_a_graph_in_rdf_comes_out_completed_as_rdf(own_data):
    """The first links of the sample, written and read by another library."""
    graph, sample = rdflib.Graph(), Path(__file__).parents[1] / "data/01_raw/wordnet_emoji"
    synset = rdflib.Namespace("http://wordnet.example/synset/")
    terms = rdflib.Namespace("http://wordnet.example/terms#")
    for line in (sample / "train.tsv").read_text().splitlines()[:40]:
        head, relation, tail = line.split("\t")
        graph.add((synset[head], terms[relation.strip("_")], synset[tail]))
    known = set(graph)
    entities = {entity for head, _, tail in known for entity in (head, tail)}
    for line in (sample / "entity2text.txt").read_text().splitlines():
        entity, text = line.split("\t")
        if synset[entity] in entities:
            graph.add((synset[entity], rdflib.RDFS.label, rdflib.Literal(text, lang="en")))
    for name, content in (("globals", SYNSETS), ("parameters_link_prediction", KEEP_THE_BEST)):
        file = own_data.folder / f"conf/synsets/{name}.yml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
    folder = own_data.folder / "data/01_raw/synsets"
    folder.mkdir()
    graph.serialize(folder / "graph.ttl", format="turtle")
    own_data.run("kedro", "run", "--pipelines", "link_prediction,completion", "--env", "synsets")
    output = own_data.folder / "data/07_model_output/synsets/link_prediction/completion"
    found = rdflib.Graph().parse(output / "completions.ttl")
    parts = (rdflib.RDF.subject, rdflib.RDF.predicate, rdflib.RDF.object)
    proposed = {
        tuple(found.value(statement, part) for part in parts)
        for statement in found.subjects(rdflib.RDF.type, rdflib.RDF.Statement)
    }
    assert len(proposed) == len(pd.read_parquet(output / "completions.parquet")) > 0
    assert {end for head, _, tail in proposed for end in (head, tail)} <= entities
    assert {relation for _, relation, _ in proposed} <= {relation for _, relation, _ in known}
    assert not proposed & known


def test_a_cell_that_fails_is_a_row_that_says_why(finished_project):
    """Both cells fail at the stage that they share, which is run once, in a process of its own."""
    output = finished_project.run(
        "kedro", "run", "--pipelines", "study", "--env", "ci", "--params",
        "study.task=relation_extraction,study.grid=presets,"
        "relation_extraction.ingestion.expected_counts.train=5",
    )  # fmt: skip
    assert output.count("Begins: stage") == 1
    folder = finished_project.folder / f"data/08_reporting/{CI}/study/relation_extraction/presets"
    table = pd.read_csv(folder / "table.csv")
    assert table["cell"].tolist() == ["corrected_preset", "faithful_preset"]
    assert table["failed"].str.contains("train: 600 instead of the published 5").all()
    assert "has no answers" in (folder / "index.html").read_text()
