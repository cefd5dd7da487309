"""Where the time of a training step or of ranking goes, and how fast it is beside the machine.

A table of the share of each kind of work, the multiply-adds (by the formula of
:func:`rates.multiply_adds`, and as torch counts them), and the share of the rate that a plain
matrix product reaches in the same run. A training step is the trainer's own: its precision, its
clipping of gradients, its optimizer; only its learning rate is 0.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rates import CLOCKS, multiply_adds, peak_rate, synchronize
from throughput import OURS, asked_blocks, draw_batches, rank, sample_test_blocks, shape_of
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode
from worlds import World, add_world_options, world_of

from mkgformer_kedro.training.batches import Collator
from mkgformer_kedro.training.frozen import frozen_images
from mkgformer_kedro.training.trainer import StageTrainer, training_arguments

# Kinds of work, by whole words of the operators' names; the first that has one holds.
KINDS = {
    "matrix products": {"mm", "addmm", "bmm", "baddbmm", "linear", "attention", "convolution"},
    "normalisation": {"norm", "softmax", "logsumexp"},
    "look-ups and scatters": {
        *("embedding", "index", "scatter", "gather", "unique", "unique2", "coalesce"),
    },
    "copies": {"copy", "clone", "cat", "fill", "zero", "zeros", "empty", "to", "pad"},
}
# Kinds of all that is done within a part of the step, by the start of its name.
PARTS = {"Optimizer.step": "clipping and optimizer", "clipping": "clipping and optimizer"}
STEP = "step"
PYTHON = "Python, reading and collating"
OTHER = "element by element, and the rest"


def kind_of(event: Any) -> str:
    """Kind of work of a profiler's event."""
    above = event
    while above is not None:
        for start, kind in PARTS.items():
            if above.name.startswith(start):
                return kind
        above = above.cpu_parent
    if event.name == STEP:
        return PYTHON
    words = set(event.name.rpartition("::")[2].split("_"))
    return next((kind for kind, known in KINDS.items() if words & known), OTHER)


class TrainingStep:
    """One step of the trainer on a batch of queries, from their numbers to updated weights.

    Args:
        world: The world; its model is prepared for training.
        folder: For what the trainer may write.
        precision: ``fp32``, ``bf16`` or ``auto``.

    Attributes:
        model: The model as the trainer calls it; may be set to one compiled.
        collator: What makes a batch of numbers of queries.
    """

    def __init__(self, world: World, folder: Path, precision: str = "fp32") -> None:
        self._world, parameters = world, world.parameters
        world.task.configure(world.model, parameters)
        self.collator = Collator(world.queries, world.store)
        self._frozen: Collator | None = None
        self._trainer = StageTrainer(
            model=world.model,
            args=training_arguments(
                folder,
                parameters,
                batches_per_epoch=1,
                seed=world.seed,
                metric=f"eval_{world.task.dev_metric}",
                precision=precision,
            ),
            eval_dataset=world.test_rows,
            batch_sampler=None,
            learning_rates={"default": 0.0},
            weight_decay=parameters.weight_decay,
            lookup_weights=world.task.lookup_weights(world.model, parameters),
        )
        self._trainer.current_gradient_accumulation_steps = 1
        self.model, self._optimizer = self._trainer.accelerator.prepare(
            world.model, self._trainer.create_optimizer()
        )

    def __call__(self, rows: np.ndarray) -> None:
        """Take the step on the queries ``rows``."""
        self.learn(self.collator(rows))

    def learn(self, batch: dict[str, torch.Tensor]) -> None:
        """Take the step on a batch."""
        self._trainer.training_step(self.model, batch)
        with record_function("clipping"):
            self._trainer._clip_grad_norm(self.model)
        self._optimizer.step()
        self.model.zero_grad()

    @contextmanager
    def frozen(self, rows: np.ndarray, folder: Path) -> Iterator[None]:
        """Freeze the visual layers below the fusion for a while.

        Args:
            rows: The queries of all batches meanwhile, the same each time.
            folder: Where the states of their images are kept.
        """
        collator, world = self.collator, self._world
        if self._frozen is None:
            owners = world.queries.owners[rows]
            images = frozen_images(self._trainer, world.store, owners, folder)
            self._frozen = Collator(world.queries, images)
        below = world.model.base_model.visual_parameters_below_fusion()
        self.collator = self._frozen
        try:
            for parameter in below:
                parameter.requires_grad_(False)
            yield
        finally:
            self.collator = collator
            for parameter in below:
                parameter.requires_grad_(True)


def job_of(
    world: World, name: str, steps: int, folder: Path, precision: str
) -> tuple[list[np.ndarray], Callable[[np.ndarray], Any], float]:
    """What is profiled.

    Args:
        world: The world.
        name: ``training`` or ``ranking``.
        steps: Batches.
        folder: For what the trainer may write.
        precision: ``fp32`` or ``bf16``.

    Returns:
        Numbers of each batch's queries, what works on a batch, and its multiply-adds in all.
    """
    if name == "training":
        batches, factor = draw_batches(world, OURS, 0, steps), 3
        work: Callable[[np.ndarray], Any] = TrainingStep(world, folder, precision)
    else:
        rows = sample_test_blocks(world, steps, np.random.default_rng(world.seed))
        batches, factor = asked_blocks(world, OURS, rows), 1
        world.model.eval()

        def work(rows: np.ndarray) -> Any:
            return rank(world, OURS, rows, precision == "bf16")

    shapes = [shape_of(world, OURS, rows) for rows in batches]
    forward = sum(multiply_adds(world.model.config, shape) for shape in shapes)
    return batches, work, factor * forward


def profiled(batches: Iterable[np.ndarray], work: Callable[[np.ndarray], Any]) -> dict[str, float]:
    """Share of each kind of work in the time that the host takes, the largest first."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for rows in batches:
            with record_function(STEP):
                work(rows)
    spent: Counter[str] = Counter()
    for event in profiler.events():
        spent[kind_of(event)] += event.self_cpu_time_total
    return {kind: time / spent.total() for kind, time in spent.most_common()}


def measure(
    world: World,
    job: str,
    steps: int,
    folder: Path,
    precision: str = "fp32",
    clock: Callable[[], float] = CLOCKS["wall"],
) -> dict[str, Any]:
    """Profile some batches.

    Returns:
        ``shares`` of the time by kind of work, ``multiply_adds`` of the batches by formula and
        ``counted`` by torch, ``seconds`` without the profiler, ``rate`` and ``peak`` in
        multiply-adds a second.
    """
    device = world.model.device
    batches, work, computed = job_of(world, job, steps, folder, precision)
    for rows in batches:
        work(rows)  # what is made at first is not counted
    synchronize(device)
    began = clock()
    for rows in batches:
        work(rows)
    synchronize(device)
    seconds = clock() - began
    shares = profiled(batches, work)
    # torch does not count what its fused attention of processors computes.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        for rows in batches:
            work(rows)
    return {
        "steps": len(batches),
        "shares": shares,
        "multiply_adds": computed,
        "counted": counter.get_total_flops() / 2,
        "seconds": seconds,
        "rate": computed / seconds,
        "peak": peak_rate(torch.bfloat16 if precision == "bf16" else torch.float32, device, clock),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add_world_options(parser)
    parser.add_argument("--job", choices=("training", "ranking"), default="training")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as work:
        folder = Path(work)
        world = world_of(options, folder / "made_up")
        clock = CLOCKS[options.clock]
        found = measure(world, options.job, options.steps, folder, options.precision, clock)
    print("| kind of work | share |\n| --- | ---: |")
    for kind, share in found["shares"].items():
        print(f"| {kind} | {share:.1%} |")
    giga = {name: found[name] / 1e9 for name in ("multiply_adds", "counted", "rate", "peak")}
    print(
        f"\n{giga['multiply_adds'] / found['steps']:.1f} billion multiply-adds a step "
        f"(torch counts {giga['counted'] / found['steps']:.1f}), "
        f"{found['seconds'] / found['steps']:.2f} s: {giga['rate']:.1f} a second, "
        f"{found['rate'] / found['peak']:.0%} of the {giga['peak']:.1f} of a plain matrix product "
        f"({options.precision}, {torch.get_num_threads()} threads, {options.clock} time)"
    )


if __name__ == "__main__":
    main()
