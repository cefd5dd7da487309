"""Stage 2 of link prediction: fine-tune the model to name the missing entity of a query."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from transformers import set_seed

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.evaluation.ranking.metrics import ranking_metrics
from mkgformer_kedro.evaluation.ranking.ranks import Cells, rank_answers
from mkgformer_kedro.files import written_atomically
from mkgformer_kedro.training.launch import Job, launch
from mkgformer_kedro.training.model_folder import (
    GraphVocabulary,
    load_model_folder,
    save_model_folder,
)
from mkgformer_kedro.training.parameters import FinetuningParameters, Preset
from mkgformer_kedro.training.queries import Queries, QueryBatchSampler, Ragged
from mkgformer_kedro.training.scoring import query_inputs, score_blocks, scoring_order
from mkgformer_kedro.training.trainer import (
    StageTrainer,
    discard_checkpoints,
    fingerprint_of,
    train_to_end,
    training_arguments,
)

if TYPE_CHECKING:
    from mkgformer_kedro.training.prompts import PromptBuilder

logger = logging.getLogger(__name__)

DEV_METRIC = "eval_both.realistic.inverse_harmonic_mean_rank"


def finetune(
    entity_model: Path,
    queries: pd.DataFrame,
    store_folder: Path,
    work_folder: Path,
    parameters: FinetuningParameters,
    attention: str,
    preset: Preset,
    seed: int,
) -> tuple[Path, pd.DataFrame]:
    """Fine-tune on the train queries; the model with the best dev MRR is kept.

    Args:
        entity_model: Model folder of stage 1.
        queries: Table ``queries``; test queries are never looked at.
        store_folder: Visual store.
        work_folder: Private folder for checkpoints; the finished model folder is made inside it.
        parameters: Settings of this stage.
        attention: Attention implementation.
        preset: Decides the fields that the parameters leave open.
        seed: Seed of everything random.

    Returns:
        The finished model folder and the training curve.
    """
    parameters = parameters.with_preset(preset)
    table = work_folder / "queries.parquet"
    with written_atomically(table) as temporary:
        queries[queries["split"] != "test"].to_parquet(temporary, index=False)
    job: Job = {
        "entity_model": str(entity_model),
        "queries": str(table),
        "visual_store": str(store_folder),
        "work_folder": str(work_folder),
        "parameters": parameters.model_dump(),
        "attention": attention,
        "seed": seed,
    }
    curve = pd.DataFrame(launch(train_worker, job, parameters.launch))
    discard_checkpoints(work_folder / "checkpoints")
    table.unlink()
    return work_folder / "model", curve


def train_worker(job: Job) -> list[dict[str, float]]:
    """Train in this process, alone or as one of several.

    Args:
        job: What :func:`finetune` puts together; paths and plain values.

    Returns:
        The rows of the training curve. Rank 0 leaves the model folder ``model`` in the work folder.
    """
    parameters = FinetuningParameters.model_validate(job["parameters"])
    set_seed(job["seed"])
    model, tokenizer, vocabulary = load_model_folder(Path(job["entity_model"]), job["attention"])
    model.config.loss = parameters.loss
    model.config.label_smoothing = parameters.label_smoothing
    if parameters.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    vocabulary = GraphVocabulary(
        vocabulary.entities, vocabulary.relations, parameters.prompt, parameters.max_length
    )
    prompts = vocabulary.prompt_builder(tokenizer, model)
    store = VisualStore(Path(job["visual_store"]))
    frame = pd.read_parquet(job["queries"])
    queries = Queries.from_frame(frame)
    in_train = (frame["split"] == "train").to_numpy()
    sampler = batch_sampler(queries, np.flatnonzero(in_train), prompts, parameters, job["seed"])

    work_folder = Path(job["work_folder"])
    arguments = training_arguments(
        work_folder / "checkpoints",
        parameters,
        batches_per_epoch=-(-len(sampler) // parameters.launch.processes),
        seed=job["seed"],
        metric=DEV_METRIC,
        precision=parameters.precision,
        loader_workers=parameters.loader_workers,
    )
    trainer = LinkPredictionTrainer(
        model=model,
        args=arguments,
        batch_sampler=sampler,
        learning_rates=parameters.learning_rates,
        train_dataset=np.arange(len(queries)),
        eval_dataset=_sample(np.flatnonzero(~in_train), parameters.dev_queries, job["seed"]),
        data_collator=QueryCollator(queries, prompts, store),
        dev_batch_size=parameters.dev_batch_size,
    )
    settings = {
        "parameters": parameters.model_dump(exclude={"log_every", "loader_workers"}),
        "attention": job["attention"],
        "seed": job["seed"],
    }
    files = [
        Path(job["queries"]),
        Path(job["visual_store"]) / "store.json",
        *sorted(Path(job["entity_model"]).iterdir()),
    ]
    curve = train_to_end(trainer, fingerprint_of(settings, files), parameters.patience)
    if trainer.is_world_process_zero():
        save_model_folder(work_folder / "model", model, tokenizer, vocabulary)
    return curve.to_dict("records")


def rank_table(queries: Queries, rows: np.ndarray, scores: torch.Tensor) -> pd.DataFrame:
    """Filtered ranks of all answers of a block of queries.

    Args:
        queries: All queries.
        rows: ``(b,)`` numbers of the block's queries.
        scores: ``(b, entities)``.

    Returns:
        What :func:`ranking_metrics` needs: ``direction``, ``rank_optimistic``,
        ``rank_pessimistic``, ``candidates``; one row per answer.
    """

    def cells(ragged: Ragged) -> Cells:
        positions, values = ragged.flat(rows)
        return Cells(
            torch.from_numpy(positions).to(scores.device),
            torch.from_numpy(values).to(scores.device),
        )

    answers = cells(queries.answers)
    ranked = rank_answers(scores, answers, cells(queries.known))
    is_tail = queries.is_tail[rows][answers.rows.cpu().numpy()]
    return pd.DataFrame(
        {
            "direction": np.where(is_tail, "tail", "head"),
            "rank_optimistic": ranked.rank_optimistic.cpu().numpy(),
            "rank_pessimistic": ranked.rank_pessimistic.cpu().numpy(),
            "candidates": ranked.candidates.cpu().numpy(),
        }
    )


def batch_sampler(
    queries: Queries,
    train_rows: np.ndarray,
    prompts: PromptBuilder,
    parameters: FinetuningParameters,
    seed: int,
) -> QueryBatchSampler:
    """Batches of train queries; ``item: triple`` repeats a query once for each of its answers."""
    items = train_rows
    if parameters.item == "triple":
        items = np.repeat(train_rows, queries.answers.lengths[train_rows])
    return QueryBatchSampler(
        items,
        queries.entity,
        prompts.query_lengths(queries.entity, queries.relation),
        batch_size=parameters.batch_size,
        queries_per_entity=parameters.queries_per_entity,
        shuffle=bool(parameters.shuffle),
        seed=seed,
    )


@dataclass(frozen=True)
class QueryCollator:
    """Turn query numbers into a batch of model inputs with labels.

    Attributes:
        queries: All queries.
        prompts: Builder of the prompts.
        store: Visual store, or None to train without images.
    """

    queries: Queries
    prompts: PromptBuilder
    store: VisualStore | None

    def __call__(self, rows: list[Any]) -> dict[str, torch.Tensor]:
        """Model inputs and ``labels`` ``(B, most answers)``, padded with -100."""
        numbers = np.array(rows)
        inputs = query_inputs(self.queries, numbers, self.prompts, self.store)
        inputs["labels"] = torch.from_numpy(self.queries.answers.padded(numbers, -100))
        return inputs


class LinkPredictionTrainer(StageTrainer):
    """Trainer that evaluates by filtered ranking of the dev answers, block by block.

    Args:
        dev_batch_size: Queries per block.
        **kwargs: As for :class:`StageTrainer`. The collator is a :class:`QueryCollator`, the
            evaluation data set ``(m,)`` numbers of the dev queries to rank.
    """

    def __init__(self, *, dev_batch_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.dev_batch_size = dev_batch_size

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Dev metrics as PyKEEN names them, under the prefix ``eval_``."""
        collator: QueryCollator = self.data_collator
        mine = self.eval_dataset[self.args.process_index :: self.args.world_size]
        tables = []
        with self.compute_loss_context_manager():
            for rows, scores in score_blocks(
                self.model,
                collator.queries,
                scoring_order(collator.queries, mine, collator.prompts),
                collator.prompts,
                collator.store,
                batch_size=self.dev_batch_size,
                what="Ranking dev queries",
            ):
                tables.append(rank_table(collator.queries, rows, scores))
        ranks = pd.concat(self.gather(tables), ignore_index=True)
        scores = ranking_metrics(ranks)
        return self.log_dev_scores(
            {key: value for key, value in scores.items() if key.startswith("both.realistic.")}
        )


def _sample(rows: np.ndarray, size: int | None, seed: int) -> np.ndarray:
    if size is None or size >= len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, size, replace=False))
