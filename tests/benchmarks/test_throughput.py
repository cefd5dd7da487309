"""Both ways of the benchmark compute the same; how long they take is not tested."""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import candidates
import numpy as np
import pandas as pd
import pytest
import rates
import step_profile
import throughput
import torch
import worlds
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertTokenizer

from mkgformer_kedro.datasets.image_folder import ImageFolderDataset
from mkgformer_kedro.datasets.visual_store import RoleLayout
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.modeling import MKGformerConfig, MKGformerForLinkPrediction
from mkgformer_kedro.pipelines.image_association.link_prediction import store_images
from mkgformer_kedro.pipelines.image_association.parameters import ImageAssociationParameters
from mkgformer_kedro.pipelines.ingestion.link_prediction import group_queries
from mkgformer_kedro.training.model_folder import save_model
from mkgformer_kedro.training.tasks.link_prediction import LinkPrediction
from tiny_world import LAUNCH

PROJECT = Path(__file__).parents[2]
ENTITIES = 12


CAUSES = [name for name in throughput.LABELS if name != "images_of_zeros"]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """What the stages leave of a graph of 12 entities, every second one with images."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(PROJECT / "conf/base", root / "conf/base")
    environment = root / "conf/tiny"
    environment.mkdir()
    (environment / "globals.yml").write_text(
        "dataset: tiny\nlink_prediction: {images: data/01_raw/tiny/images}\n"
    )
    (environment / "parameters_link_prediction.yml").write_text(
        "link_prediction:\n"
        "  finetuning: {batch_size: 8, dev_batch_size: 5, max_length: 24, queries_per_entity: 4}\n"
    )
    intermediate, models, features = (
        root / f"data/{layer}/tiny/link_prediction"
        for layer in ("02_intermediate", "06_models", "04_feature")
    )
    tables, association = intermediate / "ingestion", intermediate / "image_association"
    for folder in (tables, association, models):
        folder.mkdir(parents=True)

    texts = ["a " * (i % 5) + f"word{i}" for i in range(ENTITIES)]
    ids = [f"e{i}" for i in range(ENTITIES)]
    entities = pd.DataFrame({"entity": ids, "name": ids, "text": texts, "text_source": "short"})
    relations = pd.DataFrame({"relation": ["next", "mirror"], "text": ["next", "mirror"]})
    ring = np.arange(ENTITIES)
    triples = pd.DataFrame(
        {
            "head": np.tile(ring, 3),
            "relation": np.repeat([0, 0, 1], ENTITIES),
            "tail": np.concatenate([(ring + 1) % 12, (ring + 2) % 12, 11 - ring]),
            "split": np.tile(["train", "train", "test", "train", "train", "dev"], 6),
        }
    ).astype({"head": "int32", "relation": "int32", "tail": "int32"})
    for name, table in (("entities", entities), ("relations", relations), ("triples", triples)):
        table.to_parquet(tables / f"{name}.parquet", index=False)
    group_queries(triples).to_parquet(tables / "queries.parquet")

    rng = np.random.default_rng(0)
    for number in range(0, ENTITIES, 2):
        folder = root / f"data/01_raw/tiny/images/e{number}"
        folder.mkdir(parents=True)
        for image in range(1 + number % 3):
            colours = rng.integers(0, 255, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(colours).save(folder / f"{image}.png")
    parameters = ImageAssociationParameters(
        slots={"full": {"size": 16, "count": 2}, "detection": {"size": 8, "count": 1}},
        order="name",
        owner_pattern="(.*)",
        owner_replacement=r"\1",
        borrow=None,
        min_side=1,
        max_pixels=10_000,
        workers=1,
    )
    listing = ImageFolderDataset(filepath=str(root / "data/01_raw/tiny/images")).load()
    given = (listing, entities, relations, triples, root / "work", parameters, LAUNCH)
    images, store = store_images(*given)
    images.to_parquet(association / "images.parquet", index=False)
    shutil.copytree(store, features / "visual_store")

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = root / "vocab.txt"
    words.write_text("\n".join([*special, "a", "next", "mirror", *(t.split()[-1] for t in texts)]))
    tokenizer = BertTokenizer(str(words))
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = MKGformerForLinkPrediction(
        MKGformerConfig(
            text_config={
                **sizes,
                "hidden_size": 16,
                "intermediate_size": 32,
                "vocab_size": len(tokenizer),
                "max_position_embeddings": 32,
                "initializer_range": 0.5,
            },
            vision_config={
                **sizes,
                "hidden_size": 8,
                "intermediate_size": 16,
                "image_size": 16,
                "patch_size": 8,
            },
            num_fusion_layers=2,
            image_sizes={"full": 16, "detection": 8},
            image_counts={"full": 2, "detection": 1},
            mask_token_id=tokenizer.mask_token_id,
        )
    )
    model.add_graph_tokens(ENTITIES, len(relations))
    torch.nn.init.normal_(model.entity_bias)
    task = LinkPrediction(entities, relations, "paper", 24)
    save_model(models / "entity_modeling", model, tokenizer, task)
    return root


@pytest.fixture(autouse=True)
def no_large_products(monkeypatch):
    for module in (throughput, step_profile, candidates):
        monkeypatch.setattr(module, "peak_rate", lambda *_: 1e9)


@pytest.fixture(scope="module")
def world(project):
    return worlds.open_world(project, "tiny")


def loss_and_gradients(world, way, rows):
    world.model.eval().zero_grad()
    throughput.set_up(world.model, way)
    loss = throughput.batch_loss(world.model, throughput.collate(world, way, rows), way)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in world.model.named_parameters()}


class TestBothWaysAgree:
    @pytest.mark.parametrize(
        "way",
        [*(throughput.Way(**{cause: True}) for cause in CAUSES), throughput.AUTHORS],
        ids=[*CAUSES, "authors"],
    )
    def test_loss_and_gradients(self, world, way):
        rows = throughput.draw_batches(world, way, 0, 1)[0]
        ours, our_gradients = loss_and_gradients(world, throughput.OURS, rows)
        loss, gradients = loss_and_gradients(world, way, rows)
        torch.testing.assert_close(loss, ours)
        torch.testing.assert_close(gradients, our_gradients, rtol=1e-4, atol=1e-6)

    def test_eager_attention_reaches_both_towers(self, world):
        for way, kernel in ((throughput.AUTHORS, "eager"), (throughput.OURS, "sdpa")):
            throughput.set_up(world.model, way)
            base = world.model.mkgformer
            for tower in (base.text_model, base.vision_model):
                assert tower.config._attn_implementation == kernel
                assert all(
                    getattr(module, "config", tower.config)._attn_implementation == kernel
                    for module in tower.modules()
                )

    def test_ranks(self, world):
        rows = world.test_rows
        throughput.set_up(world.model.eval(), throughput.OURS)
        ours = throughput.rank(world, throughput.OURS, rows)
        throughput.set_up(world.model, throughput.AUTHORS)
        authors = throughput.rank(world, throughput.AUTHORS, rows)
        assert len(ours) == world.answers(rows) == 12
        assert ours["rank_optimistic"].nunique() > 3
        pd.testing.assert_series_equal(
            ours["rank_optimistic"], authors["rank_optimistic"], check_dtype=False
        )

    def test_the_check_passes_and_counts(self, world):
        agreement = throughput.check_agreement(world, world.test_rows)
        assert agreement["ranks"] == agreement["ranks_equal"] == 12
        assert len(agreement["loss_difference"]) == len(CAUSES) + 1  # fp32: one cause fewer

    def test_the_check_notices_other_images(self, world, project):
        tables = project / "data/02_intermediate/tiny/link_prediction"
        images = pd.read_parquet(tables / "image_association/images.parquet")
        images["path"] = images["path"].to_numpy()[::-1]
        entities = pd.read_parquet(tables / "ingestion/entities.parquet")["entity"]
        folder = project / "data/01_raw/tiny/images"
        swapped = worlds.ImageFiles(world.store, images, entities, folder, world.model.config)
        with pytest.raises(AssertionError, match="authors' way: the loss differs"):
            throughput.check_agreement(replace(world, files=swapped), world.test_rows)

    def test_the_check_notices_other_ranks(self, world, monkeypatch):
        right = throughput.rank

        def rank(world, way, rows):
            ranks = right(world, way, rows)[["rank_optimistic", "rank_pessimistic"]]
            return ranks + (4 if way.item_per_triple else 0)

        monkeypatch.setattr(throughput, "rank", rank)
        with pytest.raises(AssertionError, match="a rank differs by 4"):
            throughput.check_agreement(world, world.test_rows)

    def test_images_of_zeros_are_another_model(self, world):
        rows = world.train_rows[:8]
        zeros = throughput.Way(images_of_zeros=True)
        ours, _ = loss_and_gradients(world, throughput.OURS, rows)
        other, _ = loss_and_gradients(world, zeros, rows)
        everything = replace(throughput.AUTHORS, images_of_zeros=True)
        authors, _ = loss_and_gradients(world, everything, rows)
        assert not torch.isclose(ours, other)
        torch.testing.assert_close(authors, other)


class TestImageFiles:
    def test_they_hold_what_the_store_holds(self, world):
        owners = np.arange(ENTITIES)
        stored, decoded = world.store.read(owners), world.files.read(owners)
        assert stored.keys() == decoded.keys()
        np.testing.assert_array_equal(stored.pop("image_mask"), decoded.pop("image_mask"))
        for name, pixels in stored.items():
            restored = decoded[name] * world.files._std + world.files._mean
            present = pixels.any(axis=(2, 3, 4))
            assert present.any()
            np.testing.assert_allclose(restored[present] * 255, pixels[present], atol=1e-3)
            assert not decoded[name][~present].any()

    def test_a_missing_file_is_named(self, project, tmp_path):
        world = worlds.open_world(project, "tiny", images=tmp_path)
        with pytest.raises(DataError, match=r"e0/0\.png.*--images"):
            world.files.read([0])


class TestBatches:
    def test_an_epoch_answers_every_triple_once(self, world):
        for way in (throughput.OURS, throughput.AUTHORS):
            batches = throughput.draw_batches(world, way, 0, 1000)
            seen = np.sort(np.concatenate(batches))
            np.testing.assert_array_equal(seen, np.sort(throughput.items_per_epoch(world, way)))
        assert len(throughput.items_per_epoch(world, throughput.AUTHORS)) == 48
        assert world.answers(world.train_rows) == 48
        assert len(world.train_rows) < 48

    @pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 9), (9, 9), (20, 9)])
    def test_places_are_distinct_and_evenly_spread(self, count, size):
        for seed in range(20):
            places = throughput._spread(count, size, np.random.default_rng(seed))
            assert len(places) == min(count, size)
            assert places[0] >= 0
            assert places[-1] < size
            assert (np.diff(places) >= size // min(count, size)).all()

    def test_training_leaves_the_weights_as_they_are(self, world):
        before = {name: p.detach().clone() for name, p in world.model.named_parameters()}
        ways = throughput.ways_to_train(world, mixed_precision=True)
        throughput.measure_training(world, ways, 1, 1, mixed_precision=True)
        for name, parameter in world.model.named_parameters():
            assert torch.equal(parameter, before[name]), name


class TestMeasure:
    def test_rounds_take_turns_and_are_extrapolated(self):
        # Each reading of the clock is one second later, and "slow" reads it once more.
        clock = itertools.count()
        order = []

        def job(name, items, reads):
            def take(number):
                order.append((number, name))
                return throughput.take_turn(
                    items,
                    6.0,
                    lambda: [next(clock) for _ in range(reads)],
                    torch.device("cpu"),
                    lambda: next(clock),
                )

            return take

        result = throughput.measure(
            {"quick": job("quick", 10, 0), "slow": job("slow", 4, 1)},
            {"quick": 100, "slow": 200},
            answers=200,
            rounds=2,
            peaks={"quick": iter([8.0, 12.0]).__next__, "slow": iter([6.0, 4.0]).__next__},
        )
        assert order == [(n, name) for n in range(2) for name in ("quick", "slow")]
        assert result["quick"].seconds == [10.0, 10.0]
        assert result["slow"].seconds == [100.0, 100.0]
        summary = result["slow"].summary()
        assert summary["ratio"] == 10.0
        assert summary["share_of_peak"] == result["quick"].summary()["share_of_peak"] == 0.5
        assert summary["items_per_second"] == summary["answers_per_second"] == 2.0
        assert result["quick"].summary()["answers_per_second"] == 20.0

    def test_precision_is_a_cause_only_where_it_differs(self, world):
        label = f"+ {throughput.LABELS['single_precision']}"
        assert label in throughput.ways_to_train(world, mixed_precision=True)
        assert label not in throughput.ways_to_train(world, mixed_precision=False)
        assert throughput.ways_to_rank(mixed_precision=False) == throughput.WHOLES
        ways = throughput.ways_to_rank(mixed_precision=True)
        types = [throughput.type_of(way, mixed_precision=True) for way in ways.values()]
        assert types == [torch.bfloat16, torch.float32, torch.float32]


class TestOpenWorld:
    def test_missing_stages_are_named_with_the_command(self, project, tmp_path):
        shutil.copytree(project / "conf", tmp_path / "conf")
        with pytest.raises(DataError, match="--env tiny` first") as caught:
            worlds.open_world(tmp_path, "tiny")
        assert len(caught.value.problems) == 7
        assert (
            "--images" in next(each for each in caught.value.problems if "raw" in each.what).remedy
        )

    def test_the_untrained_model_has_the_papers_size(self):
        store = SimpleNamespace(roles={"full": RoleLayout(64, 2), "detection": RoleLayout(32, 1)})
        with torch.device("meta"):  # sizes without weights
            model, tokenizer = worlds.untrained_model(store, 7, 2)
        config = model.config
        assert (config.text_config.num_hidden_layers, config.text_config.hidden_size) == (12, 768)
        assert (config.vision_config.patch_size, config.vision_config.hidden_size) == (32, 768)
        assert config.image_roles == ("full", "detection")
        assert config.text_config.vocab_size == len(tokenizer)


class TestMadeUpWorld:
    SIZES = worlds.MadeUp(
        entities=9,
        relations=3,
        tokens=24,
        images=2,
        asked=3,
        queries=2,
        train_answers=2.5,
        test_answers=1,
    )

    @pytest.fixture(scope="class")
    def made_up(self, project, tmp_path_factory):
        small = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16}
        return worlds.made_up_world(
            project,
            "tiny",
            self.SIZES,
            tmp_path_factory.mktemp("made_up"),
            batch_size=4,
            text_config={**small, "intermediate_size": 32},
            vision_config={**small, "intermediate_size": 32, "patch_size": 32, "image_size": 64},
            num_fusion_layers=1,
        )

    def test_it_has_the_sizes_that_were_asked_for(self, made_up):
        queries = made_up.queries
        assert made_up.model.config.num_entities == 9
        assert (queries.lengths == 24).all()
        assert made_up.store.read([0, 3])["image_mask"].tolist() == [[True, True], [False, False]]
        assert made_up.answers(made_up.train_rows) == 15
        assert made_up.answers(made_up.test_rows) == 6
        batches = throughput.draw_batches(made_up, throughput.OURS, 0, 2)
        assert sorted(len(np.unique(queries.entity[rows])) for rows in batches) == [1, 2]
        asked = {*zip(queries.is_tail, queries.entity, queries.relation, strict=True)}
        assert len(asked) == 6  # each in train and in test

    def test_both_ways_agree_and_nothing_is_decoded(self, made_up):
        agreement = throughput.check_agreement(made_up, made_up.test_rows)
        assert agreement["ranks_equal"] == 6
        ways = throughput.ways_to_train(made_up, mixed_precision=False)
        assert f"+ {throughput.LABELS['decode_images']}" not in ways

    def test_the_command_line_gives_sizes(self):
        given = worlds.MadeUp.parse("tokens=128,train_answers=1.5")
        assert given == worlds.MadeUp(tokens=128, train_answers=1.5)
        with pytest.raises(argparse.ArgumentTypeError, match="with names of entities"):
            worlds.MadeUp.parse("words=3")

    def test_more_images_than_slots_are_refused(self, project, tmp_path):
        with pytest.raises(DataError, match="has slots for 2"):
            worlds.made_up_world(project, "tiny", replace(self.SIZES, images=3), tmp_path)


EARLIER = """\
import json, os, sys
checkout = os.path.dirname(os.path.dirname(__file__))
assert sys.argv[-3:] == ["--project", checkout, "--serve"]
assert os.environ["PYTHONPATH"] == os.path.join(checkout, "src")
for line in sys.stdin:
    assert line in ("training 0\\n", "ranking 0\\n")
    turn = {"items": 2, "seconds": 3.0, "multiply_adds": 1.0, "peak_bytes": None}
    print(json.dumps(turn), flush=True)
"""


@pytest.mark.usefixtures("in_bf16")
def test_the_command_prints_and_writes_the_figures(project, tmp_path, capsys):
    output = tmp_path / "speed.json"
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/throughput.py").write_text(EARLIER)
    options = ["--env", "tiny", "--project", str(project), "--device", "cpu", "--rounds", "1"]
    options += ["--steps", "1", "--precision", "bf16", "--output", str(output)]
    throughput.main([*options, "--before", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "tiny: 12 entities, 48 triples and directions" in printed
    for label in throughput.LABELS.values():
        assert label in printed
    results = json.loads(output.read_text())
    ours_of_training = results["training"]["this project"]
    assert results["training"]["authors' way"]["items"] == 48
    ours, before, authors, in_float32 = results["evaluation"].values()
    assert ours["items"] == before["items"] == in_float32["items"] < authors["items"]
    assert before["seconds"] == [before["items"] * 3 / 2]
    assert results["training"][throughput.BEFORE]["items"] == ours_of_training["items"]
    assert results["settings"]["precision"].startswith("bfloat16")


def test_an_earlier_state_that_cannot_run_ends_the_measure(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/throughput.py").write_text("raise SystemExit('an old one')\n")
    with throughput.Before(tmp_path, []) as before:
        before._child.wait()
        with pytest.raises(SystemExit, match="The earlier state ended"):
            before.take("training", 0)


def test_an_earlier_state_takes_the_turns_it_is_told_to(world):
    answers = throughput.serve(world, 1, False, time.perf_counter, ["training 0", "ranking 1"])
    training, ranking = (throughput.Turn(**json.loads(line)) for line in answers)
    assert training.items == len(throughput.draw_batches(world, throughput.OURS, 0, 1)[0])
    assert ranking.items <= world.parameters.dev_batch_size
    assert training.multiply_adds > 3 * ranking.multiply_adds > 0


def test_the_command_says_what_to_run_first(project, tmp_path):
    shutil.copytree(project / "conf", tmp_path / "conf")
    with pytest.raises(SystemExit, match="entity_model of tiny is missing"):
        throughput.main(["--env", "tiny", "--project", str(tmp_path)])


def test_cpu_time_is_refused_on_a_gpu(capsys):
    with pytest.raises(SystemExit):
        throughput.main(["--device", "cuda", "--clock", "cpu"])
    assert "leave --clock at wall" in capsys.readouterr().err


WAYS = {
    "ours": throughput.OURS,
    "authors": throughput.AUTHORS,
    "zeros": throughput.Way(images_of_zeros=True),
    "zeros for each": throughput.Way(images_of_zeros=True, images_per_query=True),
}


class TestRates:
    @pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
    def test_the_formula_counts_what_torch_counts(self, world, way):
        throughput.set_up(world.model.eval(), way)
        rows = throughput.draw_batches(world, way, 0, 1)[0]
        batch = throughput.collate(world, way, rows)
        # torch does not count what its fused attention of processors computes.
        counter = FlopCounterMode(display=False)
        with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            throughput.batch_loss(world.model, batch, way)
        shape = throughput.shape_of(world, way, rows)
        counted = counter.get_total_flops() / 2
        assert rates.multiply_adds(world.model.config, shape) == pytest.approx(counted, rel=0.02)

    def test_the_formula_knows_what_lies_below_the_fusion(self, world):
        throughput.set_up(world.model.eval(), throughput.OURS)
        rows = throughput.draw_batches(world, throughput.OURS, 0, 1)[0]
        batch = throughput.collate(world, throughput.OURS, rows)
        images = {name: each for name, each in batch.items() if "pixel" in name}
        counter = FlopCounterMode(display=False)
        with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            world.model.base_model.encode_images(**images)
        shape = throughput.shape_of(world, throughput.OURS, rows)
        above = replace(shape, below_fusion=False)
        whole, rest = (rates.multiply_adds(world.model.config, each) for each in (shape, above))
        assert whole - rest == pytest.approx(counter.get_total_flops() / 2, rel=0.02)

    def test_the_peak_is_that_of_the_quickest_product(self):
        clock = iter([0, 4, 10, 12, 20, 23])
        rate = rates.peak_rate(clock=lambda: next(clock), size=4, repeats=3)
        assert rate == 4**3 / 2


class Event(SimpleNamespace):
    def __init__(self, name, above=None):
        super().__init__(name=name, cpu_parent=above)


class TestProfileOfAStep:
    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("aten::addmm", "matrix products"),
            ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "matrix products"),
            ("aten::native_layer_norm", "normalisation"),
            ("aten::_log_softmax_backward_data", "normalisation"),
            ("aten::scatter_add_", "look-ups and scatters"),
            ("aten::copy_", "copies"),
            # Words that only hold the name of another operator.
            ("aten::common", step_profile.OTHER),
            ("aten::concatenate_names", step_profile.OTHER),
            ("aten::normal_", step_profile.OTHER),
            ("aten::reindexed", step_profile.OTHER),
        ],
    )
    def test_kinds_go_by_whole_words(self, name, kind):
        assert step_profile.kind_of(Event(name)) == kind

    def test_what_lies_within_clipping_and_optimizer_is_theirs(self):
        for part in ("clipping", "Optimizer.step#RowwiseAdamW.step"):
            event = Event("aten::mul", Event("aten::_foreach_mul", Event(part)))
            assert step_profile.kind_of(event) == "clipping and optimizer"

    @pytest.mark.usefixtures("in_bf16")
    @pytest.mark.parametrize("job", ["training", "ranking"])
    def test_both_jobs(self, world, tmp_path, job):
        world = replace(world, model=deepcopy(world.model))
        throughput.set_up(world.model, throughput.OURS)
        weights = deepcopy(world.model.state_dict())
        found = step_profile.measure(world, job, 2, tmp_path, "bf16")
        assert sum(found["shares"].values()) == pytest.approx(1)
        kinds = {"matrix products", step_profile.PYTHON}
        if job == "training":
            kinds.add("clipping and optimizer")
        assert kinds < found["shares"].keys()
        assert found["multiply_adds"] == pytest.approx(found["counted"], rel=0.1)
        for name, weight in world.model.state_dict().items():
            assert torch.equal(weight, weights[name]), name


def test_candidates_beside_the_step_as_it_stands(world, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", torch.nn.Sequential)
    world = replace(world, model=deepcopy(world.model))
    rows = candidates.rows_of(
        world,
        tmp_path,
        precision="fp32",
        workers=1,
        rounds=1,
        steps=1,
        clock=rates.CLOCKS["wall"],
        chosen=["channels"],
    )
    names = [row["name"] for row in rows]
    assert names == ["as it stands", "channels-last image embedding"]
