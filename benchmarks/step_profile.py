"""Where the time of a training step goes, and how close it comes to what the machine can do.

Three tables for the training steps of a data set: the share of each kind of work, the multiply-adds
of a step (by the formula of :func:`multiply_adds`, and as torch counts them), and the share of the
rate that a plain matrix product reaches in the same run.

Letters in shapes: ``B`` examples, ``T`` text tokens, ``G`` sets of images, ``P`` examples with
images, ``V`` visual tokens, ``N`` entities, ``d`` widths.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from throughput import OURS, batch_loss, collate, draw_batches
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from worlds import PROJECT, World, open_world

from mkgformer_kedro.training.optimizer import RowwiseAdamW

# Kinds of work, by parts of the operators' names; the first that fits holds.
KINDS = {
    "matrix products": ("mm", "bmm", "linear", "attention", "convolution"),
    "normalisation": ("layer_norm", "softmax", "logsumexp"),
    "look-ups and scatters": ("embedding", "index", "scatter", "gather", "unique", "coalesce"),
    "copies": ("copy", "clone", "cat", "fill", "zero", "empty", "_to_", "pad"),
}
STEP = "Optimizer.step"
OTHER = "element by element, and the rest"


def multiply_adds(world: World, batch: dict[str, torch.Tensor]) -> dict[str, float]:
    """Multiply-adds of the matrix products of a forward pass, by part of the model.

    A layer of width d and inner width i takes 4 d² + 2 d i a token, and 2 d for each pair of
    tokens that attention looks at; a fused pair takes besides i d a text token and 2 d for each
    pair of a text and a visual token. Behind its attention the last text layer computes the mask
    alone. A step takes three times as much: the backward pass computes a gradient of the inputs
    and one of the weights of each product.
    """
    model = world.model
    config, text, vision = model.config, model.config.text_config, model.config.vision_config
    examples, tokens = batch["input_ids"].shape
    fused = config.num_fusion_layers

    def layers(rows: int, length: int, seen: int, sizes: Any) -> float:
        width, inner = sizes.hidden_size, sizes.intermediate_size
        return rows * length * (4 * width**2 + 2 * width * inner + 2 * seen * width)

    width, inner = text.hidden_size, text.intermediate_size
    parts = {
        "text": text.num_hidden_layers * layers(examples, tokens, tokens, text)
        - examples * (tokens - 1) * (width**2 + 2 * width * inner),
        "entities": examples * width * (width + config.num_entities),
    }
    if "image_index" in batch:
        rows = int((batch["image_index"] >= 0).sum())
        pixels = [batch[name] for name in batch if name.endswith("pixel_values")]
        groups = len(pixels[0])
        patch = vision.patch_size
        patches = sum(each.shape[1] * (each.shape[-1] // patch) ** 2 for each in pixels)
        seen = patches + sum(each.shape[1] for each in pixels)
        below = vision.num_hidden_layers - fused
        parts["images"] = below * layers(groups, seen, seen, vision) + (
            groups * patches * vision.num_channels * patch**2 * vision.hidden_size
        )
        parts["fused"] = fused * layers(rows, seen, tokens + seen, vision) + (
            rows * ((fused - 1) * tokens + 1) * width * (inner + 2 * seen)
        )
        if vision.hidden_size != width:
            bridged = 2 * tokens + seen
            parts["fused"] += fused * rows * bridged * width * vision.hidden_size
    return parts


def kind_of(event: Any) -> str:
    """Kind of work of a profiler's event."""
    above = event
    while above is not None:
        if above.name.startswith(STEP):
            return "optimizer"
        above = above.cpu_parent
    name = event.name.removeprefix("aten::")
    return next(
        (kind for kind, parts in KINDS.items() if any(part in name for part in parts)), OTHER
    )


def take_step(world: World, optimizer: torch.optim.Optimizer, batch: dict[str, Any]) -> None:
    """Forward, backward, and a step of the optimizer."""
    batch_loss(world.model, batch, OURS).backward()
    optimizer.step()
    optimizer.zero_grad()


def peak_rate(size: int = 2048, repeats: int = 5) -> float:
    """Multiply-adds a second of a plain float32 matrix product: the best of several."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(repeats):
        began = time.process_time()
        torch.mm(left, right)
        best = min(best, time.process_time() - began)
    return size**3 / best


def measure(world: World, steps: int) -> dict[str, Any]:
    """Profile some steps.

    Returns:
        ``shares`` of the time by kind of work, ``multiply_adds`` of the steps by formula and
        ``counted`` by torch, ``seconds`` of CPU time without the profiler, ``rate`` and ``peak`` in
        multiply-adds a second.
    """
    model = world.model.train()
    looked_up = model.lookup_weights()
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.sparse = any(module.weight is weight for weight in looked_up)
    others = [p for p in model.parameters() if all(p is not weight for weight in looked_up)]
    groups = [{"params": looked_up, "rowwise": True}, {"params": others, "rowwise": False}]
    optimizer = RowwiseAdamW(groups, lr=0.0, fused=True)
    batches = [collate(world, OURS, rows) for rows in draw_batches(world, OURS, 0, steps)]
    take_step(world, optimizer, batches[0])
    began = time.process_time()
    for batch in batches:
        take_step(world, optimizer, batch)
    seconds = time.process_time() - began
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for batch in batches:
            take_step(world, optimizer, batch)
    spent: Counter[str] = Counter()
    for event in profiler.events():
        spent[kind_of(event)] += event.self_cpu_time_total
    with FlopCounterMode(display=False) as counter:
        for batch in batches:
            take_step(world, optimizer, batch)
    formula = 3 * sum(sum(multiply_adds(world, batch).values()) for batch in batches)
    return {
        "shares": {kind: time / spent.total() for kind, time in spent.most_common()},
        "multiply_adds": formula,
        "counted": counter.get_total_flops() / 2,
        "seconds": seconds,
        "rate": formula / seconds,
        "peak": peak_rate(),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--env", help="Kedro environment; default: the embedded sample")
    parser.add_argument("--towers", choices=("trained", "paper"), default="trained")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--project", type=Path, default=PROJECT)
    options = parser.parse_args(arguments)
    world = open_world(
        options.project, options.env, towers=options.towers, batch_size=options.batch_size
    )
    found = measure(world, options.steps)
    print("| kind of work | share |\n| --- | ---: |")
    for kind, share in found["shares"].items():
        print(f"| {kind} | {share:.1%} |")
    giga = {name: found[name] / 1e9 for name in ("multiply_adds", "counted", "rate", "peak")}
    print(
        f"\n{giga['multiply_adds'] / options.steps:.1f} billion multiply-adds a step "
        f"(torch counts {giga['counted'] / options.steps:.1f}), "
        f"{found['seconds'] / options.steps:.2f} s: {giga['rate']:.1f} a second, "
        f"{found['rate'] / found['peak']:.0%} of the {giga['peak']:.1f} of a plain matrix product "
        f"({torch.get_num_threads()} threads, CPU time)"
    )


if __name__ == "__main__":
    main()
