"""The stages ``mixture`` and ``completion`` on a small graph, with experts that look scores up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import rdflib
import torch
import yaml
from kedro.framework.startup import bootstrap_project
from kedro.io import DataCatalog
from kedro.runner import SequentialRunner
from safetensors.numpy import save_file

from mkgformer_kedro.datasets.tables import JSONDataset
from mkgformer_kedro.inference import experts as expert_module
from mkgformer_kedro.inference.mixture import Mixture
from mkgformer_kedro.inference.parameters import (
    AskingParameters,
    CompletionParameters,
    MixtureParameters,
)
from mkgformer_kedro.pipelines import completion, mixture
from mkgformer_kedro.training.parameters import ImagesParameters
from tiny_world import LAUNCH

PEOPLE, TOWNS, RELATIONS = 200, 10, 2
ENTITIES = PEOPLE + TOWNS


class Expert:
    """Knows where people live, up to noise."""

    learned = None

    def __init__(self, name, table, noise):
        rng = np.random.default_rng(len(name))
        self.name, self.seed, self.folder = name, 0, None
        self.table = table + noise * rng.standard_normal(table.shape)

    def answers(self, queries):
        return np.ones(len(queries), dtype=bool)

    def scores(self, queries, *, batch_size):
        direction = (queries["direction"] == "head").to_numpy().astype(int)
        for start in range(0, len(queries), batch_size):
            rows = np.arange(start, min(start + batch_size, len(queries)))
            block = queries.iloc[rows]
            where = direction[rows], block["entity"], block["relation"]
            yield rows, torch.from_numpy(self.table[where]).float()


@pytest.fixture
def graph():
    """Everybody lives in three towns and works in these too; a fifth of it is held out.

    All that is known of person 0 is in test.
    """
    rng = np.random.default_rng(0)
    truth = {
        (person, relation, PEOPLE + (person + 3 * step) % TOWNS)
        for person in range(PEOPLE)
        for relation in range(RELATIONS)
        for step in range(3)
    }
    rows = sorted(truth)
    triples = pd.DataFrame(rows, columns=["head", "relation", "tail"]).astype(np.int32)
    triples["split"] = rng.choice(["train", "dev", "test"], p=[0.6, 0.2, 0.2], size=len(rows))
    triples.loc[triples["head"] == 0, "split"] = "test"
    triples["leak"] = False
    queries = []
    for direction, known, asked in (("tail", "head", "tail"), ("head", "tail", "head")):
        every = triples.groupby([known, "relation"])[asked].agg(np.array)
        for (split, entity, relation), own in triples.groupby(["split", known, "relation"])[asked]:
            queries.append(
                (split, direction, entity, relation, own.to_numpy(), every[entity, relation])
            )
    columns = ["split", "direction", "entity", "relation", "answers", "known"]
    table = np.zeros((2, ENTITIES, RELATIONS, ENTITIES))
    for head, relation, tail in rows:
        table[0, head, relation, tail] = table[1, tail, relation, head] = 5
    entities = pd.DataFrame({"entity": [f"e{i}" for i in range(ENTITIES)]})
    return SimpleNamespace(
        triples=triples,
        queries=pd.DataFrame(queries, columns=columns),
        entities=entities.assign(name=entities["entity"], text="a text", text_source="name"),
        relations=pd.DataFrame({"relation": ["lives", "works"], "text": ["lives in", "works in"]}),
        table=table,
    )


@pytest.fixture
def catalog(graph, tmp_path, monkeypatch):
    experts = [Expert("text", graph.table, 1.0), Expert("structure", graph.table, 2.0)]

    def load_experts(trained, structure_models, mixture=None):
        size = {"entities": len(graph.entities), "relations": RELATIONS}
        return experts if mixture is None else [*experts, Mixture.load(mixture, experts, **size)]

    monkeypatch.setattr(expert_module, "load_experts", load_experts)
    store = SimpleNamespace(images=lambda entity: [], has_images=np.zeros(0, bool))
    for module in ("datasets.visual_store", "inference.experts"):
        name = f"mkgformer_kedro.{module}.VisualStore"
        monkeypatch.setattr(name, lambda folder, **_: store)
    root = project()
    base = yaml.safe_load((root / "conf/base/parameters_link_prediction.yml").read_text())
    given = base["link_prediction"]
    given["mixture"]["answer_sets"]["least_answers"] = 20
    given["completion"]["block"] = 16
    folders = {name: tmp_path / name for name in ("mixture_work", "completion_work")}
    for folder in folders.values():
        folder.mkdir()
    embeddings = np.random.default_rng(0).standard_normal((ENTITIES, 8)).astype(np.float32)
    embeddings[:PEOPLE, 0] += 9
    models = tmp_path / "models"
    (models / "seed_0").mkdir(parents=True)
    name = "mkgformer.graph_embeddings.entities.weight"
    save_file({name: embeddings}, models / "seed_0/model.safetensors")
    data = {
        **{name: getattr(graph, name) for name in ("triples", "queries", "entities", "relations")},
        **folders,
        **dict.fromkeys(("models", "structure_models", "visual_store"), models),
        "ingestion_report": {"data_set": "towns"},
    }
    found = DataCatalog()
    for name, value in data.items():
        found[f"link_prediction.{name}"] = value
    # What another node takes is released from memory.
    report = JSONDataset(filepath=str(tmp_path / "report.json"))
    found["link_prediction.completion_report"] = report
    images = ImagesParameters(source="own", seed=0)
    found["params:model"] = SimpleNamespace(attention="sdpa", images=images)
    found["params:asking"] = AskingParameters(precision="fp32")
    found["params:launch"] = LAUNCH
    found["params:seed"] = 0
    found["params:link_prediction.mixture"] = MixtureParameters(**given["mixture"])
    found["params:link_prediction.completion"] = CompletionParameters(**given["completion"])
    return found


def project():
    root = Path(__file__).parents[3]
    bootstrap_project(root)
    return root


def test_experts_become_completions(catalog, graph):
    stages = mixture.create_pipeline("link_prediction") + completion.create_pipeline()
    outputs = SequentialRunner().run(stages, catalog)
    found = {
        name.removeprefix("link_prediction."): dataset.load() for name, dataset in outputs.items()
    }
    calibration = found["calibration_report"]
    assert calibration["test"]["proposals"]["expected_calibration_error"] < 0.05
    assert set(calibration["weights"]["whole"]) == {"text", "structure"}
    assert len(calibration["weights"]["relation"]) == 2 * RELATIONS

    report = catalog.load("link_prediction.completion_report")
    table = found["completions_tsv"]
    assert report["questions"]["test_triples_covered"]["either"] > 0.9
    unseen = report["questions"]["unseen"]
    # Chance takes another person from train.
    assert (unseen["entities"], unseen["test_triples"]) == (2, 10)
    assert unseen["test_triples_covered"] == {"tail": 1.0, "head": 1.0, "either": 1.0}
    # What is hidden is found again, and hardly anything else is thought probable.
    assert report["kept"]["recall"] > 0.8
    (half,) = (row for row in report["by_threshold"] if row["probability"] == 0.5)
    assert half["recall"] > 0.6
    assert half["precision"] > 0.8
    # Nothing known is proposed: neither train nor dev nor test.
    known = set(graph.triples[["head", "relation", "tail"]].itertuples(index=False))
    names = {f"e{i}": i for i in range(ENTITIES)} | {"lives": 0, "works": 1}
    proposed = {
        (names[row.head], names[row.relation], names[row.tail]) for row in table.itertuples()
    }
    assert not proposed & {tuple(row) for row in known}
    assert all(h < PEOPLE <= t for h, _, t in proposed)

    statements = rdflib.Graph().parse(data=found["completions_rdf"], format="turtle")
    assert len(set(statements.subjects(rdflib.RDF.type, rdflib.RDF.Statement))) == len(table)
    assert "Completions of towns" in found["completion_page"]


def test_the_run_makes_all_that_the_catalog_names():
    root = project()
    entries = yaml.safe_load((root / "conf/base/catalog.yml").read_text())
    free = completion.create_pipeline().inputs() | completion.create_pipeline().all_outputs()
    for name in free:
        if not name.startswith("params:"):
            task = name.replace("link_prediction.", "{task}.")
            assert name in entries or task in entries, name
