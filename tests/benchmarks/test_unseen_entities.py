"""Cosine similarity as an expert, and what the benchmark needs before it."""

import importlib.util
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from mkgformer_kedro.errors import DataError

ROOT = Path(__file__).parents[2]
QUERIES = pd.DataFrame(
    {"direction": ["tail", "head", "tail"], "entity": [0, 3, 11], "relation": [1, 0, 0]}
)


@pytest.fixture(scope="module")
def benchmark():
    path = ROOT / "benchmarks/unseen_entities.py"
    spec = importlib.util.spec_from_file_location("unseen_entities", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_similarity_is_the_cosine_of_mean_states(benchmark, text_tower, tables):
    expert = benchmark.SimilarityExpert(str(text_tower), tables["entities"], tables["relations"])
    blocks = list(expert.scores(QUERIES, batch_size=2))
    assert [rows.tolist() for rows, _ in blocks] == [[0, 1], [2]]
    scores = torch.cat([scores for _, scores in blocks])

    tokenizer, model = (kind.from_pretrained(text_tower) for kind in (AutoTokenizer, AutoModel))

    def mean_of(text):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state
        return states[0].mean(dim=0)

    asked = [mean_of(text) for text in ("word0 mirror", "next word3", "word11 next")]
    entities = [mean_of(text) for text in tables["entities"]["text"]]
    expected = torch.cosine_similarity(torch.stack(asked)[:, None], torch.stack(entities), dim=2)
    torch.testing.assert_close(scores, expected)
    assert expert.answers(QUERIES).all()


def test_the_evaluation_comes_first(benchmark, tmp_path):
    (tmp_path / "src").mkdir()
    for name in ("conf", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    with pytest.raises(DataError, match="predictions of mkg_w is missing"):
        benchmark.evaluate_unseen(tmp_path, "mkg_w")
