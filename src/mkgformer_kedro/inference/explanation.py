"""What a trained model looked at: a weight for each patch of an image, in one of three ways.

* ``correlation``: how similar each token is to each patch, as a share (correlation-aware fusion,
  section 3.3.2 of arXiv:2205.02357);
* ``attention``: how much of each patch's attention goes to each token; over all tokens this is the
  lambda of prefix-guided interaction (section 3.3.1), a mean over heads;
* ``gradient``: how much the answer's log-odds hang on a patch: the sum of the absolute gradient
  over its pixels (saliency, arXiv:1312.6034).

The first two are read off the model while it answers, layer by layer; they are no proof that a
patch decided: :func:`delete_patches` takes patches away and looks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd

from mkgformer_kedro.datasets.visual_store import INPUT_NAMES
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.evaluation.explanations import (
    RANDOM,
    WAYS,
    Quarter,
    Way,
    highest,
    points_into,
    quarter_of,
)
from mkgformer_kedro.evaluation.report import Look
from mkgformer_kedro.files import written_atomically
from mkgformer_kedro.parameters import Folder, typed
from mkgformer_kedro.progress import Progress
from mkgformer_kedro.training.batches import asking_order, on_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from mkgformer_kedro.training.batches import Images, Items
    from mkgformer_kedro.training.tasks.base import Task


@dataclass(frozen=True)
class ExplainedImage:
    """An image and what looked at its patches.

    Attributes:
        role: ``full``, ``grounding`` or ``detection``.
        slot: Number of the image among those of its role, from 0.
        pixels: uint8 ``(3, size, size)``, as the model sees it.
        weights: ``(layers, tokens, rows, columns)`` float32.
    """

    role: str
    slot: int
    pixels: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Explanation:
    """What a model looked at while it answered one question.

    Attributes:
        by: What the weights are: ``correlation``, ``attention`` or ``gradient``.
        answer: What the model answers, as ``Predictor.predict`` tells it.
        layers: Fused layers that the weights are of, from 1, the lowest; none for gradients.
        tokens: The tokens that look, with padding where the model attends to it. A gradient is that
            of the answer, its only "token".
        parts: Positions in ``tokens`` of those of interest, by name: the mask and the relation's
            words, or the mentions.
        images: The images that there are.
    """

    by: Way
    answer: pd.DataFrame
    layers: tuple[int, ...]
    tokens: tuple[str, ...]
    parts: Mapping[str, np.ndarray]
    images: tuple[ExplainedImage, ...]

    def heat(self, part: str | None = None) -> list[np.ndarray]:
        """A number for each patch of each image, ``(rows, columns)``; a mean over the layers.

        Args:
            part: Which tokens look, a key of ``parts``; None: all tokens.

        Returns:
            Of correlations the mean over these tokens; of attention the share of a patch's
            attention that goes to these tokens, for all tokens lambda.

        Raises:
            DataError: There is no such part.
        """
        return [each.mean(axis=0) for each in self.heat_by_layer(part)]

    def heat_by_layer(self, part: str | None = None) -> list[np.ndarray]:
        """As :meth:`heat`, for each layer: ``(layers, rows, columns)`` for each image."""
        if part is not None:
            _require(part, "part", list(self.parts))
        at = np.arange(len(self.tokens)) if part is None else self.parts[part]
        combine = np.sum if self.by == "attention" else np.mean
        return [combine(image.weights[:, at], axis=1) for image in self.images]

    def of_layer(self, layer: int) -> Explanation:
        """What is looked at in one of the ``layers``.

        Raises:
            DataError: It is none of them.
        """
        _require(layer, "layer", list(self.layers))
        at = [self.layers.index(layer)]
        images = tuple(replace(image, weights=image.weights[at]) for image in self.images)
        return replace(self, layers=(layer,), images=images)

    def figure(self) -> Figure:
        """The images, and beside each what looked at it, a panel for each part."""
        from mkgformer_kedro.evaluation.report.figures import heat_figure

        heats = {part: self.heat(part) for part in self.parts}
        if self.by == "attention":
            heats = {"all of the text": self.heat()} | heats
        return heat_figure([image.pixels for image in self.images], heats)

    def save(self, folder: str | Path) -> None:
        """Write ``<by>.png`` and ``<by>.svg`` (the figure) and ``<by>.npz`` (the arrays).

        The arrays are ``tokens``, ``layers``, ``part_<name>`` (positions in ``tokens``), and of
        each image ``pixels_<role>_<slot>`` and ``weights_<role>_<slot>``.

        Args:
            folder: Folder to write into; it is made where it is not there.

        Raises:
            DataError: It cannot be one, or nothing can be written there.
        """
        folder = typed(Folder, folder, "folder", remedy="Give the path of a folder.")
        figure = self.figure()
        for kind in ("png", "svg"):
            with written_atomically(folder / f"{self.by}.{kind}") as path:
                figure.savefig(path, format=kind, dpi=300)
        arrays = {"tokens": np.array(self.tokens), "layers": np.array(self.layers, dtype=np.int64)}
        arrays |= {f"part_{name}": at for name, at in self.parts.items()}
        for image in self.images:
            arrays[f"pixels_{image.role}_{image.slot}"] = image.pixels
            arrays[f"weights_{image.role}_{image.slot}"] = image.weights
        with written_atomically(folder / f"{self.by}.npz") as path, path.open("wb") as file:
            np.savez_compressed(file, **arrays)


def _require(one: Any, called: str, known: list[Any]) -> None:
    if one not in known:
        what = f"no {called} {one!r}"
        remedy = f"There are: {', '.join(map(str, known)) or 'none'}."
        raise DataError(Problem("explanation", None, what, remedy))


@dataclass(frozen=True)
class Seen:
    """A block of items, each with images of its own.

    Attributes:
        rows: ``(b,)`` numbers of the items.
        inputs: The model's inputs but the pixels, each ``(b, ...)``.
        pixels: Normalised images by input, ``(b, count, 3, size, size)``.
        present: ``(b, patches)`` bool, the patches of images that there are.
    """

    rows: np.ndarray
    inputs: dict[str, Tensor]
    pixels: dict[str, Tensor]
    present: np.ndarray


class Looker:
    """Asks a model, and looks where it looks. Patches count through all image slots, row by row.

    Args:
        model: The model, in evaluation mode.
        tokenizer: Its tokenizer.
        task: Its task.
    """

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, task: Task) -> None:
        self.model, self.tokenizer, self.task = model, tokenizer, task
        config = model.config
        self.patch_size = config.vision_config.patch_size
        self.slots = [
            (role, slot) for role in config.image_roles for slot in range(config.image_counts[role])
        ]
        self.sides = [config.image_sizes[role] // self.patch_size for role, _ in self.slots]

    def see(self, items: Items, images: Images, rows: np.ndarray) -> Seen:
        """Put together a block of items that have images.

        Args:
            items: All items.
            images: Images of their owners.
            rows: ``(b,)`` numbers of the block's items.
        """
        import torch

        inputs = items.batch(rows)
        inputs.pop("labels", None)
        read = images.read(items.owners[rows])
        inputs |= {name: torch.from_numpy(array) for name, array in read.items()}
        inputs = on_device(inputs, self.model.device)
        pixels = {
            name: self.model.base_model.normalize(inputs.pop(name))
            for name in INPUT_NAMES.values()
            if name in inputs
        }
        times = [side**2 for side in self.sides]
        return Seen(rows, inputs, pixels, np.repeat(read["image_mask"], times, axis=1))

    def ask(self, seen: Seen, removed: np.ndarray | None = None, **options: Any) -> Any:
        """The model's output, without some patches.

        Those are set to 0, the colour that the tower takes for the mean.

        Args:
            seen: The block.
            removed: ``(b, patches)`` bool; None: none.
            **options: Passed on to the model.
        """
        import torch

        pixels = seen.pixels
        if removed is not None:
            grids = self._by_input(torch.from_numpy(removed).to(self.model.device))
            pixels = {name: pixels[name].masked_fill(grids[name], 0.0) for name in pixels}
        with torch.no_grad():
            return self.model(**seen.inputs, **pixels, **options)

    def best(self, items: Items, seen: Seen, outputs: Any) -> np.ndarray:
        """What the model answers, ``(b,)`` or ``(b, W)``, see ``Task.best``."""
        return self.task.best(self.model, outputs, items, seen.rows).cpu().numpy()

    def weights(self, seen: Seen, recorded: Any, best: np.ndarray, by: Way) -> np.ndarray:
        """How much each patch is looked at.

        Args:
            seen: The block.
            recorded: The model's output with ``output_attentions``.
            best: What it answers.
            by: What the weights are.

        Returns:
            ``(b, layers, tokens, patches)`` float32; of gradients there is one layer and one token.
        """
        import torch

        if by == "gradient":
            return self._gradients(seen, best)[:, None, None]
        if by == "correlation":
            layers = recorded.correlations
        else:
            length = seen.inputs["input_ids"].shape[1]
            fused = recorded.vision_attentions[-len(recorded.correlations) :]
            layers = [each[..., :length].mean(dim=1).transpose(1, 2) for each in fused]
        positions = self.model.base_model.patch_positions(layers[0].shape[-1])
        order = torch.cat([grid.flatten() for grid in positions]).to(self.model.device)
        return torch.stack([*layers], dim=1)[..., order].float().cpu().numpy()

    def grids(self, weights: np.ndarray) -> list[np.ndarray]:
        """Numbers of patches ``(..., patches)`` as a grid ``(..., rows, columns)`` a slot."""
        ends = np.cumsum([side**2 for side in self.sides])[:-1]
        return [
            part.reshape(*part.shape[:-1], side, side)
            for part, side in zip(np.split(weights, ends, axis=-1), self.sides, strict=True)
        ]

    def explain(self, items: Items, images: Images, row: int, by: Way) -> tuple[Explanation, Any]:
        """What the model looks at while it answers an item, and the model's output.

        Args:
            items: All items.
            images: Images of their owners; the item's has at least one.
            row: Number of the item.
            by: What the weights are.

        Returns:
            The explanation, whose answer is empty, and the output.
        """
        seen = self.see(items, images, np.array([row]))
        recorded = self.ask(seen, output_attentions=True)
        best = self.best(items, seen, recorded)
        weights = self.weights(seen, recorded, best, by)[0]
        tokens, parts = self.task.tokens(self.tokenizer, items, row, best[0])
        tokens += [self.tokenizer.pad_token] * (weights.shape[1] - len(tokens))
        if by == "gradient":
            tokens, parts = ["the answer"], {"the answer": np.array([0])}
        read = images.read([items.owners[row]])
        there = read.pop("image_mask")[0]
        pixels = [image for slots in read.values() for image in slots[0]]
        shown = tuple(
            ExplainedImage(role, slot, pixels[number], grid)
            for number, ((role, slot), grid) in enumerate(
                zip(self.slots, self.grids(weights), strict=True)
            )
            if there[number]
        )
        layers = () if by == "gradient" else tuple(range(1, len(weights) + 1))
        return Explanation(by, pd.DataFrame(), layers, tuple(tokens), parts, shown), recorded

    def patch_weights(
        self, items: Items, seen: Seen, recorded: Any, best: np.ndarray, by: Way
    ) -> np.ndarray:
        """One weight for each patch ``(b, patches)``: a mean over layers.

        Of correlations it is that of the tokens of interest, of attention lambda.
        """
        weights = self.weights(seen, recorded, best, by).mean(axis=1)
        if by != "correlation":
            return weights.sum(axis=1)
        rows = []
        for row, number in enumerate(seen.rows):
            parts = self.task.tokens(self.tokenizer, items, int(number), best[row])[1]
            rows.append(weights[row, np.concatenate([*parts.values()])].mean(axis=0))
        return np.stack(rows)

    def _gradients(self, seen: Seen, best: np.ndarray) -> np.ndarray:
        """Absolute gradient of the answers' log-odds, summed over each patch.

        Of log-odds, because a probability close to 1 hangs on nothing any more.
        """
        import torch

        pixels = {name: images.clone().requires_grad_() for name, images in seen.pixels.items()}
        with torch.enable_grad():
            scores = self.model(**seen.inputs, **pixels).logits
            answers = torch.from_numpy(best).to(scores.device)
            given = answers.clamp(min=0)[..., None]
            others = scores.scatter(-1, given, float("-inf")).logsumexp(dim=-1)
            odds = (scores.gather(-1, given)[..., 0] - others).masked_fill(answers < 0, 0.0)
            # Items do not see each other: the gradient of the sum is that of each.
            total = odds.sum()
            gradients = torch.autograd.grad(total, list(pixels.values()))
        size = self.patch_size
        sums = [
            gradient.abs().sum(dim=2).unfold(2, size, size).unfold(3, size, size).sum((-1, -2))
            for gradient in gradients
        ]
        return torch.cat([each.flatten(1) for each in sums], dim=1).float().cpu().numpy()

    def _by_input(self, patches: Tensor) -> dict[str, Tensor]:
        """A mask of patches as masks of pixels, ``(b, count, 1, size, size)`` by input."""
        import torch

        by_role: dict[str, list[Tensor]] = {}
        parts = patches.split([side**2 for side in self.sides], dim=1)
        for (role, _), side, part in zip(self.slots, self.sides, parts, strict=True):
            grid = part.unflatten(1, (side, side))
            for axis in (1, 2):
                grid = grid.repeat_interleave(self.patch_size, axis)
            by_role.setdefault(INPUT_NAMES[role], []).append(grid[:, None])
        return {name: torch.stack(grids, dim=1) for name, grids in by_role.items()}


def delete_patches(
    looker: Looker,
    table: pd.DataFrame,
    images: Images,
    *,
    shares: Sequence[float],
    seed: int,
    batch_size: int,
) -> pd.DataFrame:
    """The deletion test, see :mod:`mkgformer_kedro.evaluation.explanations`.

    Args:
        looker: The model.
        table: Questions as the task's ``encode`` takes them; all have images.
        images: Images of their owners.
        shares: Shares of a question's patches to take away.
        seed: Seed of the random patches.
        batch_size: Questions at a time.

    Returns:
        ``question`` (row number in the table), ``share``, and for each of the ``WAYS`` and
        ``random`` whether the answer changed.
    """
    draws = np.random.default_rng(seed).random((len(table), sum(s**2 for s in looker.sides)))
    changes = [pd.DataFrame(columns=["question", "share", *WAYS, RANDOM])]
    for block in _weighed(looker, table, images, batch_size, "Taking patches away"):
        items, seen, best, weights = block
        weights = {**weights, RANDOM: draws[seen.rows]}
        for share in shares:
            changed = {}
            for way, of_patches in weights.items():
                removed = highest(of_patches, seen.present, share, draws[seen.rows])
                without = looker.best(items, seen, looker.ask(seen, removed))
                changed[way] = (without != best).reshape(len(best), -1).any(axis=1)
            changes.append(pd.DataFrame({"question": seen.rows, "share": share, **changed}))
    return pd.concat(changes[1:] or changes, ignore_index=True)


def point(
    looker: Looker,
    table: pd.DataFrame,
    images: Images,
    *,
    quarters: Sequence[Quarter],
    batch_size: int,
) -> pd.DataFrame:
    """The pointing game, see :mod:`mkgformer_kedro.evaluation.explanations`.

    Args:
        looker: The model.
        table: Questions as the task's ``encode`` takes them; all have images.
        images: Images of their owners.
        quarters: For each question where in its images the answer stands.
        batch_size: Questions at a time.

    Returns:
        ``question`` (row number in the table), ``chance`` (the share of its patches in that
        quarter), and for each of the ``WAYS`` whether the highest patch lies there.
    """
    regions = {each: quarter_of(each, looker.sides) for each in get_args(Quarter)}
    hits = [pd.DataFrame(columns=["question", "chance", *WAYS])]
    for _, seen, _, weights in _weighed(looker, table, images, batch_size, "Playing pointing game"):
        region = np.stack([regions[quarters[row]] for row in seen.rows]) & seen.present
        pointed = {way: points_into(weights[way], seen.present, region) for way in WAYS}
        chance = region.sum(axis=1) / seen.present.sum(axis=1)
        hits.append(pd.DataFrame({"question": seen.rows, "chance": chance, **pointed}))
    return pd.concat(hits[1:] or hits, ignore_index=True)


def look_at(looker: Looker, table: pd.DataFrame, images: Images) -> list[list[Look]]:
    """What looks at the images of questions, for a page.

    Args:
        looker: The model.
        table: Questions as the task's ``encode`` takes them.
        images: Images of their owners.

    Returns:
        For each question what looks at its images in each way; nothing where it has none.
    """
    items = looker.task.encode(table, looker.tokenizer, looker.model.config)
    found: list[list[Look]] = []
    for row in range(len(table)):
        looks: list[Look] = []
        for way in WAYS if images.has_images[items.owners[row]] else ():
            explanation, _ = looker.explain(items, images, row, way)
            # Of attention it is lambda that is shown, which is that of all tokens.
            parts = explanation.parts if way == "correlation" else (None,)
            looks += [Look(way, part or "", explanation.heat_by_layer(part)) for part in parts]
        found.append(looks)
    return found


def _weighed(
    looker: Looker, table: pd.DataFrame, images: Images, batch_size: int, what: str
) -> Iterator[tuple[Items, Seen, np.ndarray, dict[str, np.ndarray]]]:
    """Blocks of questions with the answers and, by each way, the weights of all patches."""
    items = looker.task.encode(table, looker.tokenizer, looker.model.config)
    order = asking_order(items, np.arange(len(table)))
    with Progress(what, len(order), "questions") as progress:
        for start in range(0, len(order), batch_size):
            seen = looker.see(items, images, order[start : start + batch_size])
            recorded = looker.ask(seen, output_attentions=True)
            best = looker.best(items, seen, recorded)
            yield (
                items,
                seen,
                best,
                {way: looker.patch_weights(items, seen, recorded, best, way) for way in WAYS},
            )
            progress.advance(len(seen.rows))
