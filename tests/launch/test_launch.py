"""Which engine does the work, and that Ray is nobody else's business."""

import subprocess
import sys
from pathlib import Path

import pytest

from mkgformer_kedro.errors import DataError
from mkgformer_kedro.launch import LOCAL, engine_of
from mkgformer_kedro.launch.elastic import Elastic

ROOT = Path(__file__).parents[2]


def twice(items):
    for item in items:
        yield 2 * item


def test_local_is_the_plain_loop(launch_parameters):
    assert engine_of(launch_parameters("local")) is LOCAL
    begun = []

    def work(items):
        for item in items:
            begun.append(item)
            yield item

    results = LOCAL.map("evaluation", work, [1, 2, 3])
    assert (next(results), begun) == (1, [1])
    assert LOCAL.group("finetuning", dict.copy, {"a": 1}, processes=1) == {"a": 1}


def test_elastic_is_local_for_all_but_groups(launch_parameters):
    engine = engine_of(launch_parameters("elastic"))
    assert isinstance(engine, Elastic)
    assert list(engine.map("evaluation", twice, [1, 2])) == [2, 4]
    assert engine.group("finetuning", dict.copy, {}, processes=1) == {}


def test_ray_is_imported_where_it_is_asked_for_alone():
    code = (
        "import sys, mkgformer_kedro.launch, mkgformer_kedro.launch.ray, "
        "mkgformer_kedro.training.finetuning, mkgformer_kedro.pipelines.study.nodes; "
        "assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_environment_names_the_cluster_where_parameters_do_not(launch_parameters, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(DataError, match=r"127\.0\.0\.1:1: no Ray cluster answers there"):
        engine_of(launch_parameters("ray"))
