"""Test triples with an entity that train lacks: every expert, beside cosine similarity of texts.

    kedro run --pipelines link_prediction --env mkg_w
    python benchmarks/unseen_entities.py --env mkg_w

Cosine similarity is what anybody would try first, and needs no training: the mean of the text
tower's states of "<entity> <relation>" (of "<relation> <entity>" where the head is asked for)
beside that of each entity's text. Its answers are ranked and filtered as all others are.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.evaluation.ranking.evaluation import MRR, RankingEvaluation
from mkgformer_kedro.evaluation.ranking.metrics import HEADLINE
from mkgformer_kedro.inference.predictions import predict_queries
from mkgformer_kedro.progress import Progress
from mkgformer_kedro.training.tasks.link_prediction import LinkPrediction
from mkgformer_kedro.training.towers import resolve_tower

PROJECT = Path(__file__).resolve().parents[1]
TASK = LinkPrediction.name
VIEW = "unseen_entities"
COLUMNS = {"Hits@1": "hits_at_1", "Hits@10": "hits_at_10", "mean rank": "arithmetic_mean_rank"}


class SimilarityExpert:
    """Ranks entities by the cosine of their text with the question's, as an ``Expert``.

    Args:
        tower: Text tower, whose states are averaged.
        entities: Table ``entities``.
        relations: Table ``relations``.
    """

    name, seed, folder, learned = "cosine", 0, None, None

    def __init__(self, tower: str, entities: pd.DataFrame, relations: pd.DataFrame) -> None:
        source = resolve_tower(tower)
        self._tokenizer = AutoTokenizer.from_pretrained(source)
        self._model = AutoModel.from_pretrained(source).eval()
        self._texts = entities["text"].to_numpy(), relations["text"].to_numpy()
        self._entities = self._embed(list(self._texts[0]), "Reading entities")

    def scores(
        self, queries: pd.DataFrame, *, batch_size: int
    ) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Cosines, between -1 and 1."""
        entity, relation = (
            texts[queries[column]]
            for texts, column in zip(self._texts, ("entity", "relation"), strict=True)
        )
        is_tail = queries["direction"] == "tail"
        first, second = np.where(is_tail, [entity, relation], [relation, entity])
        asked = self._embed([f"{a} {b}" for a, b in zip(first, second, strict=True)], "Asking")
        for start in range(0, len(queries), batch_size):
            rows = np.arange(start, min(start + batch_size, len(queries)))
            yield rows, asked[rows] @ self._entities.T

    def answers(self, queries: pd.DataFrame) -> np.ndarray:
        """All: every entity has a text."""
        return np.ones(len(queries), dtype=bool)

    @torch.no_grad()
    def _embed(self, texts: list[str], what: str) -> Tensor:
        order = np.argsort([len(text) for text in texts], kind="stable")
        states = torch.empty(len(texts), self._model.config.hidden_size)
        with Progress(what, len(texts), "texts") as progress:
            for rows in np.split(order, range(64, len(order), 64)):
                inputs = self._tokenizer(
                    [texts[row] for row in rows],
                    padding=True,
                    truncation=True,
                    max_length=128,
                    return_tensors="pt",
                )
                mask = inputs["attention_mask"][..., None]
                means = (self._model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)
                states[rows] = torch.nn.functional.normalize(means, dim=1)
                progress.advance(len(rows))
        return states


def evaluate_unseen(project: Path, env: str | None) -> RankingEvaluation:
    """Score what the evaluation of a data set has left behind, with cosine similarity beside it.

    Args:
        project: Folder with ``conf/`` and ``data/``.
        env: Kedro environment; None for the embedded sample.

    Raises:
        DataError: The evaluation was not run, or train has all entities of test.
    """
    bootstrap_project(project)
    with KedroSession.create(project, env=env) as session:
        context = session.load_context()
    catalog, parameters = context.catalog, context.params
    data_set = context.config_loader["globals"]["dataset"]
    command = f"kedro run --pipelines {TASK}" + (f" --env {env}" if env else "")
    predictions = []
    for name in ("predictions", "predictions_baseline"):
        if not catalog.exists(f"{TASK}.{name}"):
            what = f"{name} of {data_set} is missing"
            raise DataError(Problem(name, None, what, f"Run `{command}` first."))
        predictions.append(catalog.load(f"{TASK}.{name}"))
    tables = {name: catalog.load(f"{TASK}.{name}") for name in LinkPrediction.tables}
    test = {
        name: tables[name][tables[name]["split"] == "test"].reset_index(drop=True)
        for name in ("queries", "triples")
    }
    tower = parameters["model"].text_tower
    expert = SimilarityExpert(tower, tables["entities"], tables["relations"])
    predictions.append(predict_queries([expert], test["queries"], test["triples"], batch_size=256))
    evaluation = LinkPrediction.evaluate(
        pd.concat(predictions, ignore_index=True),
        tables,
        has_images=VisualStore(catalog.load(f"{TASK}.visual_store")).has_images,
        seed=parameters["seed"],
    )
    if VIEW not in evaluation.views:
        what = "train has all entities of test, or none"
        raise DataError(Problem(data_set, None, what, "Take another data set."))
    return evaluation


def report_lines(evaluation: RankingEvaluation) -> list[str]:
    """The view as a table, with what the model is ahead of each other expert."""
    view = evaluation.views[VIEW]
    lines = [
        f"{view.count} test triples {view.name}; filtered, both directions",
        f"{'':16}{MRR.label:>22}"
        + "".join(f"{name:>11}" for name in COLUMNS)
        + "   the model is ahead by",
    ]
    for expert, scores in view.scores.items():
        low, high = scores.intervals[MRR.key]
        line = f"{expert:16}{scores.metrics[MRR.key]:7.3f} [{low:.3f}, {high:.3f}]"
        line += "".join(f"{scores.metrics[HEADLINE + key]:11.3f}" for key in COLUMNS.values())
        if expert in view.differences:
            ahead = view.differences[expert]
            line += f"   {ahead.value:+.3f} [{ahead.interval.low:+.3f}, {ahead.interval.high:+.3f}]"
        lines.append(line)
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--env", help="Kedro environment (default: the embedded sample)")
    parser.add_argument(
        "--project", type=Path, default=PROJECT, help="folder with conf/ and data/ (default: here)"
    )
    options = parser.parse_args(arguments)
    try:
        evaluation = evaluate_unseen(options.project, options.env)
    except DataError as error:
        sys.exit(str(error))
    print("\n".join(report_lines(evaluation)))


if __name__ == "__main__":
    main()
