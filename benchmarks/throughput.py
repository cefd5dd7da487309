"""How fast link prediction trains and ranks, beside the same model run the authors' way.

    python benchmarks/throughput.py                                  # the embedded sample
    python benchmarks/throughput.py --env wn18_img --towers paper    # BERT-base and ViT-B/32
    python benchmarks/throughput.py --env fb15k_237_img --made-up    # neither files nor stages

Both ways share one process, one set of weights and one data set, and take turns, so that whatever
else the machine does meets both. They compute the same losses and the same ranks, which is checked
before anything is timed; what differs is how much is computed to get there. ``README.md`` beside
this file says what is measured and shows results.

Letters in shapes: ``B`` examples, ``T`` text tokens, ``N`` entities, ``V`` words of the vocabulary.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from rates import CLOCKS, Shape, multiply_adds, peak_rate, synchronize
from torch import Tensor, nn
from tqdm import tqdm
from worlds import World, add_world_options, world_of

from mkgformer_kedro.errors import DataError
from mkgformer_kedro.files import written_atomically
from mkgformer_kedro.modeling import MKGformerForLinkPrediction
from mkgformer_kedro.modeling.modeling_mkgformer import multi_answer_binary_cross_entropy
from mkgformer_kedro.training.batches import Collator, ask, asking_order, on_device
from mkgformer_kedro.training.precision import has_bf16
from mkgformer_kedro.training.sampler import BatchSampler
from mkgformer_kedro.training.trainer import attention_of

# Two ways of adding the same float32 numbers: largest difference of a loss, and of a score in
# standard deviations of the scores.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Way:
    """How link prediction is computed. As it stands: this project's way.

    Each field switches on one habit of the authors' code, from the public description of what that
    code does; none of it is the authors' own code. All but the last leave every result as it is.
    """

    item_per_triple: bool = False
    decode_images: bool = False
    images_per_query: bool = False
    full_vocabulary: bool = False
    dense_labels: bool = False
    pad_to_longest: bool = False
    eager_attention: bool = False
    single_precision: bool = False
    images_of_zeros: bool = False


LABELS = {
    "item_per_triple": "one item per triple and direction",
    "decode_images": "images decoded from their files in each batch",
    "images_per_query": "images read and encoded for each query by itself",
    "full_vocabulary": "logits of the whole vocabulary at every position",
    "dense_labels": "dense label rows built in Python loops",
    "pad_to_longest": "every prompt padded to max_length",
    "eager_attention": "eager attention",
    "single_precision": "float32 instead of bfloat16",
    "images_of_zeros": "images of zeros where there are none (other results)",
}
"""What each field of :class:`Way` does, in the words of the report."""

OURS = Way()
AUTHORS = replace(Way(**dict.fromkeys(LABELS, True)), images_of_zeros=False)
WHOLES = {"this project": OURS, "authors' way": AUTHORS}

BEFORE = "this project, earlier"

Clock = Callable[[], float]


def ways_to_train(world: World, mixed_precision: bool) -> dict[str, Way]:
    """The ways that training is timed in, by name: both wholes, and each cause alone."""
    idle = {"single_precision": not mixed_precision, "decode_images": world.files is world.store}
    ways = dict(WHOLES)
    for field in fields(Way):
        if not idle.get(field.name):
            ways[f"+ {LABELS[field.name]}"] = Way(**{field.name: True})
    ways["authors' way, and images of zeros"] = replace(AUTHORS, images_of_zeros=True)
    return ways


def ways_to_rank(mixed_precision: bool) -> dict[str, Way]:
    """The ways that ranking is timed in, by name: both wholes, and this project's in float32."""
    if not mixed_precision:
        return WHOLES
    return {**WHOLES, f"+ {LABELS['single_precision']}": Way(single_precision=True)}


def type_of(way: Way, mixed_precision: bool) -> torch.dtype:
    """What a way computes its matrix products in."""
    return torch.bfloat16 if mixed_precision and not way.single_precision else torch.float32


def items_per_epoch(world: World, way: Way) -> np.ndarray:
    """Query numbers of one epoch; with one item per triple, a query stands once for each answer."""
    rows = world.train_rows
    return np.repeat(rows, world.queries.answers.lengths[rows]) if way.item_per_triple else rows


def draw_batches(world: World, way: Way, epoch: int, count: int) -> list[np.ndarray]:
    """Some batches of an epoch, spread evenly over its short and long prompts."""
    lengths = world.queries.lengths
    sampler = BatchSampler(
        items_per_epoch(world, way),
        world.queries.owners,
        lengths,
        batch_size=world.parameters.batch_size,
        items_per_owner=1 if way.images_per_query else world.parameters.queries_per_entity,
        shuffle=True,
        seed=world.seed,
    )
    sampler.set_epoch(epoch)
    batches = sorted(map(np.array, sampler), key=lambda batch: lengths[batch].max())
    rng = np.random.default_rng([world.seed, epoch])
    return [batches[place] for place in _spread(count, len(batches), rng)]


def _spread(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` places out of ``size`` (or all of them) at equal distances from a random start."""
    count = min(count, size)
    return ((np.arange(count) + rng.random()) * size / count).astype(int)


def collate(world: World, way: Way, rows: np.ndarray) -> dict[str, Tensor]:
    """Model inputs and ``labels`` of the queries ``rows``."""
    queries = world.queries
    store = world.files if way.decode_images else world.store
    batch = Collator(queries, None if way.images_per_query else store)(rows)
    if way.images_per_query:
        images = store.read(queries.entity[rows])
        batch |= {name: torch.from_numpy(array) for name, array in images.items()}
    if way.pad_to_longest:
        room = (0, queries.prompts.max_length - batch["input_ids"].shape[1])
        for name, filler in (("input_ids", queries.prompts.pad_token_id), ("attention_mask", 0)):
            batch[name] = nn.functional.pad(batch[name], room, value=filler)
    if way.dense_labels:
        batch["labels"] = torch.stack([_dense_row(world, row) for row in rows])
    return batch


def _dense_row(world: World, row: int) -> Tensor:
    """Targets of one query, ``(N,)``."""
    targets = torch.zeros(world.model.config.num_entities)
    for answer in world.queries.answers[row].tolist():
        targets[answer] = 1.0
    return targets


def entity_logits(model: MKGformerForLinkPrediction, inputs: dict[str, Tensor], way: Way) -> Tensor:
    """Score of every entity at the mask, ``(B, N)``."""
    if not way.full_vocabulary:
        return model(**inputs).logits
    config, graph = model.config, model.mkgformer.graph_embeddings
    first = config.entity_token_start
    words = torch.cat(
        [model.get_input_embeddings().weight, graph.entities.weight, graph.relations.weight]
    )
    bias = nn.functional.pad(model.entity_bias, (first, config.num_relations))
    states = model.transform(model.mkgformer(**inputs).last_hidden_state)
    logits = nn.functional.linear(states, words, bias)  # (B, T, V)
    example, position = (inputs["input_ids"] == config.mask_token_id).nonzero(as_tuple=True)
    return logits[example, position, first : first + config.num_entities]


def batch_loss(model: MKGformerForLinkPrediction, batch: dict[str, Tensor], way: Way) -> Tensor:
    """Binary cross-entropy of a batch from :func:`collate`, on the model's device."""
    inputs = on_device(batch, model.device)
    labels = inputs.pop("labels")
    logits = entity_logits(model, inputs, way)
    if way.dense_labels:
        return nn.functional.binary_cross_entropy_with_logits(logits.float(), labels)
    return multi_answer_binary_cross_entropy(logits, labels)


def set_up(model: MKGformerForLinkPrediction, way: Way) -> None:
    """Give the model the attention kernel of a way, and its treatment of missing images."""
    model.set_attn_implementation("eager" if way.eager_attention else "sdpa")
    model.config.mask_missing_images = not way.images_of_zeros


def train(
    world: World,
    way: Way,
    batches: Sequence[np.ndarray],
    optimizer: torch.optim.Optimizer,
    mixed_precision: bool,
) -> None:
    """Take one optimizer step for each batch."""
    model = world.model
    for rows in batches:
        batch = collate(world, way, rows)
        bf16, device = type_of(way, mixed_precision) == torch.bfloat16, model.device.type
        with torch.autocast(device, torch.bfloat16, enabled=bf16), attention_of(device, bf16):
            loss = batch_loss(model, batch, way)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def asked_blocks(world: World, way: Way, rows: np.ndarray) -> list[np.ndarray]:
    """Query numbers of the blocks in which a way asks about the queries ``rows``."""
    rows = asking_order(world.queries, rows)
    if way.item_per_triple:
        rows = rows[world.queries.answers.flat(rows)[0]]
    size = world.parameters.dev_batch_size
    return np.split(rows, range(size, len(rows), size))


def shape_of(world: World, way: Way, rows: np.ndarray) -> Shape:
    """What a way computes for a batch of the queries ``rows``."""
    queries = world.queries
    owners = queries.entity[rows]
    seen = owners[world.store.has_images[owners]]
    groups = len(seen) if way.images_per_query else len(np.unique(seen))
    if way.images_of_zeros:
        # One row of zeros is shared by all that lack images.
        groups, seen = len(rows) if way.images_per_query else groups + 1, rows
    longest = queries.prompts.max_length if way.pad_to_longest else queries.lengths[rows].max()
    return Shape(len(rows), int(longest), len(seen), groups, way.full_vocabulary)


@torch.no_grad()
def rank(world: World, way: Way, rows: np.ndarray, mixed_precision: bool = False) -> pd.DataFrame:
    """Filtered ranks of all answers of the queries ``rows``.

    Args:
        world: The world.
        way: One of :func:`ways_to_rank`.
        rows: ``(m,)`` query numbers.
        mixed_precision: Whether bfloat16 is used where the way does not say otherwise.

    Returns:
        One row per answer, both ways in the same order: ``rank_optimistic`` and
        ``rank_pessimistic``; sorting knows no ties, so the authors' way gives one rank for both.
    """
    rows = asking_order(world.queries, rows)
    if not way.item_per_triple:
        half = type_of(way, mixed_precision) == torch.bfloat16
        blocks = ask(
            world.model,
            Collator(world.queries, world.store),
            rows,
            batch_size=world.parameters.dev_batch_size,
            what="Ranking",
            of="queries",
            precision="bf16" if half else "fp32",
        )
        scored = ((numbers, outputs.logits.float()) for numbers, outputs in blocks)
        return world.queries.all_ranks(rows, scored)
    _, answers = world.queries.answers.flat(rows)
    ranks = []
    for numbers in asked_blocks(world, way, rows):
        wanted = answers[len(ranks) : len(ranks) + len(numbers)]
        inputs = collate(world, way, numbers)
        del inputs["labels"]
        scores = entity_logits(world.model, on_device(inputs, world.model.device), way)
        for row, (number, answer) in enumerate(zip(numbers, wanted, strict=True)):
            others = [other for other in world.queries.known[number].tolist() if other != answer]
            scores[row, others] = -torch.inf
        places = scores.argsort(dim=1, descending=True).argsort(dim=1)
        ranks += [1 + int(places[row, answer]) for row, answer in enumerate(wanted)]
    return pd.DataFrame({"rank_optimistic": ranks, "rank_pessimistic": ranks})


def check_agreement(world: World, rows: np.ndarray) -> dict[str, Any]:
    """Make sure that both ways compute the same, in float32 and without dropout.

    Args:
        world: The world.
        rows: Test queries to rank.

    Returns:
        ``loss_difference``: the largest difference of each way's loss from this project's on the
        same batch; and how many ranks agree.

    Raises:
        AssertionError: A loss, a score or a rank differs by more than float noise.
    """
    model = world.model.eval()
    # Half of the batch as it comes, half of queries that have images, which may be few in all.
    drawn = draw_batches(world, OURS, 0, 1)[0]
    has_images = world.store.has_images[world.queries.entity[world.train_rows]]
    half = len(drawn) // 2
    batch_rows = np.concatenate([drawn[half:], world.train_rows[has_images][:half]])
    losses, logits = {}, {}
    # Left to itself, cuDNN embeds patches in TF32, which is no float32.
    exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
    with torch.no_grad(), exact:
        for name, way in ways_to_train(world, mixed_precision=False).items():
            if way.images_of_zeros:
                continue
            set_up(model, way)
            batch = collate(world, way, batch_rows)
            losses[name] = float(batch_loss(model, batch, way))
            del batch["labels"]
            logits[name] = entity_logits(model, on_device(batch, model.device), way)
    reference = logits["this project"]
    loss_differences, score_differences = {}, {}
    for name in losses:
        loss_differences[name] = abs(losses[name] - losses["this project"])
        largest = (logits[name] - reference).abs().max() / reference.std()
        score_differences[name] = float(largest)
        noise = max(loss_differences[name], score_differences[name])
        if noise > _TOLERANCE:
            raise AssertionError(
                f"{name}: the loss differs by {loss_differences[name]:.2g}, scores by up to "
                f"{score_differences[name]:.2g} standard deviations"
            )
    tables = []
    for way in (OURS, AUTHORS):
        set_up(model, way)
        tables.append(rank(world, way, rows))
    ours, authors = tables
    ordinal = authors["rank_optimistic"]
    outside = np.maximum(ours["rank_optimistic"] - ordinal, ordinal - ours["rank_pessimistic"])
    # Noise moves an answer past the entities that score within it: a few in ten thousand.
    allowed = max(1, model.config.num_entities // 1000)
    largest = max(0, int(outside.max()))
    if largest > allowed:
        raise AssertionError(f"a rank differs by {largest}, more than float noise explains")
    return {
        "loss_difference": loss_differences,
        "score_difference_in_standard_deviations": score_differences,
        "ranks": len(ordinal),
        "ranks_equal": int((outside <= 0).sum()),
        "largest_rank_difference": largest,
    }


@dataclass(frozen=True)
class Turn:
    """What one way took in one round.

    Attributes:
        items: Items it handled.
        seconds: Seconds it took.
        multiply_adds: Multiply-adds of its matrix products.
        peak_bytes: The highest memory in use; None where not known.
    """

    items: int
    seconds: float
    multiply_adds: float
    peak_bytes: int | None


@dataclass(frozen=True)
class Measurement:
    """What one way was measured at.

    Attributes:
        items: Items the way needs for the whole job (an epoch, or the test split).
        answers: Triples and directions that the whole job answers, whatever the way.
        seconds: Seconds the whole job would take, extrapolated in each round.
        ratios: ``seconds`` over those of this project's way in the same round.
        shares: Multiply-adds a second in each round, as a share of a plain matrix product's.
        peak_bytes: Median over rounds of the highest memory in use; None where not known.
    """

    items: int
    answers: int
    seconds: list[float]
    ratios: list[float]
    shares: list[float]
    peak_bytes: int | None

    def summary(self) -> dict[str, Any]:
        """The medians, as they are reported."""
        seconds = statistics.median(self.seconds)
        return {
            "items": self.items,
            "items_per_second": self.items / seconds,
            "answers_per_second": self.answers / seconds,
            "seconds": seconds,
            "ratio": statistics.median(self.ratios),
            "ratio_range": [min(self.ratios), max(self.ratios)],
            "share_of_peak": statistics.median(self.shares),
            "peak_bytes": self.peak_bytes,
        }


def take_turn(
    items: int,
    multiply_adds: float,
    job: Callable[[], Any],
    device: torch.device,
    clock: Callable[[], float],
) -> Turn:
    """Time a job, waiting for the device before and behind it."""
    with _PeakMemory(device) as memory:
        synchronize(device)
        began = clock()
        job()
        synchronize(device)
        seconds = clock() - began
    return Turn(items, seconds, multiply_adds, memory.peak)


def measure(
    jobs: dict[str, Callable[[int], Turn]],
    totals: dict[str, int],
    answers: int,
    rounds: int,
    peaks: dict[str, Callable[[], float]],
    before: Callable[[int], Turn] | None = None,
) -> dict[str, Measurement]:
    """Let jobs take turns: A B C A B C.

    Args:
        jobs: By name, a function that takes the turn of a round. The first is the one others are
            compared with.
        totals: Items of the whole of each job.
        answers: Triples and directions that the whole answers.
        rounds: Measured rounds.
        peaks: What measures the rate of a plain matrix product in the precision of each job; it is
            called in each round, and the best counts.
        before: One more job: the first one, as an earlier state of this project does it.
    """
    if before is not None:
        first = next(iter(jobs))
        jobs, totals, peaks = (
            {first: each[first], BEFORE: value, **each}
            for each, value in ((jobs, before), (totals, totals[first]), (peaks, peaks[first]))
        )
    turns: dict[str, list[Turn]] = {name: [] for name in jobs}
    best = dict.fromkeys(peaks.values(), 0.0)
    with tqdm(total=rounds * len(jobs), unit="run") as progress:
        for number in range(rounds):
            best = {rate: max(known, rate()) for rate, known in best.items()}
            for name, job in jobs.items():
                turns[name].append(job(number))
                progress.update()
    seconds = {
        name: [turn.seconds / turn.items * totals[name] for turn in turns[name]] for name in jobs
    }
    reference = seconds[next(iter(jobs))]
    memory = {name: [turn.peak_bytes for turn in turns[name]] for name in jobs}
    return {
        name: Measurement(
            totals[name],
            answers,
            seconds[name],
            [own / theirs for own, theirs in zip(seconds[name], reference, strict=True)],
            [turn.multiply_adds / turn.seconds / best[peaks[name]] for turn in turns[name]],
            None if None in memory[name] else int(statistics.median(memory[name])),
        )
        for name in jobs
    }


def training_turns(
    world: World, ways: dict[str, Way], steps: int, mixed_precision: bool, clock: Clock
) -> dict[str, Callable[[int], Turn]]:
    """For each way what trains on ``steps`` batches of the epoch of a round."""
    model = world.model
    # At a learning rate of 0 the optimizer does all its work and the weights stay as they are.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)

    def take(way: Way, number: int) -> Turn:
        set_up(model.train(), way)
        batches = draw_batches(world, way, number, steps)
        items = sum(len(batch) for batch in batches)
        forward = sum(multiply_adds(model.config, shape_of(world, way, rows)) for rows in batches)
        # What the last way left behind, in caches and in memory to be had, is not this one's cost.
        train(world, way, batches[:1], optimizer, mixed_precision)
        return take_turn(
            items,
            3 * forward,
            lambda: train(world, way, batches, optimizer, mixed_precision),
            model.device,
            clock,
        )

    return {name: partial(take, way) for name, way in ways.items()}


def measure_training(
    world: World,
    ways: dict[str, Way],
    rounds: int,
    steps: int,
    mixed_precision: bool,
    clock: Clock = time.perf_counter,
    before: Before | None = None,
) -> dict[str, Measurement]:
    """Time ``steps`` batches of each way in each round, and extrapolate to an epoch."""
    jobs = training_turns(world, ways, steps, mixed_precision, clock)
    return measure(
        jobs,
        {name: len(items_per_epoch(world, way)) for name, way in ways.items()},
        world.answers(world.train_rows),
        rounds,
        peaks_of(world, ways, mixed_precision, clock),
        before and partial(before.take, "training"),
    )


def peaks_of(
    world: World, ways: dict[str, Way], mixed_precision: bool, clock: Clock
) -> dict[str, Callable[[], float]]:
    """For each way what measures the rate of a plain matrix product in its precision."""
    types = {name: type_of(way, mixed_precision) for name, way in ways.items()}
    rates = {
        dtype: partial(peak_rate, dtype, world.model.device, clock) for dtype in types.values()
    }
    return {name: rates[dtype] for name, dtype in types.items()}


def ranking_turns(
    world: World, ways: dict[str, Way], blocks: int, mixed_precision: bool, clock: Clock
) -> dict[str, Callable[[int], Turn]]:
    """For each way what ranks ``blocks`` blocks of test queries, the same ones for all ways."""
    model = world.model

    def take(way: Way, number: int) -> Turn:
        set_up(model.eval(), way)
        rows = sample_test_blocks(world, blocks, np.random.default_rng([world.seed, number]))
        items = world.answers(rows) if way.item_per_triple else len(rows)
        forward = sum(
            multiply_adds(model.config, shape_of(world, way, block))
            for block in asked_blocks(world, way, rows)
        )
        rank(world, way, rows[: world.parameters.dev_batch_size], mixed_precision)
        return take_turn(
            items, forward, lambda: rank(world, way, rows, mixed_precision), model.device, clock
        )

    return {name: partial(take, way) for name, way in ways.items()}


def measure_evaluation(
    world: World,
    rounds: int,
    blocks: int,
    mixed_precision: bool,
    clock: Clock = time.perf_counter,
    before: Before | None = None,
) -> dict[str, Measurement]:
    """Time the ranking of ``blocks`` blocks of test queries, the same for all ways."""
    answers = world.answers(world.test_rows)
    ways = ways_to_rank(mixed_precision)
    return measure(
        ranking_turns(world, ways, blocks, mixed_precision, clock),
        {
            name: answers if way.item_per_triple else len(world.test_rows)
            for name, way in ways.items()
        },
        answers,
        rounds,
        peaks_of(world, ways, mixed_precision, clock),
        before and partial(before.take, "ranking"),
    )


class Before:
    """An earlier state of this project, in a process of its own that takes turns when told to.

    Its own copy of this script measures it: one that knows ``--serve``.

    Args:
        checkout: Its folder, whole, and with ``data/`` unless the graph is made up.
        arguments: The command line of this process.
    """

    def __init__(self, checkout: Path, arguments: Sequence[str]) -> None:
        self._child = subprocess.Popen(
            [
                sys.executable,
                str(checkout / "benchmarks" / "throughput.py"),
                *arguments,
                "--project",
                str(checkout),
                "--serve",
            ],
            env=os.environ | {"PYTHONPATH": str(checkout.resolve() / "src")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Before:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.communicate()  # the end of its input is the end of its work

    def take(self, job: str, number: int) -> Turn:
        """Let it take its turn in a round of a job, ``training`` or ``ranking``."""
        with suppress(BrokenPipeError):  # it has ended, as the empty answer says
            print(job, number, file=self._child.stdin, flush=True)
        answer = self._child.stdout.readline()
        if not answer:
            sys.exit("The earlier state ended, see above.")
        return Turn(**json.loads(answer))


def serve(
    world: World, steps: int, mixed_precision: bool, clock: Clock, lines: Iterable[str]
) -> Iterator[str]:
    """Take the turns that :class:`Before` asks for: a line for each, a line in return."""
    ways = {"this project": OURS}
    jobs = {
        "training": training_turns(world, ways, steps, mixed_precision, clock),
        "ranking": ranking_turns(world, ways, steps, mixed_precision, clock),
    }
    for line in lines:
        job, number = line.split()
        yield json.dumps(asdict(jobs[job]["this project"](int(number))))


def sample_test_blocks(world: World, blocks: int, rng: np.random.Generator) -> np.ndarray:
    """Query numbers of some blocks of the test split, spread evenly over it."""
    size = world.parameters.dev_batch_size
    parts = np.split(world.test_rows, np.arange(size, len(world.test_rows), size))
    return np.concatenate([parts[place] for place in _spread(blocks, len(parts), rng)])


class _PeakMemory:
    """The highest memory in use within a block: of the GPU, or this process's resident memory.

    Linux alone keeps a peak of resident memory that can be reset; elsewhere ``peak`` is None.
    """

    peak: int | None = None

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._reset, self._status = Path("/proc/self/clear_refs"), Path("/proc/self/status")

    def __enter__(self) -> _PeakMemory:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._reset.exists():
            self._reset.write_text("5")
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self._device)
        elif self._reset.exists():
            lines = dict(line.split(":", 1) for line in self._status.read_text().splitlines())
            self.peak = int(lines["VmHWM"].split()[0]) * 1024


def describe(
    world: World, mixed_precision: bool, rounds: int, steps: int, clock: str
) -> dict[str, Any]:
    """Settings and machine, as they head every report."""
    model, parameters = world.model, world.parameters
    text, vision = model.config.text_config, model.config.vision_config
    with_images = world.store.has_images[world.queries.entity[world.train_rows]].mean()
    device = model.device
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    return {
        "data set": f"{world.name}: {model.config.num_entities:,} entities, "
        f"{world.answers(world.train_rows):,} triples and directions in train, "
        f"{len(world.train_rows):,} distinct queries, {with_images:.0%} of them with images",
        "model": f"text {text.num_hidden_layers} x {text.hidden_size}, vision "
        f"{vision.num_hidden_layers} x {vision.hidden_size}, "
        f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f} M parameters, "
        f"{text.vocab_size:,} words",
        "images": "lie decoded: neither way decodes them"
        if world.files is world.store
        else "decoded from files in each batch by the authors' way",
        "batch": f"{parameters.batch_size} items in training, {parameters.dev_batch_size} in "
        f"ranking, max_length {parameters.max_length}",
        "precision": "bfloat16 autocast, as the trainer and experts do it; the authors' way in "
        "float32"
        if mixed_precision
        else "float32",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else machine,
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"Python {platform.python_version()}",
        "measured": f"{clock} time, median of {rounds} rounds of {steps} batches, taking turns",
        "seed": world.seed,
    }


def report_lines(
    settings: dict[str, Any],
    agreement: dict[str, Any],
    training: dict[str, Measurement],
    evaluation: dict[str, Measurement],
) -> Iterator[str]:
    """The printed report."""
    yield from (f"{name:10} {value}" for name, value in settings.items())
    yield ""
    yield (
        f"Agreement: losses differ by at most {max(agreement['loss_difference'].values()):.1g}; "
        f"{agreement['ranks_equal']} of {agreement['ranks']} ranks are equal, the others differ by "
        f"at most {agreement['largest_rank_difference']}."
    )
    for title, whole, measurements in (
        ("Training", "s/epoch", training),
        ("Ranking", "s/test split", evaluation),
    ):
        yield ""
        yield (
            f"{title:56}{'items':>9}{'items/s':>9}{'triples/s':>11}{whole:>14}{'x':>8}"
            f"{'range':>14}{'share of peak':>15}{'memory':>10}"
        )
        for name, measurement in measurements.items():
            row = measurement.summary()
            low, high = row["ratio_range"]
            memory = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.2f} GiB"
            spread = f"{low:.2f} - {high:.2f}"
            yield (
                f"{name:56}{row['items']:>9,}{row['items_per_second']:>9.1f}"
                f"{row['answers_per_second']:>11.1f}{row['seconds']:>14.1f}{row['ratio']:>8.2f}"
                f"{spread:>14}{row['share_of_peak']:>15.0%}{memory:>10}"
            )
    yield ""
    yield (
        "triples/s counts triples and directions answered; x is time over that of this project; "
        "share of peak: multiply-adds a second over those of a plain matrix product."
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    summary, _, description = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=summary + description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_world_options(parser)
    parser.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="of this project's way; auto: bf16 on a GPU that has it. The authors' is fp32",
    )
    parser.add_argument(
        "--wholes", action="store_true", help="leave out the authors' habits one by one"
    )
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds (default: 3)")
    parser.add_argument("--steps", type=int, default=2, help="batches per round (default: 2)")
    parser.add_argument(
        "--clock",
        choices=tuple(CLOCKS),
        default="wall",
        help="cpu: CPU time, for a machine that is shared; use it with OMP_NUM_THREADS=1",
    )
    parser.add_argument(
        "--before",
        type=Path,
        metavar="CHECKOUT",
        help="time an earlier state of this project, too: a checkout of it and, without --made-up, "
        "its data/",
    )
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="write all figures to this file, as JSON")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and options.clock == "cpu":
        parser.error("CPU time says nothing about a GPU: leave --clock at wall")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the figures where asked to."""
    options = parse(arguments)
    mixed_precision = options.precision == "bf16" or (
        options.precision == "auto" and options.device == "cuda" and has_bf16("cuda")
    )
    given = options.rounds, options.steps, mixed_precision, CLOCKS[options.clock]
    with ExitStack() as stack:
        try:
            world = world_of(options, Path(stack.enter_context(TemporaryDirectory())))
            if options.serve:
                for line in serve(world, *given[1:], sys.stdin):
                    print(line, flush=True)
                return
            sample = sample_test_blocks(world, options.steps, np.random.default_rng(options.seed))
            agreement = check_agreement(world, sample)
        except DataError as error:
            sys.exit(str(error))
        before = None
        if options.before is not None:
            arguments = sys.argv[1:] if arguments is None else arguments
            before = stack.enter_context(Before(options.before, arguments))
        ways = WHOLES if options.wholes else ways_to_train(world, mixed_precision)
        training = measure_training(world, ways, *given, before)
        ranking = measure_evaluation(world, *given, before)
    settings = describe(world, mixed_precision, options.rounds, options.steps, options.clock)
    print("\n".join(report_lines(settings, agreement, training, ranking)))
    if options.output is not None:
        results = {
            "settings": settings,
            "agreement": agreement,
            **{
                job: {name: {**each.summary(), **asdict(each)} for name, each in result.items()}
                for job, result in (("training", training), ("evaluation", ranking))
            },
        }
        with written_atomically(options.output) as temporary:
            temporary.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
