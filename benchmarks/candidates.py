"""Changes that might make a training step faster, each beside the step as it stands.

    python benchmarks/candidates.py --env fb15k_237_img --made-up --batch-size 8

Each takes turns with the step as it stands, on the same batches, at a learning rate of 0. What it
takes once (compiling, starting processes) is told apart, with the steps after which it has paid.
``README.md`` says what was kept.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rates import CLOCKS, multiply_adds, peak_rate
from step_profile import TrainingStep
from throughput import OURS, Clock, draw_batches, measure, shape_of, take_turn
from torch import nn
from worlds import World, add_world_options, world_of

FROZEN = "frozen below the fusion (other results)"


def as_it_stands(step: TrainingStep, batches: Sequence[np.ndarray]) -> None:
    """Make each batch, then take the step."""
    for rows in batches:
        step(rows)


def compiled(step: TrainingStep, batches: Sequence[np.ndarray], model: Any) -> None:
    """The same with a compiled ``model``."""
    plain, step.model = step.model, model
    try:
        as_it_stands(step, batches)
    finally:
        step.model = plain


def channels_last(step: TrainingStep, batches: Sequence[np.ndarray]) -> None:
    """The same with images whose colours lie side by side where patches are embedded."""

    def rearrange(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(each.contiguous(memory_format=torch.channels_last) for each in inputs)

    embeddings = [module for module in step.model.modules() if isinstance(module, nn.Conv2d)]
    hooks = [module.register_forward_pre_hook(rearrange) for module in embeddings]
    try:
        as_it_stands(step, batches)
    finally:
        for hook in hooks:
            hook.remove()


def overlapped(step: TrainingStep, loader: torch.utils.data.DataLoader) -> None:
    """The same with batches that other processes make meanwhile."""
    for batch in loader:
        step.learn(batch)


def frozen(step: TrainingStep, batches: Sequence[np.ndarray], folder: Path) -> None:
    """Other results: the visual layers below the fusion stay as they are, their states are read."""
    with step.frozen(np.concatenate(batches), folder):
        as_it_stands(step, batches)


def candidates(
    step: TrainingStep, batches: Sequence[np.ndarray], workers: int, folder: Path
) -> dict[str, Callable[[], None]]:
    """What trains on all batches, by name; the first is the step as it stands."""
    loader = torch.utils.data.DataLoader(
        np.arange(max(int(rows.max()) for rows in batches) + 1),
        batch_sampler=[rows.tolist() for rows in batches],
        collate_fn=step.collator,
        num_workers=workers,
        persistent_workers=True,
    )
    # Lengths that change become symbols. (`dynamic=True` makes symbols of the sizes of images, too,
    # which torch 2.13 cannot compile.)
    model = torch.compile(step.model)
    return {
        "as it stands": partial(as_it_stands, step, batches),
        "torch.compile, dynamic shapes": partial(compiled, step, batches, model),
        "channels-last image embedding": partial(channels_last, step, batches),
        f"{workers} loader workers": partial(overlapped, step, loader),
        FROZEN: partial(frozen, step, batches, folder),
    }


def start_up(job: Callable[[], None], clock: Clock) -> float:
    """Seconds that a job takes longer at first than a second time."""
    times = []
    for _ in range(2):
        began = clock()
        job()
        times.append(clock() - began)
    return times[0] - times[1]


def rows_of(
    world: World,
    folder: Path,
    *,
    precision: str,
    workers: int,
    rounds: int,
    steps: int,
    clock: Clock,
    chosen: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """Measure.

    Yields:
        For the step as it stands and each chosen candidate ``name``, ``seconds`` a step, ``x`` over
        the step as it stands with its ``range``, ``share`` of the peak, and ``start_up`` seconds.
    """
    step = TrainingStep(world, folder, precision)
    device = world.model.device
    batches = draw_batches(world, OURS, 0, steps)

    def computed(name: str) -> int:
        shapes = [shape_of(world, OURS, rows) for rows in batches]
        shapes = [replace(each, below_fusion=name != FROZEN) for each in shapes]
        return 3 * sum(multiply_adds(world.model.config, each) for each in shapes)

    tried = candidates(step, batches, workers, folder / "visual_states")
    jobs = {
        name: job
        for number, (name, job) in enumerate(tried.items())
        if not number or any(word in name for word in chosen)
    }
    once = {name: start_up(job, clock) for name, job in jobs.items()}
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    peak = partial(peak_rate, dtype, device, clock)
    measured = measure(
        {
            name: lambda number, name=name, job=job: take_turn(
                len(batches), computed(name), job, device, clock
            )
            for name, job in jobs.items()
        },
        dict.fromkeys(jobs, 1),
        1,
        rounds,
        dict.fromkeys(jobs, peak),
    )
    for name, each in measured.items():
        found = each.summary()
        yield {
            "name": name,
            "seconds": found["seconds"],
            "x": found["ratio"],
            "range": found["ratio_range"],
            "share": found["share_of_peak"],
            "start_up": once[name],
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    summary, _, description = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary + description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_world_options(parser)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--workers", type=int, default=1, help="of the loader")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="steps of a turn")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    parser.add_argument(
        "--candidates",
        nargs="+",
        default=["compile", "channels", "workers", "frozen"],
        help="words of the names of those to try (default: all)",
    )
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as work:
        folder = Path(work)
        # Nothing that an earlier run compiled: the start-up is that of a first one.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "compiled")
        rows = list(
            rows_of(
                world_of(options, folder / "made_up"),
                folder,
                precision=options.precision,
                workers=options.workers,
                rounds=options.rounds,
                steps=options.steps,
                clock=CLOCKS[options.clock],
                chosen=options.candidates,
            )
        )
    print("| step | seconds | x | range | share of peak | start-up, s | steps until it pays |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        saved = rows[0]["seconds"] - row["seconds"]
        pays = f"{max(row['start_up'], 0) / saved:,.0f}" if saved > 0 else "-"
        print(
            f"| {row['name']} | {row['seconds']:.3f} | {row['x']:.2f} | "
            f"{row['range'][0]:.2f} - {row['range'][1]:.2f} | {row['share']:.0%} | "
            f"{row['start_up']:.1f} | {pays} |"
        )


if __name__ == "__main__":
    main()
