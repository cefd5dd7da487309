"""Fine-tune for any task, once per seed; the model with the best dev score is kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from transformers import set_seed

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.files import files_within, written_atomically
from mkgformer_kedro.launch import LOCAL, Engine, Job
from mkgformer_kedro.training.batches import Collator, Items, ask
from mkgformer_kedro.training.frozen import frozen_images
from mkgformer_kedro.training.model_folder import load_model, read_table, save_model
from mkgformer_kedro.training.parameters import FinetuningParameters, ModelParameters, Preset
from mkgformer_kedro.training.tasks.base import Task
from mkgformer_kedro.training.tasks.registry import task_named
from mkgformer_kedro.training.towers import (
    build_model,
    check_length,
    check_vocabulary,
    load_tokenizer,
)
from mkgformer_kedro.training.trainer import (
    StageTrainer,
    fingerprint_of,
    train_to_end,
    training_arguments,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_STATES = "visual_states"  # in the work folder, of all seeds


def finetune(
    task: str,
    inputs: Mapping[str, pd.DataFrame | Path],
    store_folder: Path,
    work_folder: Path,
    model_parameters: ModelParameters,
    parameters: FinetuningParameters,
    preset: Preset,
    seed: int,
    engine: Engine = LOCAL,
) -> tuple[Path, pd.DataFrame]:
    """Fine-tune on the train items, once per seed.

    Args:
        task: Name of the task.
        inputs: What the task's ``inputs`` names: tables, and the folder it starts from. Rows of
            the split ``test`` are never looked at.
        store_folder: Visual store of the items' owners.
        work_folder: Private folder for checkpoints; the result is made inside it. Until the caller
            clears it, a finished seed is found by its last checkpoint.
        model_parameters: Towers and fusion.
        parameters: Settings of this stage.
        preset: Decides the fields that the parameters leave open.
        seed: The run's seed, used where the parameters name no seeds.
        engine: Where the training processes run.

    Returns:
        A folder with one model folder ``seed_<seed>`` per seed, and the training curves one below
        the other, told apart by the column ``seed``.
    """
    parameters = parameters.with_preset(preset)
    paths = {}
    for name, value in inputs.items():
        if isinstance(value, pd.DataFrame):
            seen = value[value["split"] != "test"] if "split" in value else value
            paths[name] = work_folder / f"{name}.parquet"
            with written_atomically(paths[name]) as temporary:
                seen.to_parquet(temporary)
        else:
            paths[name] = value
    curves = []
    result = work_folder / "models"
    seeds = parameters.seeds or [seed]
    _keep(result.glob("seed_*"), seeds)
    _keep(work_folder.glob("checkpoints_*"), seeds)
    for each in seeds:
        job: Job = {
            "task": task,
            "inputs": {name: str(path) for name, path in paths.items()},
            "visual_store": str(store_folder),
            "checkpoints": str(work_folder / f"checkpoints_{each}"),
            "model_folder": str(result / f"seed_{each}"),
            "model": model_parameters.model_dump(),
            "parameters": parameters.model_dump(),
            "preset": preset,
            "seed": each,
        }
        rows = engine.group("finetuning", train_worker, job, processes=parameters.processes)
        curve = pd.DataFrame(rows)
        curve.insert(0, "seed", each)
        curves.append(curve)
    return result, pd.concat(curves, ignore_index=True)


def _keep(folders: Iterable[Path], seeds: Sequence[int]) -> None:
    """Remove what an interrupted run with other seeds left behind."""
    for folder in folders:
        if folder.name.rpartition("_")[2] not in map(str, seeds):
            shutil.rmtree(folder)


def train_worker(job: Job) -> list[dict[str, float]]:
    """Train in this process, alone or as one of several.

    Args:
        job: What :func:`finetune` puts together; paths and plain values.

    Returns:
        The rows of the training curve. Rank 0 leaves the model folder.
    """
    kind = task_named(job["task"])
    parameters = kind.parameters_class.model_validate(job["parameters"])
    paths = {name: Path(path) for name, path in job["inputs"].items()}
    store = VisualStore(Path(job["visual_store"]), **job["model"]["images"])
    set_seed(job["seed"])
    model, tokenizer, task = _begin(job, kind, paths, parameters, store)
    check_length(model, parameters.max_length)
    if parameters.gradient_checkpointing:
        model.gradient_checkpointing_enable()

    table = read_table(paths[kind.items])
    table = kind.learned_from({kind.items: table}, parameters, job["seed"])[kind.items]
    items = task.encode(table, tokenizer, model.config)
    in_train = (table["split"] == "train").to_numpy()
    train = np.flatnonzero(in_train)
    sampler = task.sampler(items, train, parameters, job["seed"])
    trainer = FinetuningTrainer(
        model=model,
        args=training_arguments(
            Path(job["checkpoints"]),
            parameters,
            batches_per_epoch=-(-len(sampler) // parameters.processes),
            seed=job["seed"],
            metric=f"eval_{kind.dev_metric}",
            precision=parameters.precision,
            loader_workers=parameters.loader_workers,
        ),
        batch_sampler=sampler,
        learning_rates=parameters.learning_rates,
        weight_decay=parameters.weight_decay,
        lookup_weights=task.lookup_weights(model, parameters),
        metric_name=next(name for name, key in kind.columns.items() if key == kind.dev_metric),
        train_dataset=np.arange(len(table)),
        eval_dataset=task.dev_rows(np.flatnonzero(~in_train), parameters, job["seed"]),
        data_collator=Collator(task.learned(items, train, parameters, job["seed"]), store),
        items=items,
        task=task,
        table=table,
        dev_batch_size=parameters.dev_batch_size,
    )
    if parameters.freeze is not None:
        states = Path(job["checkpoints"]).with_name(_STATES)
        images = frozen_images(trainer, store, items.owners, states)
        trainer.data_collator = replace(trainer.data_collator, images=images)
    settings = {
        "parameters": parameters.model_dump(exclude={"seeds", *parameters.no_result_depends_on}),
        **{name: job[name] for name in ("task", "model", "preset", "seed")},
    }
    files = [Path(job["visual_store"]) / "store.json"]
    for path in paths.values():
        files += files_within(path) if path.is_dir() else [path]
    curve = train_to_end(trainer, fingerprint_of(settings, files), parameters.patience)
    if trainer.is_world_process_zero():
        task.finish(model.eval(), items, train, store, parameters, job["seed"])
        save_model(Path(job["model_folder"]), model, tokenizer, task)
    return curve.to_dict("records")


def _begin(
    job: Job,
    kind: type[Task],
    paths: Mapping[str, Path],
    parameters: FinetuningParameters,
    store: VisualStore,
) -> tuple[Any, PreTrainedTokenizerBase, Task]:
    """The model to go on from: that of an earlier stage, or towers joined for the task."""
    model_parameters = ModelParameters.model_validate(job["model"])
    if kind.starts_from is not None:
        folder = paths[kind.starts_from]
        model, tokenizer, before = load_model(folder, model_parameters.attention)
        kept = {name: getattr(before, name) for name in kind.kept_tables}
        task = kind.from_parameters(kept, parameters)
        task.configure(model, parameters)
        return model, tokenizer, task
    kept = {name: read_table(paths[name]) for name in kind.kept_tables}
    task = kind.from_parameters(kept, parameters)
    tokenizer = load_tokenizer(model_parameters)
    model = build_model(
        kind.model_class(),
        model_parameters,
        job["preset"],
        store,
        **task.configuration(parameters),
    )
    check_vocabulary(model, tokenizer)
    if kind.new_tokens:
        tokenizer.add_special_tokens({"extra_special_tokens": list(kind.new_tokens)})
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return model, tokenizer, task


class FinetuningTrainer(StageTrainer):
    """Trainer that evaluates by the task's scores on the dev items, block by block.

    Args:
        task: The task.
        items: All items, as they are asked about.
        table: The table of items, in the same order.
        dev_batch_size: Items per block.
        **kwargs: As for :class:`StageTrainer`. The collator is a :class:`Collator`, the evaluation
            data set ``(m,)`` numbers of the dev items.
    """

    def __init__(
        self, *, task: Task, items: Items, table: pd.DataFrame, dev_batch_size: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.task = task
        self.items = items
        self.table = table
        self.dev_batch_size = dev_batch_size

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Dev scores under the prefix ``eval_``."""
        mine = self.eval_dataset[self.args.process_index :: self.args.world_size]
        decoded = pd.concat(self.gather([self._decode(mine)] if len(mine) else []))
        return self.log_dev_scores(self.task.dev_scores(self.table, decoded))

    def _decode(self, rows: np.ndarray) -> pd.DataFrame:
        """What the model says of items."""
        with self.compute_loss_context_manager(), torch.no_grad():
            blocks = ask(
                self.model,
                Collator(self.items, self.data_collator.images),
                rows,
                batch_size=self.task.asked_at_a_time(self.dev_batch_size),
                what=f"Asking dev {self.task.items}",
                of=self.task.items,
            )
            return self.task.decode_all(self.model, blocks, self.items, rows, self.table)
