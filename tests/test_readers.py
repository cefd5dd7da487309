"""Whatever is read from disk is whole, or refused with the one error of bad input.

``READERS`` lists every reader of what a stage makes, and of graphs in RDF: how something intact is
made, and how it is read. Each of its files is damaged in each way by ``test_bad_input.py``, whose
page shows the messages. A new reader is covered by a line here. ``OTHERS`` are whole, but of
another version or of somebody else; they are refused there, too. Checkpoints are not refused but
passed over: those of fine-tuning are cases there too, those of structural experts in
``training/test_structure_modeling.py``, what a search reads of them in
``pipelines/search/test_search.py``.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from kedro.io import DatasetError

from mkgformer_kedro.configuration import read_yaml
from mkgformer_kedro.datasets.folder import FolderDataset
from mkgformer_kedro.datasets.rdf_graph import RdfParameters, read_rdf
from mkgformer_kedro.datasets.tables import JSONDataset, ParquetDataset
from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.evaluation.calibration import Calibrator
from mkgformer_kedro.files import read_block, write_block
from mkgformer_kedro.inference import Predictor
from mkgformer_kedro.inference.experts import load_expert
from mkgformer_kedro.inference.mixture import Calibration, Mixture, Weights
from mkgformer_kedro.training.model_folder import load_model, load_task, read_table
from mkgformer_kedro.training.structural_model import (
    StructuralModel,
    StructureFolder,
    graph_digest,
    write_structure_folder,
)

ENTITIES = pd.DataFrame({"entity": list("abcdefg")})
RELATIONS = pd.DataFrame({"relation": ["likes", "knows"]})
ROOT = Path(__file__).parents[1]
RDF = RdfParameters(**read_yaml(ROOT / "conf/base/globals.yml")["link_prediction"]["rdf"])
NOISE = np.random.default_rng(0).bytes(300)


class Reader(NamedTuple):
    """A reader of what a stage makes.

    Attributes:
        make: Makes something intact in a folder, given the fixtures of the tests.
        read: Reads that folder.
        told: Words of every message about it.
        unread: Files in it that this reader does not look at, or can do without.
        accepted: Damages that are none: plain values may be a list, and a folder without lineage
            is one that no stage made.
    """

    make: Callable[[Path, Any], object]
    read: Callable[[Path], object]
    told: str
    unread: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()


def copy_of(fixture):
    return lambda folder, fixtures: shutil.copytree(fixtures(fixture), folder, dirs_exist_ok=True)


def expert_of(folder, entities=ENTITIES):
    return load_expert(folder, SimpleNamespace(entities=entities, relations=RELATIONS), [])


def mixed(folder):
    """The one expert of a mixture, whose folder lies beside the mixture's."""
    beside = folder.parent / "expert"
    if not beside.exists():
        beside.mkdir()
        write_expert(beside, None)
    return expert_of(beside)


def load_mixed(folder, relations):
    return Mixture.load(folder, [mixed(folder)], entities=7, relations=relations)


def write_mixture(folder, _):
    one, by_relation = np.ones(1), np.ones((2, 2))
    tables = one, np.ones((2, 1)), np.ones((2, 2, 1))
    weights = Weights(one > 0, one, one, *tables, by_relation > 0, np.zeros(1))
    calibrator = Calibrator(1.0, np.zeros(2), np.zeros((2, 2)))
    calibration = Calibration(1.0, calibrator, by_relation, by_relation > 0, 0.9)
    Mixture([mixed(folder)], weights, calibration, {}, 7).save(folder)


def write_rdf(folder, _):
    (folder / "graph.ttl").write_text("@prefix : <http://e/> .\n:a :likes :b, :c ; :knows :b .\n")


def write_expert(folder, fixtures):
    description = {
        "kind": "structure", "model": "complex", "dimension": 3, "num_entities": 7,
        "num_relations": 2, "graph": graph_digest(ENTITIES, RELATIONS), "seed": 4,
    }  # fmt: skip
    seen = torch.ones(7, dtype=torch.bool), torch.ones(2, dtype=torch.bool)
    model = StructuralModel("complex", 7, 2, 3, seed=4)
    write_structure_folder(folder, StructureFolder(model, *seen, description))


def save_folder(folder, fixtures):
    (folder.parent / "made").mkdir()
    (folder.parent / "made/weights").write_bytes(b"1234")
    FolderDataset(filepath=str(folder)).save(folder.parent / "made")


def table(folder):
    return ParquetDataset(filepath=str(folder / "table.parquet"))


def values(folder):
    return JSONDataset(filepath=str(folder / "values.json"))


OF_MODELS = (
    "generation_config.json", "processor_config.json", "tokenizer_config.json",
    "preprocessor_config.json",
)  # fmt: skip
READERS = {
    "table": Reader(
        lambda folder, _: table(folder).save(ENTITIES),
        lambda folder: table(folder).load(),
        "table.parquet",
    ),
    "values": Reader(
        lambda folder, _: values(folder).save({"a": 1}),
        lambda folder: values(folder).load(),
        "values.json",
        accepted=("a list", "a number"),
    ),
    "visual store": Reader(
        copy_of("store_folder"),
        lambda folder: VisualStore(folder).read([0]),
        "run the stage image_association again",
        ("lineage.json",),
    ),
    "model folder": Reader(copy_of("entity_model"), load_model, "model folder", OF_MODELS),
    "task": Reader(
        copy_of("entity_model"),
        load_task,
        "model folder",
        (*OF_MODELS, "config.json", "model.safetensors", "tokenizer.json"),
    ),
    "predictor": Reader(copy_of("entity_model"), Predictor.from_folder, "model folder", OF_MODELS),
    "structural expert": Reader(
        write_expert,
        expert_of,
        "again",
        ("curve.csv",),
    ),
    "mixture": Reader(
        write_mixture,
        lambda folder: load_mixed(folder, 2),
        "no complete mixture",
    ),
    "RDF": Reader(write_rdf, lambda folder: read_rdf(folder, ["graph.ttl"], RDF), "graph.ttl"),
    "work of a stage": Reader(
        lambda folder, _: write_block(folder / "part", b"1234", "part"),
        lambda folder: read_block(folder / "part", "part"),
        "the block",
    ),
    "table of a stage's own": Reader(
        lambda folder, _: ENTITIES.to_parquet(folder / "table.parquet"),
        lambda folder: read_table(folder / "table.parquet"),
        "the table is damaged",
    ),
    "lineage": Reader(
        save_folder,
        lambda folder: FolderDataset(filepath=str(folder)).lineage(hashed_up_to=np.inf),
        "lineage.json: the file is damaged",
        ("weights",),
        ("missing", "a folder"),
    ),
}
DAMAGES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": lambda file: file.write_bytes(b""),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "noise": lambda file: file.write_bytes(NOISE),
    "a list": lambda file: file.write_bytes(b"[]"),
    "a number": lambda file: file.write_bytes(b"5"),
    "a folder": lambda file: (file.unlink(), file.mkdir()),
}


def refusal(reader, folder):
    """The project's error of what is wrong, which Kedro may have wrapped; None: nothing is."""
    try:
        reader.read(folder)
    except (DataError, DatasetError) as error:
        found = error
        while not isinstance(found, DataError):
            found = found.__cause__
        assert len(str(found).splitlines()) == 1
        return found
    return None


@pytest.mark.parametrize("name", READERS)
def test_what_is_intact_is_read(name, tmp_path, request):
    folder = tmp_path / "folder"
    folder.mkdir()
    READERS[name].make(folder, request.getfixturevalue)
    READERS[name].read(folder)


@pytest.mark.parametrize("name", READERS)
def test_a_folder_that_is_not_there_is_one_clear_error(name, tmp_path):
    if name == "lineage":
        assert READERS[name].read(tmp_path / "nowhere") is None
        return
    assert refusal(READERS[name], tmp_path / "nowhere")


def saying(name, **values):
    """Change what a JSON file of the folder says."""

    def change(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def of_fewer_entities(folder):
    path = folder / "entities.parquet"
    pd.read_parquet(path).iloc[1:].to_parquet(path)


def nothing(folder):
    """Change nothing."""


def mixed_by(change):
    def read(folder):
        saying("expert.json", **change)(mixed(folder).folder)
        return load_mixed(folder, 2)

    return read


OTHERS: dict[str, tuple[str, Callable[[Path], object], Callable[[Path], object] | None, str]] = {
    "a store of another version": (
        "visual store", saying("store.json", version=9), None, "not of version 1",
    ),
    "an expert of another kind": (
        "structural expert", saying("expert.json", kind="oracle"), None, "of a known kind",
    ),
    "an expert of another graph": (
        "structural expert", nothing, lambda folder: expert_of(folder, ENTITIES[::-1]),
        "learned another graph",
    ),
    "a model with the entities of another": (
        "predictor", of_fewer_entities, None, "are of another model",
    ),
    "work of another place": (
        "work of a stage", nothing, lambda folder: read_block(folder / "part", "other"),
        "damaged, or of other work",
    ),
    "a mixture of another expert": (
        "mixture", nothing, mixed_by({"seed": 4, "dev": {}}), "was fitted to another expert",
    ),
    "a mixture of an expert of another seed": (
        "mixture", nothing, mixed_by({"seed": 5}), "of seed 4, which is not there",
    ),
    "a mixture of a graph with more relations": (
        "mixture", nothing, lambda folder: load_mixed(folder, 3),
        "a graph of 2 relations, not 3",
    ),
}  # fmt: skip
"""What is whole but not what is asked for: reader, what changes, how it is read, what is said."""
