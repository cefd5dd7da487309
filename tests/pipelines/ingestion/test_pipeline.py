from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from kedro.io import CatalogConfigResolver, DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner

from mkgformer_kedro.configuration import ExtendingConfigLoader
from mkgformer_kedro.errors import DataError
from mkgformer_kedro.pipelines.ingestion import create_pipeline
from mkgformer_kedro.pipelines.ingestion.parameters import (
    IngestionParameters,
    RelationIngestionParameters,
    TaggedIngestionParameters,
)
from mkgformer_kedro.settings import CONFIG_LOADER_ARGS

_CONF = Path(__file__).parents[3] / "conf"
_PARAMETERS = {
    "link_prediction": IngestionParameters,
    "relation_extraction": RelationIngestionParameters,
    "entity_recognition": TaggedIngestionParameters,
}
_ON_POSTS = ["relation_extraction", "entity_recognition"]
_TABLES = ["entities", "relations", "triples", "queries"]
_RAW_AND_TABLES = {
    "link_prediction": ["raw_graph", *_TABLES],
    **{task: ["raw_posts", "posts", "labels"] for task in _ON_POSTS},
}
_REPORTS = ["quarantine", "ingestion_report"]


@pytest.fixture
def catalog(tmp_path):
    """A task's part of the configured catalog, with everything written below ``tmp_path``."""

    def catalog(env, raw_folder, task="link_prediction", **changes):
        conf = _configuration(env, raw_folder)
        resolver = CatalogConfigResolver(conf["catalog"])
        entries = {}
        for name in (f"{task}.{name}" for name in [*_RAW_AND_TABLES[task], *_REPORTS]):
            entries[name] = dict(resolver.resolve_pattern(name))
            if ".raw_" not in name:
                entries[name]["filepath"] = str(tmp_path / entries[name]["filepath"])
        made = DataCatalog.from_config(entries)
        values = {**conf["parameters"][task]["ingestion"], **changes}
        made[f"params:{task}.ingestion"] = MemoryDataset(_PARAMETERS[task](**values))
        return made

    return catalog


def _configuration(env, raw_folder):
    return ExtendingConfigLoader(
        str(_CONF), env=env, runtime_params={"raw_folder": str(raw_folder)}, **CONFIG_LOADER_ARGS
    )


def test_stage_runs_on_plain_tables_in_memory(raw_graph, parameters):
    catalog = DataCatalog()
    catalog["link_prediction.raw_graph"] = raw_graph()
    catalog["params:link_prediction.ingestion"] = parameters()
    pipeline = create_pipeline("link_prediction")
    outputs = SequentialRunner().run(pipeline, catalog)
    assert pipeline.all_outputs() == {f"link_prediction.{name}" for name in _TABLES + _REPORTS}
    assert outputs["link_prediction.ingestion_report"].load()["queries"] == {
        "train": 8,
        "dev": 2,
        "test": 4,
    }


def test_stage_runs_as_configured(write_graph, catalog, tmp_path):
    made = catalog("base", write_graph())
    SequentialRunner().run(create_pipeline("link_prediction"), made)
    written = {
        str(file.relative_to(tmp_path / "data")) for file in (tmp_path / "data").rglob("*.*")
    }
    assert written == {
        "02_intermediate/sample/link_prediction/ingestion/entities.parquet",
        "02_intermediate/sample/link_prediction/ingestion/relations.parquet",
        "02_intermediate/sample/link_prediction/ingestion/triples.parquet",
        "02_intermediate/sample/link_prediction/ingestion/queries.parquet",
        "08_reporting/sample/link_prediction/ingestion/quarantine.csv",
        "08_reporting/sample/link_prediction/ingestion/report.json",
    }
    assert made.load("link_prediction.entities")["entity"].tolist() == ["007", "02", "03", "04"]
    assert made.load("link_prediction.ingestion_report")["counts"]["train"] == 4


def test_bad_input_leaves_nothing_behind(write_graph, catalog, tmp_path):
    made = catalog("base", write_graph({"test.tsv": "007\tlikes\t08"}))
    with pytest.raises(DataError, match=r"test\.tsv:1: unknown entity '08'"):
        SequentialRunner().run(create_pipeline("link_prediction"), made)
    assert not (tmp_path / "data").exists()


def test_damaged_table_is_refused(write_graph, catalog):
    made = catalog("base", write_graph())
    with pytest.raises(Exception, match="text_source"):
        made.save(
            "link_prediction.entities",
            pd.DataFrame({"entity": ["a"], "name": ["a"], "text": ["a"]}),
        )


def test_other_files_than_the_published_ones_are_named(write_graph, catalog):
    made = catalog("wn18_img", write_graph({"dev.tsv": None}))
    with pytest.raises(Exception, match=r"train\.tsv: differs from the published file") as raised:
        SequentialRunner().run(create_pipeline("link_prediction"), made)
    assert "dev.tsv: no such file" in str(raised.value)


@pytest.mark.benchmark_files
@pytest.mark.parametrize(
    ("env", "folder", "expected"),
    [
        (
            "fb15k_237_img",
            "FB15k-237",
            {
                "counts": {
                    "entities": 14541,
                    "relations": 237,
                    "train": 272115,
                    "dev": 17535,
                    "test": 20466,
                },
                "entity_texts": {
                    "long": {"entities": 13666, "file": "entity2text.wikidata-substitute.txt"},
                    "name": {"entities": 875, "file": "entity2text.txt"},
                },
                "relations_sharing_a_text": 115,
                "entities_unseen_in_train": {"dev": 8, "test": 29},
                "inverse_leak": {"dev": 0.0, "test": 0.0},
            },
        ),
        (
            "wn18_img",
            "WN18",
            {
                "counts": {
                    "entities": 40943,
                    "relations": 18,
                    "train": 141442,
                    "dev": 5000,
                    "test": 5000,
                },
                "entity_texts": {"short": {"entities": 40943, "file": "entity2text.txt"}},
                "queries": {"train": 171254, "dev": 9006, "test": 9028},
                "inverse_leak": {"dev": 0.9394, "test": 0.9396},
            },
        ),
    ],
)
def test_benchmarks_are_what_was_published(benchmarks, catalog, env, folder, expected):
    made = catalog(env, benchmarks / "MKG" / "dataset" / folder)
    SequentialRunner().run(create_pipeline("link_prediction"), made)
    report = made.load("link_prediction.ingestion_report")
    assert {key: report[key] for key in expected} == expected
    assert report["unexpected_counts"] == {}
    assert report["quarantined_lines"] == 0
    verified = {name for name, file in report["files"].items() if file["verified"]}
    assert verified == set(report["files"]) - {"entity2text.wikidata-substitute.txt"}


@pytest.mark.benchmark_files
def test_authors_candidates_of_fb15k_237(benchmarks, catalog):
    made = catalog(
        "fb15k_237_img",
        benchmarks / "MKG" / "dataset" / "FB15k-237",
        candidates="entity_texts",
        on_unexpected_counts="report",
    )
    SequentialRunner().run(create_pipeline("link_prediction"), made)
    report = made.load("link_prediction.ingestion_report")
    assert report["unexpected_counts"] == {"entities": "14,951 instead of the published 14,541"}
    assert report["entities_sharing_a_name"] == 519


@pytest.mark.parametrize("task", _ON_POSTS)
def test_stage_on_posts_runs_as_configured(task, catalog, write_pairs, write_tagged, tmp_path):
    folder = (write_pairs if task == "relation_extraction" else write_tagged)(
        {"subsets.tsv": "train\t0\tclear\n"}
    )
    made = catalog("base", folder, task, max_split_overlap=None)
    SequentialRunner().run(create_pipeline(task), made)
    assert {str(path.relative_to(tmp_path / "data")) for path in tmp_path.rglob("data/**/*.*")} == {
        f"02_intermediate/sample/{task}/ingestion/posts.parquet",
        f"02_intermediate/sample/{task}/ingestion/labels.parquet",
        f"08_reporting/sample/{task}/ingestion/quarantine.csv",
        f"08_reporting/sample/{task}/ingestion/report.json",
    }
    posts = made.load(f"{task}.posts")
    assert posts["subset"].fillna("").tolist() == ["clear"] + [""] * (len(posts) - 1)
    of_relations = {"negative"} if task == "relation_extraction" else set()
    assert {*made.load(f"{task}.labels").columns} == {"label", "text"} | of_relations
    report = made.load(f"{task}.ingestion_report")
    assert report["counts"]["train"] == 2
    assert report["subsets"]["train"] == {"clear": 1}


def test_bad_post_leaves_nothing_behind(catalog, write_tagged, tmp_path):
    folder = write_tagged({"valid.txt": "IMGID:1\nAnn\tB-CAT", "subsets.tsv": "dev\t0\tclear"})
    made = catalog("base", folder, "entity_recognition")
    with pytest.raises(DataError, match=r"valid\.txt:2: unknown tag 'B-CAT'"):
        SequentialRunner().run(create_pipeline("entity_recognition"), made)
    assert not (tmp_path / "data").exists()


@pytest.mark.benchmark_files
@pytest.mark.parametrize(
    ("env", "task", "folder", "expected"),
    [
        (
            "mnre",
            "relation_extraction",
            "MRE/data",
            {
                "counts": {"train": 12247, "dev": 1624, "test": 1614, "relations": 23},
                "longest_post": {"train": 35, "dev": 30, "test": 28},
                "posts_without_relation": {"train": 7744, "dev": 1000, "test": 974},
                "posts_with_overlapping_mentions": {"train": 59, "dev": 3, "test": 5},
                "posts_in_two_splits": {"train_dev": 6, "train_test": 2, "dev_test": 1},
            },
        ),
        (
            "twitter_2017",
            "entity_recognition",
            "MNER/data/twitter2017",
            {
                "counts": {
                    "train": 3373,
                    "dev": 723,
                    "test": 723,
                    "entities": {
                        "train": {"PER": 2943, "LOC": 731, "ORG": 1674, "MISC": 701},
                        "dev": {"PER": 626, "LOC": 173, "ORG": 375, "MISC": 150},
                        "test": {"PER": 621, "LOC": 178, "ORG": 395, "MISC": 157},
                    },
                },
                "words": {"train": 53007, "dev": 11309, "test": 11330},
                "repaired_tags": {"train": 0, "dev": 0, "test": 0},
                "posts_in_two_splits": {"train_dev": 1, "train_test": 0, "dev_test": 0},
            },
        ),
    ],
)
def test_benchmarks_of_posts_are_what_was_published(
    benchmarks, catalog, env, task, folder, expected
):
    made = catalog(env, benchmarks / folder, task)
    SequentialRunner().run(create_pipeline(task), made)
    report = made.load(f"{task}.ingestion_report")
    assert {key: report[key] for key in expected} == expected
    assert report["published_counts"] == report["counts"]
    assert report["unexpected_counts"] == {}
    assert report["quarantined_lines"] == 0
    assert all(file["verified"] for file in report["files"].values())
    posts = made.load(f"{task}.posts")
    for split, lines in report["lines"].items():
        assert lines["unaccounted"] == lines["left_out"] == 0
        words = posts.loc[posts["split"] == split, "words"].map(len)
        of_words = words.sum() if task == "entity_recognition" else 0
        assert lines["lines"] == lines["blank"] + len(words) + of_words
