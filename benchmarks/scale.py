"""What a graph of a million entities takes: time and memory by stage, and growth curves.

    python benchmarks/scale.py stages --work FOLDER --entities 10000 100000 1000000
    python benchmarks/scale.py curves --work FOLDER
    python benchmarks/scale.py training --work FOLDER

``stages`` makes a seeded graph and a tiny text tower, runs the project's own stages on them (each
in a process of its own, whose peak memory is that of the stage), and prints a table. ``curves``
asks and ranks with one model while queries, entities, tokens or images grow; ``training`` takes
steps of training while entities, tokens or images grow, with a full softmax, with a sampled one,
and with a sampled one over entities in half precision.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import yaml
from transformers import BertConfig, BertForMaskedLM, BertTokenizer
from worlds import (
    PROJECT,
    MadeUp,
    made_up_names,
    made_up_queries,
    made_up_store,
    made_up_task,
    made_up_words,
    untrained_model,
)

from mkgformer_kedro.datasets.visual_store import RoleLayout
from mkgformer_kedro.evaluation.ranking.predictions import rank_queries
from mkgformer_kedro.training.batches import Collator, ask
from mkgformer_kedro.training.tasks.link_prediction import LinkPredictionParameters
from mkgformer_kedro.training.trainer import StageTrainer, training_arguments

RELATIONS = 24
TRIPLES_PER_ENTITY = 2
HELD_OUT = 500  # triples of dev, and of test, at most: some 1,000 queries
STAGES = {
    "ingestion": "link_prediction",
    "image_association": "link_prediction",
    "entity_modeling": "link_prediction",
    "finetuning": "link_prediction",
    "cell": "cell",
}
MEANING = {
    "ingestion": "ingestion",
    "image_association": "image association (none)",
    "entity_modeling": "stage 1",
    "finetuning": "{steps} training steps",
    "cell": "ranking of {queries} queries",
}
TOWER = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 160,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}
POINT = {"queries": 1_000, "entities": 10_000, "tokens": 32, "images": 0}
CURVES = {
    "queries": (1_000, 10_000, 100_000),
    "entities": (10_000, 100_000, 1_000_000),
    "tokens": (16, 32, 64, 128),
    "images": (0, 1, 3, 10),
}


def make_graph(folder: Path, entities: int, seed: int) -> None:
    """Write a graph's files: triples lead from family to family, and to popular entities.

    Args:
        folder: Where they go.
        entities: Number of entities, each the head of some triple.
        seed: Seed of everything random.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    head = np.repeat(np.arange(entities), TRIPLES_PER_ENTITY)
    relation = rng.integers(0, RELATIONS, len(head))
    # A third of the tails is near what head and relation say; the others are drawn by popularity.
    near = (head + relation * (entities // RELATIONS) + rng.integers(1, 9, len(head))) % entities
    popular = (entities * rng.random(len(head)) ** 3).astype(np.int64)
    tail = np.where(rng.random(len(head)) < 1 / 3, near, popular)
    triples = pd.DataFrame({"head": head, "relation": relation, "tail": tail}).drop_duplicates()
    triples = triples[triples["head"] != triples["tail"]].sample(frac=1, random_state=seed)
    names = {
        "head": np.char.add("e", np.arange(entities).astype(str)),
        "relation": np.char.add("r", np.arange(RELATIONS).astype(str)),
    }
    names["tail"] = names["head"]
    lines = pd.DataFrame({column: names[column][triples[column]] for column in triples})
    held_out = min(HELD_OUT, len(lines) // 10)
    parts = {
        "dev.tsv": lines.iloc[:held_out],
        "test.tsv": lines.iloc[held_out : 2 * held_out],
        "train.tsv": lines.iloc[2 * held_out :],
        "entities.txt": pd.DataFrame(names["head"]),
        "relations.txt": pd.DataFrame(names["relation"]),
        "entity2text.txt": pd.DataFrame({0: names["head"], 1: made_up_names(entities, 3, seed)}),
        "relation2text.txt": pd.DataFrame({0: names["relation"], 1: made_up_words()[:RELATIONS]}),
    }
    for name, table in parts.items():
        table.to_csv(folder / name, sep="\t", header=False, index=False)


def make_tower(folder: Path, width: int = 64) -> Path:
    """Write a text tower of two layers that knows the made-up words, untrained."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *made_up_words()]
    pieces += ["is", "the", "description", "of"]
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)})
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=width, **TOWER)
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_project(work: Path, entities: int, steps: int, seed: int, width: int, half: bool) -> Path:
    """A project folder beside this one: its code and base configuration, and the graph.

    Args:
        work: Where it is made; what lies there is replaced.
        entities: Number of entities.
        steps: Training steps.
        seed: Seed of the graph.
        width: Width of the text tower and of the entities' embeddings.
        half: Whether these learn in half precision.
    """
    shutil.rmtree(work, ignore_errors=True)
    for name in ("conf/scale", "conf/local"):
        (work / name).mkdir(parents=True)
    for name in ("src", "conf/base"):
        shutil.copytree(PROJECT / name, work / name)
    for name in ("pyproject.toml", "conf/logging.yml"):
        shutil.copy(PROJECT / name, work / name)
    make_graph(work / "data/01_raw/scale", entities, seed)
    tower = make_tower(work / "tower", width)
    settings = {
        "globals": {
            "dataset": "scale",
            "link_prediction": {"folder": "data/01_raw/scale", "images": None},
        },
        "parameters": {
            "model": {
                "text_tower": str(tower),
                "vision_config": VISION,
                "config": {"num_fusion_layers": 1},
            }
        },
        "parameters_link_prediction": {
            "link_prediction": {
                "ingestion": {
                    "entity_texts": "name",
                    "max_inverse_leak": None,
                    "max_split_overlap": None,
                },
                "image_association": {"slots": {"full": {"size": 32, "count": 1}}},
                "entity_modeling": {"max_length": 24, "encoding_batch_size": 256},
                "finetuning": {
                    "max_steps": steps,
                    "max_length": 24,
                    "dev_queries": 100,
                    "log_every": 50,
                    "sampled_softmax": {"negatives": 1024, "uniform": 0.25},
                    "half_precision_entities": half,
                },
            }
        },
    }
    for name, values in settings.items():
        (work / f"conf/scale/{name}.yml").write_text(yaml.safe_dump(values))
    return work


def run_stages(work: Path, stages: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Run stages one after the other, each in a process of its own.

    Yields:
        ``stage``, ``seconds``, ``cpu_seconds`` and ``peak`` (GiB).
    """
    variables = os.environ | {"PYTHONPATH": str(work / "src"), "DO_NOT_TRACK": "true"}
    for stage in stages:
        command = [sys.executable, "-m", "kedro", "run", "--env", "scale"]
        command += ["--pipelines", STAGES[stage], "--namespaces", f"link_prediction.{stage}"]
        began = time.perf_counter()
        with (work / f"{stage}.log").open("w") as log:
            child = subprocess.Popen(command, cwd=work, env=variables, stdout=log, stderr=log)
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit((work / f"{stage}.log").read_text()[-4000:])
        yield {
            "stage": stage,
            "seconds": time.perf_counter() - began,
            "cpu_seconds": used.ru_utime + used.ru_stime,
            "peak": used.ru_maxrss / 2**20,
        }


def show_stages(options: argparse.Namespace) -> None:
    """Print a table of stages for each number of entities, as rows come in."""
    print("| entities | stage | seconds | CPU seconds | peak GiB |")
    print("| ---: | --- | ---: | ---: | ---: |", flush=True)
    for entities in options.entities:
        work = options.work / f"scale_{entities}"
        if options.stages == list(STAGES):
            make_project(work, entities, options.steps, options.seed, options.width, options.half)
        for row in run_stages(work, options.stages):
            meaning = MEANING[row["stage"]]
            if row["stage"] == "cell":
                queries = (
                    work / "data/02_intermediate/scale/link_prediction/ingestion/queries.parquet"
                )
                split = pd.read_parquet(queries, columns=["split"])["split"]
                meaning = meaning.format(queries=f"{(split == 'test').sum():,}")
            print(
                f"| {entities:,} | {meaning.format(steps=options.steps)} | {row['seconds']:.0f} | "
                f"{row['cpu_seconds']:.0f} | {row['peak']:.2f} |",
                flush=True,
            )


class World(NamedTuple):
    """A model and questions for it.

    Attributes:
        model: Untrained model.
        task: The task, which knows entities and relations.
        queries: Table of questions with an answer each.
        triples: The triples that these ask for.
        items: The questions, encoded.
        store: Images of the entities asked about.
    """

    model: Any
    task: Any
    queries: pd.DataFrame
    triples: pd.DataFrame
    items: Any
    store: Any


def make_world(
    tower: Path, work: Path, queries: int, entities: int, tokens: int, images: int
) -> World:
    """Make a world of a point of a curve.

    Args:
        tower: Text tower.
        work: Folder for the visual store.
        queries: Number of queries.
        entities: Number of entities.
        tokens: Tokens of every prompt.
        images: Images of every entity that is asked about.
    """
    asked = min(entities, queries, 500)
    sizes = MadeUp(entities, 1, tokens, images, asked, -(-queries // asked), test_answers=1)
    store = made_up_store(work, sizes, {"full": RoleLayout(32, max(images, 1))})
    text = TOWER | {"hidden_size": BertConfig.from_pretrained(tower).hidden_size}
    torch.manual_seed(0)
    model, tokenizer = untrained_model(
        store, entities, 1, tower, text, vision_config=VISION, num_fusion_layers=1
    )
    task, table = made_up_task(sizes), made_up_queries(sizes, "test")
    is_tail, answer = table["direction"] == "tail", np.concatenate(table["answers"])
    triples = pd.DataFrame(
        {
            "head": table["entity"].where(is_tail, answer),
            "relation": table["relation"],
            "tail": table["entity"].where(~is_tail, answer),
        }
    )
    return World(model, task, table, triples, task.encode(table, tokenizer, model.config), store)


def rank_point(tower: Path, work: Path, **point: int) -> tuple[float, float]:
    """Ask a model about queries and rank all entities for each.

    Args:
        tower: Text tower.
        work: Folder for the visual store.
        **point: As for :func:`make_world`.

    Returns:
        CPU seconds, and how much the peak of memory lies above what the model takes, in GiB.
    """
    world = make_world(tower, work, **point)
    held, began = forget_peak(), time.process_time()
    blocks = ask(
        world.model,
        Collator(world.items, world.store),
        np.arange(len(world.queries)),
        batch_size=world.task.asked_at_a_time(64),
        what="Asking",
        of="queries",
    )
    scores = ((rows, outputs.logits) for rows, outputs in blocks)
    if len(rank_queries(world.queries, scores, world.triples)) != len(world.queries):
        raise SystemExit("Not every query was ranked.")
    return time.process_time() - began, memory("VmHWM") - held


def train_point(
    tower: Path, work: Path, *, steps: int, sampled: bool, half: bool, **point: int
) -> tuple[float, float]:
    """Take steps of training, from the numbers of a batch's items to updated weights.

    Args:
        tower: Text tower.
        work: Folder for the visual store.
        steps: Steps that count; one before them makes what is made once.
        sampled: Whether the softmax is over 1,024 drawn entities, and not over all.
        half: Whether the entities' embeddings are in half precision.
        **point: As for :func:`make_world`, without queries.

    Returns:
        CPU seconds a step, and how much the peak of memory lies above what the model takes, in GiB:
        gradients, moments, and what a step computes.
    """
    configured = yaml.safe_load((PROJECT / "conf/base/parameters_link_prediction.yml").read_text())
    values = configured["link_prediction"]["finetuning"] | {
        "loss": "cross_entropy",
        "sampled_softmax": {"negatives": 1024, "uniform": 0.25} if sampled else None,
        "half_precision_entities": half,
        "max_steps": steps + 1,
        "precision": "fp32",
    }
    parameters = LinkPredictionParameters.model_validate(values).with_preset("corrected")
    world = make_world(tower, work, queries=(steps + 1) * parameters.batch_size, **point)
    world.task.configure(world.model, parameters)
    rows = np.arange(len(world.queries))
    held = forget_peak()
    trainer = StageTrainer(
        model=world.model.train(),
        args=training_arguments(
            work, parameters, batches_per_epoch=steps + 1, seed=0, metric="eval_none"
        ),
        batch_sampler=world.task.sampler(world.items, rows, parameters, 0),
        learning_rates=parameters.learning_rates,
        weight_decay=parameters.weight_decay,
        lookup_weights=world.task.lookup_weights(world.model, parameters),
        train_dataset=rows,
        eval_dataset=rows[:1],
        data_collator=Collator(world.task.learned(world.items, rows, parameters, 0), world.store),
    )
    optimizer = trainer.create_optimizer()
    began = 0.0
    for step, batch in enumerate(islice(trainer.get_train_dataloader(), steps + 1)):
        if step == 1:
            began = time.process_time()
        with trainer.compute_loss_context_manager():
            loss = world.model(**batch).loss
        loss.backward()
        trainer._clip_grad_norm(world.model)
        optimizer.step()
        optimizer.zero_grad()
    return (time.process_time() - began) / step, memory("VmHWM") - held


def forget_peak() -> float:
    """Let the highest memory of this process count anew; what it holds, in GiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


def memory(what: str) -> float:
    """Memory of this process in GiB: ``VmRSS`` what it holds, ``VmHWM`` the most it held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) / 2**20


def measured(
    measure: Callable[..., tuple[float, float]], small: dict[str, Any], point: dict[str, Any]
) -> tuple[float, float]:
    """Measure a point in a process of its own, where a small one has loaded what is loaded once."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as process:
        process.submit(measure, **small).result()
        return process.submit(measure, **point).result()


def show_points(
    options: argparse.Namespace,
    measure: Callable[..., tuple[float, float]],
    small: dict[str, int],
    label: str = "",
    **settings: Any,
) -> None:
    """Print a row for each point of each curve; time as a multiple of the curve's first point."""
    settings |= {"tower": options.work / "tower", "work": options.work / "store"}
    for name in options.curves:
        first = None
        for value in CURVES[name]:
            if value <= options.most:
                point = {key: POINT[key] for key in POINT if key in options.growing}
                point[name] = value
                seconds, peak = measured(measure, point | small | settings, point | settings)
                first = first or seconds
                print(
                    f"| {label}{name} | {value:,} | {seconds:.3f} | {seconds / first:.1f} | "
                    f"{peak:.2f} |",
                    flush=True,
                )


def show_curves(options: argparse.Namespace) -> None:
    """Print the curves of asking and ranking."""
    make_tower(options.work / "tower")
    print("| grows | to | CPU seconds | x | memory above the model's, GiB |")
    print("| --- | ---: | ---: | ---: | ---: |", flush=True)
    show_points(options, rank_point, {"queries": 64, "entities": 1000})


def show_training(options: argparse.Namespace) -> None:
    """Print the curves of training, of a full softmax and of sampled ones."""
    make_tower(options.work / "tower", options.width)
    print("| softmax | grows | to | CPU seconds a step | x | memory above the model's, GiB |")
    print("| --- | --- | ---: | ---: | ---: | ---: |", flush=True)
    for label in ("full", "sampled", "sampled, half precision"):
        settings = {"steps": options.steps, "sampled": label != "full", "half": "half" in label}
        show_points(options, train_point, {"entities": 1000}, f"{label} | ", **settings)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    commands = parser.add_subparsers(required=True)
    stages = commands.add_parser("stages", help="time and memory of each stage")
    stages.add_argument("--entities", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    stages.add_argument("--steps", type=int, default=200, help="training steps")
    stages.add_argument("--seed", type=int, default=0)
    stages.add_argument(
        "--stages", nargs="+", choices=STAGES, default=list(STAGES), help="of a graph made before"
    )
    stages.set_defaults(show=show_stages)
    stages.add_argument("--half", action="store_true", help="entities in half precision")
    curves = commands.add_parser("curves", help="time and memory of asking and ranking")
    curves.set_defaults(show=show_curves, growing=list(CURVES))
    training = commands.add_parser("training", help="time and memory of a training step")
    training.add_argument("--steps", type=int, default=20, help="steps of each point")
    training.set_defaults(
        show=show_training, growing=[name for name in CURVES if name != "queries"]
    )
    for command in (stages, training):
        command.add_argument("--width", type=int, default=64, help="of the text tower")
    for command in (curves, training):
        growing = command.get_default("growing")
        command.add_argument("--curves", nargs="+", choices=growing, default=growing)
        command.add_argument("--most", type=int, default=1_000_000, help="leave larger points out")
    for command in (stages, curves, training):
        command.add_argument("--work", type=Path, required=True, help="folder for what is made")
    options = parser.parse_args(arguments)
    options.work = options.work.resolve()
    options.show(options)


if __name__ == "__main__":
    main()
