import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mkgformer_kedro.errors import DataError
from mkgformer_kedro.pipelines.ingestion.link_prediction import group_queries
from mkgformer_kedro.training.parameters import StructureModelingParameters, TrainSubset
from mkgformer_kedro.training.queries import part_of_graph
from mkgformer_kedro.training.structural_model import StructuralModel, read_structure_folder
from mkgformer_kedro.training.structure_modeling import (
    _batches,
    batch_loss,
    fit_structure,
    model_structure,
)

MRR = "both.realistic.inverse_harmonic_mean_rank"
NAMES = ["complex", "distmult", "rescal", "tucker", "transe", "rotate"]

# A child process that dies of SIGKILL in the middle of its second epoch.
_KILLED = """
import os, signal, sys
from pathlib import Path
import pandas as pd
from mkgformer_kedro.training import structure_modeling
from mkgformer_kedro.training.parameters import StructureModelingParameters

folder, name = Path(sys.argv[1]), sys.argv[2]
queries, entities, relations = (
    pd.read_parquet(folder / f"{table}.parquet") for table in ("queries", "entities", "relations")
)
parameters = StructureModelingParameters.model_validate_json((folder / "parameters").read_text())
saves = []
save = structure_modeling._Fit._save

def save_and_die(self, path, job):
    save(self, path, job)
    saves.append(path)
    if len(saves) == 8:
        os.kill(os.getpid(), signal.SIGKILL)

structure_modeling._Fit._save = save_and_die
structure_modeling.fit_structure(
    name, queries, entities, relations, folder / "work", parameters.of_model(name), 7
)
"""


@pytest.fixture
def values():
    return {
        "models": ["complex"],
        "seeds": None,
        "dimension": 8,
        "epochs": 4,
        "batch_size": 16,
        "optimizer": "adagrad",
        "learning_rate": 0.3,
        "regularization": 0.0,
        "label_smoothing": 0.0,
        "precision": "fp32",
        "epochs_per_evaluation": 1,
        "patience": None,
        "dev_queries": None,
        "dev_batch_size": 8,
        "checkpoint_seconds": 0,
        "by_model": {},
    }


@pytest.fixture(scope="module")
def graph():
    """A ring of 20 entities: everyone precedes the next, and skips to the next but two."""
    triples = pd.DataFrame(
        [(i, 0, (i + 1) % 20) for i in range(20)]
        + [(i, 1, (i + 3) % 20) for i in range(20)]
        + [(i, 2, (i + k) % 20) for i in range(20) for k in (1, 3)],
        columns=["head", "relation", "tail"],
        dtype=np.int32,
    )
    triples["split"] = "train"
    triples.loc[[20, 25, 30], "split"] = "dev"
    triples.loc[[35, 38], "split"] = "test"
    entities = pd.DataFrame({"entity": [f"e{i}" for i in range(21)]})  # nobody knows e20
    relations = pd.DataFrame({"relation": ["next", "skip", "either"]})
    return group_queries(triples), entities, relations


def fit(name, graph, folder, values, seed=7):
    parameters = StructureModelingParameters.model_validate(values)
    return fit_structure(name, *graph, folder, parameters.of_model(name), seed)


@pytest.mark.parametrize("regularization", [0.0, 0.1])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", NAMES)
def test_distinct_questions_have_loss_and_gradient_of_a_row_per_triple(
    name, smoothing, regularization
):
    entity, asked_by = torch.tensor([1, 2, 5, 1]), torch.tensor([0, 4, 5, 2])
    rows, answers = torch.tensor([0, 0, 1, 2, 2, 2, 3]), torch.tensor([3, 4, 5, 1, 6, 7, 8])
    results = []
    for distinct in (True, False):
        model = StructuralModel(name, 9, 3, 4, seed=3).double().eval()
        if distinct:
            loss = batch_loss(
                model,
                entity,
                asked_by,
                rows,
                answers,
                regularization=regularization,
                label_smoothing=smoothing,
            )
        else:
            known, relation = model.entities(entity[rows]), model.relations(asked_by[rows])
            scores = model.score_all(model.join(known, relation))
            loss = torch.nn.functional.cross_entropy(scores, answers, label_smoothing=smoothing)
            for factor in (known, relation, model.entities(answers)):
                loss = loss + regularization * factor.abs().pow(3).sum() / len(rows)
        loss.backward()
        results.append([loss, *(parameter.grad for parameter in model.parameters())])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("name", NAMES)
def test_every_model_learns(tmp_path, graph, values, name):
    values |= {"epochs": 60, "dimension": 16, "epochs_per_evaluation": 20}
    values |= {"checkpoint_seconds": 60, "optimizer": "adam", "learning_rate": 0.03}
    folder, curve = fit(name, graph, tmp_path, values)
    assert folder == tmp_path / "models" / name / "seed_7"
    assert curve["loss"].iloc[-1] < 0.8 * curve["loss"].iloc[0]
    evaluated = curve.dropna()
    assert evaluated["epoch"].tolist() == [20, 40, 60]
    description = json.loads((folder / "expert.json").read_text())
    assert description["dev"][MRR] == evaluated[f"dev_{MRR}"].max()
    assert (curve["model"] == name).all()
    assert (curve["seed"] == 7).all()


def test_no_batch_is_too_small_for_a_norm(tmp_path, graph, values):
    count = int((graph[0]["split"] == "train").sum())
    fit("tucker", graph, tmp_path, values | {"batch_size": count - 1})
    assert _batches(9, 4) == [slice(0, 4), slice(4, 9)]
    assert _batches(10, 4)[-1] == slice(8, 10)
    assert _batches(3, 1)[-1] == slice(2, 3)
    assert _batches(1, 4) == [slice(0, 1)]


def test_the_folder_holds_the_weights_of_the_best_epoch(tmp_path, graph, values):
    values |= {"epochs": 6}
    folder, curve = fit("complex", graph, tmp_path / "long", values)
    best = json.loads((folder / "expert.json").read_text())["epoch"]
    assert curve[f"dev_{MRR}"].idxmax() == best - 1
    values |= {"epochs": best}
    short, _ = fit("complex", graph, tmp_path / "short", values)
    assert_same_weights(folder, short)


def test_entities_and_relations_without_triples_in_train_are_noted(tmp_path, graph, values):
    folder, _ = fit("complex", graph, tmp_path, values)
    contents = read_structure_folder(folder, *graph[1:])
    assert contents.seen_entities.tolist() == [True] * 20 + [False]
    assert contents.seen_relations.all()


@pytest.mark.parametrize("name", ["complex", "tucker", "rotate"])
def test_killed_and_resumed_ends_with_the_weights_of_an_uninterrupted_fit(
    tmp_path, graph, values, name
):
    values |= {"optimizer": "adam" if name == "tucker" else "adagrad"}
    for table, frame in zip(("queries", "entities", "relations"), graph, strict=True):
        frame.to_parquet(tmp_path / f"{table}.parquet")
    parameters = StructureModelingParameters.model_validate(values)
    (tmp_path / "parameters").write_text(parameters.model_dump_json())
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(tmp_path), name],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list((tmp_path / "work/checkpoints").iterdir())) == 1
    resumed, resumed_curve = fit(name, graph, tmp_path / "work", values)
    whole, curve = fit(name, graph, tmp_path / "whole", values)
    assert_same_weights(resumed, whole)
    assert (resumed / "expert.json").read_bytes() == (whole / "expert.json").read_bytes()
    pd.testing.assert_frame_equal(resumed_curve, curve)
    assert list((tmp_path / "work/checkpoints").iterdir()) == []


def test_more_epochs_go_on_where_an_interrupted_fit_stood(tmp_path, graph, values, monkeypatch):
    whole, _ = fit("complex", graph, tmp_path / "whole", values)
    monkeypatch.setattr("mkgformer_kedro.training.structure_modeling.write_structure_folder", stop)
    with pytest.raises(InterruptedError):
        fit("complex", graph, tmp_path / "work", values | {"epochs": 3})
    monkeypatch.undo()
    steps = []
    monkeypatch.setattr(
        "mkgformer_kedro.training.structure_modeling.batch_loss",
        lambda *args, **settings: steps.append(1) or batch_loss(*args, **settings),
    )
    again, _ = fit("complex", graph, tmp_path / "work", values)
    assert_same_weights(again, whole)
    queries = (graph[0]["split"] == "train").sum()
    assert len(steps) == -(-queries // values["batch_size"])


@pytest.mark.parametrize("spoil", ["cut", "a weight", "what it says", "other job"])
def test_a_checkpoint_of_no_use_is_not_used(tmp_path, graph, values, monkeypatch, spoil):
    whole, _ = fit("complex", graph, tmp_path / "whole", values)
    monkeypatch.setattr("mkgformer_kedro.training.structure_modeling.write_structure_folder", stop)
    with pytest.raises(InterruptedError):
        fit(
            "complex",
            graph,
            tmp_path / "work",
            values | {"batch_size": 16 + (spoil == "other job")},
        )
    (checkpoint,) = (tmp_path / "work/checkpoints").iterdir()
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(
        {
            "cut": content[:-9],
            "a weight": content[:-2000] + bytes([content[-2000] ^ 1]) + content[-1999:],
            "what it says": content.replace(rb"\"epoch\": 4", rb"\"epoch\": 3", 1),
            "other job": content,
        }[spoil]
    )
    assert (checkpoint.read_bytes() != content) == (spoil != "other job")
    monkeypatch.undo()
    again, _ = fit("complex", graph, tmp_path / "work", values)
    assert_same_weights(again, whole)


def test_what_is_finished_is_not_learned_again(tmp_path, graph, values, monkeypatch):
    folder, curve = fit("complex", graph, tmp_path, values)
    monkeypatch.setattr("mkgformer_kedro.training.structure_modeling.batch_loss", stop)
    again, same = fit("complex", graph, tmp_path, values)
    assert again == folder
    pd.testing.assert_frame_equal(same, curve)
    with pytest.raises(InterruptedError):
        fit("complex", graph, tmp_path, values | {"learning_rate": 0.2})


def test_stops_early_and_at_the_same_place_after_an_interruption(tmp_path, graph, values):
    values |= {"epochs": 300, "patience": 2, "checkpoint_seconds": 60}
    _, curve = fit("complex", graph, tmp_path, values)
    best = curve[f"dev_{MRR}"].idxmax()
    assert len(curve) == best + 3 < 300


def test_without_dev_queries_the_last_weights_are_kept(tmp_path, graph, values, caplog):
    queries, *tables = graph
    graph = (queries[queries["split"] != "dev"], *tables)
    folder, curve = fit("complex", graph, tmp_path, values)
    assert "no dev queries" in caplog.text
    assert json.loads((folder / "expert.json").read_text())["epoch"] == 4
    assert f"dev_{MRR}" not in curve


def test_test_queries_are_not_looked_at(tmp_path, graph, values):
    queries, *tables = graph
    folder, _ = fit("complex", graph, tmp_path / "with", values)
    without, _ = fit(
        "complex", (queries[queries["split"] != "test"], *tables), tmp_path / "without", values
    )
    assert_same_weights(folder, without)


def test_nothing_to_learn_is_an_error(tmp_path, graph, values):
    queries, *tables = graph
    with pytest.raises(DataError, match="train has no queries"):
        fit("complex", (queries[queries["split"] == "dev"], *tables), tmp_path, values)


def test_a_loss_that_is_not_finite_is_an_error(tmp_path, graph, values):
    with pytest.raises(DataError, match="Lower the learning rate"):
        fit("complex", graph, tmp_path, values | {"learning_rate": 1e30})


def test_stage_makes_a_folder_per_model_and_seed_and_drops_others(tmp_path, graph, values):
    queries, entities, relations = graph
    values |= {"models": ["complex", "transe"], "seeds": [1, 2], "epochs": 1}
    values["by_model"] = {"transe": {"dimension": 4}}
    for models, seeds in ((["complex", "transe"], [1, 2]), (["transe"], None)):
        values |= {"models": models, "seeds": seeds}
        parameters = StructureModelingParameters.model_validate(values)
        folder, curve = model_structure(queries, entities, relations, tmp_path, parameters, 2)
        made = sorted(path.parent.relative_to(folder) for path in folder.rglob("expert.json"))
        wanted = [f"{model}/seed_{seed}" for model in models for seed in seeds or [2]]
        assert [path.as_posix() for path in made] == wanted
        assert curve[["model", "seed"]].drop_duplicates().shape[0] == len(wanted)
    weights = load_file(folder / "transe/seed_2/model.safetensors")
    assert [v.shape[1] for k, v in weights.items() if "entity_repr" in k] == [4]


def test_each_seed_learns_from_its_own_part_of_train(tmp_path, graph, values):
    queries, entities, relations = graph
    subset = TrainSubset(share=0.5)
    parameters = StructureModelingParameters.model_validate(values | {"seeds": [1, 2], "epochs": 1})
    folder, _ = model_structure(*graph, tmp_path / "all", parameters, 0, subset)
    for seed in (1, 2):
        part = part_of_graph({"queries": queries}, subset, seed)["queries"]
        assert len(part) < len(queries)
        alone, _ = fit_structure(
            "complex",
            part,
            entities,
            relations,
            tmp_path / "alone",
            parameters.of_model("complex"),
            seed,
        )
        names = sorted(path.name for path in alone.iterdir())
        for name in names:
            own = folder / f"complex/seed_{seed}" / name
            assert own.read_bytes() == (alone / name).read_bytes(), name


def test_no_models_make_an_empty_folder(tmp_path, graph, values):
    parameters = StructureModelingParameters.model_validate(values | {"models": []})
    folder, curve = model_structure(*graph, tmp_path, parameters, 0)
    assert list(folder.iterdir()) == []
    assert curve.columns.tolist()[:3] == ["model", "seed", "epoch"]
    assert curve.empty


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": ["complx"]}, "complex"),
        ({"models": ["complex", "complex"]}, "twice"),
        ({"seeds": []}, "at least one seed"),
        ({"seeds": [3, 3]}, "none twice"),
        ({"by_model": {"complex": {"dimensio": 3}}}, "did you mean 'dimension'"),
        ({"by_model": {"rotate": {"dimension": 0}}}, "dimension"),
        ({"models": ["transe"], "regularization": 0.1}, "by_model.transe.regularization"),
        ({"epochs": 5, "epochs_per_evaluation": 2}, "would not be judged"),
        ({"models": ["rotate"], "precision": "bf16"}, "by_model.rotate.precision"),
        ({"models": ["tucker"], "batch_size": 1}, "a batch_size of at least 2"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, changes, message):
    with pytest.raises(DataError, match=message):
        StructureModelingParameters.model_validate(values | changes)


def assert_same_weights(one, other):
    torch.testing.assert_close(
        load_file(one / "model.safetensors"),
        load_file(other / "model.safetensors"),
        rtol=0,
        atol=0,
    )


def stop(*_, **__):
    raise InterruptedError
