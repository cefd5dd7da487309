"""A model folder: all that is needed to ask a trained model, in one place, for any task.

It holds what ``save_pretrained`` writes for model and processor (the tokenizer and the sizes of
images), ``task.json`` (the task's name and
its settings), and each of the task's tables as ``<name>.parquet``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.parameters import typed
from mkgformer_kedro.training.finite import fault_of_weights
from mkgformer_kedro.training.parameters import Attention
from mkgformer_kedro.training.tasks.base import Task
from mkgformer_kedro.training.tasks.registry import task_named

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TASK_FILE = "task.json"
_MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json")
_REMEDY = "Run the stage that makes it again."
_ENTITIES = "mkgformer.graph_embeddings.entities.weight"


def save_model(folder: Path, model: Any, tokenizer: PreTrainedTokenizerBase, task: Task) -> Path:
    """Write a model folder, replacing one that a killed run left behind.

    Args:
        folder: The folder to write.
        model: The model.
        tokenizer: Its tokenizer.
        task: The task as the model was trained for it.
    """
    from mkgformer_kedro.modeling import MKGformerProcessor

    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    MKGformerProcessor.of(model.config, tokenizer).save_pretrained(folder)
    settings = {each.name: getattr(task, each.name) for each in fields(task)}
    for name in task.kept_tables:
        settings.pop(name).to_parquet(folder / f"{name}.parquet", index=False)
    text = json.dumps({"task": task.name, **settings}, indent=2)
    (folder / TASK_FILE).write_text(text + "\n", encoding="utf-8")
    return folder


def load_model(folder: Path, attention: str = "sdpa") -> tuple[Any, PreTrainedTokenizerBase, Task]:
    """Read a model folder.

    Args:
        folder: What :func:`save_model` wrote.
        attention: Attention implementation (``sdpa``, ``eager``, ``flex_attention``).

    Returns:
        Model, tokenizer and task.

    Raises:
        DataError: There is no such attention, the folder is no model folder, a file is damaged,
            files do not fit each other, or weights are missing, unexpected or no numbers.
    """
    folder = Path(folder)
    typed(Attention, attention, "attention", remedy="Choose one of them.")
    task = load_task(folder)
    _require(folder, _MODEL_FILES)
    model, loading, tokenizer = _read(folder, task.model_class(), attention)
    if (fault := fault_of_weights(model, loading)) is not None:
        raise _damaged(folder / "model.safetensors", fault)
    if not task.fits(model.config):
        tables = " and ".join(f"{name}.parquet" for name in task.kept_tables)
        raise _damaged(folder, f"{tables} are of another model")
    embeddings = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > embeddings:
        what = f"the tokenizer has {len(tokenizer)} tokens, the model {embeddings} embeddings"
        raise _damaged(folder, what)
    return model, tokenizer, task


def load_task(folder: Path) -> Task:
    """Read of a model folder only what task it was trained for, and the task's tables.

    Raises:
        DataError: The folder is no model folder, or a file is damaged.
    """
    folder = Path(folder)
    _require(folder, (TASK_FILE,))
    try:
        settings = json.loads((folder / TASK_FILE).read_text(encoding="utf-8"))
        kind = task_named(settings.pop("task"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder / TASK_FILE, str(error)) from error
    _require(folder, [f"{name}.parquet" for name in kind.kept_tables])
    tables = {
        name: read_table(folder / f"{name}.parquet", "the model folder")
        for name in kind.kept_tables
    }
    try:
        return kind(**tables, **settings)
    except TypeError as error:
        raise _damaged(folder / TASK_FILE, str(error)) from error


def read_table(path: Path, of: str = "the table") -> pd.DataFrame:
    """Read a table that a stage wrote into a folder of its own.

    Args:
        path: The file.
        of: What is damaged where the file is.

    Raises:
        DataError: It is not there, or damaged.
    """
    try:
        with path.open("rb") as file:  # given a path, a folder would be an empty table
            return pd.read_parquet(file)
    except (OSError, ValueError) as error:
        what = f"{of} is damaged ({str(error).splitlines()[0]})"
        raise DataError(Problem(str(path), None, what, _REMEDY)) from error


def load_entity_embeddings(folder: Path) -> np.ndarray:
    """Read of a model folder only the embeddings of entities, ``(entities, d)`` float32.

    Raises:
        DataError: The folder is no model folder, its file is damaged or is of another task.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(folder) / "model.safetensors"
    _require(path.parent, [path.name])
    try:
        with safe_open(path, "pt") as weights:
            return weights.get_tensor(_ENTITIES).float().numpy()
    except SafetensorError as error:
        raise _damaged(path, str(error)) from error


def _require(folder: Path, names: Iterable[str]) -> None:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        what = f"no complete model folder: {', '.join(missing)} missing"
        raise DataError(Problem(str(folder), None, what, _REMEDY))


def _read(
    folder: Path, model_class: Any, attention: str
) -> tuple[Any, dict[str, Any], PreTrainedTokenizerBase]:
    """Model, what became of its weights, and tokenizer."""
    from safetensors import SafetensorError
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what is wrong with the weights is said once, by the caller
    try:
        model, loading = model_class.from_pretrained(
            folder,
            attn_implementation=attention,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
        return model, loading, AutoTokenizer.from_pretrained(folder)
    except (
        SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError
    ) as error:  # fmt: skip
        raise _damaged(folder, str(error)) from error
    finally:
        logging.set_verbosity(verbosity)


def _damaged(where: Path, what: str) -> DataError:
    return DataError(Problem(str(where), None, f"the model folder is damaged ({what})", _REMEDY))
