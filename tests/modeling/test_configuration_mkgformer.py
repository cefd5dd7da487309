import subprocess
import sys

import pytest
from transformers import AutoConfig

from mkgformer_kedro.modeling import MKGformerConfig


def test_default_is_corrected_preset():
    config = MKGformerConfig()
    corrected = MKGformerConfig.preset("corrected")

    assert {name: getattr(config, name) for name in corrected} == corrected
    assert config.num_fusion_layers == 3
    assert config.image_roles == ("full", "grounding", "detection")
    assert config.num_image_slots == 7


@pytest.mark.parametrize("task", ["link_prediction", "relation_extraction", "entity_recognition"])
def test_presets_differ_in_every_field(task):
    corrected = MKGformerConfig.preset("corrected", task)
    faithful = MKGformerConfig.preset("faithful", task)

    assert corrected.keys() == faithful.keys()
    assert all(corrected[name] != faithful[name] for name in corrected)


def test_faithful_presets_of_the_tasks():
    link_prediction = MKGformerConfig.preset("faithful")
    relations = MKGformerConfig.preset("faithful", "relation_extraction")
    entities = MKGformerConfig.preset("faithful", "entity_recognition")

    assert link_prediction["visual_embeddings"] == "patches"
    assert "image_counts" not in link_prediction
    for preset in (relations, entities):
        assert preset["visual_embeddings"] == "class_and_crops"
        assert MKGformerConfig(**preset).image_roles == ("grounding", "detection")
    assert relations["classifier_dropout"] == 0.5
    assert entities["constrain_transitions"] is False


def test_presets_are_copies():
    MKGformerConfig.preset("faithful", "relation_extraction")["image_counts"]["full"] = 1

    assert "full" not in MKGformerConfig.preset("faithful", "relation_extraction")["image_counts"]


def test_round_trip(tiny, tmp_path):
    config = tiny.config(
        "faithful",
        "entity_recognition",
        label_smoothing=0.1,
        answer_exponent=0.5,
        representation="cls",
        id2label=dict(enumerate(tiny.tags)),
    )
    config.save_pretrained(tmp_path)

    loaded = AutoConfig.from_pretrained(tmp_path)

    assert isinstance(loaded, MKGformerConfig)
    for name in MKGformerConfig.__annotations__:
        if not name.endswith("_config"):
            assert getattr(loaded, name) == getattr(config, name), name
    assert loaded.id2label == dict(enumerate(tiny.tags))
    assert loaded.text_config.hidden_size == config.text_config.hidden_size
    assert loaded.vision_config.patch_size == config.vision_config.patch_size


def test_tokens_of_the_graph_follow_the_vocabulary(tiny):
    config = tiny.config()

    assert config.entity_token_start == config.text_config.vocab_size
    assert config.relation_token_start == config.entity_token_start + config.num_entities


def test_a_configuration_of_an_earlier_version_is_refused(tiny):
    with pytest.raises(ValueError, match=r"of an earlier version.*Train it again"):
        MKGformerConfig.from_dict({**tiny.config().to_dict(), "entity_token_start": 40})


def test_role_without_slots_is_absent(tiny):
    config = tiny.config(image_sizes={"full": 16}, image_counts={"full": 2, "detection": 0})

    assert config.image_roles == ("full",)
    assert config.num_image_slots == 2


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "hinge"}, "loss is 'hinge'"),
        ({"visual_embeddings": "pooled"}, "visual_embeddings is 'pooled'"),
        ({"prefix_source": "next_layer"}, "prefix_source is 'next_layer'"),
        ({"fusion_init": "ones"}, "fusion_init is 'ones'"),
        ({"num_fusion_layers": 0}, "from 1 to 4"),
        ({"num_fusion_layers": 5}, "text_config has 4 layers"),
        ({"num_fusion_layers": 3, "vision": {"num_hidden_layers": 2}}, "vision_config has 2"),
        ({"num_fusion_layers": 4, "prefix_source": "previous_layer"}, "at most 3"),
        ({"image_sizes": {"full": 20}, "image_counts": {"full": 1}}, "20 pixels for full"),
        ({"image_sizes": {}, "image_counts": {"full": 1}}, "0 pixels for full"),
        ({"image_counts": {"crop": 1}}, "image_counts names crop"),
        ({"image_sizes": {"crop": 8}}, "image_sizes names crop"),
        ({"image_counts": {"full": 0}}, "At least one role"),
        ({"image_counts": {"full": 1, "detection": -1}}, "negative"),
        ({"visual_embeddings": "class_and_crops", "image_counts": {"full": 1}}, "no place"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
        ({"answer_exponent": -1.0}, "answer_exponent is -1.0"),
        ({"classifier_dropout": 1.0}, "classifier_dropout is 1.0"),
        ({"representation": "mean"}, "representation is 'mean'. Use 'markers' or 'cls'"),
        ({"image_mean": (0.5,)}, "3 channels"),
    ],
)
def test_bad_value_is_named(tiny, fields, message):
    with pytest.raises(ValueError, match=message):
        tiny.config(**fields)


def test_unknown_preset():
    with pytest.raises(ValueError, match="Unknown preset 'paper'"):
        MKGformerConfig.preset("paper")
    with pytest.raises(ValueError, match="Unknown task 'captioning'"):
        MKGformerConfig.preset("faithful", "captioning")


def test_labels_are_names_too():
    MKGformerConfig.check_names({"id2label": {}, "label2id": {}, "num_labels": 2})
    with pytest.raises(ValueError, match="has no labels"):
        MKGformerConfig.check_names({"labels": []})


def test_importing_the_package_is_light():
    program = "import sys, mkgformer_kedro.modeling; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
