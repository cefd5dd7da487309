"""Stage 1 of link prediction: one learned embedding per entity.

The model reads "<description> is the description of [MASK]" with the entity's images, and the
embeddings of the entity tokens are fitted so that the right one fills the mask; everything else is
frozen (section 3 of arXiv:2205.02357). A frozen model gives the same state at the mask in every
epoch, so each description is encoded once and the epochs run on these states alone.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from transformers import AddedToken, set_seed

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.modeling import MKGformerForLinkPrediction
from mkgformer_kedro.progress import Progress
from mkgformer_kedro.training.batches import image_inputs, on_device
from mkgformer_kedro.training.model_folder import save_model
from mkgformer_kedro.training.parameters import EntityModelingParameters, ModelParameters, Preset
from mkgformer_kedro.training.sampler import BatchSampler
from mkgformer_kedro.training.tasks.link_prediction import LinkPrediction
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

    from mkgformer_kedro.training.prompts import PromptBuilder

logger = logging.getLogger(__name__)


def model_entities(
    entities: pd.DataFrame,
    relations: pd.DataFrame,
    store_folder: Path,
    work_folder: Path,
    model_parameters: ModelParameters,
    parameters: EntityModelingParameters,
    preset: Preset,
    seed: int,
) -> tuple[Path, pd.DataFrame]:
    """Build the model, give it a token per entity and relation, and fit the entity embeddings.

    Args:
        entities: Table ``entities``.
        relations: Table ``relations``.
        store_folder: Visual store.
        work_folder: Private folder for checkpoints; the finished model folder is made inside it.
        model_parameters: Towers and fusion.
        parameters: Settings of this stage.
        preset: Decides the fields that the parameters leave open.
        seed: Seed of everything random.

    Returns:
        The finished model folder and the training curve.
    """
    parameters = parameters.with_preset(preset)
    set_seed(seed)
    store = VisualStore(store_folder, **model_parameters.images.model_dump())
    tokenizer = load_tokenizer(model_parameters)
    model = build_model(
        MKGformerForLinkPrediction,
        model_parameters,
        preset,
        store,
        mask_token_id=tokenizer.mask_token_id,
    )
    check_length(model, parameters.max_length)
    add_graph_tokens(model, tokenizer, len(entities), len(relations))
    task = LinkPrediction(entities, relations, parameters.prompt, parameters.max_length)
    prompts = task.prompt_builder(tokenizer, model.config)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).eval()
    initialize_graph_tokens(model, prompts, parameters.initialization)
    states = encode_descriptions(model, prompts, store, parameters.encoding_batch_size)

    start, count = model.config.entity_token_start, len(entities)
    embeddings = model.get_input_embeddings().weight
    fitted, curve = _fit(
        embeddings[start : start + count].detach(), states, work_folder, parameters, seed
    )
    with torch.no_grad():
        embeddings[start : start + count] = fitted.to(device)
    folder = save_model(work_folder / "model", model, tokenizer, task)
    discard_checkpoints(work_folder / "checkpoints")
    return folder, curve


def add_graph_tokens(
    model: MKGformerForLinkPrediction,
    tokenizer: PreTrainedTokenizerBase,
    num_entities: int,
    num_relations: int,
) -> None:
    """Append one token per entity, then one per relation, to tokenizer and model.

    Raises:
        ValueError: The text tower's vocabulary is not its tokenizer's.
    """
    check_vocabulary(model, tokenizer)
    names = [f"[ENTITY_{i}]" for i in range(num_entities)]
    names += [f"[RELATION_{i}]" for i in range(num_relations)]
    tokenizer.add_tokens([AddedToken(name, normalized=False, special=False) for name in names])
    model.add_graph_tokens(num_entities, num_relations)


@torch.no_grad()
def initialize_graph_tokens(
    model: MKGformerForLinkPrediction, prompts: PromptBuilder, initialization: str
) -> None:
    """Set the embeddings of new tokens.

    Args:
        model: Model whose word embeddings are changed in place.
        prompts: Knows the word pieces of every text.
        initialization: ``text``: the mean of the word pieces of the entity's description (a
            relation's: of its text). ``normal``: random, as the model initialises embeddings.
    """
    if initialization == "normal":
        return
    config = model.config
    embeddings = model.get_input_embeddings().weight
    for start, count, tokens_of in (
        (config.entity_token_start, config.num_entities, prompts.text_tokens),
        (config.relation_token_start, config.num_relations, prompts.relation_tokens),
    ):
        tokens = [tokens_of(i) for i in range(count)]
        offsets = np.cumsum([0] + [len(row) for row in tokens[:-1]])
        means = torch.nn.functional.embedding_bag(
            torch.from_numpy(np.concatenate(tokens)).to(embeddings.device),
            embeddings,
            torch.from_numpy(offsets).to(embeddings.device),
            mode="mean",
        )
        embeddings[start : start + count] = means


@torch.no_grad()
def encode_descriptions(
    model: MKGformerForLinkPrediction,
    prompts: PromptBuilder,
    store: VisualStore,
    batch_size: int,
) -> torch.Tensor:
    """State at the mask of each entity's description, ``(entities, hidden)``, on the CPU."""
    order = np.argsort(prompts.description_lengths(), kind="stable")
    states = torch.empty(len(order), model.config.text_config.hidden_size)
    with Progress("Encoding descriptions", len(order), "entities") as progress:
        for start in range(0, len(order), batch_size):
            entity = order[start : start + batch_size]
            text = prompts.descriptions(entity)
            inputs = {name: torch.from_numpy(array) for name, array in text.items()}
            inputs |= image_inputs(store, entity)
            states[entity] = model.encode_mask(**on_device(inputs, model.device)).float().cpu()
            progress.advance(len(entity))
    return states


class EntityEmbeddings(torch.nn.Module):
    """Entity embeddings as the classes of a softmax over fixed states.

    Args:
        embeddings: ``(entities, hidden)`` initial values.
        states: ``(entities, hidden)``; row ``i`` should be answered by entity ``i``.
    """

    def __init__(self, embeddings: torch.Tensor, states: torch.Tensor) -> None:
        super().__init__()
        self.embeddings = torch.nn.Parameter(embeddings.clone())
        self.register_buffer("states", states, persistent=False)

    def forward(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Cross-entropy over all entities for the entities ``labels``, ``(B,)``."""
        logits = self.states[labels] @ self.embeddings.T
        return {"loss": torch.nn.functional.cross_entropy(logits, labels)}


def _fit(
    embeddings: torch.Tensor,
    states: torch.Tensor,
    work_folder: Path,
    parameters: EntityModelingParameters,
    seed: int,
) -> tuple[torch.Tensor, pd.DataFrame]:
    entity = np.arange(len(states))
    sampler = BatchSampler(
        entity,
        entity,
        np.ones_like(entity),
        batch_size=parameters.batch_size,
        items_per_owner=1,
        shuffle=True,
        seed=seed,
    )
    module = EntityEmbeddings(embeddings, states)
    trainer = StageTrainer(
        model=module,
        args=training_arguments(
            work_folder / "checkpoints",
            parameters,
            batches_per_epoch=len(sampler),
            seed=seed,
            metric=None,
        ),
        batch_sampler=sampler,
        learning_rates=parameters.learning_rates,
        train_dataset=entity,
        data_collator=_labels,
    )
    # The states sum up model, texts and images: a change of any of them makes it another job.
    digest = hashlib.sha256(states.numpy().tobytes()).hexdigest()
    settings = parameters.model_dump(exclude={"log_every"})
    fingerprint = fingerprint_of({**settings, "seed": seed, "states": digest})
    curve = train_to_end(trainer, fingerprint)
    return module.embeddings.detach().cpu(), curve


def _labels(entities: list[Any]) -> dict[str, torch.Tensor]:
    return {"labels": torch.from_numpy(np.array(entities))}
