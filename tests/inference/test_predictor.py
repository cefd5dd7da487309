"""A person asks a model: what is given in which form, what comes back, what is refused."""

import gc
import pickle
import shutil
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mkgformer_kedro.datasets.lineage import (
    Origin,
    folder_lineage,
    parquet_lineage,
    write_folder_lineage,
    write_parquet,
)
from mkgformer_kedro.datasets.visual_store import RoleLayout, VisualStore, VisualStoreWriter
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.inference import Predictor
from mkgformer_kedro.inference.completion import Asking, Roles, _Known
from mkgformer_kedro.inference.experts import LoadedModel, TrainedModels, load_experts
from mkgformer_kedro.inference.images import GivenImages
from mkgformer_kedro.inference.mixed import MixedAnswers
from mkgformer_kedro.inference.mixture import fit_mixture
from mkgformer_kedro.inference.parameters import CompletionParameters
from mkgformer_kedro.inference.retrieval import Retrieval
from mkgformer_kedro.training.finetuning import finetune
from mkgformer_kedro.training.parameters import ModelParameters
from mkgformer_kedro.training.structural_model import (
    StructuralModel,
    StructureFolder,
    graph_digest,
    write_structure_folder,
)
from mkgformer_kedro.training.tasks import questions
from mkgformer_kedro.training.tasks.questions import count, read_rows
from mkgformer_kedro.training.tasks.registry import task_named
from tiny_world import COMPLETION

WORDS = ["word0", "is", "next", "word5"]


def wake(predictor):
    """Move the fusion away from zero, since a fresh model ignores images."""
    for number, layer in enumerate(predictor._model.mkgformer.fusion_layers):
        weight = layer.fusion_dense.weight.data
        weight.copy_(weight.new_tensor(np.random.default_rng(number).normal(size=weight.shape)))
    return predictor


@pytest.fixture(scope="module")
def image_file(tmp_path_factory):
    pixels = np.random.default_rng(5).integers(0, 255, (40, 30, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("images") / "photo.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def link(entity_model, store_folder):
    """A link predictor that knows the graph's images."""
    return wake(Predictor.from_folder(entity_model, store=store_folder))


@pytest.fixture(scope="module")
def trained():
    """Folders of models on posts, by task."""
    return {}


@pytest.fixture
def on_posts(tmp_path_factory, posts, labels, posts_store, model_parameters, posts_values, trained):
    """A predictor for a task on posts, trained for a moment: until it finds entities."""
    learning = {
        "relation_extraction": {"epochs": 1},
        "entity_recognition": {"epochs": 30, "learning_rates": {"default": 0.01}},
    }

    def make(task):
        if task in trained:
            return wake(Predictor.from_folder(trained[task]))
        values = posts_values[task] | learning[task]
        trained[task], _ = finetune(
            task,
            {"posts": posts[task], "labels": labels[task]},
            posts_store,
            tmp_path_factory.mktemp(task),
            ModelParameters(**model_parameters),
            task_named(task).parameters_class(**values),
            "corrected",
            seed=0,
        )
        return make(task)

    return make


def test_answers_come_best_first_with_their_names(link):
    answers = link.predict("e0", "next", top=5)
    assert list(answers.columns) == ["entity", "name", "score"]
    assert answers["score"].is_monotonic_decreasing
    assert answers.index.tolist() == list(range(5))
    assert (answers["name"] == "Entity " + answers["entity"].str[1:]).all()


def test_more_answers_than_entities_are_all_entities(link):
    answers = link.predict(entity="e0", relation="next", direction="head", top=99)
    assert sorted(answers["entity"]) == sorted(f"e{i}" for i in range(12))


def test_both_directions_are_two_questions(link):
    tail, head = link.predict("e0", "next"), link.predict("e0", "next", "head")
    assert not np.allclose(tail["score"], head["score"])
    empty = pd.DataFrame({"entity": ["e0"], "relation": ["next"], "direction": [np.nan]})
    pd.testing.assert_frame_equal(link.predict(empty).drop(columns="question"), tail)


def test_a_table_is_as_its_questions_one_by_one(link, image_file):
    table = pd.DataFrame(
        {
            "entity": ["e3", "e0", "e0"],
            "relation": ["next", "mirror", "next"],
            "direction": [None, "head", float("nan")],
            "images": [pd.NA, image_file, None],
        },
        index=["a", "b", "a"],
    )
    answers = link.predict(table, top=4, batch_size=2)
    assert answers["question"].tolist() == ["a"] * 4 + ["b"] * 4 + ["a"] * 4
    for number, row in enumerate(table.itertuples(index=False)):
        direction = row.direction if number == 1 else "tail"
        alone = link.predict(row.entity, row.relation, direction, images=row.images, top=4)
        of_table = answers.iloc[4 * number : 4 * number + 4].reset_index(drop=True)
        assert of_table["entity"].tolist() == alone["entity"].tolist()
        np.testing.assert_allclose(of_table["score"], alone["score"], atol=1e-5)


def test_images_of_the_store_are_used_unless_others_are_given(
    link, entity_model, store_folder, image_file
):
    blind = wake(Predictor.from_folder(entity_model))
    stored = [
        Image.fromarray(each.transpose(1, 2, 0)) for each in VisualStore(store_folder).images(2)
    ]
    seen = link.predict("e2", "next")
    pd.testing.assert_frame_equal(blind.predict("e2", "next", images=stored), seen, atol=1e-5)
    assert not np.allclose(blind.predict("e2", "next")["score"], seen["score"])
    other = link.predict("e2", "next", images=image_file)
    assert not np.allclose(other["score"], seen["score"])
    pd.testing.assert_frame_equal(other, blind.predict("e2", "next", images=image_file), atol=1e-5)
    without = link.predict("e2", "next", images=[None])
    pd.testing.assert_frame_equal(without, link.predict("e2", "next", images=[]))
    pd.testing.assert_frame_equal(without, blind.predict("e2", "next"), atol=1e-5)


@pytest.mark.parametrize(
    "form", [str, Image.open, lambda path: np.array([path]), lambda path: iter([path])]
)
def test_an_image_is_given_in_any_form(link, image_file, form):
    answers = link.predict("e1", "next", images=form(image_file))
    assert not np.allclose(answers["score"], link.predict("e1", "next")["score"])
    by_role = link.predict("e1", "next", images={"full": image_file})
    pd.testing.assert_frame_equal(answers, by_role)


MODELS, STORE = "06_models/ring/link_prediction", "04_feature/ring/link_prediction/visual_store"
QUERIES = "02_intermediate/ring/link_prediction/ingestion/queries.parquet"


@pytest.fixture(scope="module")
def project(tmp_path_factory, entity_model, store_folder, tables, parameters):
    """What runs leave under ``data/``: a model, a structural one and their mixture."""
    data = tmp_path_factory.mktemp("project") / "data"
    models, store, queries = data / MODELS, data / STORE, data / QUERIES
    shutil.copytree(store_folder, store)
    write_folder_lineage(store, None)
    queries.parent.mkdir(parents=True)
    write_parquet(queries, tables["queries"], None)
    made_from = {
        "link_prediction.visual_store": folder_lineage(store).identity,
        "link_prediction.queries": parquet_lineage(queries).identity,
    }
    origin = Origin("link_prediction.finetuning", made_from)
    shutil.copytree(entity_model, models / "finetuning/seed_1")
    write_folder_lineage(models / "finetuning", origin)
    description = {
        "kind": "structure", "model": "complex", "dimension": 3, "num_entities": 12,
        "num_relations": 2, "graph": graph_digest(tables["entities"], tables["relations"]),
        "seed": 1,
    }  # fmt: skip
    (models / "structure_modeling/complex").mkdir(parents=True)
    write_structure_folder(
        models / "structure_modeling/complex",
        StructureFolder(
            StructuralModel("complex", 12, 2, 3, seed=1),
            torch.arange(12) < 11,
            torch.tensor([True, True]),
            description,
        ),
    )
    experts = load_experts(
        TrainedModels(models / "finetuning", VisualStore(store)), models / "structure_modeling"
    )
    chosen = [experts[0], experts[2]]
    sizes = {"entities": 12, "relations": 2, "seed": 0}
    work = data.parent / "work"
    fit_mixture(chosen, tables["queries"], work, parameters, **sizes).save(models / "mixture")
    write_folder_lineage(models / "mixture", origin)
    return data


def test_the_store_that_a_model_was_made_from_is_found(project, caplog):
    models = project / MODELS / "mixture/../finetuning"
    own, given, blind = (
        wake(Predictor.from_folder(models, store=store)).predict("e2", "next")
        for store in (None, project / STORE, False)
    )
    pd.testing.assert_frame_equal(own, given)
    assert not np.allclose(own["score"], blind["score"])
    assert not caplog.records


def without_lineage(data):
    (data / MODELS / "finetuning/lineage.json").unlink()


def of_another_run(data):
    (data / STORE / "note.txt").write_text("another")
    write_folder_lineage(data / STORE, None)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (without_lineage, "nobody wrote down from which visual store it was made"),
        (of_another_run, "it was made from another visual store than the one at"),
        (
            lambda data: shutil.rmtree(data / STORE),
            "where the visual store that it was made from would lie",
        ),
        (lambda data: (data / "06_models").rename(data / "taken"), "it lies in no project's data"),
    ],
)
def test_one_warning_says_that_entities_have_no_images(project, tmp_path, caplog, change, says):
    data = shutil.copytree(project, tmp_path / "data")
    change(data)
    (models,) = data.glob("*/ring/link_prediction/finetuning")
    predictor = Predictor.from_folder(models)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert says in record.getMessage()
    assert "(store=...)" in record.getMessage()
    with pytest.raises(DataError, match="without a visual store, no images of entities are known"):
        predictor.explain("e2", "next")


def test_a_mixture_answers_as_completion_does(project, tables, tmp_path):
    models = project / MODELS
    predictor = wake(Predictor.from_folder(models / "finetuning", mixture=models / "mixture"))
    table = pd.DataFrame(
        {"direction": ["tail", "head"] * 6, "entity": range(12), "relation": [0, 0, 1] * 4}
    )
    named = table.assign(
        entity=[f"e{number}" for number in table["entity"]],
        relation=[("next", "mirror")[number] for number in table["relation"]],
    )
    answers = predictor.predict(named, top=4, batch_size=5)
    assert [*answers] == ["question", "entity", "name", "score", "probability", "in_answer_set"]

    *experts, mixture = load_experts(
        TrainedModels(models / "finetuning", VisualStore(project / STORE)),
        models / "structure_modeling",
        models / "mixture",
    )
    wake(SimpleNamespace(_model=experts[0].model.parts[0]))
    train = tables["triples"].query("split == 'train'")
    every = np.ones((2, 2, 12), dtype=bool)
    roles = Roles(every, ~every, np.zeros((2, 2), dtype=bool), np.zeros(2, dtype=bool))
    settings = CompletionParameters(**COMPLETION)
    asking = Asking(mixture, table, _Known(train), roles, tmp_path, settings)
    found = asking.answer(table)
    assert answers["entity"].tolist() == [f"e{number}" for number in found["answer"]]
    assert answers["in_answer_set"].tolist() == found["in_set"].tolist()
    expected = 1 / (1 + np.exp(-found["log_odds"]))
    np.testing.assert_allclose(answers["probability"], expected, atol=1e-5)

    image = Image.new("RGB", (8, 8))
    alive = weakref.ref(image)
    predictor.predict("e2", "next", images=image)
    del image
    gc.collect()
    assert alive() is None, "a predictor keeps no question's images"

    seen, unseen = (predictor.predict("e2", "next", images=each) for each in (None, []))
    assert not np.allclose(seen["score"], unseen["score"]), "images of the question are asked with"


def test_a_mixture_answers_of_entities_that_were_added(project, monkeypatch):
    models = project / MODELS
    predictor = Predictor.from_folder(models / "finetuning", mixture=models / "mixture")
    before = predictor.predict("e0", "next", top=99)
    predictor.add_entities(NEW, {"x2": None})
    after = predictor.predict("e0", "next", top=99)
    assert {*after["entity"]} == {*before["entity"], "x1", "x2"}
    # Who is ahead among those that the structural expert has learned stays what it was.
    learned = [
        [name for name in answers["entity"] if name not in ("e11", "x1", "x2")]
        for answers in (before, after)
    ]
    assert learned[0] == learned[1]
    in_another_process = pickle.loads(pickle.dumps(predictor))  # noqa: S301
    pd.testing.assert_frame_equal(in_another_process.predict("e0", "next", top=99), after)
    of_new = predictor.predict("x1", "next", "head", top=99)
    assert len(of_new) == 13, "all but the entity itself"
    assert np.isfinite(of_new["score"]).all()
    monkeypatch.setattr(MixedAnswers, "reads_texts", False)
    with pytest.raises(DataError, match="no expert of the mixture reads texts"):
        predictor.add_entities(NEW.assign(entity=["y1", "y2"]))


def test_a_mixture_that_cannot_be_asked(project, tmp_path):
    data = shutil.copytree(project, tmp_path / "data")
    models = data / MODELS
    options = {"path": models / "finetuning", "mixture": models / "mixture"}
    with pytest.raises(DataError, match="a retrieval finds answers of the model alone"):
        Predictor.from_folder(**options, retrieval=Retrieval())
    lineage = models / "mixture/lineage.json"
    lineage.write_text(lineage.read_text().replace("{}", '{"asking.precision": "fp32"}'))
    Predictor.from_folder(**options)
    with pytest.raises(DataError, match="fitted to scores in fp32, and would be asked in bf16"):
        Predictor.from_folder(**options, precision="bf16")
    (data / QUERIES).unlink()
    with pytest.raises(DataError, match="where the queries that it was made from would lie"):
        Predictor.from_folder(**options)
    shutil.rmtree(models / "structure_modeling")
    with pytest.raises(DataError, match="mixes the expert complex of seed 1, which is not there"):
        Predictor.from_folder(**options)


NEW = pd.DataFrame(
    {"entity": ["x1", "x2"], "name": ["One", "Two"], "text": ["word1 next", "word2 the word3"]}
)


def test_entities_added_one_by_one_are_those_added_at_once(
    link, entity_model, store_folder, image_file
):
    once, by_one = link, wake(Predictor.from_folder(entity_model, store=store_folder))
    once.add_entities(NEW, [image_file, None])
    for row, image in ((0, image_file), (1, None)):
        by_one.add_entities(NEW.iloc[[row]], [image])
    asked = ("x1", "next", "head")
    pd.testing.assert_frame_equal(by_one.predict(*asked, top=99), once.predict(*asked, top=99))
    assert len(by_one._store) == len(once._store)
    # However often entities are added: one store of images that were given, over that of the graph.
    assert not isinstance(by_one._store._store, GivenImages)


def test_new_entities_are_asked_about_and_are_answers(link, image_file):
    before = link.predict("e0", "next", top=99)
    link.add_entities(NEW, [image_file, None])
    first = link.predict("e0", "next", top=99)
    link.add_entities(NEW.assign(entity=["y1", "y2"], text="mirror"))
    second = link.predict("e0", "next", top=99)
    for known, more in ((before, first), (first, second)):
        assert len(more) == len(known) + 2
        kept = more[more["entity"].isin(known["entity"])].reset_index(drop=True)
        pd.testing.assert_frame_equal(kept, known, check_exact=True)
    scores = second.set_index("entity")["score"]
    assert scores["y1"] == scores["y2"], "they have the same text"
    assert scores["x1"] != scores["x2"]
    assert second.set_index("entity")["name"]["x2"] == "Two"
    asked = [link.predict(entity, "next")["score"] for entity in ("x1", "x2", "e0")]
    assert not np.allclose(asked[0], asked[1])
    np.testing.assert_array_equal(asked[2], second["score"][:10])


def test_entities_are_added_to_one_predictor_alone(entity_model):
    shared = LoadedModel(entity_model)
    one, other = Predictor(shared), Predictor(shared)
    before = other.predict("e0", "next", top=99)
    one.add_entities(NEW)
    pd.testing.assert_frame_equal(other.predict("e0", "next", top=99), before, check_exact=True)
    assert len(one.predict("e0", "next", top=99)) == len(before) + 2
    weights = (each._model.get_input_embeddings().weight for each in (one, other))
    assert len({each.data_ptr() for each in weights}) == 1, "the weights are shared"


def test_fewer_answers_are_the_first_of_more(link):
    link.add_entities(pd.DataFrame({"entity": list("zyx"), "name": "New", "text": "word1 next"}))
    answers = link.predict("z", "next", top=15)
    same = answers[answers["entity"].isin(list("zyx"))]
    assert same["score"].nunique() == 1
    assert same["entity"].tolist() == list("zyx")
    for top in (1, 2, 5, 14):
        few = link.predict("z", "next", top=top)
        pd.testing.assert_frame_equal(few, answers[:top], check_exact=True)


def test_entities_are_added_whole_or_not_at_all(link, monkeypatch):
    before = link.predict("e0", "next", top=99)

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pd, "concat", stop)
        with pytest.raises(KeyboardInterrupt):
            link.add_entities(NEW)
    pd.testing.assert_frame_equal(link.predict("e0", "next", top=99), before)


def test_threads_are_answered_one_after_the_other(link, monkeypatch):
    asking, most = [], []

    def answers(*_):
        asking.append(1)
        most.append(len(asking))
        time.sleep(0.01)
        asking.pop()
        return pd.DataFrame()

    monkeypatch.setattr(Predictor, "_answers", answers)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: link.predict("e0", "next"), range(8)))
    assert max(most) == 1


def test_numbers_of_numpy_do_not_overflow():
    assert type(count("predict", "batch_size", np.int8(100))) is int


@pytest.mark.parametrize("with_store", [True, False])
def test_images_of_new_entities_are_seen(entity_model, store_folder, image_file, with_store):
    predictor = wake(
        Predictor.from_folder(entity_model, store=store_folder if with_store else None)
    )
    predictor.add_entities(NEW.assign(text="word1"), {"x1": iter([image_file])})
    seen, blind = (predictor.predict(entity, "next")["score"] for entity in NEW["entity"])
    assert not np.allclose(seen, blind)
    without = predictor.predict("x1", "next", images=[])
    assert not np.allclose(seen, without["score"])
    answers = predictor.predict("e1", "next", top=99).set_index("entity")["score"]
    assert answers["x1"] != answers["x2"]


@pytest.mark.parametrize(
    ("table", "images", "message"),
    [
        (NEW.assign(entity=["e0", "x"]), None, "entity 0: the model has an entity 'e0' already"),
        (NEW.assign(entity="x"), None, "entity 1: 'x' is given twice"),
        (NEW.assign(text=["word1", " "]), None, "entity 1: text is ' ', no text or an empty one"),
        (NEW.assign(name=["One", None]), None, "entity 1: name is nan"),
        (NEW.drop(columns=["name", "text"]), None, "entities: missing: name, text"),
        (NEW[:0], None, "entities: there are none"),
        (NEW, ["no/such.png", None], "entity 0: no/such.png: there is no such image file"),
        (NEW, [None], "there are 2 entities, but images of 1"),
        (NEW, "folder", "images is str, neither a list nor a dict"),
        (NEW, {"x3": "photo.png"}, "images of 'x3', which is no entity of the table"),
    ],
)
def test_entities_that_cannot_be_added(link, table, images, message):
    with pytest.raises(DataError, match=message):
        link.add_entities(table, images)
    assert len(link.predict("e0", "next", top=99)) == 12


def test_relations_are_told_in_words(on_posts, image_file):
    predictor = on_posts("relation_extraction")
    answer = predictor.predict(words=WORDS, head=(0, 1), tail=(3, 4))
    assert list(answer.columns) == [
        "relation", "relation_text", "score", "tokens_truncated", "mentions_truncated"
    ]  # fmt: skip
    assert answer["relation"][0] in {"none", "/a/a/likes", "/a/b/of"}
    assert 0 < answer["score"][0] <= 1
    for same in (
        predictor.predict(WORDS, "word0", "word5"),
        predictor.predict("word0 is next word5", (0, 1), "word5"),
        predictor.predict(pd.DataFrame({"words": [WORDS], "head": ["word0"], "tail": [(3, 4)]})),
    ):
        pd.testing.assert_frame_equal(same.drop(columns="question", errors="ignore"), answer)
    with_image = predictor.predict(WORDS, "word0", "word5", images=image_file)
    assert with_image["score"][0] != answer["score"][0]


def test_mentions_look_at_the_images_of_a_post(on_posts, image_file):
    predictor = on_posts("relation_extraction")
    found = predictor.explain(WORDS, "word0", "word5", images=image_file)
    pd.testing.assert_frame_equal(
        found.answer, predictor.predict(WORDS, "word0", "word5", images=image_file), atol=1e-6
    )
    looking = {name: [found.tokens[place] for place in at] for name, at in found.parts.items()}
    assert looking == {
        "head": ["[HEAD]", "word0", "[/HEAD]"], "tail": ["[TAIL]", "word5", "[/TAIL]"],
    }  # fmt: skip
    # The one image given fills the first slot; that of the crops stays empty.
    assert [(image.role, image.weights.shape) for image in found.images] == [
        ("full", (1, len(found.tokens), 2, 2))
    ]


def test_entities_are_listed_with_their_spans_and_look_at_images(on_posts, image_file):
    predictor = on_posts("entity_recognition")
    words = ["the", "word1", "word2", "is", "next", "word5"]
    found = predictor.predict(words)
    assert found.to_dict("list") == {
        "entity": ["word1 word2", "word5"],
        "type": ["LOC", "PER"],
        "type_text": ["LOC", "PER"],
        "start": [1, 5],
        "end": [3, 6],
    }
    table = predictor.predict(pd.DataFrame({"text": ["the is", " ".join(words)]}))
    assert table["question"].tolist() == [1, 1], "a post without entities has no rows"
    pd.testing.assert_frame_equal(table.drop(columns="question"), found)
    by_role = {"full": image_file, "grounding": image_file}
    explained = predictor.explain(words, images=by_role)
    pd.testing.assert_frame_equal(explained.answer, predictor.predict(words, images=by_role))
    assert [(image.role, image.pixels.shape[1]) for image in explained.images] == [
        ("full", 16), ("grounding", 8),
    ]  # fmt: skip
    for entity in explained.answer.itertuples():
        at = explained.parts[f"{entity.entity} ({entity.type})"]
        assert at.tolist() == list(range(1 + entity.start, 1 + entity.end))
    for by in ("attention", "gradient"):
        with torch.inference_mode():
            heat = predictor.explain(words, images=by_role, by=by).heat()
        assert heat[1].shape == (1, 1)


@pytest.mark.parametrize("task", ["relation_extraction", "entity_recognition"])
def test_entities_and_their_store_are_of_no_use_to_posts(on_posts, task, posts_store):
    predictor = on_posts(task)
    with pytest.raises(DataError, match="says nothing of other posts"):
        Predictor(_Again(predictor), VisualStore(posts_store))
    with pytest.raises(DataError, match="the model has no encoder of entities"):
        predictor.add_entities(NEW)


class _Again(LoadedModel):
    precision = "fp32"

    def __init__(self, predictor):
        self.parts = predictor._model, predictor._tokenizer, predictor.task


def test_a_store_of_another_graph_is_refused(entity_model, tmp_path):
    other = VisualStoreWriter(tmp_path / "few", {"full": RoleLayout(16, 2)}, 3, "other").finish()
    with pytest.raises(DataError, match="3 owners, the model 12 entities"):
        Predictor.from_folder(entity_model, store=other)
    large = VisualStoreWriter(tmp_path / "large", {"full": RoleLayout(32, 2)}, 12, "other").finish()
    with pytest.raises(DataError, match="the model takes"):
        Predictor.from_folder(entity_model, store=large)


@pytest.mark.parametrize("where", ["seed_3", "finetuning/seed_12"])
def test_the_folder_of_a_task_or_of_all_seeds_will_do(entity_model, tmp_path, where):
    (tmp_path / where).parent.mkdir(exist_ok=True)
    (tmp_path / where).symlink_to(entity_model)
    (tmp_path / where).with_name("seed_a1").mkdir()
    assert len(Predictor.from_folder(tmp_path).predict("e0", "next")) == 10


def test_among_very_many_ids_no_near_miss_is_looked_for(monkeypatch):
    table, known = pd.DataFrame({"entity": ["e1", "e4"]}), {f"e{row}": row for row in range(5)}
    assert read_rows(table, "entity", known).tolist() == [1, 4]
    table.loc[1, "entity"] = "e44"
    with pytest.raises(DataError, match=r"knows no entity 'e44'\. Did you mean 'e4'"):
        read_rows(table, "entity", known)
    monkeypatch.setattr(questions, "_MOST_COMPARED", 4)
    with pytest.raises(DataError, match=r"knows no entity 'e44'\. Give an id that the model knows"):
        read_rows(table, "entity", known)


def test_ids_are_texts():
    table = pd.DataFrame({"entity": [17]}, index=["a"])
    with pytest.raises(
        DataError, match=r"question a: the model knows no entity 17\. Give ids as t"
    ):
        read_rows(table, "entity", {"17": 0})


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no complete model folder: task\.json missing"):
        Predictor.from_folder(tmp_path)


@pytest.mark.parametrize(
    ("question", "options", "message"),
    [
        (("nobody", "next"), {}, "question 0: the model knows no entity 'nobody'"),
        (("e0", "nexxt"), {}, "no relation 'nexxt'. Did you mean 'next'"),
        (("e0", "next", "left"), {}, "the direction is 'left'"),
        ((float("nan"), "next"), {}, r"no entity nan\. Give ids as texts"),
        (("e0",), {}, "questions: missing: relation"),
        ((), {}, "questions: missing: entity, relation"),
        (("e0", "next", "tail", 3), {}, "4 parts"),
        (("e0", "next"), {"entity": "e1"}, "entity is given twice"),
        (("e0", "next"), {"entiti": "e1"}, "no part of a question: entiti"),
        (([{"entity": "e0", "relation": "next"}],), {}, r"a list of dicts.*pandas\.DataFrame"),
        ((pd.DataFrame({"entity": ["e0"]}),), {}, "missing: relation"),
        ((pd.DataFrame({"entity": [], "relation": []}),), {}, "there are none"),
        (
            (pd.DataFrame({"entity": ["e0"], "relation": ["next"]}), "next"),
            {},
            "beside it",
        ),
        ((pd.DataFrame({"entity": ["e0"], "relation": ["next"]}),), {"images": "x"}, "beside it"),
        (("e0", "next"), {"images": "no/such.png"}, "no/such.png: there is no such image file"),
        (("e0", "next"), {"images": 5}, "5 is no image"),
        (
            ("e0", "next"),
            {"images": {"whole": "x"}},
            "Images of whole are given, but the model has slots for full",
        ),
        (
            ("e0", "next"),
            {"images": [Image.new("RGB", (9, 9))] * 3},
            "has 3 images for the 2 slots",
        ),
    ],
)
def test_questions_that_cannot_be_asked_of_a_graph(link, question, options, message):
    with pytest.raises(DataError, match=message):
        link.predict(*question, **options)


@pytest.mark.parametrize(
    ("column", "value"),
    [("entity", "nobody"), ("relation", "nexxt"), ("direction", "left"), ("images", 5)],
)
def test_the_tables_index_names_a_question_that_cannot_be_asked(link, column, value):
    table = pd.DataFrame(
        {"entity": "e0", "relation": "next", "direction": "tail", "images": None},
        index=["a", "a", "b"],
    ).astype(object)
    table.loc["b", column] = value
    with pytest.raises(DataError, match="question b"):
        link.predict(table)


@pytest.mark.parametrize("name", ["top", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, None, "3"])
def test_numbers_are_checked(link, name, value):
    with pytest.raises(ValueError, match=f"{name} is .*; it must be a whole number from 1"):
        link.predict("e0", "next", **{name: value})


def test_a_file_that_is_no_image_is_named(link, tmp_path):
    for name, content in (("empty.png", b""), ("text.jpg", b"no image at all")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            link.predict("e0", "next", images=tmp_path / name)


@pytest.fixture
def mentions(labels):
    """The reading of questions of relation extraction, which needs no model."""
    task = task_named("relation_extraction")(labels["relation_extraction"], 32, "markers")
    return lambda **parts: task.read_questions(pd.DataFrame({k: [v] for k, v in parts.items()}))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"head": (0, 5)}, r"head \(0, 5\) is no span of the post's 4 words"),
        ({"head": (2, 1)}, r"head \(2, 1\) is no span"),
        ({"head": (-1, 1)}, r"head \(-1, 1\) is no span"),
        ({"head": (1, 1)}, "is no span"),
        ({"head": (0, 1, 2)}, "neither a text nor a span"),
        ({"head": (0, "1")}, "neither a text nor a span"),
        ({"head": (0, True)}, "neither a text nor a span"),
        ({"head": None}, "head is None, neither a text nor a span"),
        ({"tail": float("nan")}, "tail is nan, neither"),
        ({"head": "nobody"}, "head 'nobody' occurs nowhere"),
        ({"head": ""}, "head '' occurs nowhere"),
        ({"words": ["a", "b", "a", "c"], "head": "a", "tail": "b"}, "head 'a' occurs 2 times"),
        ({"head": (0, 1), "tail": (0, 1)}, "the same mention"),
        ({"words": "word0 is next word5"}, "words is a text"),
        ({"words": []}, "the post has no words"),
        ({"words": ["word0", "", "next", "word5"]}, "'' is no word"),
        ({"words": ["word0", None]}, "None is no word"),
        ({"words": float("nan")}, "words is float"),
        ({"words": {"a": 1}}, "words is dict"),
        ({"text": "both"}, "both `words` and `text` are given"),
    ],
)
def test_posts_that_cannot_be_asked_about(mentions, parts, message):
    with pytest.raises(DataError, match=message):
        mentions(**{"words": WORDS, "head": (0, 1), "tail": (3, 4), **parts})


def test_missing_parts_of_a_post_are_named(mentions):
    with pytest.raises(DataError, match="missing: words, or text"):
        mentions(head=(0, 1), tail=(1, 2))
    with pytest.raises(DataError, match="missing: tail"):
        mentions(words=WORDS, head=(0, 1))
    with pytest.raises(DataError, match="text is int"):
        mentions(text=3, head=(0, 1), tail=(1, 2))
    with pytest.raises(DataError, match="the post has no words"):
        mentions(text=" ", head=(0, 1), tail=(1, 2))


def test_a_text_is_split_as_corpora_are(mentions):
    text = "RT @ann: O'Neil isn't in New-York, see https://t.co/x?y=1 #fun"
    read = mentions(text=text, head="O'Neil", tail="New-York")
    assert read["words"][0] == [
        "RT", "@ann", ":", "O'Neil", "isn't", "in", "New-York", ",", "see",
        "https://t.co/x?y=1", "#fun",
    ]  # fmt: skip
    assert read[["head_start", "head_end", "tail_start", "tail_end"]].values.tolist() == [
        [3, 4, 6, 7]
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("#हिन्दी, सब", ["#हिन्दी", ",", "सब"]),
        ("Cafe\u0301-au-lait!", ["Cafe\u0301-au-lait", "!"]),
        ("สวัสดี", ["สวัสดี"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        (
            "ok\u2764\ufe0f!\U0001f469\u200d\U0001f4bb",
            ["ok", "\u2764\ufe0f", "!", "\U0001f469\u200d\U0001f4bb"],
        ),
        ("\u0301 a", ["\u0301", "a"]),
    ],
)
def test_marks_and_joiners_belong_to_their_words(text, words):
    assert questions.split_text(text) == words
