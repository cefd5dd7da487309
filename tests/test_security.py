"""Nothing executes data: the guard under which all tests run would say so."""

import io
import pickle
import subprocess
import sys

import pytest
import torch

WITHIN_THE_PROJECT = """
import pickle, torch

def unpickle(content):
    return pickle.loads(content)

def load(file):
    return torch.load(file, weights_only=False)

def evaluate(text):
    return eval(text)

def execute(text):
    exec(text)
"""


class Anything:
    """What a pickle would make."""


@pytest.fixture(scope="module")
def project():
    """Functions as if they stood in the project."""
    names = {"__name__": "mkgformer_kedro.made_up"}
    exec(WITHIN_THE_PROJECT, names)  # noqa: S102
    return names


@pytest.fixture(scope="module")
def saved():
    file = io.BytesIO()
    torch.save(Anything(), file)
    return file.getvalue()


def test_a_pickle_is_not_read(project):
    with pytest.raises(RuntimeError, match=r"the project unpickles .*Anything"):
        project["unpickle"](pickle.dumps(Anything()))


def test_nor_by_torch(project, saved):
    with pytest.raises(RuntimeError, match="the project unpickles"):
        project["load"](io.BytesIO(saved))


@pytest.mark.parametrize("name", ["evaluate", "execute"])
def test_text_is_not_executed(project, name):
    with pytest.raises(RuntimeError, match="made_up executes"):
        project[name]("1 + 1")


def test_others_may():
    assert isinstance(pickle.loads(pickle.dumps(Anything())), Anything)  # noqa: S301
    assert eval("1 + 1") == 2  # noqa: S307


def test_processes_that_tests_start_are_watched_too():
    made_up = "exec(compile('eval(\"1\")', 'f', 'exec'), {'__name__': 'mkgformer_kedro.made_up'})"
    ended = subprocess.run([sys.executable, "-c", made_up], capture_output=True, text=True)
    assert "RuntimeError: mkgformer_kedro.made_up executes" in ended.stderr
