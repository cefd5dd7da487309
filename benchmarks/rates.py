"""How much a batch takes to compute, and how fast the machine can compute at most.

Letters in shapes: ``B`` examples, ``T`` text tokens, ``G`` sets of images, ``P`` examples with
images, ``V`` visual tokens, ``N`` entities, ``d`` widths.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mkgformer_kedro.modeling import MKGformerConfig

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""CPU time leaves out what other programs on the machine take; it says nothing about a GPU."""


@dataclass(frozen=True)
class Shape:
    """What a batch takes depends on.

    Attributes:
        examples: ``B``.
        tokens: ``T``.
        with_images: ``P``.
        groups: ``G``.
        every_position: Whether states at all positions are scored, for the whole vocabulary,
            instead of those at the mask, for entities.
        below_fusion: Whether the visual layers below the fusion are computed.
    """

    examples: int
    tokens: int
    with_images: int
    groups: int
    every_position: bool = False
    below_fusion: bool = True


def multiply_adds(config: MKGformerConfig, shape: Shape) -> int:
    """Multiply-adds of the matrix products of a forward pass.

    A layer of width d and inner width i takes 4 d² + 2 d i a token, and 2 d for each pair of
    tokens that attention looks at; a fused pair takes besides i d a text token and 2 d for each
    pair of a text and a visual token. The first fused layer takes 3 of its 4 d² once for all
    examples that share images. Behind its attention the last text layer computes the mask alone,
    where no other position is asked for. A step takes three times as much: the backward pass
    computes a gradient of the inputs and one of the weights of each product.
    """
    text, vision = config.text_config, config.vision_config
    fused, width, inner = config.num_fusion_layers, text.hidden_size, text.intermediate_size
    asked = shape.tokens if shape.every_position else 1  # positions of an example

    def layers(rows: int, length: int, seen: int, sizes: Any) -> int:
        width, inner = sizes.hidden_size, sizes.intermediate_size
        return rows * length * (4 * width**2 + 2 * width * inner + 2 * seen * width)

    scored = config.num_entities
    if shape.every_position:
        scored += text.vocab_size + config.num_relations
    total = (
        text.num_hidden_layers * layers(shape.examples, shape.tokens, shape.tokens, text)
        - shape.examples * (shape.tokens - asked) * (width**2 + 2 * width * inner)
        + shape.examples * asked * width * (width + scored)
    )
    if shape.with_images:
        rows, visual_width, patch = shape.with_images, vision.hidden_size, vision.patch_size
        images = [
            (config.image_counts[role], config.image_sizes[role]) for role in config.image_roles
        ]
        patches = sum(count * (size // patch) ** 2 for count, size in images)
        seen = patches + sum(count for count, _ in images)
        if shape.below_fusion:
            below = vision.num_hidden_layers - fused
            total += (
                below * layers(shape.groups, seen, seen, vision)
                + shape.groups * patches * vision.num_channels * patch**2 * visual_width
            )
        total += (
            fused * layers(rows, seen, shape.tokens + seen, vision)
            - (rows - shape.groups) * seen * 3 * visual_width**2
            + rows * ((fused - 1) * shape.tokens + asked) * width * (inner + 2 * seen)
        )
        if visual_width != width:
            total += fused * rows * (2 * shape.tokens + seen) * width * visual_width
    return total


def peak_rate(
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    clock: Callable[[], float] = time.perf_counter,
    size: int = 2048,
    repeats: int = 5,
) -> float:
    """Multiply-adds a second of a plain product of square matrices: the best of several.

    Args:
        dtype: Precision.
        device: Where it is computed.
        clock: Seconds.
        size: Rows and columns.
        repeats: How often it is tried.
    """
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        synchronize(device)
        began = clock()
        torch.mm(left, right)
        synchronize(device)
        best = min(best, clock() - began)
    return size**3 / best


def synchronize(device: str | torch.device) -> None:
    """Wait for a GPU."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
