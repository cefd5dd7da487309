"""Bad input ends with one clear message: each case here is a row of ``docs/errors.md``.

A case is a function that does what somebody might do. Its message is what the command line would
print. ``WRITE_ERRORS=1 pytest tests/test_bad_input.py`` (``make errors``) writes the page anew.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
import shutil
import signal
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kedro.framework.startup import bootstrap_project

from mkgformer_kedro.configuration import ExtendingConfigLoader, read_yaml
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.hooks import input as door
from mkgformer_kedro.parameters import Folder, typed
from mkgformer_kedro.settings import CONFIG_LOADER_ARGS
from tiny_world import LAUNCH

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/errors.md"
GRAPH = ROOT / "data/01_raw/wordnet_emoji"
LONGEST = 60  # seconds until a case counts as hanging

INTRODUCTION = """# Errors

What bad input ends with: one message that says what is wrong, where, and what to do. Each row is a
test (`tests/test_bad_input.py`), and this page is written by them (`make errors`); `…` stands for
the folder that a test works in.

"""

CASES: dict[str, dict[str, object]] = {}


def case(area, name):
    """Register a function as what somebody does; it takes the world of the tests."""

    def register(function):
        assert name not in CASES.setdefault(area, {}), name
        CASES[area][name] = function
        return function

    return register


class World:
    """What cases need: a folder of their own, Kedro's command line, tiny towers and models."""

    def __init__(self, folder, request):
        self.folder, self.request = folder, request

    def kedro(self, *arguments, files=None):
        """``kedro run`` in this process; ``files`` are those of an environment."""
        from mkgformer_kedro.cli import run

        if files:
            arguments += ("--env", "odd", "--conf-source", str(self.conf(files)))
        run.main(args=list(arguments), prog_name="kedro run")

    def conf(self, files):
        """A copy of the base environment, and one with these files beside it."""
        conf = self.folder / "conf"
        shutil.copytree(ROOT / "conf/base", conf / "base")
        (conf / "odd").mkdir()
        for name, text in files.items():
            (conf / "odd" / name).write_text(text)
        return conf

    def configured(self, files):
        """Read such a configuration as every run does first."""
        loader = ExtendingConfigLoader(str(self.conf(files)), env="odd", **CONFIG_LOADER_ARGS)
        door.BadInputHooks().after_context_created(types.SimpleNamespace(config_loader=loader))

    def fixture(self, name):
        return self.request.getfixturevalue(name)


@pytest.fixture(scope="module")
def page():
    """The messages that stand on the page, by area and case."""
    found, area = {}, ""
    for line in PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else []:
        if line.startswith("## "):
            area = line[3:]
        elif match := re.fullmatch(r"\| (.+?) \| `` (.+) `` \|", line):
            found[area, match[1]] = match[2].replace("\\|", "|")
    return found


@pytest.fixture(scope="module")
def messages():
    """What the cases of this run said."""
    return {}


@pytest.fixture(scope="module", autouse=True)
def in_the_project():
    before, hook = Path.cwd(), sys.excepthook
    os.chdir(ROOT)
    bootstrap_project(ROOT)
    yield
    os.chdir(before)
    sys.excepthook = hook


def cases():
    return [(area, name) for area, named in CASES.items() for name in named]


# What click, Kedro and transformers print beside the message.
BESIDE = ("Usage:", "Try '", "Writing model shards", "Loading weights")


def message_of(function, world, capsys):
    """What the command line prints when this is done; the last of its lines, as one."""

    def hang(*_):
        raise TimeoutError("it hangs")

    previous = signal.signal(signal.SIGALRM, hang)
    signal.alarm(LONGEST)
    logging.disable(logging.CRITICAL)
    capsys.readouterr()
    try:
        function(world)
    except BaseException as end:
        if not isinstance(end, SystemExit):
            door.show_plainly(*sys.exc_info())
    else:
        pytest.fail("accepted")
    finally:
        signal.alarm(0)
        logging.disable(logging.NOTSET)
        signal.signal(signal.SIGALRM, previous)
    message = capsys.readouterr().err
    assert message, "accepted"
    assert "Traceback" not in message, message
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    text = " / ".join(line for line in lines if not line.startswith(BESIDE))
    text = text.replace(str(world.folder), "…").replace(str(ROOT), "…")
    return re.sub(r"0x[0-9a-f]{6,}", "0x…", text)


# What people write: configuration


def bomb():
    """Nine levels of nine aliases each: 387 million values in half a kilobyte."""
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{','.join(['*' + before] * 9)}]")
    return "\n".join(lines)


for name, content in {
    "YAML that does not parse": "seed: [1",
    "a tab before a key": "model:\n\tseed: 1",
    "a tag that would run a command": "seed: !!python/object/apply:os.system ['touch executed']",
    "a tag of somebody's own": "seed: !mine 5",
    "latin-1": "title: caf\xe9".encode("latin-1"),
    "UTF-16": "seed: 1".encode("utf-16"),
    "a key that is there twice": "seed: 1\npreset: faithful\nseed: 2",
    "a group that is a list": "- seed\n- preset",
    "a file that is one word": "seed",
    "an alias bomb": bomb(),
    "an alias of itself": "seed: &a [*a]",
    "a NUL character": "seed: a\0b",
    "a merge of what is no group": "<<: 5",
    "a reference to nothing": "seed: ${nothing}",
    "a reference to the shell's variables": "seed: ${oc.env:HOME}",
}.items():

    @case("Configuration", name)
    def _(world, content=content):
        for environment in ("base", "odd"):
            (world.folder / environment).mkdir()
        raw = content if isinstance(content, bytes) else content.encode()
        (world.folder / "base/globals.yml").write_text("extends: null")
        (world.folder / "odd/parameters.yml").write_bytes(raw)
        arguments = {**CONFIG_LOADER_ARGS, "default_run_env": "odd"}
        ExtendingConfigLoader(str(world.folder), env="odd", **arguments)["parameters"]
        assert not Path("executed").exists()


@case("Configuration", "a file of parameters that is a pipe")
def _(world):
    os.mkfifo(world.folder / "parameters.yml")
    read_yaml(world.folder / "parameters.yml")


for name, environment in {
    "an environment that is not there": "wn18_imgg",
    "an environment above the others": "..",
    "an environment by another way": "../conf/ci",
}.items():

    @case("Configuration", name)
    def _(world, environment=environment):
        ExtendingConfigLoader(str(ROOT / "conf"), env=environment, **CONFIG_LOADER_ARGS)["globals"]


for name, line in {
    "dataset: null": "dataset: null",
    "dataset: a number": "dataset: 5",
    "a share of memory that is none": "memory_share: .nan",
    "a group of paths that is null": "link_prediction: null",
    "a misspelt path": "relation_extraction: {imagse: x}",
    "a misspelt file": "link_prediction: {files: {trian: x}}",
    "an environment to extend that is not there": "extends: wn18_imgg",
    "dataset: a folder elsewhere": "dataset: ../elsewhere",
    "a wait that is a word": "wait_for_lock: soon",
    "a wait without end": "wait_for_lock: .inf",
    "a wait that is true": "wait_for_lock: true",
}.items():

    @case("Configuration", name)
    def _(world, line=line):
        world.configured({"globals.yml": line})


@case("Configuration", "a stage's group that is null, and one that is a number")
def _(world):
    world.configured({"parameters.yml": "link_prediction: {finetuning: null}\nmodel: 5"})


@case("Configuration", "values of other types, where a run begins")
def _(world):
    lines = "link_prediction: {finetuning: {batch_size: true, epochs: .inf, seeds: [-1]}}"
    world.kedro(files={"parameters.yml": lines})


for name, kind, value in [
    ("images: a number", Folder | None, 5),
    ("images: true", Folder | None, True),
    ("folder: null", Folder, None),
    ("folder: a list", Folder, ["a"]),
]:

    @case("Configuration", name)
    def _(world, name=name, kind=kind, value=value):
        typed(kind, value, name.partition(":")[0])


for name, changes in {
    "checksums that are a number": {"checksums": 5},
    "a checksum of a file that is none": {"checksums": {"nothing.tsv": "aa"}},
    "a file name that is a number": {"files": {"train": 5, "dev": "a", "test": "b"}},
    "no file for a split": {"files": {"train": "a", "dev": "b"}},
    "a layout that is not known": {"layout": "xml"},
    "a share of dev that is no number": {"split": {"dev": np.nan, "test": 0.1, "seed": 0}},
    "labels of RDF that are a number": {"layout": "rdf", "rdf": {"label": 5}},
    "a folder that is a device": {"filepath": "/dev/null"},
}.items():

    @case("Configuration", name)
    def _(world, changes=changes):
        from mkgformer_kedro.datasets.graph_folder import GraphFolderDataset

        files = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}
        GraphFolderDataset(**{"filepath": str(GRAPH), "files": files, **changes}).load()


@case("Configuration", "crops that are a number")
def _(world):
    from mkgformer_kedro.datasets.post_images import PostImagesDataset

    full = {"train": "a", "dev": "b", "test": "c"}
    PostImagesDataset(filepath="images", full=full, grounding={"train": 5})


# What people write: numbers


for name, changes in {
    "true as a batch size": {"batch_size": True},
    "a batch size of 0": {"batch_size": 0},
    "a batch size of 2.5": {"batch_size": 2.5},
    "a batch size that is a text": {"batch_size": "8"},
    "infinitely many epochs": {"epochs": np.inf},
    "epochs that are no number": {"epochs": np.nan},
    "a learning rate that is no number": {"learning_rates": {"default": np.nan}},
    "a learning rate that is negative": {"learning_rates": {"default": -1.0}},
    "no default learning rate": {"learning_rates": {"head": 1.0}},
    "a share of warm-up above 1": {"warmup_ratio": 1.5},
    "a million processes": {"processes": 1_000_000},
    "a misspelt parameter": {"epoch": 3},
    "a seed twice": {"seeds": [1, 1]},
    "a precision that there is not": {"precision": "fp8"},
}.items():

    @case("Parameters", name)
    def _(world, changes=changes):
        from mkgformer_kedro.training.tasks.link_prediction import LinkPredictionParameters

        values = world.fixture("finetuning_values") | changes
        typed(LinkPredictionParameters, values, "link_prediction.finetuning")


class Inputs:
    """A run that takes one group of parameters."""

    def __init__(self, name, group):
        self.name, self.group = name, group

    def inputs(self):
        return {self.name}

    def load(self, name):
        return self.group


def begin(world, name, group):
    patch = world.fixture("monkeypatch")
    patch.setattr(door, "memory", lambda: 16 * 2**30)
    patch.setattr(door, "_has_gpu", lambda: False)
    run = Inputs(f"params:{name}", group)
    hooks = door.BadInputHooks()
    hooks._memory_share = 0.8
    hooks.before_pipeline_run(run, run)


def slots(**full):
    from mkgformer_kedro.pipelines.image_association.parameters import ImageParameters

    values = {"slots": {"full": full}, "min_side": 8, "max_pixels": 50_000_000, "workers": None}
    return typed(ImageParameters, values, "link_prediction.image_association")


@case("Parameters", "images of 100,000 pixels a side")
def _(world):
    begin(world, "link_prediction.image_association", slots(size=100_000, count=1))


@case("Parameters", "a billion images of an entity")
def _(world):
    begin(world, "link_prediction.image_association", slots(size=64, count=1_000_000_000))


@case("Parameters", "no slot for an image")
def _(world):
    slots(size=64, count=0)


@case("Parameters", "a billion bootstrap samples")
def _(world):
    from mkgformer_kedro.pipelines.evaluation.parameters import EvaluationParameters

    values = {"title": None, "synthetic": False, "batch_size": 1, "examples": 0, "published": []}
    group = EvaluationParameters.model_validate({**values, "resamples": 1_000_000_000})
    begin(world, "link_prediction.evaluation", group)


@case("Parameters", "a vision tower of a million columns")
def _(world):
    begin(
        world, "model", model(world, vision_config={"hidden_size": 10**6, "num_hidden_layers": 1})
    )


@case("Parameters", "fp16 without a GPU")
def _(world):
    from mkgformer_kedro.training.tasks.link_prediction import LinkPredictionParameters

    values = world.fixture("finetuning_values") | {"precision": "fp16"}
    begin(world, "link_prediction.finetuning", LinkPredictionParameters.model_validate(values))


@case("Parameters", "a namespace that begins no IRI")
def _(world):
    from mkgformer_kedro.inference.parameters import PublicationParameters

    values = {"page_completions": 1, "page_images": 0, "nearest": 0}
    spaces = {"entity_namespace": "my entities", "relation_namespace": "urn:r:"}
    typed(PublicationParameters, values | spaces, "link_prediction.completion.publication")


# What people write: the command line


for name, arguments in {
    "a pipeline that is not there": ("--pipelines", "link_predicton"),
    "a pipeline of no name like it": ("--pipelines", "everything"),
    "a namespace that is not there": ("--namespaces", "link_prediction.ingestio"),
    "a node that is not there": ("--nodes", "link_prediction.ingestion.index_grph"),
    "a tag that is not there": ("--tags", "gpuu"),
    "a runner that is not there": ("--runner", "SequentalRunner"),
    "a runner of a package that is not there": ("--runner", "a.b.C"),
    "a parameter of the runner that is not there": ("--runner-params", "x=1"),
    "an output that is not there": ("--to-outputs", "link_prediction.metric"),
    "a node to begin with that is not there": ("--from-nodes", "link_prediction.evaluation.predic"),
    "a seed below 0": ("--params", "seed=-1"),
    "a preset that there is not": ("--params", "preset=faithfull"),
    "a task's group that is null": ("--params", "entity_recognition=null"),
    "a stage without its task": ("--params", "finetuning.epochs=3"),
    "a misspelt stage": ("--params", "entity_recognition.finetune.epochs=3"),
    "parameters without a value": ("--params", "seed"),
    "parameters that are no YAML": ("--params", "seed={a: 1"),
    "an option that there is not": ("--pipline", "audit"),
    "a folder of configuration that is not there": ("--conf-source", "nowhere"),
}.items():

    @case("Command line", name)
    def _(world, arguments=arguments):
        world.kedro(*arguments)


for name, content in {
    "a file of options that is no YAML": "run: [",
    "a file of options without a run": "walk: {env: ci}",
    "a file of options with one that is not there": "run: {pipline: audit}",
}.items():

    @case("Command line", name)
    def _(world, content=content):
        (world.folder / "options.yml").write_text(content)
        world.kedro("--config", str(world.folder / "options.yml"))


# Towers


class Executed:
    """What a malicious pickle holds."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def model(world, **changes):
    from mkgformer_kedro.training.parameters import ModelParameters

    towers = world.fixture("tiny_towers")
    values = {
        "text_tower": str(towers.text("bert")),
        "vision_tower": str(towers.vision("clip_vision_model")),
        "vision_config": {},
        "images": {"source": "own", "seed": 0},
        "attention": "sdpa",
        "config": {"num_fusion_layers": 1},
    }
    return typed(ModelParameters, values | changes, "model")


def join(world, **changes):
    """Begin a training with these towers."""
    from mkgformer_kedro.datasets.visual_store import VisualStore
    from mkgformer_kedro.modeling import MKGformerForLinkPrediction
    from mkgformer_kedro.training import towers

    parameters = model(world, **changes)
    tokenizer = towers.load_tokenizer(parameters)
    store = VisualStore(world.fixture("store_folder"))
    joined = towers.build_model(MKGformerForLinkPrediction, parameters, "corrected", store)
    towers.check_vocabulary(joined, tokenizer)
    towers.check_length(joined, 16)
    assert not Path("executed").exists()


def damaged_tower(world, side, damage):
    """A copy of a tower, damaged."""
    towers = world.fixture("tiny_towers")
    source = towers.text("bert") if side == "text" else towers.vision("clip_vision_model")
    folder = shutil.copytree(source, world.folder / "tower")
    damage(folder)
    join(world, **{f"{side}_tower": str(folder)})


def holding(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def half(name):
    def truncate(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return truncate


def lacking(name):
    return lambda folder: (folder / name).unlink()


def saying(**fields):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))

    return change


def weighing(edit):
    def change(folder):
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        edit(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return change


def no_numbers(weights):
    for each in weights.values():
        each.fill_(np.nan)


def every_second(weights):
    for key in sorted(weights)[::2]:
        weights.pop(key)


def of_fewer_entities(folder):
    path = folder / "entities.parquet"
    pd.read_parquet(path).iloc[1:].to_parquet(path)


def with_pickle(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Executed()))


NOISE = np.random.default_rng(0).bytes(500)
DAMAGES = {
    "no config.json": lacking("config.json"),
    "a truncated config.json": half("config.json"),
    "a config.json that is a list": holding("config.json", b"[]"),
    "a config.json that is a number": holding("config.json", b"5"),
    "no weights": lacking("model.safetensors"),
    "truncated weights": half("model.safetensors"),
    "weights that are noise": holding("model.safetensors", NOISE),
    "weights that are NaN": weighing(no_numbers),
    "half of the weights": weighing(every_second),
    "a pickle that would run a command": with_pickle,
    "weights of another width": saying(hidden_size=48, intermediate_size=96),
    "heads that do not divide": saying(num_attention_heads=5),
    "no heads": saying(num_attention_heads=0),
    "a width of 0": saying(hidden_size=0),
    "a width that is a text": saying(hidden_size="8"),
    "more layers than weights": saying(num_hidden_layers=50),
    "a constant that is no number": saying(layer_norm_eps=np.nan),
    "an activation that there is not": saying(hidden_act="foo"),
    "an architecture that there is not": saying(model_type="nothing"),
    "an architecture that is no such tower": saying(model_type="gpt2"),
}  # fmt: skip
for side in ("text", "vision"):
    own = {
        "text": {
            "no tokenizer": lacking("tokenizer.json"),
            "a truncated tokenizer": half("tokenizer.json"),
            "a tokenizer that is a list": holding("tokenizer.json", b"[]"),
            "settings of the tokenizer that are a list": holding("tokenizer_config.json", b"[]"),
        },
        "vision": {
            "truncated settings of images": half("preprocessor_config.json"),
            "settings of images that are a list": holding("preprocessor_config.json", b"[]"),
        },
    }[side]
    for name, damage in {**DAMAGES, **own}.items():

        @case("Towers", f"{side}: {name}")
        def _(world, side=side, damage=damage):
            damaged_tower(world, side, damage)


for name, tower in {
    "a folder that is not there": "./nowhere",
    "an empty name": "",
    "a name of blanks": " ",
}.items():

    @case("Towers", name)
    def _(world, tower=tower):
        join(world, text_tower=tower)


@case("Towers", "an empty folder")
def _(world):
    join(world, vision_tower=str(world.folder))


@case("Towers", "a hub that cannot be reached")
def _(world):
    patch = world.fixture("monkeypatch")

    def unreachable(*_, **__):
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files.")

    patch.setattr("transformers.AutoTokenizer.from_pretrained", unreachable)
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    join(world, text_tower="google-bert/bert-base-uncased")


@case("Towers", "texts longer than the text tower reads")
def _(world):
    from mkgformer_kedro.training.towers import check_length

    class Joined:
        class config:  # noqa: N801
            max_text_length = 512

    check_length(Joined, 4096)


SCRATCH = {
    "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8,
    "image_size": 16,
}  # fmt: skip
for name, fields in {
    "heads that do not divide": {"num_attention_heads": 3},
    "a width of 0": {"hidden_size": 0},
    "a patch of 0 pixels": {"patch_size": 0},
    "images of 0 pixels": {"image_size": 0},
    "a width of 8.5": {"hidden_size": 8.5},
    "no layers": {"num_hidden_layers": 0},
    "a field that there is not": {"pixels": 4},
    "a family that there is not": {"model_type": "resnet"},
}.items():

    @case("Towers", f"from scratch: {name}")
    def _(world, fields=fields):
        join(world, vision_tower=None, vision_config=SCRATCH | fields)


for name, fields in {
    "more fused layers than there are": {"num_fusion_layers": 99},
    "fused layers that are true": {"num_fusion_layers": True},
    "fused layers that are 1.5": {"num_fusion_layers": 1.5},
    "a field that there is not": {"num_fusion_layer": 1},
    "a field that is set elsewhere": {"loss": "cross_entropy"},
}.items():

    @case("Towers", f"config: {name}")
    def _(world, fields=fields):
        join(world, config=fields)


@case("Towers", "a detector that is not there")
def _(world):
    from mkgformer_kedro.training.detection import ZeroShotDetector

    ZeroShotDetector("./nowhere", 0.1)


# Models that break, or are damaged


for name, damage in {
    "no model": lacking("model.safetensors"),
    "a truncated tokenizer": half("tokenizer.json"),
    "no tables": lacking("entities.parquet"),
    "a table that is noise": holding("entities.parquet", NOISE),
    "a task that is a list": holding("task.json", b"[]"),
    "weights that are NaN": weighing(no_numbers),
    "half of the weights": weighing(every_second),
    "the entities of another model": of_fewer_entities,
}.items():  # fmt: skip

    @case("Model folders", name)
    def _(world, damage=damage):
        from mkgformer_kedro.inference import Predictor

        folder = shutil.copytree(world.fixture("entity_model"), world.folder / "model")
        damage(folder)
        Predictor.from_folder(folder)


@case("Model folders", "a folder that is not there")
def _(world):
    from mkgformer_kedro.inference import Predictor

    Predictor.from_folder(world.folder / "nowhere")


for name, values in {
    "a loss that is no number": {"loss": np.nan},
    "gradients that are infinite": {"loss": 1.0, "grad_norm": np.inf},
}.items():

    @case("Training", name)
    def _(world, values=values):
        trainer(world).log(values)


def trainer(world):
    """A Trainer at step 7."""
    import torch

    from mkgformer_kedro.training.tasks.link_prediction import LinkPredictionParameters
    from mkgformer_kedro.training.trainer import StageTrainer, training_arguments

    parameters = LinkPredictionParameters.model_validate(world.fixture("finetuning_values"))
    arguments = training_arguments(
        world.folder, parameters, batches_per_epoch=1, seed=0, metric="eval_score"
    )
    made = StageTrainer(
        model=torch.nn.Linear(2, 2),
        args=arguments,
        batch_sampler=[],
        eval_dataset=[0],
        learning_rates={},
        weight_decay={},
    )
    made.state.global_step = 7
    return made


@case("Training", "weights that are no numbers")
def _(world):
    breaking = trainer(world)
    breaking.model.weight.data.fill_(np.nan)
    breaking._save_checkpoint(breaking.model, None)


@case("Training", "an expert that gives no numbers")
def _(world):
    import torch

    from mkgformer_kedro.inference.experts import finite_scores

    class Broken:
        name = "model"

        def scores(self, queries, *, batch_size):
            yield np.arange(1), torch.tensor([[np.nan, 1.0]])

    list(finite_scores(Broken(), pd.DataFrame(), batch_size=1))


# Where work is done


def launching(world, engine, **changes):
    from mkgformer_kedro.launch import engine_of

    world.fixture("monkeypatch").delenv("RAY_ADDRESS", raising=False)
    return engine_of(LAUNCH.model_copy(update={"engine": engine} | changes))


@case("Launching", "two processes that learn, in one")
def _(world):
    launching(world, "local").group("finetuning", dict, {}, processes=2)


@case("Launching", "Ray, which is not installed")
def _(world):
    world.fixture("monkeypatch").setitem(sys.modules, "ray", None)
    launching(world, "ray")


for name, address in {
    "an address where nobody is": "127.0.0.1:1",
    "an address of Ray Client": "ray://127.0.0.1:10001",
    "an address without a port": "somewhere",
}.items():

    @case("Launching", name)
    def _(world, address=address):
        launching(world, "ray", address=address)


# The Python interface


for name, question in {
    "an entity that is not known": ("nobody", "next"),
    "a relation that is not known": ("e0", "nxt"),
    "a list of dicts": ([{"entity": "e0", "relation": "next"}],),
    "too many parts": ("e0", "next", "tail", 5),
    "a table without a column": (pd.DataFrame({"entity": ["e0"]}),),
    "a table with nothing in a cell": (
        pd.DataFrame({"entity": ["e0", None], "relation": ["next", "next"]}),
    ),
    "an empty table": (pd.DataFrame({"entity": [], "relation": []}),),
}.items():

    @case("Python interface", name)
    def _(world, question=question):
        world.fixture("predictor").predict(*question)


for name, options in {
    "a direction that there is not": {"direction": "up"},
    "images that are not there": {"images": "nowhere.png"},
    "images that are a number": {"images": 5},
    "an image that is a device": {"images": "/dev/zero"},
    "fewer than no answers": {"top": -1},
    "no question at a time": {"batch_size": 0},
}.items():

    @case("Python interface", name)
    def _(world, options=options):
        world.fixture("predictor").predict("e0", "next", **options)


for name, post in {
    "a text in place of words": {"words": "Ann met Bob"},
    "a post without words": {"words": []},
    "a word that is nothing": {"words": ["Ann", None, "Bob"]},
    "a mention behind the end": {"tail": (2, 9)},
    "a mention that is backwards": {"tail": (2, 1)},
    "a mention before the start": {"tail": (-1, 1)},
    "a mention that is a number": {"tail": 2},
    "a mention that the post lacks": {"tail": "Eve"},
    "the same mention twice": {"tail": (0, 1)},
}.items():

    @case("Python interface", name)
    def _(world, post=post):
        from mkgformer_kedro.training.tasks.relation_extraction import RelationExtraction

        asked = {"words": ["Ann", "met", "Bob"], "head": (0, 1), "tail": (2, 3), **post}
        RelationExtraction(pd.DataFrame(), 32, "cls").read_questions(pd.DataFrame([asked]))


@case("Python interface", "a way to explain that there is not")
def _(world):
    world.fixture("predictor").explain("e0", "next", by="magic")


@pytest.fixture(scope="module")
def predictor(entity_model):
    from mkgformer_kedro.inference import Predictor

    return Predictor.from_folder(entity_model)


# Each case, and the page


@pytest.mark.parametrize(("area", "name"), cases())
def test_bad_input_ends_with_one_clear_message(
    area, name, tmp_path, request, capsys, messages, page
):
    message = message_of(CASES[area][name], World(tmp_path, request), capsys)
    assert message
    messages[area, name] = message
    if not os.environ.get("WRITE_ERRORS"):
        assert message == page.get((area, name)), "write the page anew: make errors"


def test_the_page_lists_every_case(messages, page):
    if os.environ.get("WRITE_ERRORS"):
        PAGE.write_text(written(messages), encoding="utf-8")
    else:
        assert list(page) == cases()


def written(messages):
    """The page, from what the cases said."""
    figures = {"cases": len(messages), "clear": len(messages), "silent": 0, "tracebacks": 0}
    said = ", ".join(f"{name}: {count}" for name, count in {**figures, "hangs": 0}.items())
    lines = [INTRODUCTION, f"{said}.\n"]
    for area, named in CASES.items():
        lines += [f"\n## {area}\n", "| case | message |", "| --- | --- |"]
        for name in named:
            if (area, name) in messages:
                text = messages[area, name].replace("|", "\\|")
                lines.append(f"| {name} | `` {text} `` |")
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


# Whatever else is written


@settings(max_examples=80)
@given(st.one_of(st.binary(max_size=80), st.text("ab:&*- []{}!<>|'\"\n#%,?$", max_size=60)))
def test_yaml_is_a_group_or_one_clear_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.yml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    try:
        assert isinstance(read_yaml(path), dict)
    except DataError as error:
        assert "any.yml" in str(error)  # noqa: PT017


VALUES = st.one_of(
    st.sampled_from([None, True, False, "", "x", "complex", "adagrad", "fp32", [], {}, {"a": 1}]),
    st.integers(),
    st.floats(),
)


@settings(max_examples=40)
@given(data=st.data())
def test_parameters_are_typed_or_one_clear_error(data):
    from mkgformer_kedro.training.parameters import StructureModelSettings

    fields = data.draw(
        st.fixed_dictionaries(dict.fromkeys(StructureModelSettings.model_fields, VALUES))
    )
    try:
        made = StructureModelSettings.model_validate(fields)
    except DataError as error:
        assert error.problems  # noqa: PT017
    else:
        numbers = [value for value in made.model_dump().values() if isinstance(value, float)]
        assert np.isfinite(numbers).all()
        assert not any(isinstance(value, bool) for value in made.model_dump().values())
