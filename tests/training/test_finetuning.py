"""Fine-tuning learns, is exact when resumed, and gives the same on two processes."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.inference.experts import LoadedModel, ModelExpert
from mkgformer_kedro.inference.predictions import predict_queries
from mkgformer_kedro.launch import LOCAL
from mkgformer_kedro.launch.elastic import Elastic
from mkgformer_kedro.modeling import modeling_mkgformer, towers
from mkgformer_kedro.training import optimizer, trainer
from mkgformer_kedro.training.finetuning import FinetuningTrainer, finetune, train_worker
from mkgformer_kedro.training.parameters import ModelParameters
from mkgformer_kedro.training.tasks.link_prediction import LinkPredictionParameters
from mkgformer_kedro.training.tasks.registry import task_named

GRAPH = ("entities", "relations")
MRR = "dev_both.realistic.inverse_harmonic_mean_rank"

# A child process that dies of SIGKILL at a chosen moment of training.
KILLED = """
import json, os, signal, sys, types
from mkgformer_kedro.training import finetuning
job, moment = json.load(open(sys.argv[1])), sys.argv[2]
Trainer = finetuning.FinetuningTrainer
def die_when(due, name):
    original = getattr(Trainer, name)
    def method(self, *args, **kwargs):
        if due(self.state.global_step):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args, **kwargs)
    setattr(Trainer, name, method)
if moment == "step":
    die_when(lambda step: step == 8, "training_step")
elif moment == "checkpoint":
    die_when(lambda step: step > 6, "_save_rng_state")
elif moment == "evaluation":
    die_when(lambda step: step > 6, "evaluate")
elif moment == "rotation":
    def die_half_way(folder, ignore_errors=False):
        if folder.name.startswith("checkpoint-"):
            os.unlink(folder / "model.safetensors")
            os.kill(os.getpid(), signal.SIGKILL)
    from mkgformer_kedro.training import trainer
    trainer.shutil = types.SimpleNamespace(rmtree=die_half_way)
elif moment == "end":
    finetuning.save_model = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
elif moment in ("SIGINT", "SIGTERM"):  # of a terminal, or of what ends a whole job
    from mkgformer_kedro.hooks.interruption import listen
    listen()
    original = Trainer.training_step
    def told_to_stop(self, *args, **kwargs):
        if self.state.global_step == 4:
            os.killpg(0, signal.Signals[moment])
        return original(self, *args, **kwargs)
    Trainer.training_step = told_to_stop
finetuning.train_worker(job)
"""


def job_of(work, tables, entity_model, store_folder, model_parameters, values):
    work.mkdir(parents=True, exist_ok=True)
    tables["queries"].to_parquet(work / "queries.parquet")
    parameters = LinkPredictionParameters(**values).with_preset("corrected")
    return {
        "task": "link_prediction",
        "inputs": {"entity_model": str(entity_model), "queries": str(work / "queries.parquet")},
        "visual_store": str(store_folder),
        "checkpoints": str(work / "checkpoints_0"),
        "model_folder": str(work / "models/seed_0"),
        "model": model_parameters,
        "parameters": parameters.model_dump(),
        "preset": "corrected",
        "seed": 0,
    }


def weights_of(work):
    return load_file(Path(work) / "models/seed_0/model.safetensors")


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def run(tmp_path, tables, entity_model, store_folder, model_parameters, finetuning_values):
    """Fine-tune with changed parameters; gives the work folder and the curve."""

    def start(name="work", preset="corrected", model=entity_model, engine=LOCAL, **changes):
        parameters = LinkPredictionParameters(**(finetuning_values | changes))
        folder, curve = finetune(
            "link_prediction",
            {"entity_model": model, "queries": tables["queries"]},
            store_folder,
            tmp_path / name,
            ModelParameters(**model_parameters),
            parameters,
            preset,
            seed=0,
            engine=engine,
        )
        return folder.parent, curve

    return start


@pytest.mark.parametrize(("loss", "epochs"), [("cross_entropy", 25), ("binary_cross_entropy", 10)])
def test_it_learns(run, loss, epochs):
    _, curve = run(epochs=epochs, loss=loss, label_smoothing=0.0, evaluations_per_epoch=1)
    losses = curve["loss"].dropna()
    assert losses.iloc[-1] < 0.75 * losses.iloc[0]


def test_the_curve_has_losses_dev_scores_and_speed(run):
    _, curve = run()
    assert curve["step"].is_monotonic_increasing
    logged = curve.dropna(subset=["loss"])
    assert (logged["examples_per_second"] > 0).all()
    assert logged["data_wait_share"].between(0, 1).all()
    evaluated = curve.dropna(subset=[MRR])
    assert len(evaluated) == 6
    assert evaluated[MRR].between(0, 1).all()


def test_the_last_step_is_evaluated_wherever_it_falls(run):
    _, curve = run(max_steps=5, evaluations_per_epoch=2)
    assert curve.dropna(subset=[MRR])["step"].tolist()[-1] == 5


def test_little_is_repeated_until_there_are_enough_steps(run):
    _, curve = run(epochs=2, min_steps=50, evaluations_per_epoch=2)
    assert curve.dropna(subset=[MRR])["step"].tolist() == [13, 26, 39, 50]


@pytest.mark.parametrize("freeze", [None, "vision_below_fusion"])
def test_the_best_dev_model_is_kept(run, tables, store_folder, entity_model, freeze):
    rates = {"default": 0.05}
    work, curve = run(epochs=6 if freeze is None else 2, learning_rates=rates, freeze=freeze)
    dev = tables["queries"].query("split == 'dev'").drop(columns="split")
    triples = tables["triples"].query("split == 'dev'").reset_index(drop=True)
    expert = ModelExpert(LoadedModel(work / "models/seed_0"), VisualStore(store_folder), 0)
    ranks = predict_queries([expert], dev, triples, batch_size=64)
    mrr = (1 / ranks[["rank_optimistic", "rank_pessimistic"]].mean(axis=1)).mean()
    assert mrr == pytest.approx(curve[MRR].max(), abs=1e-6)
    before, after = load_file(entity_model / "model.safetensors"), weights_of(work)
    kept = {name for name, weight in before.items() if torch.equal(weight, after[name])}
    vision = {name for name in before if "vision_model" in name}
    fused = {name for name in vision if ".layers.1." in name}
    assert (vision - fused <= kept) == (freeze is not None)
    assert not fused <= kept


def test_a_part_of_the_model_has_its_own_rate(run, entity_model):
    rates = {"default": 0.0, "graph_embeddings": 0.01}
    work, _ = run(epochs=1, learning_rates=rates, entity_encoder=False)
    before = load_file(entity_model / "model.safetensors")
    changed = {name for name, weight in weights_of(work).items() if (weight != before[name]).any()}
    assert changed == {f"mkgformer.graph_embeddings.{part}.weight" for part in GRAPH}


def test_patience_stops(run):
    _, curve = run(epochs=30, learning_rates={"default": 0.0}, patience=2)
    assert curve[MRR].notna().sum() == 3


def test_same_seed_same_weights_and_other_settings_start_anew(run):
    first, _ = run("first")
    again, _ = run("again")
    assert_same_weights(weights_of(first), weights_of(again))
    other, _ = run("first", epochs=1)
    assert not torch.equal(
        weights_of(other)["transform.dense.weight"], weights_of(again)["transform.dense.weight"]
    )


@pytest.mark.usefixtures("in_bf16")
@pytest.mark.parametrize(
    "changes",
    [
        {"item": "triple"},
        {"shuffle": False},
        {"prompt": "authors"},
        {"gradient_checkpointing": True},
        {"gradient_accumulation": 2},
        {"loader_workers": 1},
        {"precision": "bf16"},
        {"dev_queries": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_setting_trains(run, changes):
    _, curve = run(epochs=1, **changes)
    assert curve["loss"].notna().any()


def test_faithful_preset_repeats_queries(run):
    _, faithful = run("faithful", "faithful", epochs=1, log_every=1)
    assert faithful["step"].max() == pytest.approx(len(faithful["step"].unique()))


@pytest.mark.parametrize("moment", ["step", "checkpoint", "evaluation", "rotation", "end"])
def test_killed_and_run_again_it_ends_with_the_same_weights(
    tmp_path, tables, entity_model, store_folder, model_parameters, finetuning_values, moment
):
    if moment == "step":  # draws of negatives, and of rounding, go on where they were, too
        finetuning_values["sampled_softmax"] = {"negatives": 5, "uniform": 0.5}
        finetuning_values["half_precision_entities"] = True
    if moment == "checkpoint":  # and so do states of frozen layers
        finetuning_values["freeze"] = "vision_below_fusion"

    def job(name, **changes):
        world = (tables, entity_model, store_folder, model_parameters)
        return job_of(tmp_path / name, *world, finetuning_values | changes)

    whole_curve = pd.DataFrame(train_worker(job("whole")))
    # Who builds the batches decides nothing, before the end of a run and after it.
    killed = job("killed", loader_workers=1 if moment == "step" else 0)
    (tmp_path / "job.json").write_text(json.dumps(killed))
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "job.json"), moment],
        capture_output=True,
        check=False,
    )
    assert child.returncode == -9, child.stderr.decode()
    checkpoints = tmp_path / "killed" / "checkpoints_0"
    assert list(checkpoints.glob("checkpoint-*/complete"))
    assert not (tmp_path / "killed" / "models").exists()

    curve = pd.DataFrame(train_worker(killed))
    assert_same_weights(weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed"))
    pd.testing.assert_series_equal(curve["loss"], whole_curve["loss"])
    pd.testing.assert_series_equal(curve[MRR], whole_curve[MRR])
    assert curve.columns.tolist() == whole_curve.columns.tolist()


@pytest.mark.parametrize(("moment", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_told_to_stop_with_all_its_processes_it_says_one_line(
    tmp_path, tables, entity_model, store_folder, model_parameters, finetuning_values, moment, code
):
    world = (tables, entity_model, store_folder, model_parameters)
    job = job_of(tmp_path / "stopped", *world, finetuning_values | {"loader_workers": 2})
    (tmp_path / "job.json").write_text(json.dumps(job))
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "job.json"), moment],
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    assert child.returncode == code, child.stderr
    assert "Traceback" not in child.stderr
    assert child.stderr.count("Stopped by") == 1


def test_a_sampled_softmax_of_all_entities_learns_what_the_exact_one_does(run):
    settings = {"epochs": 1, "weight_decay": {"default": 0.0}}
    exact, _ = run("exact", **settings)
    whole, _ = run("whole", sampled_softmax={"negatives": 12, "uniform": 0.5}, **settings)
    for name, weight in weights_of(exact).items():
        torch.testing.assert_close(weights_of(whole)[name], weight, atol=1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match="sampled_softmax needs the loss cross_entropy"):
        run(sampled_softmax={"negatives": 4, "uniform": 1.0}, loss="binary_cross_entropy")
    with pytest.raises(ValueError, match="half_precision_entities needs sampled_softmax"):
        run(half_precision_entities=True)


def test_every_seed_leaves_a_model(run):
    work, curve = run(seeds=[3, 1], epochs=1)
    assert sorted(path.name for path in (work / "models").iterdir()) == ["seed_1", "seed_3"]
    assert curve["seed"].unique().tolist() == [3, 1]


@pytest.fixture
def without_dropout(tmp_path, entity_model):
    """The model of stage 1 without dropout, whose masks differ between processes."""
    folder = tmp_path / "without_dropout"
    shutil.copytree(entity_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_finished_training_that_was_moved_is_not_learned_again(
    tmp_path, tables, entity_model, store_folder, model_parameters, finetuning_values, monkeypatch
):
    world = (tables, entity_model, store_folder, model_parameters)
    job = job_of(tmp_path / "before", *world, finetuning_values)
    curve = train_worker(job)
    (tmp_path / "before").rename(tmp_path / "after")
    weights = weights_of(tmp_path / "after")
    shutil.rmtree(tmp_path / "after/models")
    moved = job_of(tmp_path / "after", *world, finetuning_values)
    monkeypatch.setattr(FinetuningTrainer, "training_step", None)
    pd.testing.assert_frame_equal(pd.DataFrame(train_worker(moved)), pd.DataFrame(curve))
    assert_same_weights(weights_of(tmp_path / "after"), weights)


def test_what_a_process_of_several_finds_wrong_is_said_plainly(run):
    rates = {"default": 0.001, "visionmodel": 0.01}
    with pytest.raises(DataError, match="visionmodel"):
        run(learning_rates=rates, processes=2, engine=Elastic())


def test_two_processes_do_the_work_of_one(run, without_dropout):
    one, curve = run("one", model=without_dropout, batch_size=4, epochs=2, shuffle=False)
    two, curve_of_two = run(
        "two",
        model=without_dropout,
        batch_size=2,
        epochs=2,
        shuffle=False,
        processes=2,
        engine=Elastic(),
    )
    assert curve_of_two["step"].max() == curve["step"].max()
    pd.testing.assert_series_equal(curve[MRR], curve_of_two[MRR])
    for name, weight in weights_of(one).items():
        torch.testing.assert_close(weights_of(two)[name], weight, atol=1e-4, rtol=1e-3)


# What makes the host wait for a GPU: the result, or its size, is known only when that is done.
WAITING = {
    "_coalesce",
    "_local_scalar_dense",
    "_unique2",
    "equal",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
}


class Waits(TorchDispatchMode):
    """Counts what would wait."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        picks = name in ("index", "index_put_", "index_put") and any(
            each is not None and each.dtype == torch.bool for each in args[1]
        )
        if name in WAITING or picks:
            self.found[name] += 1
        return function(*args, **(kwargs or {}))


class Watch(TrainerCallback):
    """Watches each step from its batch to the updated weights, before anything is logged."""

    def __init__(self):
        self.waits = Waits()
        self.steps = 0

    def on_step_begin(self, *args, **kwargs):
        self.waits.__enter__()

    def on_step_end(self, *args, **kwargs):
        self.waits.__exit__(None, None, None)
        self.steps += 1


@pytest.fixture
def watch_steps(monkeypatch):
    """Two steps of a task; gives what would wait in them."""
    made = FinetuningTrainer.__init__

    def train(job):
        watch = Watch()

        def make(self, **options):
            made(self, **options)
            self.add_callback(watch)

        with monkeypatch.context() as patch:
            patch.setattr(FinetuningTrainer, "__init__", make)
            train_worker(job)
        assert watch.steps == 2
        return watch.waits.found

    return train


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """There is no GPU here: from here on steps go the way that they go on one."""

    def go():
        for module in (modeling_mkgformer, towers, optimizer, trainer):
            monkeypatch.setattr(module, "on_host", lambda tensor: False)

    return go


def test_a_step_waits_for_nothing(
    tmp_path,
    watch_steps,
    as_on_a_gpu,
    tables,
    entity_model,
    store_folder,
    model_parameters,
    finetuning_values,
):
    values = finetuning_values | {
        "max_steps": 2,
        "loss": "cross_entropy",
        "sampled_softmax": {"negatives": 3, "uniform": 0.5},
        "half_precision_entities": True,
        "entity_encoder": False,
    }

    def job(name):
        return job_of(tmp_path / name, tables, entity_model, store_folder, model_parameters, values)

    assert {"nonzero", "_local_scalar_dense"} <= watch_steps(job("host")).keys()
    as_on_a_gpu()
    assert not watch_steps(job("gpu"))
    torch.testing.assert_close(weights_of(tmp_path / "gpu"), weights_of(tmp_path / "host"))


@pytest.mark.parametrize(
    ("task", "freeze"),
    [("relation_extraction", None), ("entity_recognition", "vision_below_fusion")],
)
def test_a_step_on_posts_waits_for_nothing(
    tmp_path,
    watch_steps,
    as_on_a_gpu,
    posts,
    labels,
    posts_store,
    model_parameters,
    posts_values,
    task,
    freeze,
):
    values = posts_values[task] | {"max_steps": 2, "freeze": freeze}
    parameters = task_named(task).parameters_class(**values)
    job = {
        "task": task,
        "inputs": {},
        "visual_store": str(posts_store),
        "checkpoints": str(tmp_path / "checkpoints_0"),
        "model_folder": str(tmp_path / "models/seed_0"),
        "model": model_parameters,
        "parameters": parameters.with_preset("corrected").model_dump(),
        "preset": "corrected",
        "seed": 0,
    }
    for name, table in {"posts": posts[task], "labels": labels[task]}.items():
        job["inputs"][name] = str(tmp_path / f"{name}.parquet")
        table.to_parquet(job["inputs"][name])
    as_on_a_gpu()
    assert not watch_steps(job)
