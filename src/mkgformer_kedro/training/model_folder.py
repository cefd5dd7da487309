"""A model folder: all that is needed to ask a trained model, in one place.

It holds what ``save_pretrained`` writes for model and tokenizer, and beside it what the task needs.
For link prediction that is the graph's vocabulary: which entity and relation each token stands for,
their texts, and the prompt the model was trained on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.training.prompts import PromptBuilder, PromptForm

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from mkgformer_kedro.modeling import MKGformerForLinkPrediction

_ENTITIES, _RELATIONS, _PROMPTS = "entities.parquet", "relations.parquet", "prompts.json"


@dataclass(frozen=True)
class GraphVocabulary:
    """What the model's entity and relation tokens stand for.

    Attributes:
        entities: Table ``entities``; row ``i`` is entity token ``i``.
        relations: Table ``relations``; row ``i`` is relation token ``i``.
        prompt: Form of the prompts the model was trained on.
        max_length: Longest prompt in tokens.
    """

    entities: pd.DataFrame
    relations: pd.DataFrame
    prompt: PromptForm
    max_length: int

    def prompt_builder(
        self, tokenizer: PreTrainedTokenizerBase, model: MKGformerForLinkPrediction
    ) -> PromptBuilder:
        """Build prompts whose entity and relation tokens are those of ``model``."""
        return PromptBuilder(
            tokenizer,
            self.entities["text"].tolist(),
            self.relations["text"].tolist(),
            entity_token_start=model.config.entity_token_start,
            relation_token_start=model.config.relation_token_start,
            form=self.prompt,
            max_length=self.max_length,
            pad_to_max_length=not model.config.mask_prefix_padding,
        )


def write_model_folder(folder: Path, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write what every model folder holds, replacing one that a killed run left behind."""
    from mkgformer_kedro.modeling import MKGformerProcessor

    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    MKGformerProcessor.of(model.config, tokenizer).save_pretrained(folder)


def check_model_folder(folder: Path, *files: str) -> None:
    """See to it that a model folder is complete.

    Args:
        folder: The folder.
        *files: What the task needs beside model and tokenizer.

    Raises:
        DataError: It is no model folder, or one of another task.
    """
    needed = ("config.json", "model.safetensors", "tokenizer.json", *files)
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        raise DataError(
            Problem(
                str(folder),
                None,
                f"no complete model folder: {', '.join(missing)} missing",
                "Run the stage that makes it again.",
            )
        )


def read_model_folder(
    folder: Path, model_class: Any, attention: str
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Read model and tokenizer.

    Args:
        folder: A complete model folder.
        model_class: Class of the model.
        attention: Attention implementation (``sdpa``, ``eager``, ``flex_attention``).

    Raises:
        DataError: A file is damaged.
    """
    from safetensors import SafetensorError
    from transformers import AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        model = model_class.from_pretrained(folder, attn_implementation=attention)
        return model, AutoTokenizer.from_pretrained(folder)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        what = f"the model folder is damaged ({error})"
        remedy = "Run the stage that makes it again."
        raise DataError(Problem(str(folder), None, what, remedy)) from error


def save_model_folder(
    folder: Path,
    model: MKGformerForLinkPrediction,
    tokenizer: PreTrainedTokenizerBase,
    vocabulary: GraphVocabulary,
) -> Path:
    """Write a model folder of link prediction."""
    write_model_folder(folder, model, tokenizer)
    vocabulary.entities.to_parquet(folder / _ENTITIES, index=False)
    vocabulary.relations.to_parquet(folder / _RELATIONS, index=False)
    settings = {"prompt": vocabulary.prompt, "max_length": vocabulary.max_length}
    (folder / _PROMPTS).write_text(json.dumps(settings, indent=2) + "\n")
    return folder


def load_model_folder(
    folder: Path, attention: str = "sdpa"
) -> tuple[MKGformerForLinkPrediction, PreTrainedTokenizerBase, GraphVocabulary]:
    """Read a model folder of link prediction.

    Args:
        folder: What :func:`save_model_folder` wrote.
        attention: Attention implementation (``sdpa``, ``eager``, ``flex_attention``).

    Raises:
        DataError: The folder is no model folder.
    """
    from mkgformer_kedro.modeling import MKGformerForLinkPrediction

    folder = Path(folder)
    check_model_folder(folder, _ENTITIES, _RELATIONS, _PROMPTS)
    model, tokenizer = read_model_folder(folder, MKGformerForLinkPrediction, attention)
    vocabulary = GraphVocabulary(
        pd.read_parquet(folder / _ENTITIES),
        pd.read_parquet(folder / _RELATIONS),
        **json.loads((folder / _PROMPTS).read_text()),
    )
    return model, tokenizer, vocabulary
