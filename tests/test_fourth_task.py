"""A task that nobody planned: registered from here, it runs through all stages and is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
from kedro.io import AbstractDataset, CatalogConfigResolver, DataCatalog, MemoryDataset
from kedro.pipeline import Node
from kedro.runner import SequentialRunner
from PIL import Image

from mkgformer_kedro.configuration import ExtendingConfigLoader
from mkgformer_kedro.datasets.post_images import PostImagesDataset
from mkgformer_kedro.hooks.scores import score_table
from mkgformer_kedro.inference import Predictor
from mkgformer_kedro.inference.parameters import AskingParameters
from mkgformer_kedro.pipelines import evaluation, finetuning, image_association, ingestion
from mkgformer_kedro.pipelines.evaluation.parameters import EvaluationParameters
from mkgformer_kedro.pipelines.image_association.parameters import PostImageAssociationParameters
from mkgformer_kedro.pipelines.wiring import make_run
from mkgformer_kedro.settings import CONFIG_LOADER_ARGS
from mkgformer_kedro.training.parameters import ModelParameters
from mkgformer_kedro.training.tasks.base import Task
from mkgformer_kedro.training.tasks.entity_recognition import EntityRecognition
from mkgformer_kedro.training.tasks.posts import PostsTask
from mkgformer_kedro.training.tasks.registry import TASKS, register
from tiny_world import LAUNCH

CONF = Path(__file__).parents[1] / "conf"
STAGES = {
    "ingestion": ingestion,
    "image_association": image_association,
    "finetuning": finetuning,
    "evaluation": evaluation,
}


@dataclass(frozen=True)
class KeyWords(EntityRecognition):
    """Which words of a post matter? One type, whose words stand between asterisks in the files."""

    name: ClassVar[str] = "key_words"
    scored: ClassVar[str] = "whole key words"
    stages: ClassVar[Mapping[str, str]] = {"ingestion": __name__, **PostsTask.stages}


def index_marked(raw: list[dict[str, Any]]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Its own ingestion: a word between asterisks is a key word."""
    posts = pd.DataFrame(raw).astype({"split": "str"})
    marked = posts.pop("text").str.split()
    posts.insert(0, "post", posts["split"] + "-" + posts.index.astype("str"))
    posts["words"] = [[word.strip("*") for word in words] for words in marked]
    posts["tags"] = [["B-KEY" if word[0] == "*" else "O" for word in words] for words in marked]
    posts = posts.assign(line=pd.Series(range(1, len(posts) + 1), dtype="int32"), subset=None)
    labels = pd.DataFrame({"label": ["KEY"], "text": ["key word"]}, dtype="str")
    return posts, labels, pd.DataFrame({"file": [], "line": [], "what": []})


def report_marked(posts: pd.DataFrame) -> dict[str, Any]:
    """What evaluation needs to know of the data."""
    return {"data_set": "marked", "posts": len(posts)}


def nodes(task: type[Task]) -> list[Node]:
    """The nodes of its ingestion."""
    return [
        Node(index_marked, "raw_posts", ["posts", "labels", "quarantine"], name="index_posts"),
        Node(report_marked, "posts", "ingestion_report", name="report_ingestion"),
    ]


@pytest.fixture
def task():
    """The task, known while the test runs."""
    yield register(KeyWords)
    del TASKS[KeyWords.name]


@pytest.fixture
def raw_posts(tmp_path) -> list[dict[str, Any]]:
    """Words from word4 on matter; every second post has an image."""
    (tmp_path / "images").mkdir()
    rows = []
    for number in range(24):
        image = f"{number}.png" if number % 2 else None
        if image:
            Image.new("RGB", (20, 16), (10 * number, 90, 120)).save(tmp_path / "images" / image)
        split = ("train", "train", "dev", "test")[number % 4]
        text = f"the word{number % 4} is next *word{4 + number % 5}*"
        rows.append({"split": split, "text": text, "image": image})
    return sorted(rows, key=lambda row: ("train", "dev", "test").index(row["split"]))


@pytest.fixture
def catalog(tmp_path, task, raw_posts, model_parameters, finetuning_values) -> DataCatalog:
    """The configured catalog, which knows the task by its patterns alone."""
    conf = ExtendingConfigLoader(str(CONF), env="ci", **CONFIG_LOADER_ARGS)
    resolver = CatalogConfigResolver(conf["catalog"])
    made = DataCatalog()
    for name in make_run(task.name).datasets():
        if resolver.match_dataset_pattern(name):
            entry = dict(resolver.resolve_pattern(name))
            entry["filepath"] = str(tmp_path / entry["filepath"])
            made[name] = AbstractDataset.from_config(name, entry)
    like = conf["parameters"]["entity_recognition"]
    slots = {"full": {"size": 16, "count": 1}}
    finetuning_values = {
        name: value
        for name, value in finetuning_values.items()
        if name in task.parameters_class.model_fields
    } | {"classifier_dropout": None, "units": None, "epochs": 8}
    finetuning_values["learning_rates"] = {"default": 0.01}
    for name, value in {
        f"{task.name}.raw_posts": raw_posts,
        f"{task.name}.raw_images": PostImagesDataset(
            filepath=str(tmp_path / "images"),
            full={"train": ".", "dev": ".", "test": "."},
            grounding=None,
            detection=None,
        ).load(),
        "params:asking": AskingParameters(precision="fp32"),
        "params:launch": LAUNCH,
        "params:model": ModelParameters(**model_parameters),
        "params:preset": "corrected",
        "params:seed": 3,
        f"params:{task.name}.image_association": PostImageAssociationParameters(
            **like["image_association"] | {"slots": slots}
        ),
        f"params:{task.name}.finetuning": task.parameters_class(**finetuning_values),
        f"params:{task.name}.evaluation": EvaluationParameters(**like["evaluation"]),
    }.items():
        made[name] = MemoryDataset(value, copy_mode="assign")
    return made


def test_it_runs_through_all_stages_and_is_asked(task, catalog, tmp_path):
    SequentialRunner().run(make_run(task.name), catalog)
    metrics = catalog.load("key_words.metrics")
    assert metrics["experts"] == ["model", "without_images", "baseline"]
    assert metrics["test"]["f1"] == 1
    assert "whole key words" in score_table(task, metrics)
    page = catalog.load("key_words.report")
    assert "key word" in page
    assert catalog.load("key_words.coverage_report")["owners"]["with_images"] == 12

    predictor = Predictor.from_folder(catalog.load("key_words.models"))
    found = predictor.predict("the word1 is next word6", images=tmp_path / "images/1.png")
    assert found[["entity", "type"]].values.tolist() == [["word6", "KEY"]]


def test_every_stage_has_it_in_its_namespace(task):
    for name, stage in STAGES.items():
        namespaces = {node.namespace for node in stage.create_pipeline(task.name).nodes}
        assert namespaces == {f"key_words.{name}"}
        assert f"key_words.{name}" in {node.namespace for node in stage.create_pipeline().nodes}


def test_its_parameters_are_typed(task):
    node = next(iter(finetuning.create_pipeline(task.name).nodes))
    assert node.func.__annotations__["parameters"] is task.parameters_class
    assert node.name == "key_words.finetuning.finetune_key_words"


def test_a_name_is_given_once(task):
    class Another(KeyWords):
        pass

    assert register(task) is task
    with pytest.raises(ValueError, match="there is a task 'key_words' already"):
        register(Another)
