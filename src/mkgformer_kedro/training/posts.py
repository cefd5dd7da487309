"""What relation extraction and entity recognition share: fine-tune on posts, and ask the model.

A task (:class:`PostsTask`) says how posts become token numbers and predictions become scores; the
rest is the same for both.
"""

from __future__ import annotations

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from transformers import set_seed

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.files import written_atomically
from mkgformer_kedro.progress import Progress
from mkgformer_kedro.training.launch import Job, launch
from mkgformer_kedro.training.model_folder import (
    check_model_folder,
    read_model_folder,
    write_model_folder,
)
from mkgformer_kedro.training.parameters import ModelParameters, PostsParameters, Preset
from mkgformer_kedro.training.queries import QueryBatchSampler, Ragged
from mkgformer_kedro.training.scoring import image_inputs, on_device
from mkgformer_kedro.training.tokenization import token_numbers
from mkgformer_kedro.training.towers import (
    build_model,
    check_length,
    check_vocabulary,
    load_tokenizer,
)
from mkgformer_kedro.training.trainer import (
    StageTrainer,
    discard_checkpoints,
    fingerprint_of,
    train_to_end,
    training_arguments,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DEV_METRIC = "eval_f1"
_LABELS, _FORMAT = "labels.parquet", "posts.json"


class WordPieces:
    """Word pieces of single words, each distinct word tokenised once.

    Args:
        tokenizer: Tokenizer of the text tower.
        posts: Posts with the column ``words``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, posts: pd.DataFrame) -> None:
        words = sorted({word for row in posts["words"] for word in row})
        # A word may consist of characters that the tokenizer drops, such as a zero-width space.
        self._pieces = {
            word: ids or [tokenizer.unk_token_id]
            for word, ids in zip(words, token_numbers(tokenizer, words), strict=True)
        }

    def __getitem__(self, word: str) -> list[int]:
        return self._pieces[word]


@dataclass(frozen=True)
class EncodedPosts:
    """Posts as token numbers.

    Attributes:
        tokens: Token numbers of each post, special tokens included.
        indices: Model inputs of one number per post, ``(posts,)`` each.
        lists: Model inputs of a list per post, each with the number that pads it.
        pad_token_id: What pads the tokens.
        width: Pad every batch to this many tokens, for a model that attends to padding; None pads
            to the longest post of the batch.
        word_starts: Token at which each word of a post begins, for the words that are not cut.
            Decoding needs it; whether the model does, ``lists`` says.
        cut: What the predictions say of posts that are too long, ``(posts,)`` each.
    """

    tokens: Ragged
    indices: Mapping[str, np.ndarray]
    lists: Mapping[str, tuple[Ragged, int]]
    pad_token_id: int
    width: int | None
    word_starts: Ragged | None = None
    cut: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, rows: np.ndarray) -> dict[str, torch.Tensor]:
        """The model's inputs but the images, for the chosen posts."""
        input_ids = self.tokens.padded(rows, self.pad_token_id)
        if self.width is not None:
            padding = ((0, 0), (0, self.width - input_ids.shape[1]))
            input_ids = np.pad(input_ids, padding, constant_values=self.pad_token_id)
        mask = np.arange(input_ids.shape[1]) < self.tokens.lengths[rows][:, None]
        arrays = {"input_ids": input_ids, "attention_mask": mask.astype(np.int64)}
        arrays |= {name: values[rows] for name, values in self.indices.items()}
        arrays |= {name: ragged.padded(rows, fill) for name, (ragged, fill) in self.lists.items()}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


@dataclass(frozen=True)
class PostsTask(ABC):
    """What is a task's own. Its fields say how a model was trained and are kept with it.

    Attributes:
        labels: Table ``labels``.
        max_length: Longest post in tokens; longer ones are cut.
    """

    name: ClassVar[str]
    parameters_class: ClassVar[type[PostsParameters]]
    new_tokens: ClassVar[tuple[str, ...]] = ()

    labels: pd.DataFrame
    max_length: int

    @classmethod
    @abstractmethod
    def from_parameters(cls, labels: pd.DataFrame, parameters: Any) -> Self:
        """The task as the parameters describe it."""

    @classmethod
    @abstractmethod
    def model_class(cls) -> Any:
        """The model for this task."""

    @property
    @abstractmethod
    def class_names(self) -> list[str]:
        """Name of each class that the model tells apart."""

    @abstractmethod
    def configuration(self) -> dict[str, Any]:
        """Fields of the model's configuration that the task decides."""

    @abstractmethod
    def encode(
        self, posts: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, width: int | None
    ) -> EncodedPosts:
        """Turn posts into token numbers; posts with a gold answer get ``labels``."""

    @abstractmethod
    def decode(
        self, model: Any, outputs: Any, encoded: EncodedPosts, rows: np.ndarray, posts: pd.DataFrame
    ) -> pd.DataFrame:
        """Read a batch's predictions: one row per post, the columns that the task predicts.

        Args:
            model: The model.
            outputs: What it gave for the batch.
            encoded: All posts as token numbers.
            rows: ``(batch,)`` numbers of the batch's posts in ``encoded``.
            posts: The batch's posts.
        """

    @abstractmethod
    def scores(self, posts: pd.DataFrame, predicted: pd.DataFrame) -> dict[str, float]:
        """``precision``, ``recall`` and ``f1`` of predictions, row by row beside their posts."""


def task_class(name: str) -> type[PostsTask]:
    """The task of that name, ``relation_extraction`` or ``entity_recognition``."""
    from mkgformer_kedro.training.entity_recognition import EntityRecognition
    from mkgformer_kedro.training.relation_extraction import RelationExtraction

    return {task.name: task for task in (RelationExtraction, EntityRecognition)}[name]


def finetune(
    task: str,
    posts: pd.DataFrame,
    labels: pd.DataFrame,
    store_folder: Path,
    work_folder: Path,
    model_parameters: ModelParameters,
    parameters: PostsParameters,
    preset: Preset,
    seed: int,
) -> tuple[Path, pd.DataFrame]:
    """Fine-tune on the train posts, once per seed; the model with the best dev F1 is kept.

    Args:
        task: Name of the task.
        posts: Table ``posts``; test posts are never looked at.
        labels: Table ``labels``.
        store_folder: Visual store whose owners are the posts.
        work_folder: Private folder for checkpoints; the result is made inside it.
        model_parameters: Towers and fusion.
        parameters: Settings of this stage.
        preset: Decides the fields that the parameters leave open.
        seed: The run's seed, used where the parameters name no seeds.

    Returns:
        A folder with one model folder ``seed_<seed>`` per seed, and the training curves one below
        the other, told apart by the column ``seed``.
    """
    parameters = parameters.with_preset(preset)
    tables = {"posts": posts[posts["split"] != "test"], "labels": labels}
    paths = {name: work_folder / f"{name}.parquet" for name in tables}
    for name, table in tables.items():
        with written_atomically(paths[name]) as temporary:
            table.to_parquet(temporary)
    curves = []
    result = work_folder / "models"
    seeds = parameters.seeds or [seed]
    _keep(result.glob("seed_*"), seeds)
    _keep(work_folder.glob("checkpoints_*"), seeds)
    for each in seeds:
        job: Job = {
            "task": task,
            **{name: str(path) for name, path in paths.items()},
            "visual_store": str(store_folder),
            "checkpoints": str(work_folder / f"checkpoints_{each}"),
            "model_folder": str(result / f"seed_{each}"),
            "model": model_parameters.model_dump(),
            "parameters": parameters.model_dump(),
            "preset": preset,
            "seed": each,
        }
        curve = pd.DataFrame(launch(train_worker, job, parameters.launch))
        curve.insert(0, "seed", each)
        curves.append(curve)
    # Not before all seeds are done: until then a finished seed is found by its last checkpoint.
    for each in seeds:
        discard_checkpoints(work_folder / f"checkpoints_{each}")
    for path in paths.values():
        path.unlink()
    return result, pd.concat(curves, ignore_index=True)


def _keep(folders: Iterable[Path], seeds: Sequence[int]) -> None:
    """Remove what an interrupted run with other seeds left behind."""
    for folder in folders:
        if int(folder.name.rpartition("_")[2]) not in seeds:
            shutil.rmtree(folder)


def train_worker(job: Job) -> list[dict[str, float]]:
    """Train in this process, alone or as one of several.

    Args:
        job: What :func:`finetune` puts together; paths and plain values.

    Returns:
        The rows of the training curve. Rank 0 leaves the model folder.
    """
    kind = task_class(job["task"])
    parameters = kind.parameters_class.model_validate(job["parameters"])
    model_parameters = ModelParameters.model_validate(job["model"])
    set_seed(job["seed"])
    posts, labels = pd.read_parquet(job["posts"]), pd.read_parquet(job["labels"])
    task = kind.from_parameters(labels, parameters)
    configuration = task.configuration()
    if parameters.classifier_dropout is not None:
        configuration["classifier_dropout"] = parameters.classifier_dropout
    store = VisualStore(Path(job["visual_store"]))
    tokenizer = load_tokenizer(model_parameters)
    model = build_model(
        task.model_class(),
        model_parameters,
        job["preset"],
        store,
        id2label=dict(enumerate(task.class_names)),
        label2id={name: i for i, name in enumerate(task.class_names)},
        **configuration,
    )
    check_vocabulary(model, tokenizer)
    check_length(model, task.max_length)
    if task.new_tokens:
        tokenizer.add_special_tokens({"extra_special_tokens": list(task.new_tokens)})
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if parameters.gradient_checkpointing:
        model.gradient_checkpointing_enable()

    encoded = task.encode(posts, tokenizer, padded_width(task, model))
    in_train = (posts["split"] == "train").to_numpy()
    train_rows = np.flatnonzero(in_train)
    everything = np.arange(len(posts))
    sampler = QueryBatchSampler(
        train_rows,
        everything,
        encoded.tokens.lengths,
        batch_size=parameters.batch_size,
        queries_per_entity=1,
        shuffle=True,
        seed=job["seed"],
    )
    trainer = PostsTrainer(
        model=model,
        args=training_arguments(
            Path(job["checkpoints"]),
            parameters,
            batches_per_epoch=-(-len(sampler) // parameters.launch.processes),
            seed=job["seed"],
            metric=DEV_METRIC,
            precision=parameters.precision,
            loader_workers=parameters.loader_workers,
        ),
        batch_sampler=sampler,
        learning_rates=parameters.learning_rates,
        train_dataset=everything,
        eval_dataset=np.flatnonzero(~in_train),
        # The index of a table of posts is the post's number in the visual store.
        data_collator=PostsCollator(encoded, store, posts.index.to_numpy()),
        task=task,
        posts=posts,
        dev_batch_size=parameters.dev_batch_size,
    )
    settings = {
        "parameters": parameters.model_dump(exclude={"log_every", "loader_workers", "seeds"}),
        **{name: job[name] for name in ("task", "model", "preset", "seed")},
    }
    files = [Path(job["posts"]), Path(job["labels"]), Path(job["visual_store"]) / "store.json"]
    curve = train_to_end(trainer, fingerprint_of(settings, files), parameters.patience)
    if trainer.is_world_process_zero():
        save_posts_model(Path(job["model_folder"]), model, tokenizer, task)
    return curve.to_dict("records")


def padded_width(task: PostsTask, model: Any) -> int | None:
    """Width of every batch: fixed for a model that attends to padding."""
    return None if model.config.mask_prefix_padding else task.max_length


def save_posts_model(
    folder: Path, model: Any, tokenizer: PreTrainedTokenizerBase, task: PostsTask
) -> None:
    """Write a model folder: model, tokenizer, labels and what was decided about posts."""
    write_model_folder(folder, model, tokenizer)
    task.labels.to_parquet(folder / _LABELS, index=False)
    kept = {f.name: getattr(task, f.name) for f in fields(task) if f.name != "labels"}
    settings = {"task": task.name, **kept}
    (folder / _FORMAT).write_text(json.dumps(settings, indent=2) + "\n")


def load_posts_model(
    folder: Path, attention: str = "sdpa"
) -> tuple[Any, PreTrainedTokenizerBase, PostsTask]:
    """Read a model folder.

    Args:
        folder: What :func:`save_posts_model` wrote.
        attention: Attention implementation.

    Raises:
        DataError: The folder is no model folder of a task on posts.
    """
    folder = Path(folder)
    check_model_folder(folder, _LABELS, _FORMAT)
    settings = json.loads((folder / _FORMAT).read_text())
    kind = task_class(settings.pop("task"))
    model, tokenizer = read_model_folder(folder, kind.model_class(), attention)
    return model, tokenizer, kind(labels=pd.read_parquet(folder / _LABELS), **settings)


@dataclass(frozen=True)
class PostsCollator:
    """Turn post numbers into a batch of model inputs.

    Attributes:
        encoded: The posts.
        store: Visual store, or None to leave all images out.
        owners: ``(posts,)`` number of each post in the store.
    """

    encoded: EncodedPosts
    store: VisualStore | None
    owners: np.ndarray

    def __call__(self, rows: list[Any] | np.ndarray) -> dict[str, torch.Tensor]:
        """The model's inputs, with labels where the posts have any."""
        numbers = np.asarray(rows)
        return {**self.encoded.batch(numbers), **image_inputs(self.store, self.owners[numbers])}


class PostsTrainer(StageTrainer):
    """Trainer that evaluates by the task's F1 on the dev posts.

    Args:
        task: The task.
        posts: Posts in the order of the collator's.
        dev_batch_size: Posts per block.
        **kwargs: As for :class:`StageTrainer`; the evaluation data set holds numbers of posts.
    """

    def __init__(
        self, *, task: PostsTask, posts: pd.DataFrame, dev_batch_size: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.task = task
        self.posts = posts
        self.dev_batch_size = dev_batch_size

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Dev scores under the prefix ``eval_``."""
        mine = self.eval_dataset[self.args.process_index :: self.args.world_size]
        with self.compute_loss_context_manager():
            parts = list(
                predict_blocks(
                    self.model,
                    self.task,
                    self.posts,
                    self.data_collator,
                    mine,
                    batch_size=self.dev_batch_size,
                    what="Predicting dev posts",
                )
            )
        predicted = pd.concat(self.gather(parts))
        return self.log_dev_scores(self.task.scores(self.posts.loc[predicted.index], predicted))


@torch.no_grad()
def predict_blocks(
    model: Any,
    task: PostsTask,
    posts: pd.DataFrame,
    collator: PostsCollator,
    rows: np.ndarray,
    *,
    batch_size: int,
    what: str,
) -> Iterator[pd.DataFrame]:
    """Predict posts block by block, those of similar length together.

    Args:
        model: Model; its mode is set to evaluation and restored afterwards.
        task: The task.
        posts: All posts of the collator.
        collator: Builder of batches.
        rows: ``(n,)`` numbers of the posts to predict.
        batch_size: Posts per block.
        what: What the progress bar says is done.

    Yields:
        The task's predictions, with the index of their posts.
    """
    order = rows[np.argsort(collator.encoded.tokens.lengths[rows], kind="stable")]
    was_training = model.training
    model.eval()
    try:
        with Progress(what, len(order), "posts") as progress:
            for start in range(0, len(order), batch_size):
                block = order[start : start + batch_size]
                inputs = on_device(collator(block), model.device)
                inputs.pop("labels", None)
                outputs = model(**inputs)
                chosen = posts.iloc[block]
                predicted = task.decode(model, outputs, collator.encoded, block, chosen)
                yield predicted.set_index(chosen.index)
                progress.advance(len(block))
    finally:
        model.train(was_training)


class PostsPredictor:
    """A trained model for a task on posts, ready to be asked.

    Args:
        model_folder: Model folder of one seed; it says for which task it was trained.
        store_folder: Visual store of the posts that will be asked about; None predicts from text
            alone.
        attention: Attention implementation.
        batch_size: Posts predicted at a time.

    Raises:
        DataError: The folder is no model folder of a task on posts.
    """

    def __init__(
        self,
        model_folder: Path,
        store_folder: Path | None = None,
        *,
        attention: str = "sdpa",
        batch_size: int = 64,
    ) -> None:
        self.model, self.tokenizer, self.task = load_posts_model(model_folder, attention)
        self.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self.store = None if store_folder is None else VisualStore(store_folder)
        self.batch_size = batch_size

    def predict(
        self, posts: pd.DataFrame, *, with_images: bool = True, what: str = "Predicting posts"
    ) -> pd.DataFrame:
        """Predict posts.

        Args:
            posts: Rows of a table ``posts``; gold answers are not needed. The index is the post's
                number in the visual store.
            with_images: False leaves the images out.
            what: What the progress bar says is done.

        Returns:
            The columns that the task predicts, in the order and with the index of ``posts``.

        Raises:
            ValueError: There are no posts, or one has no place in the visual store.
        """
        if posts.empty:
            raise ValueError("There are no posts to predict.")
        if self.store is not None and posts.index.max() >= len(self.store):
            raise ValueError(
                f"The visual store has {len(self.store)} posts, none of number "
                f"{posts.index.max()}. The index of posts is the number in the store."
            )
        encoded = self.task.encode(posts, self.tokenizer, padded_width(self.task, self.model))
        store = self.store if with_images else None
        blocks = predict_blocks(
            self.model,
            self.task,
            posts,
            PostsCollator(encoded, store, posts.index.to_numpy()),
            np.arange(len(posts)),
            batch_size=self.batch_size,
            what=what,
        )
        return pd.concat(blocks).loc[posts.index]
