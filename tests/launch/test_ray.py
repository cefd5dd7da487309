"""On a Ray cluster comes out what comes out here, though nodes and workers die."""

import json
import os
import shutil
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mkgformer_kedro.datasets import visual_store
from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import storage_explained
from mkgformer_kedro.inference import predictions
from mkgformer_kedro.inference.completion import plan_questions, propose
from mkgformer_kedro.inference.experts import LoadedModel, ModelExpert, ModelPostsExpert
from mkgformer_kedro.inference.mixture import fit_mixture
from mkgformer_kedro.inference.parameters import CompletionParameters, MixtureParameters
from mkgformer_kedro.inference.predictions import predict_posts, predict_queries
from mkgformer_kedro.launch import LOCAL, engine_of
from mkgformer_kedro.pipelines.image_association import association
from mkgformer_kedro.pipelines.image_association.parameters import ImageParameters
from mkgformer_kedro.pipelines.study import child
from mkgformer_kedro.training import finetuning
from mkgformer_kedro.training.finetuning import finetune, train_worker
from mkgformer_kedro.training.parameters import ModelParameters
from mkgformer_kedro.training.tasks.registry import task_named
from tiny_world import COMPLETION

pytestmark = pytest.mark.ray
MRR = "dev_both.realistic.inverse_harmonic_mean_rank"
NODE = {
    "num_cpus": 2,
    "object_store_memory": 100_000_000,
    "node_ip_address": "127.0.0.1",
    "include_log_monitor": False,
}


@pytest.fixture(scope="session")
def cluster(ray_variables):
    """A head that has no cores, and two nodes of two each, all on the loopback."""
    import ray
    from ray.cluster_utils import Cluster

    head = NODE | {"num_cpus": 0, "include_dashboard": False, "no_monitor": True}
    head["_system_config"] = {"health_check_period_ms": 500}  # a dead node is noticed sooner
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(**NODE)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def engine(cluster, launch_parameters):
    return engine_of(launch_parameters("ray", address=cluster.address))


@pytest.fixture
def two_workers(cluster, launch_parameters):
    """An engine of two workers at a time: each takes seconds to import torch."""
    return engine_of(launch_parameters("ray", address=cluster.address, at_most=2))


def wait_for_death(note):
    """Note the node that this process runs on, and wait for its end; but once only."""
    import ray

    try:
        with note.open("x") as file:
            file.write(ray.get_runtime_context().get_node_id())
    except FileExistsError:
        return
    time.sleep(600)


@pytest.fixture
def node_dies(cluster):
    """Kill the node that is noted, without warning; another takes its place later."""

    @contextmanager
    def dies(note):
        def kill():
            import ray

            while not (note.exists() and note.read_text()):
                time.sleep(0.1)
            sockets = {node["NodeID"]: node["RayletSocketName"] for node in ray.nodes()}
            (node,) = (
                node
                for node in cluster.worker_nodes
                if node.raylet_socket_name == sockets[note.read_text()]
            )
            cluster.remove_node(node, allow_graceful=False)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        yield
        assert not killer.is_alive()

    yield dies
    while len(cluster.worker_nodes) < 2:
        cluster.add_node(**NODE)
    cluster.wait_for_nodes()


# Work that needs no model


class Noting:
    """Doubles numbers; notes in a folder what it began, and where."""

    def __init__(self, folder, seconds=0.0, deadly=(), always=False, kind="kill"):
        self.folder, self.seconds = folder, seconds
        self.deadly, self.always, self.kind = deadly, always, kind

    def __call__(self, items):
        import ray

        for item in items:
            before = len(list(self.folder.glob(f"{item}-*")))
            where = ray.get_runtime_context().get_node_id()
            (self.folder / f"{item}-{where}-{os.getpid()}-{before}").touch()
            time.sleep(self.seconds)
            if item in self.deadly and (self.always or not before):
                die(self.kind)
            yield 2 * item


def die(how):
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "memory":
        np.ones(1 << 46)
    if how == "torch's memory":
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 99 bytes")
    if how == "storage":
        with storage_explained(Path("/dev/full")), Path("/dev/full").open("w") as file:
            file.write("x")
    raise ValueError("a mistake of the project")


def begun(folder):
    return [int(path.name.split("-")[0]) for path in folder.iterdir()]


def test_results_come_in_their_order_from_both_nodes(engine, tmp_path):
    found = list(engine.map("evaluation", Noting(tmp_path, 0.1), range(40), at_a_time=3))
    assert found == [2 * item for item in range(40)]
    assert len({path.name.split("-")[1] for path in tmp_path.iterdir()}) == 2


def test_no_more_is_begun_than_is_taken(engine, tmp_path):
    results = engine.map("evaluation", Noting(tmp_path), range(200))
    assert next(results) == 0
    time.sleep(1)
    assert max(begun(tmp_path)) <= 4 * 4  # four workers, four blocks ahead of each
    results.close()


@pytest.mark.parametrize("how", ["kill", "memory", "torch's memory"])
def test_what_a_worker_dies_of_is_done_by_another(engine, tmp_path, how):
    work = Noting(tmp_path, deadly=(3, 7), kind=how)
    assert list(engine.map("evaluation", work, range(10))) == [2 * item for item in range(10)]
    assert begun(tmp_path).count(3) == 2


@pytest.mark.parametrize("how", ["kill", "memory"])
def test_what_every_worker_dies_of_ends_with_a_message(engine, tmp_path, how):
    work = Noting(tmp_path, deadly=(3,), always=True, kind=how)
    with pytest.raises(DataError, match=r"workers.evaluation: its workers died 3 times .*memory"):
        list(engine.map("evaluation", work, range(10)))
    assert begun(tmp_path).count(3) == 3


def test_a_full_storage_is_told_as_it_is_here(engine, tmp_path):
    work = Noting(tmp_path, deadly=(3,), kind="storage")
    with pytest.raises(DataError, match="/dev/full: the disk is full"):
        list(engine.map("evaluation", work, range(10)))


def test_a_mistake_of_the_project_is_shown_with_its_place(engine, tmp_path):
    work = Noting(tmp_path, deadly=(3,), kind="mistake")
    with pytest.raises(ValueError, match=r"in die\n(.*\n)*.*a mistake of the project"):
        list(engine.map("evaluation", work, range(10)))


@pytest.mark.parametrize("worker", [{"cpus": 64}, {"gpus": 1}, {"memory": 1e6}])
def test_what_no_node_has_is_refused(cluster, launch_parameters, worker):
    engine = engine_of(launch_parameters("ray", worker, address=cluster.address))
    with pytest.raises(
        DataError, match=r"workers.study: the cluster has room for 0 of 1 workers that"
    ):
        list(engine.map("study", iter, [1]))
    with pytest.raises(DataError, match=r"room for 0 of 2 workers"):
        engine.group("finetuning", dict.copy, {}, processes=2)


def test_a_folder_that_a_node_does_not_see_is_told(engine, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    monkeypatch.setattr(Path, "cwd", lambda: gone)
    gone.rmdir()
    with pytest.raises(DataError, match=r"gone: the node .* does not see this folder"):
        list(engine.map("evaluation", iter, [1]))


def test_a_stage_of_a_study_is_a_job_whose_worker_tells_why_it_fails(
    engine, cluster, launch_parameters, tmp_path, monkeypatch
):
    def stage(job):
        Path(job["note"]).write_text(str(os.getpid()))
        raise DataError(Problem("a file", 3, "it is torn", "Mend it."))

    monkeypatch.setattr(child, "run_stage", stage)
    launch = launch_parameters("ray", address=cluster.address).model_dump()
    job = {"launch": launch, "note": str(tmp_path / "note"), "reason": str(tmp_path / "reason")}
    with pytest.raises(DataError):
        child.launch_stage(job)
    assert (tmp_path / "reason").read_text() == "a file:3: it is torn. Mend it."
    assert int((tmp_path / "note").read_text()) != os.getpid()


# Decoding


SETTINGS = {"slots": {"full": {"size": 16, "count": 2}}, "min_side": 8, "max_pixels": 10**6}


@pytest.fixture
def images(tmp_path):
    """Four owners with images, one of them damaged."""
    rows = []
    for number in range(9):
        path = tmp_path / "images" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        rows.append((number % 4, path.name, path.stat().st_size))
    os.truncate(tmp_path / "images/5.png", 300)
    return tmp_path / "images", pd.DataFrame(rows, columns=["owner", "path", "bytes"])


def decode(images, work, engine):
    work.mkdir(exist_ok=True)
    parameters = ImageParameters(**SETTINGS, workers=None)
    writer, rows = association.store_images(*images, list("abcd"), parameters, work, engine=engine)
    return {path.name: path.read_bytes() for path in writer.finish().iterdir()}, rows


def test_images_are_decoded_to_the_same_bytes_though_a_node_dies(
    engine, images, tmp_path, monkeypatch, node_dies
):
    note = tmp_path / "node"

    class Decoding(association.Decoding):
        def __call__(self, owners):
            for (owner, _), found in zip(owners, super().__call__(owners), strict=True):
                if owner == "c":
                    wait_for_death(note)
                yield found

    local = decode(images, tmp_path / "local", LOCAL)
    monkeypatch.setattr(association, "_OWNERS", 1)
    monkeypatch.setattr(association, "Decoding", Decoding)
    with node_dies(note):
        assert decode(images, tmp_path / "ray", engine) == local


def test_a_store_that_does_not_fit_is_told_and_goes_on(engine, images, tmp_path, monkeypatch):
    whole = decode(images, tmp_path / "local", LOCAL)
    monkeypatch.setattr(association, "_OWNERS", 1)
    append = visual_store._append

    def full(path, chunks):
        if path.suffix == ".u8" and path.stat().st_size:
            raise OSError(28, "No space left on device", str(path))
        time.sleep(0.2)  # and it is slow
        append(path, chunks)

    with monkeypatch.context() as patch:
        patch.setattr(visual_store.VisualStoreWriter, "owners_per_commit", 1)
        patch.setattr(visual_store, "_append", full)
        with pytest.raises(DataError, match="the disk is full"):
            decode(images, tmp_path / "ray", engine)
    assert decode(images, tmp_path / "ray", engine) == whole


# Asking


def experts(kind, folder, store):
    model = LoadedModel(folder)
    return [kind(model, VisualStore(store), 0, with_images=images) for images in (True, False)]


def test_queries_are_ranked_the_same_though_a_node_dies(
    two_workers, tables, entity_model, store_folder, monkeypatch, tmp_path, node_dies
):
    train = tables["queries"].query("split == 'train'").drop(columns="split")
    triples = tables["triples"].query("split == 'train'").reset_index(drop=True)
    note, last = tmp_path / "node", train["entity"].max()

    class Ranking(predictions.Ranking):
        def __call__(self, asks):
            for ask, ranked in zip(asks, super().__call__(asks), strict=True):
                if last in ask[1]["entity"].to_numpy():
                    wait_for_death(note)
                yield ranked

    def predict(engine):
        asked = experts(ModelExpert, entity_model, store_folder)
        return predict_queries(asked, train, triples, batch_size=3, engine=engine)

    monkeypatch.setattr(predictions, "_BLOCK", 8)
    local = predict(LOCAL)
    monkeypatch.setattr(predictions, "Ranking", Ranking)
    with node_dies(note):
        on_ray = predict(two_workers)
    pd.testing.assert_frame_equal(on_ray, local, check_exact=True)


MIXTURE = {
    "experts": None,
    "fit_queries": None,
    "test_queries": None,
    "standardization": "by_query",
    "shrinkage": 1.0,
    "least_answers": 1,
    "top": 4,
    "sampled": 2,
    "proposals": 3,
    "answer_sets": {"level": 0.9, "least_answers": 50, "abstain_above": 10},
    "batch_size": 3,
}


def test_a_mixture_is_fitted_and_proposes_the_same(
    two_workers, tables, entity_model, store_folder, tmp_path
):
    parameters = CompletionParameters(**COMPLETION)
    names = tables["relations"]["relation"].tolist()
    triples = tables["triples"]
    questions, roles, _ = plan_questions(triples, 12, names, parameters.questions, seed=0)
    found = []
    for each in (LOCAL, two_workers):
        work = tmp_path / type(each).__name__
        mixture = fit_mixture(
            experts(ModelExpert, entity_model, store_folder),
            tables["queries"],
            work,
            MixtureParameters(**MIXTURE),
            entities=12,
            relations=2,
            seed=0,
            engine=each,
        )
        proposed = propose(mixture, questions, triples, roles, work, parameters, each)
        found.append((mixture.digest, proposed))
    (digest, local), (digest_on_ray, on_ray) = found
    assert len(local) > 40
    assert digest_on_ray == digest
    pd.testing.assert_frame_equal(on_ray, local, check_exact=True)


# Training


def dies_once(job):
    """Train, but the first time rank 0 waits at the third step for its end."""
    trainer = finetuning.FinetuningTrainer
    step = trainer.training_step

    def training_step(self, *args, **kwargs):
        if self.state.global_step == 3 and self.is_world_process_zero():
            wait_for_death(Path(job["checkpoints"]).with_name("node"))
        return step(self, *args, **kwargs)

    trainer.training_step = training_step
    try:
        return train_worker(job)
    finally:
        trainer.training_step = step


@pytest.fixture
def train(tmp_path, tables, entity_model, store_folder, model_parameters, finetuning_values):
    """Fine-tune for link prediction, without dropout, whose masks differ between processes."""
    folder = tmp_path / "without_dropout"
    shutil.copytree(entity_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))

    def start(name, engine, **changes):
        values = finetuning_values | {"epochs": 2, "shuffle": False} | changes
        models, curve = finetune(
            "link_prediction",
            {"entity_model": folder, "queries": tables["queries"]},
            store_folder,
            tmp_path / name,
            ModelParameters(**model_parameters),
            task_named("link_prediction").parameters_class(**values),
            "corrected",
            0,
            engine,
        )
        return load_file(models / "seed_0/model.safetensors"), curve

    return start


def assert_same(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name, weight in one.items():
        torch.testing.assert_close(other[name], weight, **tolerance)


def test_one_process_whose_node_dies_ends_with_the_bytes_of_here(
    engine, train, node_dies, tmp_path, monkeypatch
):
    local, curve = train("local", LOCAL)
    monkeypatch.setattr(finetuning, "train_worker", dies_once)
    with node_dies(tmp_path / "ray/node"):
        on_ray, curve_on_ray = train("ray", engine)
    assert_same(local, on_ray, atol=0, rtol=0)
    pd.testing.assert_series_equal(curve[MRR], curve_on_ray[MRR])


def test_two_processes_do_the_work_of_one_though_their_node_dies(
    engine, train, node_dies, tmp_path, monkeypatch
):
    one, curve = train("one", LOCAL, batch_size=4)
    two, curve_of_two = train("two", engine, batch_size=2, processes=2)
    assert curve_of_two["step"].max() == curve["step"].max()
    assert_same(one, two, atol=1e-4, rtol=1e-3)

    monkeypatch.setattr(finetuning, "train_worker", dies_once)
    with node_dies(tmp_path / "killed/node"):
        killed, _ = train("killed", engine, batch_size=2, processes=2)
    assert_same(two, killed, atol=0, rtol=0)


@pytest.mark.parametrize("task", ["relation_extraction", "entity_recognition"])
def test_posts_are_learned_and_predicted_the_same(
    engine, posts, labels, posts_store, model_parameters, posts_values, tmp_path, task
):
    parameters = task_named(task).parameters_class(**posts_values[task] | {"epochs": 1})
    tables = {"posts": posts[task], "labels": labels[task]}
    gold = task_named(task).gold
    found = []
    for each in (LOCAL, engine):
        models, _ = finetune(
            task,
            tables,
            posts_store,
            tmp_path / type(each).__name__,
            ModelParameters(**model_parameters),
            parameters,
            "corrected",
            0,
            each,
        )
        asked = experts(ModelPostsExpert, models / "seed_0", posts_store)
        table = predict_posts(asked, posts[task], gold, batch_size=4, engine=each)
        found.append((load_file(models / "seed_0/model.safetensors"), table))
    (local, predicted), (on_ray, predicted_on_ray) = found
    assert_same(local, on_ray, atol=0, rtol=0)
    pd.testing.assert_frame_equal(predicted_on_ray, predicted, check_exact=True)
