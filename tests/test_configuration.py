"""Environments that extend others."""

import pytest

from mkgformer_kedro.configuration import ExtendingConfigLoader
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.settings import CONFIG_LOADER_ARGS


@pytest.fixture
def load(tmp_path):
    """Write environments, as texts by ``<environment>/<file>``, and read one of them."""

    def load(env, files, **parameters):
        files = {"base/globals.yml": "{extends: null, dataset: sample}", **files}
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        arguments = {**CONFIG_LOADER_ARGS, "runtime_params": parameters}
        return ExtendingConfigLoader(str(tmp_path), env=env, **arguments)

    return load


FILES = {
    "base/parameters.yml": "{a: {x: 0, y: 0, z: 0, u: 0, list: [0]}}",
    "base/catalog.yml": "{table: {filepath: '${globals:dataset}.csv'}}",
    "big/globals.yml": "dataset: big",
    "big/parameters_a.yml": "{a: {x: 1, y: 1, z: 1, list: [1, 1]}}",
    "small/globals.yml": "{extends: big, dataset: small}",
    "small/parameters.yml": "{a: {y: 2, z: 2, list: [2]}}",
    "tiny/globals.yml": "extends: small",
    "tiny/parameters.yml": "{a: {z: 3}}",
}


@pytest.mark.parametrize(
    ("env", "dataset", "values"),
    [
        ("base", "sample", {"x": 0, "y": 0, "z": 0, "u": 0, "list": [0]}),
        ("big", "big", {"x": 1, "y": 1, "z": 1, "u": 0, "list": [1, 1]}),
        ("small", "small", {"x": 1, "y": 2, "z": 2, "u": 0, "list": [2]}),
        ("tiny", "small", {"x": 1, "y": 2, "z": 3, "u": 0, "list": [2]}),
    ],
)
def test_what_is_nearer_to_the_environment_wins(load, env, dataset, values):
    loader = load(env, FILES)
    assert loader["parameters"] == {"a": values}
    assert loader["globals"]["dataset"] == dataset
    assert loader["catalog"] == {"table": {"filepath": f"{dataset}.csv"}}


@pytest.mark.parametrize("env", ["base", "big", "small", "tiny"])
def test_parameters_of_the_run_win_over_all(load, env):
    assert load(env, FILES, a={"x": 9})["parameters"]["a"]["x"] == 9


def test_files_are_read_once_and_who_asks_has_a_copy(load, tmp_path):
    loader = load("tiny", FILES)
    loader["parameters"]["a"]["x"] = 9
    (tmp_path / "tiny/parameters.yml").unlink()
    assert loader["parameters"]["a"] == {"x": 1, "y": 2, "z": 3, "u": 0, "list": [2]}


def test_an_environment_of_globals_alone_has_the_parameters_of_what_it_extends(load):
    loader = load("bare", {**FILES, "bare/globals.yml": "extends: small"})
    assert loader["parameters"]["a"]["z"] == 2


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("smal", "globals.yml: extends 'smal', and there is no such environment. Did you mean"),
        ("elsewhere", "There are: base, big, other, small, tiny."),
        ("../small", "extends '../small', and there is no such environment"),
        ("other", "other/globals.yml: extends 'other', which is extended from here already"),
        ("[big]", "and there is no such environment"),
    ],
)
def test_what_cannot_be_extended_is_named(load, extends, message):
    with pytest.raises(DataError) as raised:
        load("other", {**FILES, "other/globals.yml": f"extends: {extends}"})
    assert message in str(raised.value)


def test_a_circle_is_named(load):
    files = {**FILES, "big/globals.yml": "extends: tiny"}
    with pytest.raises(DataError, match="extends 'tiny', which is extended from here already"):
        load("tiny", files)


def test_the_run_can_name_another_data_set_and_the_catalog_the_environment(load):
    catalog = "{table: {filepath: '${globals:dataset}.csv', env: '${environment:}'}}"
    loader = load("big", {**FILES, "base/catalog.yml": catalog}, dataset="other/one")
    assert loader["globals"]["dataset"] == "other/one"
    assert loader["catalog"] == {"table": {"filepath": "other/one.csv", "env": "big"}}
