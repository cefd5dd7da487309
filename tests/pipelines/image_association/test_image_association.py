"""The stage as a whole: through Kedro's runner, through the catalog, and on the real images."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from kedro.io import AbstractDataset, CatalogConfigResolver, DataCatalog
from kedro.runner import SequentialRunner
from PIL import Image

from mkgformer_kedro.configuration import ExtendingConfigLoader
from mkgformer_kedro.datasets.image_folder import ImageFolderDataset
from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.pipelines.image_association import create_pipeline, schemas
from mkgformer_kedro.pipelines.image_association.link_prediction import (
    report_coverage,
    store_images,
)
from mkgformer_kedro.pipelines.image_association.parameters import ImageAssociationParameters
from mkgformer_kedro.settings import CONFIG_LOADER_ARGS
from tiny_world import LAUNCH

CONF = Path(__file__).parents[3] / "conf"
TASK = "link_prediction"
REPORTING = "08_reporting/sample/link_prediction/image_association"
REPORTS = ("coverage_report", "contact_sheet")
ENTITIES = pd.DataFrame(
    {
        "entity": ["00000001", "00000002", "00000003", "00000004"],
        "name": ["cat", "$5 bill", "feline", "a name too long for the contact sheet"],
    }
)
RELATIONS = pd.DataFrame({"relation": ["_hypernym"]})
TRIPLES = pd.DataFrame(
    {
        "head": [0, 1, 0],
        "relation": [0, 0, 0],
        "tail": [2, 3, 3],
        "split": ["train", "train", "test"],
    }
)


def configuration(environment: str = "base", **parameters: object) -> ExtendingConfigLoader:
    return ExtendingConfigLoader(
        str(CONF), env=environment, runtime_params=parameters, **CONFIG_LOADER_ARGS
    )


def stage_parameters(environment: str = "base", **changes: object) -> dict:
    """The parameters as the environment's files say them."""
    return configuration(environment)["parameters"][TASK]["image_association"] | changes


def catalog_at(folder: Path, **parameters: object) -> DataCatalog:
    """The stage's own catalog entries, their files moved to ``folder``."""
    conf = configuration(images=str(folder / "images"))
    resolver = CatalogConfigResolver(conf["catalog"])
    catalog = DataCatalog()
    for name in ("raw_images", "images", "visual_store_work", "visual_store", *REPORTS):
        entry = dict(resolver.resolve_pattern(f"{TASK}.{name}"))
        if name != "raw_images":
            entry["filepath"] = str(folder / Path(entry["filepath"]).relative_to("data"))
        catalog[f"{TASK}.{name}"] = AbstractDataset.from_config(name, entry)
    catalog[f"{TASK}.entities"] = ENTITIES
    catalog[f"{TASK}.relations"] = RELATIONS
    catalog[f"{TASK}.triples"] = TRIPLES
    catalog["params:launch"] = LAUNCH
    catalog[f"params:{TASK}.image_association"] = ImageAssociationParameters(
        **stage_parameters(**parameters)
    )
    return catalog


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A cat with two images and a broken one, a bill with one, a folder of nobody's."""
    for path, color in {
        "n00000001/a.png": "red",
        "n00000001/b.png": "green",
        "n00000002/a.png": "blue",
        "n00000009/a.png": "black",
    }.items():
        (tmp_path / "images" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), color).save(tmp_path / "images" / path)
    (tmp_path / "images" / "n00000001" / "c.png").touch()
    return tmp_path


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "images" not in path.parts and ".work" not in path.parts
    }


def test_stage_writes_manifest_store_report_and_contact_sheet(project: Path):
    catalog = catalog_at(project)
    SequentialRunner().run(create_pipeline(TASK), catalog)
    images = schemas.images.validate(catalog[f"{TASK}.images"].load())
    assert images.set_index("path")["status"].to_dict() == {
        "n00000001/a.png": "ok",
        "n00000001/b.png": "ok",
        "n00000001/c.png": "empty file",
        "n00000002/a.png": "ok",
    }
    store = VisualStore(catalog[f"{TASK}.visual_store"].load())
    assert store.has_images.tolist() == [True, True, False, False]
    inputs = store.read([1, 0])
    assert inputs["pixel_values"].shape == (2, 2, 3, 64, 64)
    np.testing.assert_array_equal(inputs["pixel_values"][0, 0, :, 5, 5], [0, 0, 255])
    with Image.open(io.BytesIO(files_below(project)[f"{REPORTING}/contact_sheet.png"])) as sheet:
        assert sheet.width > 1000
    assert set(files_below(project)) == {
        "02_intermediate/sample/link_prediction/image_association/images.parquet",
        "04_feature/sample/link_prediction/visual_store/full.u8",
        "04_feature/sample/link_prediction/visual_store/lineage.json",
        "04_feature/sample/link_prediction/visual_store/slots.npy",
        "04_feature/sample/link_prediction/visual_store/store.json",
        f"{REPORTING}/contact_sheet.png",
        f"{REPORTING}/coverage.json",
    }


def test_coverage_report_counts_and_names(project: Path):
    catalog = catalog_at(project)
    SequentialRunner().run(create_pipeline(TASK), catalog)
    report = json.loads(files_below(project)[f"{REPORTING}/coverage.json"])
    statuses = report["images"]
    assert statuses["listed"] == sum(statuses.values()) - statuses["listed"] == 4
    assert (statuses["ok"], statuses["empty file"]) == (3, 1)
    del report["images"]
    assert report == {
        "owners": {"all": 4, "with_images": 2, "borrowing": 0, "without_images": 2},
        "images_per_owner": {"1": 1, "2": 1},
        # Of the four given entities of train, two have images; of the two of test, one.
        "known_entity_has_images": {"train": 0.5, "test": 0.5},
        "stored": {"full": 3},
        "unknown_folders": {"count": 1, "names": ["n00000009"]},
        "quarantined": [{"path": "n00000001/c.png", "status": "empty file"}],
    }


def test_borrowing_follows_training_triples_and_is_recorded(project: Path):
    catalog = catalog_at(project, borrow={"relation": "_hypernym", "images_of": "head"})
    SequentialRunner().run(create_pipeline(TASK), catalog)
    images = catalog[f"{TASK}.images"].load()
    borrowed = images.dropna(subset="borrowed_from")
    assert borrowed[["owner", "slot", "path", "borrowed_from"]].values.tolist() == [
        ["00000003", 0, "n00000001/a.png", "00000001"],
        ["00000003", 1, "n00000001/b.png", "00000001"],
        ["00000004", 0, "n00000002/a.png", "00000002"],
    ]
    report = catalog[f"{TASK}.coverage_report"].load()
    assert report["owners"]["borrowing"] == 2
    assert report["images"]["listed"] == 4
    assert report["stored"] == {"full": 3}


def test_the_same_input_gives_the_same_bytes(project: Path):
    SequentialRunner().run(create_pipeline(TASK), catalog_at(project))
    first = files_below(project)
    SequentialRunner().run(create_pipeline(TASK), catalog_at(project, workers=1))
    assert files_below(project) == first


def test_a_data_set_without_images_runs_through(project: Path):
    catalog = catalog_at(project)
    catalog[f"{TASK}.raw_images"] = ImageFolderDataset(filepath=None).load()
    SequentialRunner().run(create_pipeline(TASK), catalog)
    assert not VisualStore(catalog[f"{TASK}.visual_store"].load()).has_images.any()
    assert catalog[f"{TASK}.images"].load().empty
    assert catalog[f"{TASK}.coverage_report"].load()["owners"]["without_images"] == 4


def test_loading_the_pipeline_imports_nothing_heavy():
    code = (
        "import sys; import mkgformer_kedro.pipelines.image_association as stage;"
        "stage.create_pipeline();"
        "print({'torch', 'transformers', 'matplotlib', 'PIL', 'pandera'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.benchmark_files
@pytest.mark.parametrize(
    ("environment", "graph", "folder_name", "entities", "with_images", "files"),
    [
        ("wn18_img", "WN18", "wn18-images", 40_943, 428, 1_368),
        ("fb15k_237_img", "FB15k-237", "FB15k-images", 14_541, 10, 30),
    ],
)
def test_real_images(
    benchmarks: Path, tmp_path: Path, environment, graph, folder_name, entities, with_images, files
):
    root = benchmarks / "MKG" / "dataset"
    ids = (root / graph / "entities.txt").read_text().split()
    table = pd.DataFrame({"entity": ids})
    parameters = ImageAssociationParameters(**stage_parameters(environment))
    listing = ImageFolderDataset(filepath=str(root / folder_name)).load()
    given = (listing, table, RELATIONS, TRIPLES, tmp_path, parameters, LAUNCH)
    images, folder = store_images(*given)
    report = report_coverage(listing, table, TRIPLES, images, folder, parameters)
    assert report["owners"]["all"] == entities
    assert report["owners"]["with_images"] == with_images
    assert report["images"]["listed"] == files
    assert report["unknown_folders"]["count"] == 0
    assert report["quarantined"] == []
    store = VisualStore(folder)
    inputs = store.read(np.flatnonzero(store.has_images)[:2])
    assert inputs["pixel_values"].shape == (2, 1, 3, 224, 224)
    assert inputs["grounding_pixel_values"].shape == (2, 3, 3, 128, 128)
    assert inputs["detection_pixel_values"].shape == (2, 3, 3, 64, 64)
    assert inputs["image_mask"][:, 0].all()


def associate(folder: Path, entities: pd.DataFrame, **changes: object):
    images = ImageFolderDataset(filepath=str(folder)).load()
    parameters = ImageAssociationParameters(**stage_parameters(**changes))
    work = folder.parent / "work"
    return store_images(images, entities, RELATIONS, TRIPLES, work, parameters, LAUNCH)


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("a.png", "its 1 files lie beside the folders of entities, none in one"),
        ("all/n00000001/a.png", "the folders in it hold folders, not images: the images lie one"),
        (
            "00000001/a.png",
            "none of the 1 folders in it stands for an entity (a folder: '00000001'; an entity: "
            "'00000001')",
        ),
        ("n00000001/.hidden", "no image lies in it"),
    ],
)
def test_images_of_which_none_is_an_entitys(tmp_path: Path, path: str, what: str):
    file = tmp_path / "images" / path
    file.parent.mkdir(parents=True)
    Image.new("RGB", (40, 30), "red").save(file, "PNG")
    with pytest.raises(DataError) as raised:
        associate(tmp_path / "images", ENTITIES)
    (problem,) = raised.value.problems
    assert problem.where == str(tmp_path / "images")
    assert problem.what.startswith(what)


def test_an_image_that_the_graph_links_comes_before_larger_ones(project: Path):
    Image.new("RGB", (20, 20), "yellow").save(project / "images" / "small.png")
    entities = ENTITIES.assign(image_links=[["small.png"], [], [], []])
    slots = {"full": {"size": 16, "count": 1}}
    for order in ("resolution", "name"):
        images, _ = associate(project / "images", entities, slots=slots, order=order)
        taken = images[images["status"] == "ok"].set_index("owner")["path"]
        assert taken["00000001"] == "small.png"
        assert taken["00000002"] == "n00000002/a.png"


def test_images_that_the_graph_links(project: Path):
    """A link is a path below the image folder, or the name of a file in it."""
    Image.new("RGB", (50, 50), "yellow").save(project / "images" / "bill.png")
    links = [["n00000009/a.png"], ["some/where/bill.png", "nowhere.png"], [], []]
    entities = ENTITIES.assign(image_links=links)
    images, store = associate(project / "images", entities)
    found = images[images["status"] == "ok"].groupby("owner")["path"].agg(sorted).to_dict()
    assert found == {
        # Its own images have as many pixels; the linked one comes first by order of listing.
        "00000001": ["n00000001/a.png", "n00000009/a.png"],
        "00000002": ["bill.png", "n00000002/a.png"],
    }
    listing = ImageFolderDataset(filepath=str(project / "images")).load()
    parameters = ImageAssociationParameters(**stage_parameters())
    report = report_coverage(listing, entities, TRIPLES, images, store, parameters)
    assert report["image_links"] == {"count": 3, "without_file": ["nowhere.png"]}
    # That folder stands for no entity, but its file is linked.
    assert report["unknown_folders"] == {"count": 0, "names": []}
