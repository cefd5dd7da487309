"""Which engine does the work; what is wrong with the choice is said before anything is done."""

import socket
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


def test_a_process_cannot_be_two():
    with pytest.raises(DataError, match=r"finetuning.processes: this process cannot be 2\. Set"):
        LOCAL.group("finetuning", dict.copy, {}, processes=2)


def test_ray_is_imported_where_it_is_asked_for_alone():
    code = (
        "import sys, mkgformer_kedro.launch, mkgformer_kedro.launch.ray, "
        "mkgformer_kedro.training.finetuning, mkgformer_kedro.pipelines.study.nodes; "
        "assert 'ray' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_without_ray_it_is_said_how_to_install_it(launch_parameters, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(DataError, match=r"launch.engine is ray, which is not installed.*\[ray\]"):
        engine_of(launch_parameters("ray"))


def test_nobody_at_the_address_is_said_at_once(launch_parameters, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    closed = f"127.0.0.1:{port}"
    with pytest.raises(DataError, match=f"{closed}: no Ray cluster answers there"):
        engine_of(launch_parameters("ray", address=closed))
    monkeypatch.setenv("RAY_ADDRESS", closed)
    with pytest.raises(DataError, match=f"{closed}: no Ray cluster answers there"):
        engine_of(launch_parameters("ray"))


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "http://127.0.0.1:8265", "somewhere"])
def test_an_address_of_another_kind_is_refused(launch_parameters, address):
    with pytest.raises(DataError, match="this is no address of a cluster"):
        engine_of(launch_parameters("ray", address=address))
