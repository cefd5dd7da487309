"""Tasks on posts: posts become tokens, models learn, resume exactly, and keep what was decided."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.inference.experts import LoadedModel, ModelPostsExpert, decoded
from mkgformer_kedro.launch import LOCAL
from mkgformer_kedro.launch.elastic import Elastic
from mkgformer_kedro.training.finetuning import finetune
from mkgformer_kedro.training.parameters import ModelParameters
from mkgformer_kedro.training.tasks.entity_recognition import EntityRecognition
from mkgformer_kedro.training.tasks.registry import task_named
from mkgformer_kedro.training.tasks.relation_extraction import MARKERS, RelationExtraction

TASKS = ["relation_extraction", "entity_recognition"]

# A child process that dies of SIGKILL while it trains the second seed.
KILLED = """
import json, os, signal, sys
from pathlib import Path
import pandas as pd
from mkgformer_kedro.training import finetuning
from mkgformer_kedro.training.parameters import ModelParameters
from mkgformer_kedro.training.tasks.registry import task_named
arguments = json.load(open(sys.argv[1]))
Trainer = finetuning.FinetuningTrainer
original = Trainer.training_step
def training_step(self, *args, **kwargs):
    if self.args.seed == 2 and self.state.global_step == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *args, **kwargs)
Trainer.training_step = training_step
finetuning.finetune(
    arguments["task"], {name: pd.read_parquet(path) for name, path in arguments["tables"].items()},
    Path(arguments["store"]), Path(arguments["work"]), ModelParameters(**arguments["model"]),
    task_named(arguments["task"]).parameters_class(**arguments["parameters"]), "corrected", 0)
"""


def predict(models, posts, store=None, seed=0, batch_size=64):
    """Predictions of a trained model, with the images of ``store`` or without any."""
    model = LoadedModel(models / f"seed_{seed}")
    if store is not None:
        return ModelPostsExpert(model, VisualStore(store), seed).predict(
            posts, batch_size=batch_size
        )
    return decoded(model, posts, model.ask(posts, None, batch_size=batch_size, what="Asking"))


@pytest.fixture
def run(tmp_path, posts, labels, posts_store, model_parameters, posts_values):
    """Fine-tune with changed parameters; gives the folder of models and the curve."""

    def start(task, name="work", preset="corrected", store=posts_store, engine=LOCAL, **changes):
        return finetune(
            task,
            {"posts": posts[task], "labels": labels[task]},
            store,
            tmp_path / name,
            ModelParameters(**model_parameters),
            task_named(task).parameters_class(**(posts_values[task] | changes)),
            preset,
            seed=0,
            engine=engine,
        )

    return start


def weights_of(models, seed=0):
    return load_file(models / f"seed_{seed}" / "model.safetensors")


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("task", TASKS)
def test_it_learns_and_keeps_the_best_dev_model(run, task, posts, posts_store):
    models, curve = run(task, epochs=30, learning_rates={"default": 0.01})
    assert curve["dev_f1"].max() == 1
    assert curve["dev_f1"].dropna().iloc[0] < 1
    dev = posts[task].query("split == 'dev'")
    predicted = predict(models, dev, posts_store)
    gold = "relation" if task == "relation_extraction" else "tags"
    assert predicted["predicted"].tolist() == dev[gold].tolist()


@pytest.mark.parametrize("task", TASKS)
def test_the_curve_has_losses_dev_scores_and_speed(run, task):
    _, curve = run(task)
    logged = curve.dropna(subset=["loss"])
    assert (logged["examples_per_second"] > 0).all()
    assert {"seed", "dev_precision", "dev_recall", "dev_f1"} <= set(curve)
    assert curve["dev_f1"].notna().sum() == 5, "every second of nine steps, and the last"


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -0.1])
def test_a_learning_rate_is_a_number_that_is_not_negative(run, rate):
    with pytest.raises(ValueError, match=r"not negative|finite number"):
        run("entity_recognition", learning_rates={"default": rate})


def test_a_loss_that_is_no_number_ends_the_run(run):
    with pytest.raises(DataError, match="Lower the learning rates"):
        run("relation_extraction", learning_rates={"default": 1e30}, log_every=1, epochs=3)


def test_a_part_that_no_weight_has_is_named(run):
    with pytest.raises(DataError, match="no weight of the model has a name with classifer in it"):
        run("entity_recognition", learning_rates={"default": 0.1, "classifer": 0.1}, epochs=1)


@pytest.mark.parametrize("task", TASKS)
def test_every_seed_leaves_a_model(run, task):
    models, curve = run(task, seeds=[3, 1])
    assert sorted(path.name for path in models.iterdir()) == ["seed_1", "seed_3"]
    assert curve["seed"].unique().tolist() == [3, 1]
    one, other = weights_of(models, 1), weights_of(models, 3)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])
    alone, _ = run(task, "alone", seeds=[1])
    assert_same_weights(weights_of(alone, 1), one)


def test_an_interrupted_run_with_other_seeds_leaves_nothing(run, tmp_path):
    for name in ("models/seed_9", "checkpoints_9", "checkpoints_1/not complete"):
        (tmp_path / "work" / name).mkdir(parents=True)
    models, _ = run("entity_recognition", seeds=[1], epochs=1)
    assert [path.name for path in models.iterdir()] == ["seed_1"]
    (kept,) = (tmp_path / "work").glob("checkpoints*")
    assert not (kept / "not complete").exists()


@pytest.mark.usefixtures("in_bf16")
@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("relation_extraction", {"representation": "cls"}),
        ("relation_extraction", {"gradient_checkpointing": True}),
        ("relation_extraction", {"loader_workers": 1, "freeze": "vision_below_fusion"}),
        ("entity_recognition", {"units": "tokens"}),
        ("entity_recognition", {"precision": "bf16", "freeze": "vision_below_fusion"}),
        ("entity_recognition", {"learning_rates": {"default": 0.003, "crf": 0.05}}),
    ],
    ids=str,
)
def test_every_setting_trains(run, task, changes):
    _, curve = run(task, epochs=1, **changes)
    assert curve["loss"].notna().any()


@pytest.mark.parametrize("task", TASKS)
def test_the_faithful_preset_trains_on_crops_and_predicts_words(run, task, posts, crops_store):
    models, curve = run(task, preset="faithful", store=crops_store, epochs=1)
    assert curve["loss"].notna().any()
    predicted = predict(models, posts[task], crops_store)
    if task == "entity_recognition":
        assert predicted["predicted"].map(len).tolist() == posts[task]["words"].map(len).tolist()
    config = json.loads((models / "seed_0/config.json").read_text())
    assert config["visual_embeddings"] == "class_and_crops"


def test_the_faithful_preset_says_that_it_takes_no_whole_images(run):
    with pytest.raises(DataError, match="class_and_crops"):
        run("relation_extraction", preset="faithful", epochs=1)


@pytest.mark.parametrize("task", TASKS)
def test_predictions_do_not_depend_on_order_or_company(run, task, posts, posts_store):
    models, _ = run(task, epochs=2)
    whole = predict(models, posts[task], posts_store, batch_size=5)
    some = posts[task].iloc[[20, 3, 7]]
    again = predict(models, some, posts_store, batch_size=5)
    pd.testing.assert_frame_equal(again, whole.loc[some.index], atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_without_images_is_as_no_store(run, task, posts, posts_store):
    models, _ = run(task, epochs=2)
    model = LoadedModel(models / "seed_0")
    expert = ModelPostsExpert(model, VisualStore(posts_store), 0, with_images=False)
    without_images = expert.predict(posts[task], batch_size=64)
    pd.testing.assert_frame_equal(predict(models, posts[task]), without_images)


def test_a_post_beyond_the_store_is_refused(run, posts, posts_store):
    models, _ = run("entity_recognition", epochs=1)
    beyond = posts["entity_recognition"].set_index(np.arange(100, 124))
    with pytest.raises(ValueError, match="24 posts, none of number 123"):
        predict(models, beyond, posts_store)


def test_killed_in_its_second_seed_and_run_again_it_ends_with_the_same_weights(
    run, tmp_path, posts, labels, posts_store, model_parameters, posts_values
):
    task = "entity_recognition"
    whole, whole_curve = run(task, "whole", seeds=[1, 2])
    posts[task].to_parquet(tmp_path / "posts.parquet")
    labels[task].to_parquet(tmp_path / "labels.parquet")
    arguments = {
        "task": task,
        "tables": {name: str(tmp_path / f"{name}.parquet") for name in ("posts", "labels")},
        "store": str(posts_store),
        "work": str(tmp_path / "killed"),
        "model": model_parameters,
        "parameters": posts_values[task] | {"seeds": [1, 2]},
    }
    (tmp_path / "job.json").write_text(json.dumps(arguments))
    child = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "job.json")],
        capture_output=True,
        check=False,
    )
    assert child.returncode == -9, child.stderr.decode()
    again, curve = run(task, "killed", seeds=[1, 2])
    for seed in (1, 2):
        assert_same_weights(weights_of(whole, seed), weights_of(again, seed))
    pd.testing.assert_series_equal(curve["loss"], whole_curve["loss"])


@pytest.fixture
def tokenizer(text_tower):
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(text_tower)
    loaded.add_special_tokens({"extra_special_tokens": list(MARKERS)})
    return loaded


def marked(tokenizer, labels, words, head, tail, max_length=32):
    post = pd.DataFrame(
        {
            "words": [words.split()],
            "head_start": head[0],
            "head_end": head[1],
            "tail_start": tail[0],
            "tail_end": tail[1],
        }
    )
    task = RelationExtraction(labels["relation_extraction"], max_length, "markers")
    encoded = task.encode_posts(post, tokenizer, None)
    batch = encoded.batch(np.array([0]))
    tokens = tokenizer.convert_ids_to_tokens(batch["input_ids"][0])
    assert tokens[batch["head_index"][0]] == "[HEAD]"
    assert tokens[batch["tail_index"][0]] == "[TAIL]"
    return " ".join(tokens)


@pytest.mark.parametrize(
    ("head", "tail", "expected"),
    [
        ((0, 1), (2, 4), "[HEAD] word1 [/HEAD] is [TAIL] word2 word3 [/TAIL] next"),
        ((2, 4), (0, 1), "[TAIL] word1 [/TAIL] is [HEAD] word2 word3 [/HEAD] next"),
        ((2, 3), (2, 4), "word1 is [TAIL] [HEAD] word2 [/HEAD] word3 [/TAIL] next"),
        ((2, 4), (3, 4), "word1 is [HEAD] word2 [TAIL] word3 [/TAIL] [/HEAD] next"),
        ((0, 5), (2, 4), "[HEAD] word1 is [TAIL] word2 word3 [/TAIL] next [/HEAD]"),
        ((0, 3), (2, 4), "[HEAD] word1 is [TAIL] word2 [/HEAD] word3 [/TAIL] next"),
        ((0, 2), (2, 4), "[HEAD] word1 is [/HEAD] [TAIL] word2 word3 [/TAIL] next"),
    ],
)
def test_mentions_stand_between_markers(tokenizer, labels, head, tail, expected):
    text = marked(tokenizer, labels, "word1 is word2 word3 next", head, tail)
    assert text == f"[CLS] {expected} [SEP]"


def test_markers_survive_truncation_and_what_is_near_the_mentions_does(tokenizer, labels, caplog):
    words = " ".join(["the"] * 9 + ["word1", "is", "of", "next", "word2"] + ["description"] * 9)
    with caplog.at_level("INFO"):
        text = marked(tokenizer, labels, words, (9, 10), (13, 14), max_length=13)
    expected = "the the [HEAD] word1 [/HEAD] is next [TAIL] word2 [/TAIL] description"
    assert text == f"[CLS] {expected} [SEP]"
    assert "1 of 1 posts are longer than 13 tokens" in caplog.text


def test_mentions_far_apart_keep_their_own_surroundings(tokenizer, labels):
    words = " ".join(["word1", *["the"] * 20, "word2"])
    text = marked(tokenizer, labels, words, (0, 1), (21, 22), max_length=12)
    assert text == "[CLS] [HEAD] word1 [/HEAD] the the the the [TAIL] word2 [/TAIL] [SEP]"


def test_words_that_look_like_special_tokens_are_none(tokenizer, labels):
    text = marked(tokenizer, labels, "[HEAD] [MASK] word1 word2", (2, 3), (3, 4))
    assert text.split().count("[HEAD]") == 1
    assert "[MASK]" not in text


def test_what_was_truncated_is_told_with_the_predictions(run):
    models, _ = run("relation_extraction", epochs=1, max_length=16)
    words = ["word1"] * 20
    spans = {"head_start": 0, "head_end": [1, 1, 20], "tail_start": 2, "tail_end": [3, 3, 20]}
    posts = pd.DataFrame({"words": [words[:3], words, words], **spans})
    predicted = predict(models, posts)
    assert predicted["tokens_truncated"].tolist() == [0, 10, 10]
    assert predicted["mentions_truncated"].tolist() == [False, False, True]


def test_a_mention_longer_than_the_window_keeps_both_markers(tokenizer, labels, caplog):
    words = " ".join(["word1"] * 30 + ["word2"])
    with caplog.at_level("INFO"):
        text = marked(tokenizer, labels, words, (0, 30), (30, 31), max_length=16)
    assert all(marker in text.split() for marker in MARKERS)
    assert "of 1 the mentions alone are longer" in caplog.text


def tagging(labels, units="words", max_length=32):
    return EntityRecognition(labels["entity_recognition"], max_length, units)


def test_a_word_stands_where_its_first_piece_does(tokenizer, labels):
    posts = pd.DataFrame({"words": [["word1", "\u200b", "unheard", "is"]]})
    batch = tagging(labels).encode_posts(posts, tokenizer, None).batch(np.array([0]))
    assert batch["word_index"].tolist() == [[1, 2, 3, 4]]
    assert batch["input_ids"].shape == (1, 6), "a word of characters the tokenizer drops is kept"
    assert "labels" not in batch


def test_an_entity_that_is_named_twice_is_shown_in_both_places(tokenizer, labels):
    posts = pd.DataFrame({"words": [["word1", "is", "word1", "word2"]]})
    task = tagging(labels)
    items = task.encode_posts(posts, tokenizer, None)
    best = np.array([task.class_names.index(tag) for tag in ("B-LOC", "O", "B-LOC", "B-PER")])
    places = task.tokens(tokenizer, items, 0, best)[1]
    assert {name: at.tolist() for name, at in places.items()} == {
        "word1 (LOC)": [1, 3],
        "word2 (PER)": [4],
    }
    places = task.tokens(tokenizer, items, 0, np.zeros(4, dtype=int))[1]
    assert {name: at.tolist() for name, at in places.items()} == {"all words": [1, 2, 3, 4]}


def test_words_beyond_the_window_are_lost_and_counted(run, labels, caplog):
    models, _ = run("entity_recognition", epochs=1, max_length=16)
    words = ["word0"] * 20
    posts = pd.DataFrame({"words": [words, words[:3]]})
    with caplog.at_level("INFO"):
        predicted = predict(models, posts)
    assert predicted["words_lost"].tolist() == [6, 0]
    assert [len(tags) for tags in predicted["predicted"]] == [20, 3]
    assert predicted["predicted"][0][14:] == ["O"] * 6
    assert "6 words lie beyond 16 tokens" in caplog.text


def test_tokens_have_states_of_their_own_as_in_the_authors_code(tokenizer, labels):
    posts = pd.DataFrame({"words": [["word1", "is"]], "tags": [["B-LOC", "O"]]})
    task = tagging(labels, "tokens")
    assert task.class_names == [
        "PAD", "O", "B-LOC", "I-LOC", "B-PER", "I-PER", "X", "[CLS]", "[SEP]"
    ]  # fmt: skip
    batch = task.encode_posts(posts, tokenizer, 8).batch(np.array([0]))
    names = [task.class_names[i] for i in batch["labels"][0].tolist() if i >= 0]
    assert names == ["[CLS]", "B-LOC", "O", "[SEP]"]
    assert batch["input_ids"].shape == (1, 8), "padded to a fixed width"
    assert "word_index" not in batch


@pytest.mark.parametrize("units", ["words", "tokens"])
def test_predictions_of_both_units_are_tags_of_words(run, units):
    models, _ = run("entity_recognition", epochs=1, units=units)
    posts = pd.DataFrame({"words": [["word0", "is", "word5"], ["the"]]})
    predicted = predict(models, posts)["predicted"]
    assert [len(tags) for tags in predicted] == [3, 1]
    assert {tag for tags in predicted for tag in tags} <= {"O", "B-LOC", "I-LOC", "B-PER", "I-PER"}


def test_two_processes_share_the_steps_and_the_dev_posts(run):
    # Without learning all dev scores are those of the same model, however it was asked.
    still = {"learning_rates": {"default": 0.0}, "epochs": 1, "seeds": [5]}
    _, one = run("entity_recognition", "one", batch_size=4, **still)
    _, two = run("entity_recognition", "two", batch_size=2, processes=2, engine=Elastic(), **still)
    assert two["step"].max() == one["step"].max()
    pd.testing.assert_series_equal(two["dev_f1"], one["dev_f1"])
