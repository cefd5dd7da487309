"""Stage 1 of link prediction: one learned embedding per entity.

The model reads "<description> is the description of [MASK]" with the entity's images, and the
embeddings of the entity tokens are fitted so that the right one fills the mask; everything else is
frozen (section 3 of arXiv:2205.02357). A frozen model gives the same state at the mask in every
epoch, so each description is encoded once and the epochs run on these states alone.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from transformers import set_seed

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.evaluation.ranking.ranks import rows_at_a_time
from mkgformer_kedro.modeling import MKGformerForLinkPrediction
from mkgformer_kedro.progress import Progress
from mkgformer_kedro.training.entity_encoder import (
    encode_descriptions,
    fit_entity_encoder,
    second_moments,
)
from mkgformer_kedro.training.finite import is_finite
from mkgformer_kedro.training.model_folder import save_model
from mkgformer_kedro.training.parameters import (
    AdamParameters,
    EntityModelingParameters,
    ModelParameters,
    Preset,
)
from mkgformer_kedro.training.tasks.link_prediction import LinkPrediction
from mkgformer_kedro.training.towers import (
    build_model,
    check_length,
    check_vocabulary,
    load_tokenizer,
)

if TYPE_CHECKING:
    from mkgformer_kedro.training.prompts import PromptBuilder

logger = logging.getLogger(__name__)

_ROWS = 1024
_TEXTS = 1 << 16
_MOST_STEPS = 50
_REMEMBERED_STEPS = 5
_TOLERANCE = 1e-4
_SEEN = 256
_WARMUP = 0.06


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
    """Build the model, give it an embedding per entity and relation, and fit the entities'.

    Args:
        entities: Table ``entities``.
        relations: Table ``relations``.
        store_folder: Visual store.
        work_folder: Private folder, inside which the finished model folder is made.
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
    check_vocabulary(model, tokenizer)
    model.add_graph_tokens(len(entities), len(relations))
    task = LinkPrediction(entities, relations, parameters.prompt, parameters.max_length)
    prompts = task.prompt_builder(tokenizer, model.config)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).eval()
    initialize_graph_tokens(model, prompts, parameters.initialization)
    states = encode_descriptions(model, prompts, store, parameters.encoding_batch_size)

    embeddings = model.mkgformer.graph_embeddings.entities.weight.detach()
    if parameters.solver == "adam":
        fitted, curve = descend(embeddings, states, parameters.adam, seed)
    elif len(entities) > parameters.closed_form_above:
        fitted, curve = closed_form(embeddings, states, parameters.ridge)
    else:
        fitted, curve = solve(embeddings, states, parameters.ridge)
    logger.info("Entity embeddings fitted: the loss is %.3f", curve["loss"].iloc[-1])
    if not is_finite(fitted):
        what = "the fitted entity embeddings are no finite numbers"
        remedy = "Raise ridge, or lower the learning rate of adam."
        raise DataError(Problem("link_prediction.entity_modeling", None, what, remedy))
    embeddings.copy_(fitted)
    fit_entity_encoder(model, states, np.ones(len(entities), dtype=bool))
    return save_model(work_folder / "model", model, tokenizer, task), curve


@torch.no_grad()
def initialize_graph_tokens(
    model: MKGformerForLinkPrediction, prompts: PromptBuilder, initialization: str
) -> None:
    """Set the embeddings of entities and relations.

    Args:
        model: Model whose embeddings are changed in place.
        prompts: Knows the word pieces of every text.
        initialization: ``text``: the mean of the word pieces of the entity's description (a
            relation's: of its text). ``normal``: random, as the model initialises embeddings.
    """
    if initialization == "normal":
        return
    words, graph = model.get_input_embeddings().weight, model.mkgformer.graph_embeddings
    for table, tokens_of in (
        (graph.entities, prompts.text_tokens),
        (graph.relations, prompts.relation_tokens),
    ):
        for begin in range(0, table.num_embeddings, _TEXTS):
            part = table.weight[begin : begin + _TEXTS]
            tokens = tokens_of(begin + np.arange(len(part)))
            means = torch.nn.functional.embedding_bag(
                torch.from_numpy(tokens.values).to(words.device),
                words,
                torch.from_numpy(tokens.offsets[:-1]).to(words.device),
                mode="mean",
            )
            part.copy_(means)


def solve(
    start: torch.Tensor, states: torch.Tensor, ridge: float
) -> tuple[torch.Tensor, pd.DataFrame]:
    """Find the embeddings that make the states most likely to name their entities.

    Minimised is the mean over entities of the cross-entropy of a softmax over all embeddings, plus
    half of ``ridge`` times the squared distance of the entity's embedding from its start. This is
    convex with one solution. L-BFGS finds it, in coordinates in which the curvature at the start,
    where the softmax is flat, is one in all directions: its first step is the closed form.

    Args:
        start: ``(n, d)`` initial embeddings.
        states: ``(n, d)``; row ``i`` should name entity ``i``.
        ridge: Weight of the distance from the start.

    Returns:
        The embeddings ``(n, d)`` and the curve: ``step`` (from 0, the start), ``loss``
        (cross-entropy), ``objective``.
    """
    from scipy.optimize import minimize

    count = len(states)
    curvatures, axes = torch.linalg.eigh((states.T @ states).double() / count)
    flatten = (axes * (curvatures.clamp(min=0) + ridge).rsqrt() @ axes.T).to(start)
    losses = dict.fromkeys(("loss", "objective"), 0.0)

    def gradient_at(moved: torch.Tensor) -> torch.Tensor:
        loss, gradient = _cross_entropy(start + moved, states)
        whole = loss + 0.5 * ridge * float(moved.square().sum(dtype=torch.float64))
        losses.update(loss=loss / count, objective=whole / count)
        return (gradient + ridge * moved) @ flatten

    # The first step of this L-BFGS has length one: the unit is the length of the closed form.
    unit = float(gradient_at(torch.zeros_like(start)).norm())
    curve = [{"step": 0, **losses}]

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        moved = torch.from_numpy(point).to(start).view_as(start) @ (unit * flatten)
        gradient = unit * gradient_at(moved)
        return losses["objective"] * count, gradient.flatten().double().cpu().numpy()

    with Progress("Fitting embeddings", _MOST_STEPS, "steps") as progress:

        def note(_: np.ndarray) -> None:
            curve.append({"step": len(curve), **losses})
            progress.advance(1)

        found = minimize(
            objective,
            np.zeros(start.numel()),
            jac=True,
            method="L-BFGS-B",
            callback=note,
            # Of states that hardly differ the gradient is small from the start: it is no sign of an
            # end.
            options={
                **{"maxiter": _MOST_STEPS, "maxcor": _REMEMBERED_STEPS},
                **{"ftol": _TOLERANCE, "gtol": 0.0},
            },
        )
    moved = torch.from_numpy(found.x).to(start).view_as(start) @ (unit * flatten)
    return start + moved, pd.DataFrame(curve)


def closed_form(
    start: torch.Tensor, states: torch.Tensor, ridge: float
) -> tuple[torch.Tensor, pd.DataFrame]:
    """Take the step of :func:`solve` that is right where the softmax is flat, in linear time.

    There each entity is as likely as any other, so that the gradient of its embedding is the
    distance of its state from the mean of all states. Arguments and result as for :func:`solve`;
    the loss is that of some of the states, spread evenly.
    """
    mean = states.mean(dim=0)
    curvature = second_moments(states, torch.zeros_like(mean)) / len(states)
    curvature.diagonal().add_(ridge)
    step = torch.linalg.inv(curvature).to(start)
    fitted = torch.empty_like(start)
    for begin in range(0, len(states), _ROWS):
        part = slice(begin, begin + _ROWS)
        torch.addmm(start[part], states[part] - mean, step, out=fitted[part])
    some = torch.linspace(0, len(states) - 1, min(len(states), _SEEN)).long().to(start.device)
    rows = rows_at_a_time(len(some), len(states))
    losses = [
        torch.nn.functional.cross_entropy(states[part] @ fitted.T, part, reduction="sum")
        for part in some.split(rows)
    ]
    loss = float(torch.stack(losses).sum()) / len(some)
    held = 0.5 * ridge * float((fitted - start).square().sum(dtype=torch.float64)) / len(states)
    return fitted, pd.DataFrame([{"step": 1, "loss": loss, "objective": loss + held}])


def _cross_entropy(embeddings: torch.Tensor, states: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Summed over entities, and its gradient ``(n, d)``; some rows of the logits at a time."""
    loss, gradient = 0.0, torch.zeros_like(embeddings)
    for begin in range(0, len(states), _ROWS):
        block = states[begin : begin + _ROWS]
        shares = block @ embeddings.T
        row = torch.arange(len(block), device=block.device)
        normalizer = shares.logsumexp(dim=1)
        loss += float((normalizer - shares[row, begin + row]).sum(dtype=torch.float64))
        shares.sub_(normalizer[:, None]).exp_()
        shares[row, begin + row] -= 1
        gradient.addmm_(shares.T, block)
    return loss, gradient


def descend(
    start: torch.Tensor, states: torch.Tensor, parameters: AdamParameters, seed: int
) -> tuple[torch.Tensor, pd.DataFrame]:
    """Go down the cross-entropy as the authors do: AdamW, a rate that rises and falls linearly.

    Arguments and result as for :func:`solve`; a step of the curve is an epoch.
    """
    from transformers import get_linear_schedule_with_warmup

    embeddings = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([embeddings], lr=parameters.learning_rate, weight_decay=0.0)
    steps = parameters.epochs * -(-len(states) // parameters.batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, round(steps * _WARMUP), steps)
    order = torch.Generator().manual_seed(seed)
    curve = []
    with Progress("Fitting embeddings", parameters.epochs, "epochs") as progress:
        for epoch in range(1, parameters.epochs + 1):
            total = 0.0
            shuffled = torch.randperm(len(states), generator=order).to(states.device)
            for labels in shuffled.split(parameters.batch_size):
                logits = states[labels] @ embeddings.T
                loss = torch.nn.functional.cross_entropy(logits, labels)
                loss.backward()
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                total += float(loss.detach()) * len(labels)
            curve.append({"step": epoch, "loss": total / len(states)})
            progress.advance(1)
    return embeddings.detach(), pd.DataFrame(curve)
