"""The comparison of an index with scoring all entities, on a model of the tiny world."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location(
        "retrieval_benchmark", ROOT / "benchmarks/retrieval.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_grown_table_is_searched_beside_all_of_it(benchmark, entity_model, capsys):
    benchmark.main([str(entity_model), "--entities", "400", "--questions", "5"])
    printed = capsys.readouterr().out
    assert printed.startswith("400 entities: ")
    recall = float(printed.split(": ")[1].split(" ")[0])
    assert recall == pytest.approx(1, abs=0.01)
