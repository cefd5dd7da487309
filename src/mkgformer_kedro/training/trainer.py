"""The Trainer of fine-tuning: exact resumption, progress and the training curve."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import logging
import math
import re
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import fingerprint, relative, sha256_of, written_atomically
from mkgformer_kedro.modeling.towers import on_host
from mkgformer_kedro.progress import seconds_in_words
from mkgformer_kedro.training.finite import is_finite
from mkgformer_kedro.training.optimizer import RowwiseAdamW, summed_up
from mkgformer_kedro.training.parameters import FinetuningParameters
from mkgformer_kedro.training.precision import has_bf16, precision_on

logger = logging.getLogger(__name__)

_COMPLETE = "complete"
_LEADING = ["step", "epoch", "loss"]  # columns of the curve
_JOB = "job.json"
# Without which nothing can go on as it was.
_NEEDED = (
    *("model*.safetensors", "optimizer.pt", "scheduler.pt", "rng_state*.pth"),
    TRAINER_STATE_NAME,
)


class StageTrainer(Trainer):
    """The transformers Trainer with a custom batch sampler, rates by name, and a curve.

    Args:
        batch_sampler: Gives lists of item numbers; has ``set_epoch``.
        learning_rates: Learning rate by part of a parameter's name, see :func:`value_of`.
        weight_decay: Weight decay, likewise; biases and norms have none.
        lookup_weights: Weights that learn row by row, see :class:`RowwiseAdamW`.
        metric_name: What people call the dev metric that picks the model; None: by its key.
        **kwargs: As for :class:`transformers.Trainer`.
    """

    def __init__(
        self,
        *,
        batch_sampler: Any,
        learning_rates: dict[str, float],
        weight_decay: dict[str, float],
        lookup_weights: Sequence[torch.nn.Parameter] = (),
        metric_name: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.batch_sampler = batch_sampler
        self.learning_rates = learning_rates
        self.weight_decay = weight_decay
        self.lookup_weights = lookup_weights
        self._examples = 0
        self._waiting = self._paused = 0.0
        self._logged_at: float | None = None
        self.remove_callback(PrinterCallback)
        self.add_callback(_EpochOrder(batch_sampler))
        self.add_callback(_Milestones())
        if self.args.disable_tqdm:
            self.add_callback(_ProgressLines(metric_name))

    def get_train_dataloader(self) -> Any:
        """Batches as the sampler orders them, spread over the processes."""
        loader = torch.utils.data.DataLoader(
            self.train_dataset,
            batch_sampler=self.batch_sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_num_workers > 0,
            worker_init_fn=_end_with_the_run,
            # Without one of its own it draws its workers' seed from the generator of dropout: once
            # an epoch, once a run, or once more where a run goes on.
            generator=torch.Generator(),
        )
        return self.accelerator.prepare(loader)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with one group per learning rate, weight decay and way of learning."""
        if self.optimizer is None:
            model = self.model if model is None else model
            for values in ("learning_rates", "weight_decay"):
                self._check_names(values, model)
            decayed = set(self.get_decay_parameter_names(model))
            rowwise = {id(weight) for weight in self.lookup_weights}
            for module in model.modules():
                if isinstance(module, torch.nn.Embedding) and id(module.weight) in rowwise:
                    # NCCL cannot sum up sparse gradients. To leave padding out of one, the host
                    # would have to wait for a GPU.
                    waits = module.padding_idx is not None and not on_host(module.weight)
                    module.sparse = self.args.world_size == 1 and not waits
                    module.weight.grad_dtype = torch.float32  # of half-precision tables, too
            groups: dict[tuple[float, float, bool], list[torch.nn.Parameter]] = {}
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    key = (
                        value_of(name, self.learning_rates),
                        value_of(name, self.weight_decay) if name in decayed else 0.0,
                        id(parameter) in rowwise,
                    )
                    groups.setdefault(key, []).append(parameter)
            _, options = self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = RowwiseAdamW(
                [
                    {"params": parameters, "lr": rate, "weight_decay": decay, "rowwise": by_row}
                    for (rate, decay, by_row), parameters in groups.items()
                ],
                **options,
            )
        return self.optimizer

    def _check_names(self, parameter: str, model: torch.nn.Module) -> None:
        names = [name for name, _ in model.named_parameters()]
        keys = set(getattr(self, parameter)) - {"default"}
        if unused := sorted(key for key in keys if not any(key in name for name in names)):
            what = f"no weight of the model has a name with {', '.join(unused)} in it"
            remedy = "Correct the key or leave it out."
            raise DataError(Problem(f"finetuning.{parameter}", None, what, remedy))

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        # torch has no norm of sparse gradients: their values stand in for them.
        stand_ins = []
        for parameter in model.parameters():
            if parameter.grad is not None and parameter.grad.is_sparse:
                rows, values, _ = summed_up(parameter.grad)
                parameter.grad = torch.sparse_coo_tensor(
                    rows[None], values, parameter.shape, check_invariants=False
                )
                values = parameter.grad._values()
                parameter = torch.nn.Parameter(values)
                parameter.grad = values
            stand_ins.append(parameter)
        return self.accelerator.clip_grad_norm_(stand_ins, self.args.max_grad_norm)

    def compute_loss_context_manager(self) -> contextlib.ExitStack:
        """Autocast, and the attention that suits it."""
        contexts = super().compute_loss_context_manager()
        contexts.enter_context(attention_of(self.args.device.type, self.args.bf16))
        return contexts

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> Any:
        """Fetch batches, and note how long that took."""
        started = time.perf_counter()
        if self._logged_at is None:
            self._logged_at = started
        samples, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._waiting += time.perf_counter() - started
        self._examples += sum(len(batch["labels"]) for batch in samples)
        return samples, count

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add examples/s and the share of time spent waiting for data to training logs."""
        if "loss" in logs:
            self._require_finite("the loss is", logs["loss"])
            if not self.args.fp16:  # whose scaler skips such steps
                self._require_finite("the norm of the gradients is", logs.get("grad_norm", 0.0))
            now = time.perf_counter()
            elapsed = max(now - self._logged_at - self._paused, 1e-9)
            logs["examples_per_second"] = round(self._examples * self.args.world_size / elapsed, 2)
            logs["data_wait_share"] = round(min(self._waiting / elapsed, 1.0), 4)
            self._logged_at = now
            self._examples = 0
            self._waiting = self._paused = 0.0
        super().log(logs, start_time)

    def gather(self, parts: list[Any]) -> list[Any]:
        """The parts that all processes made of the dev set, one process after the other."""
        if self.args.world_size == 1:
            return parts
        gathered: list[list[Any]] = [[] for _ in range(self.args.world_size)]
        torch.distributed.all_gather_object(gathered, parts)
        return [part for every in gathered for part in every]

    def log_dev_scores(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Log dev scores under the prefix ``eval_`` and let the callbacks pick a model by them."""
        metrics = {f"eval_{key}": value for key, value in scores.items()}
        picks = self.args.metric_for_best_model
        self._require_finite("the dev score is", metrics.get(picks, 0.0))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _require_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            where = str(relative(Path(self.args.output_dir).resolve()))
            what = f"{what} {value} at step {self.state.global_step}; what was good before is kept"
            remedy = "Lower the learning rates, or compute in fp32."
            raise DataError(Problem(where, None, what, remedy))

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        # Logging reads the clock inside; evaluation and saving must not count as training time.
        started = time.perf_counter()
        evaluates = self.control.should_evaluate or self.control.should_save
        super()._maybe_log_save_evaluate(*args, **kwargs)
        if evaluates:
            self._paused += time.perf_counter() - max(started, self._logged_at)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        for name, weight in model.named_parameters():
            if not is_finite(weight):
                self._require_finite(f"the weight {name} is", math.nan)
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            newest = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            digests = {path.name: sha256_of(path) for path in newest.iterdir() if path.is_file()}
            with written_atomically(newest / _COMPLETE) as mark:
                mark.write_text(json.dumps(digests))
            others = _checkpoints(newest.parent)
            # The one before too, in case the newest is damaged.
            kept = {each.name for each in others[-2:]}
            kept.add(Path(self.state.best_model_checkpoint or newest).name)
            for folder in others:
                if folder.name not in kept:
                    # The mark goes first: a kill in between leaves nothing that looks complete.
                    (folder / _COMPLETE).unlink(missing_ok=True)
                    shutil.rmtree(folder)


class _EpochOrder(TrainerCallback):
    """Tell the sampler which epoch begins, also when that epoch is resumed half-way."""

    def __init__(self, batch_sampler: Any) -> None:
        self.batch_sampler = batch_sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.batch_sampler.set_epoch(int(state.epoch))


class _Milestones(TrainerCallback):
    """Evaluate and save at the last step, wherever it falls; log whenever a checkpoint is made.

    A checkpoint does not hold the losses since the last line of the log, so a line must end there
    for a resumed run to log what an uninterrupted one does.
    """

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True
        control.should_log |= control.should_save


class _ProgressLines(TrainerCallback):
    """Progress for logs that are no terminal: one line with the time left at each logging step."""

    def __init__(self, metric_name: str | None = None) -> None:
        self._metric_name = metric_name

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = time.perf_counter()
        self._first_step = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        if "loss" in logs:
            done = max(state.global_step - self._first_step, 1)
            left = (
                (time.perf_counter() - self._started) / done * (state.max_steps - state.global_step)
            )
            logger.info(
                "step %d/%d, epoch %.2f, loss %.4g, %.0f examples/s, %s left",
                state.global_step,
                state.max_steps,
                state.epoch,
                logs["loss"],
                logs["examples_per_second"],
                seconds_in_words(left),
            )
        elif args.metric_for_best_model in logs:
            logger.info(
                "step %d, dev %s %.4f",
                state.global_step,
                self._metric_name or args.metric_for_best_model.removeprefix("eval_"),
                logs[args.metric_for_best_model],
            )


def _end_with_the_run(worker: int) -> None:
    """Leave it to the run to stop this process, which makes batches for it.

    A terminal's Ctrl-C, and what ends a whole job, reaches all processes: one that went first would
    be taken for one that was killed.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def attention_of(device: str, bf16: bool) -> contextlib.AbstractContextManager[None]:
    """The attention in which a training step computes its loss.

    On processors the backward pass of torch's fused kernel takes ten times as long in bf16 as in
    fp32, so that plain matrix products are faster there.
    """
    return sdpa_kernel(SDPBackend.MATH) if bf16 and device == "cpu" else contextlib.nullcontext()


def value_of(name: str, values: dict[str, float]) -> float:
    """What holds for a parameter: the value of the longest key in its name, or ``default``."""
    matching = [key for key in values if key in name]
    return values[max(matching, key=len, default="default")]


def training_arguments(
    folder: Path,
    parameters: FinetuningParameters,
    *,
    batches_per_epoch: int,
    seed: int,
    metric: str,
    precision: str = "fp32",
    loader_workers: int = 0,
) -> TrainingArguments:
    """Translate the project's parameters.

    Args:
        folder: Where checkpoints go.
        parameters: Parameters with every preset field set.
        batches_per_epoch: Batches per process in one epoch.
        seed: Seed of everything random.
        metric: Dev metric that picks the model (``eval_...``); larger is better.
        precision: ``auto`` (bf16 on a GPU that has it, else fp32), ``fp32``, ``bf16`` (where the
            device has it) or ``fp16``.
        loader_workers: Processes that build batches.
    """
    once = max(1, math.ceil(batches_per_epoch / parameters.gradient_accumulation))
    least = parameters.min_steps or 0
    steps_per_epoch = max(once, least / parameters.epochs)
    steps = parameters.max_steps or max(math.ceil(once * parameters.epochs), least)
    every = max(1, min(steps, math.ceil(steps_per_epoch / parameters.evaluations_per_epoch)))
    if precision == "auto":
        precision = "bf16" if torch.cuda.is_available() and has_bf16("cuda") else "fp32"
    precision = precision_on("cuda" if torch.cuda.is_available() else "cpu", precision)
    distributed = torch.distributed.is_torchelastic_launched() or torch.distributed.is_initialized()
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=parameters.epochs,
        max_steps=steps,
        per_device_train_batch_size=parameters.batch_size,
        gradient_accumulation_steps=parameters.gradient_accumulation,
        warmup_steps=math.ceil(parameters.warmup_ratio * steps),
        logging_steps=parameters.log_every,
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        load_best_model_at_end=True,
        metric_for_best_model=metric,
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,
        # The fused kernel would keep from gradient scaling what learns row by row.
        optim="adamw_torch" if precision == "fp16" else "adamw_torch_fused",
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=not torch.cuda.is_available(),
        seed=seed,
        data_seed=seed,
        disable_tqdm=not sys.stderr.isatty(),
        dataloader_num_workers=loader_workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        accelerator_config={"non_blocking": torch.cuda.is_available()},
        remove_unused_columns=False,
        ddp_backend="gloo" if distributed and not torch.cuda.is_available() else None,
        # The model sees to it that every parameter has a gradient, images or not.
        ddp_find_unused_parameters=False if distributed else None,
        report_to="none",
        log_level="warning",
    )
    # One process trains on one device: without a launcher, further devices must stay idle instead
    # of being filled by DataParallel, which cannot split inputs of different row counts.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


def train_to_end(trainer: StageTrainer, job_name: str, patience: int | None = None) -> pd.DataFrame:
    """Train, going on from the newest complete checkpoint of the same job where there is one.

    Args:
        trainer: Ready to train; its output folder holds the checkpoints.
        job_name: Checkpoints of a job of another name are thrown away.
        patience: Stop after this many evaluations without a better dev score.

    Returns:
        The training curve, one row per logged or evaluated step.
    """
    folder = Path(trainer.args.output_dir)
    with trainer.args.main_process_first(desc="choosing the checkpoint"):
        if trainer.is_world_process_zero():
            _discard_unusable(folder, job_name)
    if patience is not None:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=patience))
    checkpoint = _newest_checkpoint(folder)
    if checkpoint is not None:
        logger.info("Going on from %s", checkpoint.name)
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        if state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]:
            # Killed between the last checkpoint and the end: there is nothing left to learn.
            # By its name: the project may have been moved or copied since.
            best = checkpoint.with_name(Path(state.best_model_checkpoint or checkpoint).name)
            trainer._load_from_checkpoint(str(best))
            return training_curve(state.log_history)
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return training_curve(trainer.state.log_history)


def training_curve(log_history: list[dict[str, float]]) -> pd.DataFrame:
    """One row per step from the Trainer's log: losses and dev scores side by side."""
    rows: dict[int, dict[str, float]] = {}
    for entry in log_history:
        if "train_runtime" in entry:
            continue
        row = rows.setdefault(int(entry["step"]), {})
        row.update({key.replace("eval_", "dev_", 1): value for key, value in entry.items()})
    curve = pd.DataFrame(sorted(rows.values(), key=lambda row: row["step"]))
    # A log that was read from a checkpoint has its names in another order.
    return curve[_LEADING + sorted(name for name in curve.columns if name not in _LEADING)]


def fingerprint_of(settings: dict[str, Any], files: Sequence[Path] = ()) -> str:
    """Name a job by its settings and the content of its input files."""
    return fingerprint(settings, [[path.name, sha256_of(path)] for path in sorted(files)])


def _discard_unusable(folder: Path, job_name: str) -> None:
    """Remove checkpoints of another job, and those that a killed run left unfinished."""
    job = folder / _JOB
    with contextlib.suppress(OSError, ValueError):
        if json.loads(job.read_text())["fingerprint"] == job_name:
            for checkpoint in _checkpoints(folder):
                if lacking := _lacking(checkpoint):
                    logger.info("%s is not complete (%s): left out", checkpoint.name, lacking)
                    shutil.rmtree(checkpoint)
            return
    if _checkpoints(folder):
        logger.info("Data or settings differ from the interrupted run: starting over.")
    shutil.rmtree(folder, ignore_errors=True)
    with written_atomically(job) as temporary:
        temporary.write_text(json.dumps({"fingerprint": job_name}))


def _lacking(checkpoint: Path) -> str | None:
    """What a checkpoint lacks: its mark, a file as it was when it was marked, or its best one."""
    try:
        digests = json.loads((checkpoint / _COMPLETE).read_text())
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text())
        best = state["best_model_checkpoint"]
        for pattern in _NEEDED:
            if not fnmatch.filter(digests, pattern):
                return f"its mark does not name {pattern}"
        for name, digest in digests.items():
            if sha256_of(checkpoint / name) != digest:
                return f"{name} is damaged"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return "its mark or state cannot be read"
    if best is not None and not (checkpoint.with_name(Path(best).name) / _COMPLETE).exists():
        return f"{Path(best).name}, the best until then, is missing"
    return None


def _newest_checkpoint(folder: Path) -> Path | None:
    complete = [path for path in _checkpoints(folder) if (path / _COMPLETE).is_file()]
    return complete[-1] if complete else None


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, in the order of their steps."""
    steps = {
        int(path.name.partition("-")[2]): path
        for path in folder.glob("checkpoint-*")
        if path.is_dir() and re.fullmatch("checkpoint-[0-9]+", path.name)
    }
    return [steps[step] for step in sorted(steps)]
