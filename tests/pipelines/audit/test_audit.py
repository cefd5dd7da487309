from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from PIL import Image

from mkgformer_kedro.datasets.graph_folder import GraphFolderDataset
from mkgformer_kedro.datasets.image_folder import ImageFolderDataset
from mkgformer_kedro.pipelines.audit import create_pipeline
from mkgformer_kedro.pipelines.audit.nodes import audit_graph, hash_images
from mkgformer_kedro.pipelines.audit.parameters import AuditParameters
from mkgformer_kedro.pipelines.image_association.parameters import ImageAssociationParameters
from mkgformer_kedro.pipelines.ingestion.parameters import IngestionParameters

CONF = Path(__file__).parents[3] / "conf/base/parameters_link_prediction.yml"
BASE = yaml.safe_load(CONF.read_text())["link_prediction"]
AUDIT = AuditParameters(**BASE["audit"])
INGESTION = IngestionParameters(**BASE["ingestion"])
ASSOCIATION = ImageAssociationParameters(
    **BASE["image_association"] | {"owner_pattern": "(.+)", "owner_replacement": r"\1"}
)
NO_IMAGES = ImageFolderDataset(filepath=None).load()


@pytest.fixture
def raw_graph(write_graph, graph_files):
    """Write a graph with some files replaced, and read it."""

    def raw_graph(files=None):
        return GraphFolderDataset(filepath=str(write_graph(files)), files=graph_files).load()

    return raw_graph


def test_the_pipeline_audits_what_the_gates_would_stop(raw_graph):
    leaky = {
        "dev.tsv": "007\tlikes\t02\n007\tlikes\t02\n",
        "test.tsv": "02\tlikes\t007\n007\tlikes\t08\n",
    }
    catalog = DataCatalog()
    catalog["link_prediction.raw_graph"] = MemoryDataset(raw_graph(leaky), copy_mode="assign")
    catalog["link_prediction.raw_images"] = MemoryDataset(NO_IMAGES)
    for name, parameters in {
        "ingestion": INGESTION,
        "image_association": ASSOCIATION,
        "audit": AUDIT,
    }.items():
        catalog[f"params:link_prediction.{name}"] = MemoryDataset(parameters)
    outputs = SequentialRunner().run(create_pipeline(), catalog)
    audit = outputs["link_prediction.audit"].load()
    assert audit["splits"]["dev"]["in_train"] == 1
    assert audit["splits"]["test"]["reverse_in_train"] == 1
    assert audit["duplicates"] == {"train": 0, "dev": 1, "test": 0}
    assert audit["data"]["unusable_lines"] == ["test.tsv:2: unknown entity '08'"]
    assert json.loads(json.dumps(audit)) == audit
    page = outputs["link_prediction.audit_page"].load()
    for verdict in audit["verdicts"]:
        assert verdict["text"] in page


@pytest.fixture
def images(tmp_path):
    """Two entities with one file in common, one with an image that looks the same, one alone."""
    folder = tmp_path / "images"

    def draw(path, colour, place=(8, 8, 40, 24), **options):
        image = Image.new("RGB", (64, 64), "white")
        image.paste(colour, place)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / path, **options)

    draw("007/a.png", "black")
    draw("02/b.png", "black")
    draw("03/c.png", "black", compress_level=1)
    draw("04/d.png", "black", (0, 40, 64, 60))
    (folder / "04/broken.png").write_bytes(b"none")
    return ImageFolderDataset(filepath=str(folder)).load()


def test_images_shared_by_entities(raw_graph, images):
    audit, page = audit_graph(raw_graph(), images, INGESTION, ASSOCIATION, AUDIT)
    same, alike = audit["images"]["same_file"], audit["images"]["look_alike"]
    assert (same["owners"], same["sharing"], alike["sharing"]) == (4, 2, 3)
    digest = hashlib.sha256((images.root / "007/a.png").read_bytes()).hexdigest()
    assert same["examples"] == [{"value": digest, "count": 2, "owners": ["007", "02"]}]
    assert digest in page


def test_images_are_compared_as_told(raw_graph, images):
    entities = pd.DataFrame({"entity": ["007", "02", "03", "04"]})
    looked = hash_images(images, entities, ASSOCIATION, look=True)
    assert looked["path"].tolist() == ["007/a.png", "02/b.png", "03/c.png", "04/d.png"]
    assert looked["perceptual_hash"].str.len().eq(16).all()
    by_bytes = hash_images(images, entities, ASSOCIATION, look=False)
    assert by_bytes["perceptual_hash"].isna().all()
    assert by_bytes["sha256"].tolist() == looked["sha256"].tolist()
    none = AUDIT.model_copy(update={"images": "none"})
    assert audit_graph(raw_graph(), images, INGESTION, ASSOCIATION, none)[0]["images"] is None


def test_images_that_the_graph_links(images):
    entities = pd.DataFrame(
        {"entity": ["x", "y"], "image_links": [["007/a.png", "nowhere.png"], ["elsewhere/b.png"]]}
    )
    (images.root / "b.png").write_bytes((images.root / "02/b.png").read_bytes())
    found = hash_images(images, entities, ASSOCIATION, look=False)
    assert found[["entity", "path"]].to_numpy().tolist() == [["x", "007/a.png"], ["y", "b.png"]]


@pytest.mark.benchmark_files
def test_mkg_w(benchmarks):
    names = {split: f"{split}.tsv" for split in ("train", "dev", "test")}
    names |= {"entity_texts": "entity2text.txt", "relation_texts": "relation2text.txt"}
    raw = GraphFolderDataset(filepath=str(benchmarks / "MKG-W"), files=names).load()
    settings = INGESTION.model_copy(update={"entity_texts": "name"})
    audit, _ = audit_graph(raw, NO_IMAGES, settings, ASSOCIATION, AUDIT)
    assert audit["counts"] == {
        "entities": 15000, "relations": 169, "train": 34196, "dev": 4276, "test": 4274,
    }  # fmt: skip
    test = audit["splits"]["test"]
    assert test["unseen_entities"] == 306
    assert test["reverse_in_train"] == 224
    assert (test["in_train"], test["in_dev"]) == (0, 0)
    said = [verdict["text"] for verdict in audit["verdicts"]]
    assert "No test triple stands in train or dev." in said


@pytest.mark.benchmark_files
@pytest.mark.parametrize(("name", "reverse", "unseen"), [("WN18", 4698, 0), ("FB15k-237", 0, 28)])
def test_benchmarks(benchmarks, name, reverse, unseen):
    files = {split: f"{split}.tsv" for split in ("train", "dev", "test")}
    folder = benchmarks / "MKG/dataset" / name
    raw = GraphFolderDataset(filepath=str(folder), files=files).load()
    audit, _ = audit_graph(raw, NO_IMAGES, INGESTION, ASSOCIATION, AUDIT)
    test = audit["splits"]["test"]
    assert (test["reverse_in_train"], test["unseen_entities"]) == (reverse, unseen)
    assert (test["in_train"], test["in_dev"]) == (0, 0)
