"""Bad input ends with one clear message: each case here is a row of ``docs/errors.md``.

A case is a function that does what somebody might do. Its message is what the command line would
print, or what the function gives: the line of the log where a run goes on without what is damaged.
``WRITE_ERRORS=1 pytest tests/test_bad_input.py`` (``make errors``) writes the page anew.
"""

from __future__ import annotations

import errno
import gzip
import io
import json
import logging
import os
import pickle
import re
import shutil
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kedro.framework.startup import bootstrap_project
from PIL import Image

from mkgformer_kedro.configuration import ExtendingConfigLoader, read_yaml
from mkgformer_kedro.datasets.tables import ParquetDataset
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.files import sha256_of, written_atomically
from mkgformer_kedro.hooks import input as door
from mkgformer_kedro.parameters import Folder, typed
from mkgformer_kedro.settings import CONFIG_LOADER_ARGS
from test_readers import DAMAGES, OTHERS, READERS, refusal
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


class Case(NamedTuple):
    """What somebody does with a world, and words of what it is told."""

    function: Callable[[World], object]
    says: str


CASES: dict[str, dict[str, Case]] = {}


def case(area, name, says):
    """Register a function as what somebody does; it takes the world of the tests.

    Its message holds the words ``says``: those of this mistake, not of another on the way to it.
    """

    def register(function):
        assert name not in CASES.setdefault(area, {}), name
        CASES[area][name] = Case(function, says)
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
    line = None
    try:
        line = function(world)
    except BaseException as end:
        if not isinstance(end, SystemExit):
            door.show_plainly(*sys.exc_info())
    finally:
        signal.alarm(0)
        logging.disable(logging.NOTSET)
        signal.signal(signal.SIGALRM, previous)
    message = line if isinstance(line, str) else capsys.readouterr().err
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


for name, (content, says) in {
    "YAML that does not parse": ("seed: [1", "parameters.yml:1: no YAML"),
    "a tab before a key": ("model:\n\tseed: 1", "parameters.yml:2: no YAML"),
    "a tag that would run a command": (
        "seed: !!python/object/apply:os.system ['touch executed']",
        "the tag !!python/object/apply:os.system",
    ),
    "a tag of somebody's own": ("seed: !mine 5", "the tag !mine"),
    "latin-1": ("title: caf\xe9".encode("latin-1"), "not UTF-8 (byte 0xe9)"),
    "UTF-16": ("seed: 1".encode("utf-16"), "not UTF-8 (byte 0xff)"),
    "a key that is there twice": (
        "seed: 1\npreset: faithful\nseed: 2",
        "parameters.yml:3: the key 'seed' is there twice",
    ),
    "a key that is a list": ("? [a, b]\n: 1", "parameters.yml:1: a key that is no text"),
    "a key that is nothing": ("seed: 1\nnull: 5", "parameters.yml:2: a key that is no text"),
    "a number that is none": ("seed: !!int abc", "parameters.yml:1: 'abc' is no int"),
    "a number of 5,000 digits": (f"a: 1\nseed: {'9' * 5000}", "parameters.yml:2: '999"),
    "a tag that would make a date": ("seed: !!timestamp 2020-99-99", "the tag !!timestamp"),
    "a group that is a list": ("- seed\n- preset", "no group of keys"),
    "a file that is one word": ("seed", "no group of keys"),
    "an alias bomb": (bomb(), "more than 100,000 values"),
    "an alias of itself": ("seed: &a [*a]", "holds itself"),
    "a NUL character": ("seed: a\0b", "special characters"),
    "a merge of what is no group": ("<<: 5", "for merging"),
    "a reference to nothing": ("seed: ${nothing}", "'nothing' not found"),
    "a reference to the shell's variables": ("seed: ${oc.env:HOME}", "oc.env"),
}.items():

    @case("Configuration", name, says)
    def _(world, content=content):
        for environment in ("base", "odd"):
            (world.folder / environment).mkdir()
        raw = content if isinstance(content, bytes) else content.encode()
        (world.folder / "base/globals.yml").write_text("extends: null")
        (world.folder / "odd/parameters.yml").write_bytes(raw)
        arguments = {**CONFIG_LOADER_ARGS, "default_run_env": "odd"}
        ExtendingConfigLoader(str(world.folder), env="odd", **arguments)["parameters"]
        assert not Path("executed").exists()


for name, file in {
    "a file of parameters of another name": "params_link_prediction.yml",
    "globals.yaml in the place of globals.yml": "globals.yaml",
}.items():

    @case("Configuration", name, f"{file}: nothing reads a file of this name")
    def _(world, file=file):
        world.configured({file: "seed: 5"})


@case("Configuration", "a key that is there in two files", "two.yml:2: the key 'model.seed'")
def _(world):
    files = {"parameters_one.yml": "model:\n  seed: 1", "parameters_two.yml": "model:\n  seed: 2"}
    world.configured(files)


@case("Configuration", "a file of parameters that is a pipe", "a pipe or device, not a file")
def _(world):
    os.mkfifo(world.folder / "parameters.yml")
    read_yaml(world.folder / "parameters.yml")


for name, environment in {
    "an environment that is not there": "wn18_imgg",
    "an environment above the others": "..",
    "an environment by another way": "../conf/ci",
}.items():

    @case("Configuration", name, f"no environment '{environment}'")
    def _(world, environment=environment):
        ExtendingConfigLoader(str(ROOT / "conf"), env=environment, **CONFIG_LOADER_ARGS)["globals"]


for name, (line, says) in {
    "dataset: null": ("dataset: null", "dataset in globals.yml"),
    "dataset: a number": ("dataset: 5", "dataset in globals.yml"),
    "a share of memory that is none": ("memory_share: .nan", "memory_share in globals.yml is nan"),
    "a group of paths that is null": ("link_prediction: null", "'link_prediction' is no group"),
    "a misspelt path": ("relation_extraction: {imagse: x}", "'relation_extraction.imagse'"),
    "a misspelt file": ("link_prediction: {files: {trian: x}}", "'link_prediction.files.trian'"),
    "an environment to extend that is not there": ("extends: wn18_imgg", "extends 'wn18_imgg'"),
    "dataset: a folder elsewhere": ("dataset: ../elsewhere", "dataset in globals.yml"),
    "a wait that is a word": ("wait_for_lock: soon", "wait_for_lock in globals.yml is 'soon'"),
    "a wait without end": ("wait_for_lock: .inf", "wait_for_lock in globals.yml is inf"),
    "a wait that is true": ("wait_for_lock: true", "wait_for_lock in globals.yml is True"),
    "files of less than no bytes": (
        "hashed_gigabytes: -1",
        "hashed_gigabytes in globals.yml",
    ),
}.items():

    @case("Configuration", name, says)
    def _(world, line=line):
        world.configured({"globals.yml": line})


@case(
    "Configuration", "a stage's group that is null, and one that is a number", "'model' is no group"
)
def _(world):
    world.configured({"parameters.yml": "link_prediction: {finetuning: null}\nmodel: 5"})


@case(
    "Configuration",
    "values of other types, where a run begins",
    "batch_size: Input should be a valid integer",
)
def _(world):
    lines = "link_prediction: {finetuning: {batch_size: true, epochs: .inf, seeds: [-1]}}"
    world.kedro(files={"parameters.yml": lines})


for name, kind, value in [
    ("images: a number", Folder | None, 5),
    ("images: true", Folder | None, True),
    ("folder: null", Folder, None),
    ("folder: a list", Folder, ["a"]),
]:

    @case("Configuration", name, f"should be the name of a folder, not {value}")
    def _(world, name=name, kind=kind, value=value):
        typed(kind, value, name.partition(":")[0])


for name, folder, says in [
    ("a folder with a NUL character in its name", "a\0b", "without NUL characters"),
    ("a folder whose name has 5,000 characters", "a" * 5000, "not one of 5,000 bytes"),
    ("a folder with half a character in its name", "a\ud800", "a name in UTF-8"),
    ("a folder that begins with a tilde", "~/graph", "a folder whose ~ is written out"),
]:

    @case("Configuration", name, says)
    def _(world, folder=folder):
        typed(Folder, folder, "images")


for name, (changes, says) in {
    "checksums that are a number": (
        {"checksums": 5},
        "checksums: Input should be a valid dictionary",
    ),
    "a checksum of a file that is none": (
        {"checksums": {"nothing.tsv": "aa"}},
        "nothing is read from it",
    ),
    "a file name that is a number": (
        {"files": {"train": 5, "dev": "a", "test": "b"}},
        "files.train: Input should be a valid string",
    ),
    "a file name with a NUL character": (
        {"files": {"train": "a\0", "dev": "a", "test": "b"}},
        "files.train: Input should be a name without NUL",
    ),
    "a file name of 5,000 characters": (
        {"files": {"train": "a", "dev": "a" * 5000, "test": "b"}},
        "files.dev: Input should be a name that fits",
    ),
    "no file for a split": ({"files": {"train": "a", "dev": "b"}}, "no file for test"),
    "a layout that is not known": ({"layout": "xml"}, "layout is 'xml'"),
    "a share of dev that is no number": (
        {"split": {"dev": np.nan, "test": 0.1, "seed": 0}},
        "split.dev: Input should be a finite number",
    ),
    "labels of RDF that are a number": (
        {"layout": "rdf", "rdf": {"label": 5}},
        "rdf.label: Input should be a valid tuple",
    ),
    "a folder that is a device": ({"filepath": "/dev/null"}, "/dev/null: no such folder"),
}.items():

    @case("Configuration", name, says)
    def _(world, changes=changes):
        from mkgformer_kedro.datasets.graph_folder import GraphFolderDataset

        files = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}
        GraphFolderDataset(**{"filepath": str(GRAPH), "files": files, **changes}).load()


@case(
    "Configuration",
    "crops that are a number",
    "grounding.train: Input should be a valid dictionary",
)
def _(world):
    from mkgformer_kedro.datasets.post_images import PostImagesDataset

    full = {"train": "a", "dev": "b", "test": "c"}
    PostImagesDataset(filepath="images", full=full, grounding={"train": 5})


# What people write: numbers


for name, (changes, says) in {
    "true as a batch size": (
        {"batch_size": True},
        "batch_size: Input should be a valid integer, not True",
    ),
    "a batch size of 0": (
        {"batch_size": 0},
        "batch_size: Input should be greater than or equal to 1",
    ),
    "a batch size of 2.5": (
        {"batch_size": 2.5},
        "batch_size: Input should be a valid integer, not 2.5",
    ),
    "a batch size that is a text": (
        {"batch_size": "8"},
        "batch_size: Input should be a valid integer, not '8'",
    ),
    "infinitely many epochs": ({"epochs": np.inf}, "epochs: Input should be a finite number"),
    "epochs that are no number": ({"epochs": np.nan}, "epochs: Input should be a finite number"),
    "a learning rate that is no number": (
        {"learning_rates": {"default": np.nan}},
        "learning_rates.default: Input should be a finite number",
    ),
    "a learning rate that is negative": ({"learning_rates": {"default": -1.0}}, "not negative"),
    "no default learning rate": ({"learning_rates": {"head": 1.0}}, "needs the key 'default'"),
    "a share of warm-up above 1": (
        {"warmup_ratio": 1.5},
        "warmup_ratio: Input should be less than 1",
    ),
    "a million processes": ({"processes": 1_000_000}, "processes: Input should be less than"),
    "a misspelt parameter": ({"epoch": 3}, "unknown parameter 'epoch'"),
    "a seed twice": ({"seeds": [1, 1]}, "at least one seed and none twice"),
    "a precision that there is not": ({"precision": "fp8"}, "not 'fp8'"),
}.items():

    @case("Parameters", name, says)
    def _(world, changes=changes):
        from mkgformer_kedro.training.tasks.link_prediction import LinkPredictionParameters

        values = world.fixture("finetuning_values") | changes
        typed(LinkPredictionParameters, values, "link_prediction.finetuning")


class Inputs:
    """A run that takes one group of parameters."""

    def __init__(self, name, group, parameters):
        self.name, self.group, self.parameters = name, group, parameters

    def inputs(self):
        return {self.name}

    def load(self, name):
        return self.parameters if name == "parameters" else self.group


def begin(world, name, group, parameters=None):
    patch = world.fixture("monkeypatch")
    patch.setattr(door, "memory", lambda: 16 * 2**30)
    patch.setattr(door, "_has_gpu", lambda: False)
    run = Inputs(f"params:{name}", group, parameters)
    hooks = door.BadInputHooks()
    hooks._memory_share = 0.8
    hooks.before_pipeline_run(run, run)


def slots(**full):
    from mkgformer_kedro.pipelines.image_association.parameters import ImageParameters

    values = {"slots": {"full": full}, "min_side": 8, "max_pixels": 50_000_000, "workers": None}
    return typed(ImageParameters, values, "link_prediction.image_association")


@case("Parameters", "images of 100,000 pixels a side", "these sizes take 111.8 GB")
def _(world):
    begin(world, "link_prediction.image_association", slots(size=100_000, count=1))


@case("Parameters", "a billion images of an entity", "these sizes take 45,776.4 GB")
def _(world):
    begin(world, "link_prediction.image_association", slots(size=64, count=1_000_000_000))


@case("Parameters", "no slot for an image", "every count is 0")
def _(world):
    slots(size=64, count=0)


@case("Parameters", "a billion bootstrap samples", "these sizes take 59.6 GB")
def _(world):
    from mkgformer_kedro.pipelines.evaluation.parameters import EvaluationParameters

    stands = read_yaml(ROOT / "conf/base/parameters_entity_recognition.yml")["entity_recognition"]
    values = stands["evaluation"] | {"resamples": 1_000_000_000}
    group = EvaluationParameters.model_validate(values)
    begin(world, "entity_recognition.evaluation", group)


@case("Parameters", "a vision tower of a million columns", "these sizes take 59,604.6 GB")
def _(world):
    begin(
        world, "model", model(world, vision_config={"hidden_size": 10**6, "num_hidden_layers": 1})
    )


@case("Parameters", "fp16 without a GPU", "fp16 needs a GPU")
def _(world):
    from mkgformer_kedro.training.tasks.link_prediction import LinkPredictionParameters

    values = world.fixture("finetuning_values") | {"precision": "fp16"}
    begin(world, "link_prediction.finetuning", LinkPredictionParameters.model_validate(values))


@case("Parameters", "experts that learn from other parts of train", "it is null, and link_pred")
def _(world):
    groups = {
        "structure_modeling": {"models": ["complex"], "seeds": None},
        "finetuning": {"train_subset": {"share": 0.05}, "seeds": [1, 2]},
    }
    stage = "structure_modeling"
    begin(world, f"link_prediction.{stage}", groups[stage], {"link_prediction": groups})


@case("Parameters", "a namespace that begins no IRI", "entity_namespace: Input should begin IRIs")
def _(world):
    from mkgformer_kedro.inference.parameters import PublicationParameters

    values = {"page_completions": 1, "page_images": 0, "nearest": 0}
    spaces = {"entity_namespace": "my entities", "relation_namespace": "urn:r:"}
    typed(PublicationParameters, values | spaces, "link_prediction.completion.publication")


# What people write: the command line


for name, (arguments, says) in {
    "a pipeline that is not there": (
        ("--pipelines", "link_predicton"),
        "--pipelines: there is no 'link_predicton'",
    ),
    "a pipeline of no name like it": (
        ("--pipelines", "everything"),
        "--pipelines: there is no 'everything'",
    ),
    "a namespace that is not there": (
        ("--namespaces", "link_prediction.ingestio"),
        "--namespaces: this run has no",
    ),
    "a node that is not there": (
        ("--nodes", "link_prediction.ingestion.index_grph"),
        "--nodes: this run has no",
    ),
    "a tag that is not there": (("--tags", "gpuu"), "--tags: this run has no 'gpuu'"),
    "a runner that is not there": (
        ("--runner", "SequentalRunner"),
        "Did you mean 'SequentialRunner'?",
    ),
    "a runner of a package that is not there": (
        ("--runner", "a.b.C"),
        "--runner: there is no 'a.b.C'",
    ),
    "what runners have in common": (("--runner", "AbstractRunner"), "no 'AbstractRunner'"),
    "a runner that is none": (("--runner", "Task"), "no 'Task'. There are: ParallelRunner, Seq"),
    "a parameter of the runner that is a number": (
        ("--runner-params", "is_async=5"),
        "is_async: Input should be a valid boolean",
    ),
    "no process for the runner": (
        ("--runner", "ThreadRunner", "--runner-params", "max_workers=0"),
        "max_workers should be positive",
    ),
    "nodes between which there is none": (
        (
            *("--pipelines", "link_prediction"),
            *("--from-nodes", "link_prediction.evaluation.report"),
            *("--to-nodes", "link_prediction.ingestion.index_graph"),
        ),
        "nothing is left of this run",
    ),
    "a configuration that is a file": (("--conf-source", "README.md"), "no folder of config"),
    "a configuration elsewhere": (("--conf-source", "s3://no/x"), "no folder of config"),
    "a parameter of the runner that is not there": (
        ("--runner-params", "x=1"),
        "--runner-params: there is no 'x'",
    ),
    "an output that is not there": (
        ("--to-outputs", "link_prediction.metric"),
        "--to-outputs: this run has no",
    ),
    "a node to begin with that is not there": (
        ("--from-nodes", "link_prediction.evaluation.predic"),
        "--from-nodes: this run has no",
    ),
    "a seed below 0": (("--params", "seed=-1"), "seed is -1"),
    "a preset that there is not": (("--params", "preset=faithfull"), "preset is 'faithfull'"),
    "a task's group that is null": (
        ("--params", "entity_recognition=null"),
        "'entity_recognition' is no group",
    ),
    "a stage without its task": (
        ("--params", "finetuning.epochs=3"),
        "unknown parameter 'finetuning'",
    ),
    "a misspelt stage": (
        ("--params", "entity_recognition.finetune.epochs=3"),
        "unknown parameter 'entity_recognition.finetune'",
    ),
    "parameters without a value": (("--params", "seed"), "must contain a key and a value"),
    "parameters that are no YAML": (("--params", "seed={a: 1"), "'--params'"),
    "an option that there is not": (("--pipline", "audit"), "No such option '--pipline'"),
    "a folder of configuration that is not there": (("--conf-source", "nowhere"), "'nowhere'"),
}.items():

    @case("Command line", name, says)
    def _(world, arguments=arguments):
        world.kedro(*arguments)


for name, (content, says) in {
    "a file of options that is no YAML": ("run: [", "options.yml:1: no YAML"),
    "a file of options without a run": ("walk: {env: ci}", "no group 'run'"),
    "a file of options with one that is not there": (
        "run: {pipline: audit}",
        "no option 'pipline'",
    ),
}.items():

    @case("Command line", name, says)
    def _(world, content=content):
        (world.folder / "options.yml").write_text(content)
        world.kedro("--config", str(world.folder / "options.yml"))


# What people bring: graphs


def settings_of(task, stage):
    """What the base environment says of a stage."""
    return read_yaml(ROOT / f"conf/base/parameters_{task}.yml")[task][stage]


def ingest(world, contents, **settings):
    """Read a graph and number it, as ingestion does; these files replace its own."""
    from mkgformer_kedro.datasets.graph_folder import GraphFolderDataset
    from mkgformer_kedro.pipelines.ingestion.link_prediction import index_graph
    from mkgformer_kedro.pipelines.ingestion.parameters import IngestionParameters

    own = {"files": world.fixture("graph_files"), "filepath": str(world.folder / "graph")}
    world.fixture("write_graph")(contents)
    parameters = IngestionParameters(**settings_of("link_prediction", "ingestion"))
    index_graph(GraphFolderDataset(**own | settings).load(), parameters)


TRAIN = "007\tlikes\t02\n02\tlikes\t03\n03\tknows\t04\n02\tknows\t007\n"
for name, (files, says) in {
    "test that is train": ({"test.tsv": TRAIN}, "4 of the test triples (100.0%) stand in train"),
    "dev that is train": ({"dev.tsv": TRAIN}, "4 of the dev triples (100.0%) stand in train"),
    "test that is dev": ({"test.tsv": "007\tknows\t03\n"}, "stand in dev, too"),
    "test whose reverse is in train": (
        {"test.tsv": "03\tknows\t02\n"},
        "100.0% of the test triples have their reverse in train",
    ),
    "a line of headings": ({"train.tsv": f"head\trelation\ttail\n{TRAIN}"}, "a header (head"),
    "texts of another graph": ({"entity2text.txt": "Q1\ta\nQ2\tb\n"}, "0 of 2 ids are known"),
    "texts of other relations": ({"relation2text.txt": "r1\ta\n"}, "0 of 1 ids are known"),
    "a NUL character in an id": ({"dev.tsv": "007\tkn\0ws\t03\n"}, "dev.tsv:1: a NUL character"),
    "UTF-16, as spreadsheets write it": (
        {"train.tsv": TRAIN.encode("utf-16")},
        "train.tsv: not UTF-8 but UTF-16",
    ),
    "texts in quotation marks, as spreadsheets write them": (
        {"entity2text.txt": '007\t"Bond"\n02\t"M"\n'},
        "every text stands in quotation marks",
    ),
    "latin-1 in a text": ({"entity2text.txt": b"007\tcaf\xe9\n"}, "not UTF-8 (byte 0xe9"),
    "an id of 10 MB": ({"test.tsv": f"007\tlikes\t{'x' * 10**7}\n"}, "unknown entity 'xxx"),
    "an entity that no list has": ({"dev.tsv": "08\tlikes\t02\n"}, "unknown entity '08'"),
    "a relation that no list has": ({"dev.tsv": "007\tlikez\t02\n"}, "unknown relation 'likez'"),
    "two columns": ({"train.tsv": "007\tlikes\n"}, "2 columns instead of 3"),
    "a blank id": ({"train.tsv": "007\t \t02\n"}, "empty relation"),
    "an entity twice": ({"entities.txt": "007\n02\n03\n04\n02\n"}, "is there already, on line 2"),
    "two texts of an entity": ({"entity2text.txt": "02\ta\n02\tb\n"}, "is there already"),
    "an empty file": ({"train.tsv": ""}, "the file is empty"),
}.items():

    @case("Graphs", name, says)
    def _(world, files=files):
        ingest(world, files)


@case("Graphs", "a file with a capital in its name", "no such file, only Train.tsv")
def _(world):
    train = world.fixture("write_graph")() / "train.tsv"
    train.rename(train.with_name("Train.tsv"))
    ingest(world, {"train.tsv": None})


@case("Graphs", "columns in another order", "25 relations, 1 tails are those of columns in another")
def _(world):
    splits = ("train", "dev", "test")
    swapped = {f"{split}.tsv": "".join(f"a\t{n}\tlikes\n" for n in range(25)) for split in splits}
    ingest(world, swapped, files={split: f"{split}.tsv" for split in splits})


for name, (put, says) in {
    "triples that are a pipe": (os.mkfifo, "a pipe or device, not a file"),
    "triples that are a device": (
        lambda path: path.symlink_to("/dev/zero"),
        "a pipe or device, not a file",
    ),
    "triples that are a folder": (Path.mkdir, "cannot be read (Is a directory)"),
    "triples that are not there": (str, "test.tsv: no such file"),
}.items():

    @case("Graphs", name, says)
    def _(world, put=put):
        world.fixture("write_graph")({"test.tsv": None})
        put(world.folder / "graph/test.tsv")
        ingest(world, {"test.tsv": None})


for name, (content, says) in {
    "an archive that is cut off": (gzip.compress(TRAIN.encode())[:-9], "cannot be unpacked"),
    "an archive that is none": (TRAIN.encode(), "cannot be unpacked (Not a gzipped file"),
    "an archive that is a bomb": (gzip.compress(b"a" * 10**7), "more than 200 times its size"),
}.items():

    @case("Graphs", name, says)
    def _(world, content=content):
        files = world.fixture("graph_files") | {"train": "train.tsv.gz"}
        ingest(world, {"train.tsv.gz": content}, files=files)


@case("Graphs", "another file than the published one", "differs from the published file")
def _(world):
    ingest(world, {}, checksums={"train.tsv": "0" * 64})


@case("Graphs", "OpenKE: fewer lines than the first one says", "says 3 lines, and 1 follow")
def _(world):
    files = {
        "train2id.txt": "3\n0 1 0\n", "entity2id.txt": "2\na 0\nb 1\n",
        "relation2id.txt": "1\nlikes 0\n",
    }  # fmt: skip
    names = {"entities": "entity2id.txt", "relations": "relation2id.txt"}
    splits = dict.fromkeys(("train", "dev", "test"), "train2id.txt")
    ingest(world, files, files=splits | names, layout="openke")


EDGE = b"<http://a/1> <http://a/r> <http://a/2> .\n"
for name, (file, content, says) in {
    "RDF that ends within a statement": ("graph.nt", EDGE + b"<http://a/1>", "graph.nt:2: column"),
    "RDF with a prefix of nobody's": ("graph.ttl", EDGE + b"x:a x:b x:c .", "The prefix x:"),
    "RDF with relative names": ("graph.ttl", EDGE + b"<a> <b> <c> .", "a relative IRI"),
    "RDF that is a table": ("graph.ttl", b"a\tr\tb\n", "graph.ttl:1: column 1"),
    "RDF without a statement": ("graph.ttl", b"# nothing\n", "holds no statement"),
    "RDF of values alone": ("graph.nt", b'<http://a/1> <http://a/r> "1" .\n', "two entities"),
    "RDF in XML": ("graph.rdf", EDGE, "'.rdf' stands for no RDF that is read"),
    "RDF in an archive that is none": ("graph.nt.gz", EDGE, "cannot be unpacked"),
}.items():

    @case("Graphs", name, says)
    def _(world, file=file, content=content):
        names = read_yaml(ROOT / "conf/base/globals.yml")["link_prediction"]
        split = {"dev": 0.1, "test": 0.1, "seed": 0}
        options = {"layout": "rdf", "rdf": names["rdf"], "split": split}
        ingest(world, {file: content}, files={"graph": file}, **options)


# What people bring: posts


def pair(words="Ann in Rome", head=(0, 1), tail=(2, 3), **changes):
    """A line of a post with two mentions."""
    token = words.split(" ")
    mentions = {
        key: {"name": " ".join(token[start:end]), "pos": [start, end]}
        for key, (start, end) in (("h", head), ("t", tail))
    }
    return f"{ {'token': token, **mentions, 'img_id': '', 'relation': 'None'} | changes!r}\n"


def ingest_pairs(world, files):
    from mkgformer_kedro.datasets.post_files import RelationPostsDataset
    from mkgformer_kedro.pipelines.ingestion.parameters import RelationIngestionParameters
    from mkgformer_kedro.pipelines.ingestion.relation_extraction import index_posts

    own = {"train": pair(), "dev": pair("Bob in Oslo"), "test": pair("Eve in Kyiv")}
    own["relations"] = '{"None": 0, "lives": 1}'
    for name, content in {**own, **files}.items():
        (world.folder / name).write_text(content)
    raw = RelationPostsDataset(filepath=str(world.folder), files={name: name for name in own})
    values = settings_of("relation_extraction", "ingestion")
    index_posts(raw.load(), RelationIngestionParameters(**values))


for name, (files, says) in {
    "a relation that no list has": ({"dev": pair(relation="loves")}, "unknown relation 'loves'"),
    "a list of relations: None alone": ({"relations": '{"None": 0}'}, "no relation but 'None'"),
    "relations that are no JSON": ({"relations": "{"}, "not the JSON object that numbers"),
    "a relation twice": ({"relations": '{"None": 0, "None": 1}'}, "'None' is there twice"),
    "no relation that stands for none": ({"relations": '{"lives": 0}'}, "stands for none"),
    "test posts that stand in train": ({"test": pair()}, "are those of a train post"),
    "a mention behind the end of its post": ({"dev": pair(tail=(2, 9))}, "[2, 9] is no span"),
    "two mentions that are one": ({"dev": pair(tail=(0, 1))}, "are the same mention"),
    "a mention of another name": (
        {"dev": pair(t={"name": "Oslo", "pos": [2, 3]})},
        "is 'Rome', not 'Oslo'",
    ),
    "a line that would run a command": ({"dev": "__import__('os').system('x')"}, "dev:1: "),
    "a post without words": ({"dev": pair(token=[])}, "a post without words"),
    "a word of half a character": (
        {"dev": pair(token=["Ann", "\ud83d", "Rome"])},
        "a text holds half a character",
    ),
}.items():

    @case("Posts", name, says)
    def _(world, files=files):
        ingest_pairs(world, files)


def ingest_tagged(world, files, **changes):
    from mkgformer_kedro.datasets.post_files import TaggedPostsDataset
    from mkgformer_kedro.pipelines.ingestion.entity_recognition import index_posts
    from mkgformer_kedro.pipelines.ingestion.parameters import TaggedIngestionParameters

    own = {"train": "Ann\tB-PER\n", "dev": "Bob\tB-PER\n", "test": "Eve\tB-PER\n"}
    for name, content in {**own, **files}.items():
        (world.folder / name).write_text(f"IMGID:1\n{content}")
    raw = TaggedPostsDataset(filepath=str(world.folder), files={name: name for name in own})
    values = settings_of("entity_recognition", "ingestion") | changes
    index_posts(raw.load(), TaggedIngestionParameters(**values))


for name, (files, says) in {
    "a tag that there is not": ({"dev": "Ann\tB-CAT\n"}, "dev:2: unknown tag 'B-CAT'"),
    "a word without a tag": ({"dev": "Ann\n"}, "dev:2: 1 columns instead of 2"),
    "a post without its first line": ({"dev": "Ann\tO\n\nBob\tO\n"}, "dev:4: a post without its"),
}.items():

    @case("Posts", name, says)
    def _(world, files=files):
        ingest_tagged(world, files)


# What people bring: images


for name, (path, says) in {
    "images beside the folders of entities": ("a.png", "lie beside the folders of entities"),
    "images one level too deep": ("all/e0/a.png", "the folders in it hold folders, not images"),
    "images of other entities": ("q0/a.png", "none of the 1 folders in it stands for an entity"),
    "a folder without images": ("e0/.hidden", "no image lies in it"),
}.items():

    @case("Images", name, says)
    def _(world, path=path):
        from mkgformer_kedro.datasets.image_folder import ImageFolderDataset
        from mkgformer_kedro.pipelines.image_association.link_prediction import store_images
        from mkgformer_kedro.pipelines.image_association.parameters import (
            ImageAssociationParameters,
        )

        file = world.folder / "images" / path
        file.parent.mkdir(parents=True)
        Image.new("RGB", (40, 30)).save(file, "PNG")
        listed = ImageFolderDataset(filepath=str(world.folder / "images")).load()
        entities = pd.DataFrame({"entity": ["e0", "e1"]})
        triples = pd.DataFrame({"head": [0], "relation": [0], "tail": [1], "split": ["train"]})
        values = settings_of("link_prediction", "image_association")
        parameters = ImageAssociationParameters(**values)
        relations = pd.DataFrame({"relation": ["next"]})
        store_images(
            listed, entities, relations, triples, world.folder / "work", parameters, LAUNCH
        )


for name, (put, says) in {
    "a folder of images that is not there": (str, "the image folder does not exist"),
    "a folder of images that is a file": (Path.touch, "this is a file, not an image folder"),
}.items():

    @case("Images", name, says)
    def _(world, put=put):
        from mkgformer_kedro.datasets.image_folder import ImageFolderDataset

        put(world.folder / "images")
        ImageFolderDataset(filepath=str(world.folder / "images")).load()


for name, (content, says) in {
    "a map of crops that is a list": (["a.jpg"], "it holds a list"),
    "a map of crops that leaves its folder": ({0: ["../a.jpg"]}, "no file name below the image"),
    "a map of crops by no post": ({1.5: ["a.jpg"]}, "the key is neither"),
    "a map of crops that is no list of names": ({0: "a.jpg"}, "the value is no list"),
}.items():

    @case("Images", name, says)
    def _(world, content=content):
        import torch

        from mkgformer_kedro.datasets.post_images import read_crop_map

        torch.save(content, world.folder / "map.pth")
        read_crop_map(world.folder / "map.pth")


for name, (put, says) in {
    "a map of crops that would run a command": (
        lambda path: path.write_bytes(pickle.dumps(Executed())),
        "nothing in it was run",
    ),
    "a map of crops that is JSON": (
        lambda path: path.write_text('{"0": ["a.jpg"]}'),
        "cannot be read as plain data",
    ),
    "a map of crops that is a pipe": (os.mkfifo, "the map is no file"),
    "a map of crops that is not there": (str, "there is no such map of crops"),
}.items():

    @case("Images", name, says)
    def _(world, put=put):
        from mkgformer_kedro.datasets.post_images import read_crop_map

        put(world.folder / "map.pth")
        read_crop_map(world.folder / "map.pth")
        assert not Path("executed").exists()


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
TOWER_DAMAGES = {
    "no config.json": (lacking("config.json"), "config.json is missing"),
    "a truncated config.json": (half("config.json"), "not a valid JSON file"),
    "a config.json that is a list": (holding("config.json", b"[]"), "the tower cannot be loaded"),
    "a config.json that is a number": (holding("config.json", b"5"), "the tower cannot be loaded"),
    "no weights": (lacking("model.safetensors"), "no file named model.safetensors"),
    "truncated weights": (half("model.safetensors"), "truncated or damaged"),
    "weights that are noise": (holding("model.safetensors", NOISE), "truncated or damaged"),
    "weights that are NaN": (weighing(no_numbers), "weights are no numbers"),
    "half of the weights": (weighing(every_second), "lacks weights"),
    "a pickle that would run a command": (with_pickle, "more than numbers: not read"),
    "weights of another width": (saying(hidden_size=48, intermediate_size=96), "do not fit its"),
    "heads that do not divide": (saying(num_attention_heads=5), "not a multiple of the number"),
    "no heads": (saying(num_attention_heads=0), "modulo by zero"),
    "a width of 0": (saying(hidden_size=0), "ZeroDivisionError"),
    "a width that is a text": (saying(hidden_size="8"), "'hidden_size'"),
    "more layers than weights": (saying(num_hidden_layers=50), "lacks weights"),
    "a constant that is no number": (saying(layer_norm_eps=np.nan), "layer_norm_eps"),
    "an activation that there is not": (saying(hidden_act="foo"), "'foo'"),
    "an architecture that there is not": (saying(model_type="nothing"), "model type `nothing`"),
    "an architecture that is no such tower": (saying(model_type="gpt2"), "holds a gpt2"),
}  # fmt: skip
for side in ("text", "vision"):
    own = {
        "text": {
            "no tokenizer": (lacking("tokenizer.json"), "tokenizer.json is missing or empty"),
            "a truncated tokenizer": (half("tokenizer.json"), "the tower cannot be loaded"),
            "a tokenizer that is a list": (
                holding("tokenizer.json", b"[]"),
                "the tower cannot be loaded",
            ),
            "settings of the tokenizer that are a list": (
                holding("tokenizer_config.json", b"[]"),
                "the tower cannot be loaded",
            ),
        },
        "vision": {
            "truncated settings of images": (
                half("preprocessor_config.json"),
                "settings of images cannot be read",
            ),
            "settings of images that are a list": (
                holding("preprocessor_config.json", b"[]"),
                "are no group of keys",
            ),
        },
    }[side]
    for name, (damage, says) in {**TOWER_DAMAGES, **own}.items():

        @case("Towers", f"{side}: {name}", says)
        def _(world, side=side, damage=damage):
            damaged_tower(world, side, damage)


for name, (tower, says) in {
    "a folder that is not there": ("./nowhere", "there is no such folder"),
    "an empty name": ("", "the name of a tower is empty"),
    "a name of blanks": (" ", "the name of a tower is empty"),
}.items():

    @case("Towers", name, says)
    def _(world, tower=tower):
        join(world, text_tower=tower)


@case("Towers", "an empty folder", "config.json is missing")
def _(world):
    join(world, vision_tower=str(world.folder))


@case("Towers", "a hub that cannot be reached", "HF_HUB_OFFLINE")
def _(world):
    patch = world.fixture("monkeypatch")

    def unreachable(*_, **__):
        raise OSError("We couldn't connect to 'https://huggingface.co' to load the files.")

    patch.setattr("transformers.AutoTokenizer.from_pretrained", unreachable)
    patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    join(world, text_tower="google-bert/bert-base-uncased")


@case("Towers", "texts longer than the text tower reads", "max_length is 4096")
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
for name, (fields, says) in {
    "heads that do not divide": (
        {"num_attention_heads": 3},
        "not a multiple of the number of attention heads",
    ),
    "a width of 0": ({"hidden_size": 0}, "vision_config.hidden_size is 0"),
    "a patch of 0 pixels": ({"patch_size": 0}, "vision_config.patch_size is 0"),
    "images of 0 pixels": ({"image_size": 0}, "vision_config.image_size is 0"),
    "a width of 8.5": ({"hidden_size": 8.5}, "'hidden_size' expected int"),
    "no layers": ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    "a field that there is not": ({"pixels": 4}, "has no pixels"),
    "a family that there is not": ({"model_type": "resnet"}, "model_type resnet"),
}.items():

    @case("Towers", f"from scratch: {name}", says)
    def _(world, fields=fields):
        join(world, vision_tower=None, vision_config=SCRATCH | fields)


for name, (fields, says) in {
    "more fused layers than there are": ({"num_fusion_layers": 99}, "num_fusion_layers is 99"),
    "fused layers that are true": (
        {"num_fusion_layers": True},
        "num_fusion_layers: Input should be a valid integer",
    ),
    "fused layers that are 1.5": (
        {"num_fusion_layers": 1.5},
        "num_fusion_layers: Input should be a valid integer",
    ),
    "a field that there is not": ({"num_fusion_layer": 1}, "has no num_fusion_layer"),
    "a field that is set elsewhere": ({"loss": "cross_entropy"}, "set elsewhere: loss"),
}.items():

    @case("Towers", f"config: {name}", says)
    def _(world, fields=fields):
        join(world, config=fields)


@case("Towers", "a detector that is not there", "no zero-shot detector")
def _(world):
    from mkgformer_kedro.training.detection import ZeroShotDetector

    ZeroShotDetector("./nowhere", 0.1)


# Disks and memory


for name, (code, says) in {
    "a disk that is full": (errno.ENOSPC, "the disk is full"),
    "a quota that is used up": (errno.EDQUOT, "the disk quota is used up"),
    "a disk that is read-only": (errno.EROFS, "the disk is read-only"),
    "a folder that may not be written to": (errno.EACCES, "may not be written to"),
    "a disk that breaks": (errno.EIO, "the disk answers with an error"),
    "a share that is gone": (errno.ESTALE, "no longer there"),
    "a mount that is cut off": (errno.ENOTCONN, "no longer there"),
}.items():

    @case("Storage", name, says)
    def _(world, code=code):
        with written_atomically(world.folder / "queries.parquet"):
            raise OSError(code, os.strerror(code))


@case("Storage", "a folder that vanishes", "the folder vanished while it was written to")
def _(world):
    with written_atomically(world.folder / "mount/queries.parquet") as temporary:
        temporary.parent.rmdir()
        temporary.write_bytes(b"1")


for name, (put, says) in {
    "a table that is a pipe": (os.mkfifo, "damaged (a pipe or device, not a file)"),
    "a table that is a folder": (Path.mkdir, "damaged (a folder instead of a file)"),
    "a table that is not there": (str, "no such file"),
}.items():

    @case("Storage", name, says)
    def _(world, put=put):
        put(world.folder / "relations.parquet")
        ParquetDataset(filepath=str(world.folder / "relations.parquet")).load()


@case("Memory", "an array that no memory holds", "Unable to allocate 4.00 PiB")
def _(world):
    np.ones(2**49)


@case("Memory", "a tensor that no memory holds", "can't allocate memory")
def _(world):
    import torch

    torch.ones(2**49)


@case("Memory", "a GPU that is full", "CUDA out of memory")
def _(world):
    import torch

    try:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    except torch.OutOfMemoryError as error:
        raise RuntimeError("a step failed") from error


@case(
    "Memory",
    "a process that loads batches and is killed",
    "a process that makes batches was killed",
)
def _(world):
    import torch

    list(torch.utils.data.DataLoader(Killed(), num_workers=1, multiprocessing_context="fork"))


class Killed:
    """Data whose process is killed, as by a system that lacks memory."""

    def __len__(self):
        return 1

    def __getitem__(self, row):
        os.kill(os.getpid(), signal.SIGKILL)


# What a stage made, damaged in every way


for name, reader in READERS.items():
    for damage in [each for each in DAMAGES if each not in reader.accepted]:

        @case("Artefacts", f"{name}: {damage}", reader.told)
        def _(world, reader=reader, damage=damage):
            intact, folder = world.folder / "intact", world.folder / "damaged"
            intact.mkdir()
            reader.make(intact, world.fixture)
            problems = []
            for file in sorted(path.name for path in intact.iterdir()):
                if file in reader.unread:
                    continue
                shutil.copytree(intact, folder)
                DAMAGES[damage](folder / file)
                error = refusal(reader, folder)
                assert error, f"{file}: accepted"
                assert reader.told in str(error)
                problems += error.problems
                shutil.rmtree(folder)
            raise DataError(problems)


for name, (of, change, read, says) in OTHERS.items():

    @case("Artefacts", name, says)
    def _(world, of=of, change=change, read=read):
        folder = world.folder / "folder"
        folder.mkdir()
        READERS[of].make(folder, world.fixture)
        change(folder)
        raise refusal(READERS[of] if read is None else READERS[of]._replace(read=read), folder)


# Models that break, or are damaged


for name, (damage, says) in {
    "no model": (lacking("model.safetensors"), "model.safetensors missing"),
    "a truncated tokenizer": (half("tokenizer.json"), "the model folder is damaged"),
    "no tables": (lacking("entities.parquet"), "entities.parquet missing"),
    "a table that is noise": (holding("entities.parquet", NOISE), "not a parquet file"),
    "a task that is a list": (holding("task.json", b"[]"), "task.json: the model"),
    "weights that are NaN": (weighing(no_numbers), "not finite"),
    "half of the weights": (weighing(every_second), "missing from the file"),
    "the entities of another model": (of_fewer_entities, "are of another model"),
}.items():  # fmt: skip

    @case("Model folders", name, says)
    def _(world, damage=damage):
        from mkgformer_kedro.inference import Predictor

        folder = shutil.copytree(world.fixture("entity_model"), world.folder / "model")
        damage(folder)
        Predictor.from_folder(folder)


@case("Model folders", "a folder that is not there", "no complete model folder")
def _(world):
    from mkgformer_kedro.inference import Predictor

    Predictor.from_folder(world.folder / "nowhere")


for name, (options, says) in {
    "a path that is nothing": ({"path": None}, "path: Input should be the name of a folder"),
    "an attention that there is not": ({"attention": "magic"}, "not 'magic'"),
    "a precision of asking that there is not": ({"precision": "fp16"}, "not 'fp16'"),
    "a store that is a number": ({"store": 5}, "store: Input should be the name of a folder"),
    "a retrieval that is a number": ({"retrieval": 5}, "retrieval: it is 5"),
}.items():

    @case("Model folders", name, says)
    def _(world, options=options):
        from mkgformer_kedro.inference import Predictor

        Predictor.from_folder(**{"path": world.fixture("entity_model"), **options})


for name, (values, says) in {
    "a loss that is no number": ({"loss": np.nan}, "the loss is nan at step 7"),
    "gradients that are infinite": (
        {"loss": 1.0, "grad_norm": np.inf},
        "the norm of the gradients is inf at step 7",
    ),
}.items():

    @case("Training", name, says)
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


@case("Training", "weights that are no numbers", "the weight weight is nan")
def _(world):
    breaking = trainer(world)
    breaking.model.weight.data.fill_(np.nan)
    breaking._save_checkpoint(breaking.model, None)


@case("Training", "an expert that gives no numbers", "scores that are no finite numbers")
def _(world):
    import torch

    from mkgformer_kedro.inference.experts import finite_scores

    class Broken:
        name = "model"

        def scores(self, queries, *, batch_size):
            yield np.arange(1), torch.tensor([[np.nan, 1.0]])

    list(finite_scores(Broken(), pd.DataFrame(), batch_size=1))


# Checkpoints of fine-tuning: of a damaged one the log says so, and the one before is taken


def logged(act):
    """The one line that the project's log says meanwhile."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = logging.getLogger("mkgformer_kedro")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logging.disable(logging.NOTSET)
    try:
        act()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    (line,) = lines
    return line


def going_on(world, change, left="checkpoint-2", job="job"):
    """Go on after the newest of the checkpoints 2 and 3 has changed."""
    from mkgformer_kedro.training import trainer

    folder = world.fixture("checkpoints").folder
    change(folder / "checkpoint-3")
    line = logged(lambda: trainer._discard_unusable(folder, job))
    newest = trainer._newest_checkpoint(folder)
    assert (newest and newest.name) == left
    return line


def flipped(file):
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


OF_CHECKPOINTS = {
    "that is missing": (Path.unlink, "is missing"),
    "that is truncated": (lambda file: file.write_bytes(file.read_bytes()[:5]), "is damaged"),
    "with one bit flipped": (flipped, "is damaged"),
}
for file in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth",
             "trainer_state.json", "complete"):  # fmt: skip
    for name, (damage, says) in OF_CHECKPOINTS.items():
        if file in ("trainer_state.json", "complete") and says == "is damaged":
            says = "checkpoint-3 is not complete ("

        @case("Checkpoints", f"{file} {name}", says)
        def _(world, file=file, damage=damage):
            return going_on(world, lambda newest: damage(newest / file))


for name, mark in {
    "a mark that names nothing": "{}",
    "a mark that is a list": "[]",
    "a mark of another version": '{"version": 2, "files": []}',
    "a mark that names one file": '{"trainer_state.json": ""}',
}.items():

    @case("Checkpoints", name, "checkpoint-3 is not complete (its mark")
    def _(world, mark=mark):
        return going_on(world, lambda newest: (newest / "complete").write_text(mark))


@case("Checkpoints", "without the best until then", "checkpoint-1, the best until then, is missing")
def _(world):
    def change(newest):
        state, mark = newest / "trainer_state.json", newest / "complete"
        values = json.loads(state.read_text()) | {"best_model_checkpoint": "x/checkpoint-1"}
        state.write_text(json.dumps(values))
        mark.write_text(json.dumps(json.loads(mark.read_text()) | {state.name: sha256_of(state)}))

    return going_on(world, change)


@case("Checkpoints", "of other data or settings", "differ from the interrupted run: starting over")
def _(world):
    return going_on(world, lambda newest: None, left=None, job="another")


# Between the stages: what is whole, and not what belongs there


def written_by_stage(world, folder):
    """What a stage made, in its place."""
    from mkgformer_kedro.datasets.folder import FolderDataset

    place = world.folder / "06_models/finetuning"
    FolderDataset(filepath=str(place)).save(folder)
    return place


@case(
    "Between the stages",
    "weights of another model of the same size",
    "model.safetensors: the file is not what was written",
)
def _(world):
    from mkgformer_kedro.inference import Predictor

    made = world.folder / "made"
    shutil.copytree(world.fixture("entity_model"), made / "seed_1")
    models = written_by_stage(world, made)
    weighing(lambda weights: [each.add_(1) for each in weights.values()])(models / "seed_1")
    Predictor.from_folder(models)


@case("Between the stages", "a visual store of zeros", "full.u8: the file is not what was written")
def _(world):
    from mkgformer_kedro.inference import Predictor

    store = shutil.copytree(world.fixture("store_folder"), world.folder / "store")
    store = written_by_stage(world, store)
    (store / "full.u8").write_bytes(bytes((store / "full.u8").stat().st_size))
    Predictor.from_folder(world.fixture("entity_model"), store=store)


def asked_with(world, made_with, now):
    """A node takes a model that was made with some settings, and the run has others."""
    from kedro.io import DataCatalog, MemoryDataset
    from kedro.pipeline import Node

    from mkgformer_kedro.datasets.folder import FolderDataset
    from mkgformer_kedro.datasets.lineage import Origin
    from mkgformer_kedro.hooks.lineage import LineageHooks

    (world.folder / "made").mkdir()
    models = FolderDataset(filepath=str(world.folder / "06_models/finetuning"))
    models.origin = Origin("link_prediction.finetuning", {}, made_with)
    models.save(world.folder / "made")
    catalog = DataCatalog({"models": models, "parameters": MemoryDataset(now)})
    hooks = LineageHooks()
    hooks.before_pipeline_run({"env": "mine"}, catalog)
    hooks.before_node_run(Node(len, "models", "answers"), catalog, {"models": models.load()})


@case(
    "Between the stages", "the model of another preset", 'preset was "corrected" and is "faithful"'
)
def _(world):
    asked_with(world, {"preset": "corrected"}, {"preset": "faithful"})


def added(world, name):
    """A file that no stage wrote, in the folder of a model."""
    from mkgformer_kedro.inference import Predictor

    made = world.folder / "made"
    shutil.copytree(world.fixture("entity_model"), made / "seed_1")
    models = written_by_stage(world, made)
    (models / "seed_1" / name).write_text("{}")
    Predictor.from_folder(models)


@case("Between the stages", "tokens added to a model", "the stage wrote no such file")
def _(world):
    added(world, "added_tokens.json")


def read_otherwise(world, then, now):
    """A node takes tables of a graph; since they were made, how it is read has changed."""
    from kedro.io import DataCatalog
    from kedro.pipeline import Node

    from mkgformer_kedro.datasets.graph_folder import GraphFolderDataset
    from mkgformer_kedro.hooks.lineage import LineageHooks

    table = ParquetDataset(filepath=str(world.folder / "02_intermediate/entities.parquet"))
    folder, table_name = str(world.fixture("write_graph")()), "link_prediction.entities"
    splits = {"train": "train.tsv", "dev": "dev.tsv", "test": "test.tsv"}
    for reading in (then, now):
        raw = GraphFolderDataset(**{"filepath": folder, "files": splits} | reading)
        name = "link_prediction.raw_graph"
        catalog = DataCatalog({name: raw, table_name: table})
        hooks = LineageHooks()
        known = {"globals": {"hashed_gigabytes": 1}}
        hooks.after_context_created(types.SimpleNamespace(config_loader=known))
        hooks.before_pipeline_run({}, catalog)
        if reading is then:
            node = Node(len, name, table_name, name="read", namespace="link_prediction.ingestion")
            hooks.before_node_run(node, catalog, {name: raw.load()})
            hooks.before_dataset_saved(table_name, node)
            table.save(pd.DataFrame({"entity": ["a"]}))
    hooks.before_node_run(Node(len, table_name, "count"), catalog, {table_name: table.load()})


WHOLE_GRAPH = {"graph": "train.tsv"}
for name, (then, now, says) in {
    "a graph that was split in another way": (
        {"files": WHOLE_GRAPH, "split": {"dev": 0.1, "test": 0.1, "seed": 0}},
        {"files": WHOLE_GRAPH, "split": {"dev": 0.1, "test": 0.1, "seed": 1}},
        "globals:link_prediction.split.seed was 0 and is 1",
    ),
    "a graph of another layout": (
        {"files": {**WHOLE_GRAPH, "entities": "entities.txt", "relations": "relations.txt"},
         "split": {"dev": 0.1, "test": 0.1, "seed": 0}},
        {"files": {**WHOLE_GRAPH, "entities": "entities.txt", "relations": "relations.txt"},
         "split": {"dev": 0.1, "test": 0.1, "seed": 0}, "layout": "pykeen"},
        'globals:link_prediction.layout was "tsv" and is "pykeen"',
    ),
    "test triples of another file": (
        {},
        {"files": {"train": "train.tsv", "dev": "dev.tsv", "test": "dev.tsv"}},
        'globals:link_prediction.files.test was "test.tsv" and is "dev.tsv"',
    ),
}.items():  # fmt: skip

    @case("Between the stages", name, says)
    def _(world, then=then, now=now):
        read_otherwise(world, then, now)


@case(
    "Between the stages", "a raw file that was edited since", "it was made from other raw data than"
)
def _(world):
    other = world.folder / "graph_edited"
    shutil.copytree(world.fixture("write_graph")(), other)
    (other / "dev.tsv").write_text("007\tknows\t02\n")
    read_otherwise(world, {}, {"filepath": str(other)})


@case("Between the stages", "a model that learned less", "epochs was 1.0 and is 10")
def _(world):
    finetuning = {"epochs": 10, "learning_rates": {"default": 5e-5}}
    made_with = {
        "link_prediction.finetuning.epochs": 1.0,
        "link_prediction.finetuning.learning_rates": {"default": 5e-5},
    }
    asked_with(world, made_with, {"link_prediction": {"finetuning": finetuning}})


def locking(world):
    from kedro.pipeline import Node, Pipeline

    from mkgformer_kedro.hooks.locks import LockHooks

    hooks = LockHooks()
    known = {"globals": {"dataset": "mine", "wait_for_lock": 0}}
    hooks.after_context_created(
        types.SimpleNamespace(project_path=world.folder, config_loader=known)
    )
    hooks.before_pipeline_run(Pipeline([Node(abs, "a", "b", name="one", namespace="stage")]))


@case("Between the stages", "a file in the place of the folder of locks", "locks need a folder")
def _(world):
    (world.folder / "data").mkdir()
    (world.folder / "data/.locks").touch()
    locking(world)


@case(
    "Between the stages",
    "a folder of data that may not be written to",
    "may not be written to; nothing was run",
)
def _(world):
    def refuse(path, *_, **__):
        raise OSError(errno.EACCES, "Permission denied", str(path))

    world.fixture("monkeypatch").setattr(Path, "mkdir", refuse)
    locking(world)


for name, edit, says in (
    (
        "a detector with weights of another model",
        lambda weights: weights.update(other=next(iter(weights.values())).clone()),
        "other of no weight of the model",
    ),
    ("a detector with weights that are NaN", no_numbers, "not finite"),
):

    @case("Between the stages", name, says)
    def _(world, edit=edit):
        from mkgformer_kedro.training.detection import ZeroShotDetector

        folder = shutil.copytree(world.fixture("tiny_detector")("owlv2"), world.folder / "detector")
        weighing(edit)(folder)
        ZeroShotDetector(str(folder), 0.1)


# Where work is done


def launching(world, engine, **changes):
    from mkgformer_kedro.launch import engine_of

    world.fixture("monkeypatch").delenv("RAY_ADDRESS", raising=False)
    return engine_of(LAUNCH.model_copy(update={"engine": engine} | changes))


@case("Launching", "two processes that learn, in one", "this process cannot be 2")
def _(world):
    launching(world, "local").group("finetuning", dict, {}, processes=2)


@case("Launching", "Ray, which is not installed", "ray, which is not installed")
def _(world):
    world.fixture("monkeypatch").setitem(sys.modules, "ray", None)
    launching(world, "ray")


for name, (address, says) in {
    "an address where nobody is": ("127.0.0.1:1", "no Ray cluster answers there"),
    "an address of Ray Client": ("ray://127.0.0.1:10001", "no address of a cluster"),
    "an address without a port": ("somewhere", "no address of a cluster"),
}.items():

    @case("Launching", name, says)
    def _(world, address=address):
        launching(world, "ray", address=address)


# The Python interface


for name, (question, says) in {
    "an entity of half a character": (("\ud800", "next"), "knows no entity '\\ud800'"),
    "an entity that is not known": (("nobody", "next"), "knows no entity 'nobody'"),
    "an entity whose id is a number": ((0, "next"), "knows no entity 0. Give ids as texts"),
    "a relation that is not known": (("e0", "nxt"), "knows no relation 'nxt'"),
    "a list of dicts": (([{"entity": "e0", "relation": "next"}],), "a list of dicts"),
    "too many parts": (("e0", "next", "tail", 5), "4 parts"),
    "a table without a column": ((pd.DataFrame({"entity": ["e0"]}),), "missing: relation"),
    "a table with nothing in a cell": (
        (pd.DataFrame({"entity": ["e0", None], "relation": ["next", "next"]}),),
        "question 1: the model knows no entity",
    ),
    "a table with a misspelt column": (
        (pd.DataFrame({"entity": ["e0"], "relation": ["next"], "directoin": ["head"]}),),
        "no part of a question: directoin",
    ),
    "an empty table": ((pd.DataFrame({"entity": [], "relation": []}),), "there are none"),
    "a table with a column twice": (
        (pd.DataFrame([["e0", "next", "next"]], columns=["entity", "relation", "relation"]),),
        "the column relation is there twice",
    ),
}.items():

    @case("Python interface", name, says)
    def _(world, question=question):
        world.fixture("predictor").predict(*question)


for name, (options, says) in {
    "a direction that there is not": ({"direction": "up"}, "the direction is 'up'"),
    "images that are not there": ({"images": "nowhere.png"}, "no such image file"),
    "images that are a number": ({"images": 5}, "5 is no image"),
    "an image whose name has 5,000 characters": ({"images": "a" * 5000}, "no such image file"),
    "an image with a NUL character in its name": ({"images": "a\0b"}, "no such image file"),
    "an image without pixels": ({"images": Image.new("RGB", (0, 0))}, "has 0 x 0 pixels"),
    "an image of one pixel": ({"images": Image.new("RGB", (1, 1))}, "has 1 x 1 pixels"),
    "an image of 56 million pixels": (
        {"images": Image.new("L", (8000, 7000))},
        "has 8000 x 7000 pixels",
    ),
    "an image of floats that are no numbers": (
        {"images": Image.fromarray(np.full((20, 20), np.nan, dtype=np.float32))},
        "not known what is white",
    ),
    "pixels in place of an image": (
        {"images": np.zeros((20, 20, 3), dtype=np.uint8)},
        "A ndarray is no image",
    ),
    "bytes in place of an image": ({"images": b"png"}, "b'png' is no image"),
    "an image that is a device": ({"images": "/dev/zero"}, "no such image file"),
    "an open file in place of an image": ({"images": io.BytesIO(b"png")}, "is no image"),
    "an array without dimensions in place of images": (
        {"images": np.array("image.png")},
        "dtype='<U9') is no image",
    ),
    "images whose role is a number": ({"images": {0: "image.png"}}, "Images of 0 are given"),
    "fewer than no answers": ({"top": -1}, "top is -1"),
    "no question at a time": ({"batch_size": 0}, "batch_size is 0"),
}.items():

    @case("Python interface", name, says)
    def _(world, options=options):
        world.fixture("predictor").predict("e0", "next", **options)


for name, (content, says) in {
    "a photograph of a telephone (HEIC)": (b"\0\0\0\x18ftypheic", "format not read: HEIC"),
    "a drawing (SVG)": (b'<?xml version="1.0"?>\n<svg/>', "format not read: SVG"),
    "an icon (ICO)": (b"\0\0\1\0\1\0", "format not read: ICO"),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n", "format not read: JPEG 2000"),
    "a page of HTML named as an image": (b"<!DOCTYPE html><html>404</html>", "a page of HTML"),
    "a pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
    "half of an image": (b"\x89PNG\r\n\x1a\n", "it is damaged"),
}.items():

    @case("Python interface", name, says)
    def _(world, content=content):
        (world.folder / "image.png").write_bytes(content)
        world.fixture("predictor").predict("e0", "next", images=world.folder / "image.png")


for name, (post, says) in {
    "a text in place of words": ({"words": "Ann met Bob"}, "words is a text"),
    "a post without words": ({"words": []}, "the post has no words"),
    "a word that is nothing": ({"words": ["Ann", None, "Bob"]}, "None is no word"),
    "a word of blanks": ({"words": ["Ann", " ", "Bob"]}, "' ' is no word"),
    "a word of half a character": ({"words": ["Ann", "\ud800", "Bob"]}, "is no word"),
    "a word with a NUL character": ({"words": ["Ann", "\0", "Bob"]}, "is no word"),
    "words in an array without dimensions": ({"words": np.array("Ann")}, "words is a text"),
    "a mention in an array without dimensions": ({"tail": np.array(2)}, "tail is 2"),
    "a mention behind the end": ({"tail": (2, 9)}, "(2, 9) is no span"),
    "a mention that is backwards": ({"tail": (2, 1)}, "(2, 1) is no span"),
    "a mention before the start": ({"tail": (-1, 1)}, "(-1, 1) is no span"),
    "a mention that is a number": ({"tail": 2}, "tail is 2"),
    "a mention that the post lacks": ({"tail": "Eve"}, "'Eve' occurs nowhere"),
    "the same mention twice": ({"tail": (0, 1)}, "are the same mention"),
}.items():

    @case("Python interface", name, says)
    def _(world, post=post):
        from mkgformer_kedro.training.tasks.relation_extraction import RelationExtraction

        asked = {"words": ["Ann", "met", "Bob"], "head": (0, 1), "tail": (2, 3), **post}
        RelationExtraction(pd.DataFrame(), 32, "cls").read_questions(pd.DataFrame([asked]))


@case("Python interface", "a text of half a character", "is no word")
def _(world):
    from mkgformer_kedro.training.tasks.entity_recognition import EntityRecognition

    EntityRecognition(pd.DataFrame(), 32, "words").read_questions(
        pd.DataFrame({"text": ["Ann \ud800"]}, dtype=object)
    )


for name, (by, says) in {
    "a way to explain that there is not": ("magic", "by is 'magic'"),
    "ways to explain in an array": (np.array(["gradient", "attention"]), "by is array"),
}.items():

    @case("Python interface", name, says)
    def _(world, by=by):
        world.fixture("predictor").explain("e0", "next", by=by)


NEW = {"entity": ["x"], "name": ["X"], "text": ["word1"]}

for name, (table, options, says) in {
    "new entities in a dict": (NEW, {}, "a dict, no table"),
    "new entities with their images in the table": (
        pd.DataFrame(NEW).assign(images="x.png"),
        {},
        "no part of an entity: images",
    ),
    "new entities with a column twice": (
        pd.DataFrame([["x", "X", "a", "b"]], columns=[*NEW, "text"]),
        {},
        "the column text is there twice",
    ),
    "a new entity whose id is a list": (pd.DataFrame(NEW | {"entity": [["x"]]}), {}, "no text"),
    "a new entity whose id has blanks around it": (
        pd.DataFrame(NEW | {"entity": ["e0 "]}),
        {},
        "'e0 ' has blanks around it",
    ),
    "a new entity with half a character in its text": (
        pd.DataFrame(NEW | {"text": ["\ud800"]}, dtype=object),
        {},
        "text is '\\ud800', no text",
    ),
    "a new entity with a NUL character in its name": (
        pd.DataFrame(NEW | {"name": ["a\0b"]}),
        {},
        "name is 'a\\x00b', no text",
    ),
    "no new entity at a time": (pd.DataFrame(NEW), {"batch_size": 0}, "batch_size is 0"),
    "images of new entities in an array without dimensions": (
        pd.DataFrame(NEW),
        {"images": np.array(None)},
        "neither a list nor a dict",
    ),
}.items():

    @case("Python interface", name, says)
    def _(world, table=table, options=options):
        world.fixture("predictor").add_entities(table, **options)


for name, (ask, says) in {
    "a part of an explanation that there is not": (
        lambda seen: seen.heat("tail"),
        "no part 'tail'",
    ),
    "a layer of an explanation that there is not": (lambda seen: seen.of_layer(2), "no layer 2"),
    "an explanation saved to nothing": (
        lambda seen: seen.save(None),
        "folder: Input should be the name of a folder",
    ),
}.items():

    @case("Python interface", name, says)
    def _(world, ask=ask):
        from mkgformer_kedro.inference.explanation import Explanation

        ask(Explanation("correlation", pd.DataFrame(), (1,), (), {}, ()))


@case("Python interface", "a folder to write to that is a file", "a file stands where a folder")
def _(world):
    (world.folder / "file").write_text("mine")
    with written_atomically(world.folder / "file/deep/figure.png"):
        pass


for name, (values, says) in {
    "a retrieval by a graph of one neighbour": ({"connectivity": 1}, "a whole number from 2"),
    "a retrieval whose folder is a number": ({"folder": 5}, "retrieval.folder: Input should be"),
}.items():

    @case("Python interface", name, says)
    def _(world, values=values):
        from mkgformer_kedro.inference.retrieval import Retrieval

        Retrieval(**values)


@pytest.fixture(scope="module")
def predictor(entity_model):
    from mkgformer_kedro.inference import Predictor

    return Predictor.from_folder(entity_model)


# Each case, and the page


@pytest.mark.parametrize(("area", "name"), cases())
def test_bad_input_ends_with_one_clear_message(
    area, name, tmp_path, request, capsys, messages, page
):
    done = CASES[area][name]
    message = message_of(done.function, World(tmp_path, request), capsys)
    assert done.says in message
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
