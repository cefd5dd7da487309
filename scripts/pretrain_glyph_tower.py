"""Pretrain the vision tower of the sample `unihan_glyphs`, on characters that are not in it.

    apt-get install unicode-data fonts-noto-cjk
    python scripts/pretrain_glyph_tower.py

A small CLIP vision model learns to name radical, components, strokes and corners of some 18,000
characters, drawn in two fonts. It takes an hour on one core. A killed run goes on with
the same command, and ends with the same weights; so does another run of the same settings and
versions.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import string
import tempfile
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from build_unihan_glyphs import CORNERS, FONT_FILES, FONTS, RECIPE, SIDE, Unihan, check, draw_glyph

from mkgformer_kedro.errors import DataError
from mkgformer_kedro.files import replace_folder, sha256_of, written_atomically
from mkgformer_kedro.progress import Progress

if TYPE_CHECKING:
    import torch
    from transformers import CLIPVisionModel

PROJECT = Path(__file__).parents[1]

# White is zero: an empty patch says nothing but its place. With CLIP's own values, where white is
# far from zero, learning takes several times as long to set in.
MEAN, STD = 1.0, 0.5

UNKNOWN = -100
LETTERS = 26
# Labels that the whole glyph shows, with the number of their values.
WHOLE = {"radical": 214, "first_component": LETTERS, "last_component": LETTERS, "strokes": 50}
SHAPES = 10
# One in so many characters is left out of the training, to see what has been learned.
HELD_OUT = 40


@dataclass(frozen=True)
class Settings:
    """What decides the weights, together with the glyphs.

    Attributes:
        epochs: How often each character is seen, in one of its fonts.
        batch_size: Characters in a step.
        learning_rate: Its highest value, after warm-up; it falls to zero as a cosine.
        warmup: Share of the steps in which the learning rate rises.
        weight_decay: Of matrices.
        seed: Of weights, order and distortions.
        width: Of the tower.
        layers: Of the tower.
        heads: Of its attention.
        patch: Edge of a patch in pixels.
        checkpoint_steps: Steps between two checkpoints.
    """

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 0.05
    seed: int = 0
    width: int = 128
    layers: int = 6
    heads: int = 4
    patch: int = 8
    checkpoint_steps: int = 100


@dataclass(frozen=True)
class Glyphs:
    """Characters, drawn and described.

    Attributes:
        points: Code points, `U+6CB3`.
        images: uint8 `(characters, fonts, SIDE, SIDE)`, black on white.
        labels: int64 `(characters,)` by name: the keys of WHOLE and the four corners; UNKNOWN
            where the tables do not say.
        components: bool `(characters, LETTERS)`, which components there are; nowhere true where the
            tables do not say.
    """

    points: list[str]
    images: np.ndarray
    labels: dict[str, np.ndarray]
    components: np.ndarray

    def take(self, rows: np.ndarray) -> Glyphs:
        """The characters of some rows."""
        return Glyphs(
            [self.points[row] for row in rows],
            self.images[rows],
            {name: values[rows] for name, values in self.labels.items()},
            self.components[rows],
        )

    @property
    def fingerprint(self) -> str:
        """Hash of everything."""
        digest = hashlib.sha256("\n".join(self.points).encode())
        for values in (self.images, self.components, *self.labels.values()):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def shown_points(unihan: Unihan, sample: Path) -> set[str]:
    """Code points of the glyphs that the sample shows: its characters and its radicals."""
    entities = (sample / "entities.txt").read_text(encoding="utf-8").split()
    radicals = {f"radical_{number}": point for number, (point, _) in unihan.radicals.items()}
    points = (radicals.get(entity, entity) for entity in entities)
    return {point for point in points if point.startswith("U+")}


def unified(point: str) -> str:
    """The code point that a compatibility ideograph is another one for; else the same."""
    return f"U+{ord(unicodedata.normalize('NFC', chr(int(point[2:], 16)))):04X}"


def draw_characters(unihan: Unihan, fonts: Path, sample: Path) -> Glyphs:
    """Draw the characters in common use that are not in the sample, and look up their labels.

    A character that is another code point for one of the sample, or that looks the same in either
    font, is left out too.

    Args:
        unihan: Unicode's tables.
        fonts: Folder of `fonts-noto-cjk`.
        sample: Folder of the sample.
    """
    shown = shown_points(unihan, sample)
    files = [fonts / file for file in FONTS.values()]

    def drawn(points: Sequence[str]) -> np.ndarray:
        pixels = np.empty((len(points), len(files), SIDE, SIDE), np.uint8)
        with Progress("draw glyphs", len(points), "characters") as progress:
            for row, point in enumerate(points):
                for column, file in enumerate(files):
                    pixels[row, column] = np.asarray(draw_glyph(point, file))
                progress.advance(1)
        return pixels

    seen = {image.tobytes() for images in drawn(sorted(shown)) for image in images}
    points = sorted(unihan.fields["kUnihanCore2020"])
    points = [point for point in points if unified(point) not in shown]
    images = drawn(points)
    kept = [
        row
        for row, pair in enumerate(images)
        if not any(image.tobytes() in seen or image.min() == 255 for image in pair)
    ]
    points, images = [points[row] for row in kept], images[kept]
    labels, components = labels_of(unihan, points)
    return Glyphs(points, images, labels, components)


def labels_of(unihan: Unihan, points: Sequence[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What the tables say about characters; see ``Glyphs``."""
    labels = {name: np.full(len(points), UNKNOWN, np.int64) for name in (*WHOLE, *CORNERS)}
    components = np.zeros((len(points), LETTERS), bool)
    for row, point in enumerate(points):
        radical = unihan.first("kRSUnicode", point).partition(".")[0].strip("'")
        labels["radical"][row] = int(radical) - 1
        strokes = int(unihan.first("kTotalStrokes", point))
        labels["strokes"][row] = min(strokes, WHOLE["strokes"]) - 1
        if point in unihan.fields["kCangjie"]:
            letters = [ord(letter) - ord("A") for letter in unihan.first("kCangjie", point)]
            labels["first_component"][row] = letters[0]
            labels["last_component"][row] = letters[-1]
            components[row, letters] = True
        if point in unihan.fields["kFourCornerCode"]:
            digits = unihan.first("kFourCornerCode", point)
            for corner, digit in zip(CORNERS, digits, strict=False):
                labels[corner][row] = int(digit)
    return labels, components


def make_learner(settings: Settings) -> torch.nn.Module:
    """The tower, with the heads that only training needs."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    class Learner(torch.nn.Module):
        """A tower and a head for each label."""

        def __init__(self) -> None:
            super().__init__()
            self.tower = CLIPVisionModel(
                CLIPVisionConfig(
                    hidden_size=settings.width,
                    intermediate_size=4 * settings.width,
                    num_hidden_layers=settings.layers,
                    num_attention_heads=settings.heads,
                    image_size=SIDE,
                    patch_size=settings.patch,
                )
            )
            sizes = {**WHOLE, "components": LETTERS}
            self.whole = torch.nn.ModuleDict(
                {name: torch.nn.Linear(2 * settings.width, size) for name, size in sizes.items()}
            )
            self.corners = torch.nn.ModuleDict(
                {name: torch.nn.Linear(settings.width, SHAPES) for name in CORNERS}
            )

        def forward(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
            """Scores of every label's values `(B, values)` by name."""
            states = self.tower(pixel_values=pixel_values).last_hidden_state
            states = self.tower.post_layernorm(states)
            patches = states[:, 1:]
            glyph = torch.cat([states[:, 0], patches.mean(dim=1)], dim=-1)
            scores = {name: head(glyph) for name, head in self.whole.items()}
            corners = quarters(patches).unbind(dim=1)
            for (name, head), corner in zip(self.corners.items(), corners, strict=True):
                scores[name] = head(corner)
            return scores

    torch.manual_seed(settings.seed)
    return Learner()


def quarters(patches: torch.Tensor) -> torch.Tensor:
    """Means of the patches of each quarter of the image.

    Args:
        patches: `(B, V, d)`, row by row.

    Returns:
        `(B, 4, d)` in the order of CORNERS.
    """
    half = round(patches.shape[1] ** 0.5) // 2
    return patches.unflatten(1, (2, half, 2, half)).mean(dim=(2, 4)).flatten(1, 2)


def to_pixel_values(images: np.ndarray, moves: np.ndarray | None = None) -> torch.Tensor:
    """Make the tower's input of glyphs.

    Args:
        images: uint8 `(B, SIDE, SIDE)`.
        moves: `(B, 2, 3)`, an affine map of each image; None: as they are.

    Returns:
        float32 `(B, 3, SIDE, SIDE)`, normalised.
    """
    import torch

    ink = 1 - torch.from_numpy(images).float()[:, None] / 255
    if moves is not None:
        theta = torch.from_numpy(moves.astype(np.float32))
        grid = torch.nn.functional.affine_grid(theta, list(ink.shape), align_corners=False)
        ink = torch.nn.functional.grid_sample(ink, grid, align_corners=False)
    return ((1 - ink - MEAN) / STD).expand(-1, 3, -1, -1)


def draw_moves(random: np.random.Generator, count: int) -> np.ndarray:
    """Affine maps that scale by a tenth, shift by four pixels and turn by four degrees at most."""
    scales = random.uniform(0.9, 1.1, (count, 2))
    angles = random.uniform(-0.07, 0.07, count)
    shifts = random.uniform(-0.125, 0.125, (count, 2))
    cos, sin = np.cos(angles), np.sin(angles)
    rows = [
        np.stack([cos * scales[:, 0], -sin * scales[:, 1], shifts[:, 0]], axis=1),
        np.stack([sin * scales[:, 0], cos * scales[:, 1], shifts[:, 1]], axis=1),
    ]
    return np.stack(rows, axis=1)


def loss_of(scores: Mapping[str, torch.Tensor], batch: Glyphs) -> torch.Tensor:
    """Sum of the mean losses of all labels; what the tables do not say is left out."""
    import torch

    functional = torch.nn.functional
    total = torch.zeros(())
    for name, values in batch.labels.items():
        labels = torch.from_numpy(values)
        if (labels != UNKNOWN).any():
            total = total + functional.cross_entropy(scores[name], labels, ignore_index=UNKNOWN)
    told = torch.from_numpy(batch.components.any(axis=1))
    if told.any():
        there = torch.from_numpy(batch.components).float()
        losses = functional.binary_cross_entropy_with_logits(
            scores["components"][told], there[told], reduction="none"
        )
        total = total + losses.sum(dim=-1).mean()
    return total


def pretrain(glyphs: Glyphs, settings: Settings, work: Path) -> torch.nn.Module:
    """Train a tower; go on from the checkpoint in ``work`` where it is of the same job.

    Args:
        glyphs: The characters to learn from.
        settings: How.
        work: Folder of the checkpoint.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    learner = make_learner(settings).train()
    matrices = [one for one in learner.parameters() if one.ndim > 1]
    others = [one for one in learner.parameters() if one.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others}],
        weight_decay=0.0,
    )
    per_epoch = -(-len(glyphs.points) // settings.batch_size)
    total = settings.epochs * per_epoch
    job = hashlib.sha256((json.dumps(asdict(settings)) + glyphs.fingerprint).encode()).hexdigest()
    checkpoint = work / "checkpoint.safetensors"

    parameters = [*matrices, *others]
    done = 0
    if checkpoint.is_file():
        with safe_open(checkpoint, "pt") as file:
            if file.metadata()["job"] == job:
                done = int(file.metadata()["step"])
                with torch.no_grad():
                    for number, one in enumerate(parameters):
                        one.copy_(file.get_tensor(f"weight.{number}"))
                        optimizer.state[one] = {
                            "step": torch.tensor(float(done)),
                            **{
                                name: file.get_tensor(f"{name}.{number}")
                                for name in ("exp_avg", "exp_avg_sq")
                            },
                        }

    def save(step: int) -> None:
        tensors = {
            f"{name}.{number}": tensor
            for number, one in enumerate(parameters)
            for name, tensor in {"weight": one.detach(), **optimizer.state[one]}.items()
            if name != "step"
        }
        with written_atomically(checkpoint) as path:
            save_file(tensors, path, metadata={"job": job, "step": str(step)})

    with Progress("pretrain", total, "steps") as progress:
        progress.advance(done)
        for step in range(done, total):
            random = np.random.default_rng([settings.seed, step])
            batch = glyphs.take(rows_of(len(glyphs.points), settings, *divmod(step, per_epoch)))
            fonts = random.integers(batch.images.shape[1], size=len(batch.points))
            images = batch.images[np.arange(len(fonts)), fonts]
            rate = learning_rate(settings, step / total)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = loss_of(learner(to_pixel_values(images, draw_moves(random, len(fonts)))), batch)
            optimizer.zero_grad(set_to_none=False)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
            optimizer.step()
            progress.advance(1)
            if (step + 1) % settings.checkpoint_steps == 0 or step + 1 == total:
                save(step + 1)
                print(f"step {step + 1} of {total}: loss {loss.item():.3f}", flush=True)
    return learner.eval()


def rows_of(count: int, settings: Settings, epoch: int, place: int) -> np.ndarray:
    """Rows of the batch at a place of an epoch, whose order depends on seed and epoch alone."""
    order = np.random.default_rng([settings.seed, epoch, 1]).permutation(count)
    return order[place * settings.batch_size : (place + 1) * settings.batch_size]


def learning_rate(settings: Settings, progress: float) -> float:
    """Learning rate after a share of the steps: a linear rise, then half a cosine."""
    if progress < settings.warmup:
        return settings.learning_rate * progress / settings.warmup
    left = (progress - settings.warmup) / (1 - settings.warmup)
    return settings.learning_rate * (1 + float(np.cos(np.pi * left))) / 2


def score(learner: torch.nn.Module, glyphs: Glyphs) -> dict[str, float]:
    """Share of right answers by label, over both fonts."""
    import torch

    right: dict[str, list[np.ndarray]] = {name: [] for name in glyphs.labels}
    with torch.inference_mode():
        for column in range(glyphs.images.shape[1]):
            for rows in batches(len(glyphs.points), 256):
                scores = learner(to_pixel_values(glyphs.images[rows, column]))
                for name, values in glyphs.labels.items():
                    known = values[rows] != UNKNOWN
                    found = scores[name].argmax(dim=-1).numpy()
                    right[name].append((found == values[rows])[known])
    return {name: float(np.concatenate(parts).mean()) for name, parts in right.items()}


def batches(count: int, size: int) -> Iterator[np.ndarray]:
    """Row numbers in blocks."""
    for start in range(0, count, size):
        yield np.arange(start, min(start + size, count))


def write_tower(
    tower: CLIPVisionModel, seen: Glyphs, settings: Settings, card: Mapping[str, Any], target: Path
) -> None:
    """Write the tower as a folder that `from_pretrained` loads, in the place of ``target``.

    Weights are kept in half precision; who loads them gets single precision.

    Args:
        tower: The trained tower.
        seen: The characters that it has learned from.
        settings: How it has learned.
        card: Further values of the model card.
        target: Folder to write.
    """
    from safetensors.torch import save_file
    from transformers.models.clip import CLIPImageProcessorPil

    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as scratch:
        folder = Path(scratch) / target.name
        folder.mkdir()
        tower.config.architectures = [type(tower).__name__]
        tower.config.dtype = "float32"
        tower.config.save_pretrained(folder)
        weights = {name: values.half().contiguous() for name, values in tower.state_dict().items()}
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        CLIPImageProcessorPil(
            size={"height": SIDE, "width": SIDE},
            do_center_crop=False,
            image_mean=[MEAN] * 3,
            image_std=[STD] * 3,
        ).save_pretrained(folder)
        (folder / "characters.txt").write_text("\n".join([*seen.points, ""]), encoding="utf-8")
        template = string.Template((RECIPE / "MODEL_CARD.md.template").read_text(encoding="utf-8"))
        count = sum(values.numel() for values in tower.parameters())
        text = template.substitute(
            asdict(settings),
            side=SIDE,
            parameters=f"{count:,}",
            characters=f"{len(seen.points):,}",
            **card,
        )
        (folder / "README.md").write_text(text, encoding="utf-8")
        names = sorted(path.name for path in folder.iterdir())
        digests = "".join(f"{sha256_of(folder / name)}  {name}\n" for name in names)
        (folder / "SHA256SUMS").write_text(digests, encoding="utf-8")
        replace_folder(folder, target)


def main() -> None:
    """Pretrain as the command line says."""
    raw = PROJECT / "data/01_raw"
    defaults = Settings()
    parser = argparse.ArgumentParser(description="Pretrain the vision tower of unihan_glyphs.")
    parser.add_argument("--unicode", type=Path, default=Path("/usr/share/unicode"))
    parser.add_argument("--fonts", type=Path, default=Path("/usr/share/fonts/opentype/noto"))
    parser.add_argument("--sample", type=Path, default=raw / "unihan_glyphs")
    parser.add_argument("--target", type=Path, default=PROJECT / "models/unihan_glyph_tower")
    parser.add_argument("--work", type=Path, default=PROJECT / "models/.work")
    parser.add_argument("--epochs", type=int, default=defaults.epochs)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    arguments = parser.parse_args()
    settings = Settings(epochs=arguments.epochs, seed=arguments.seed)
    try:
        for name, digest in FONT_FILES.items():
            check(arguments.fonts / name, digest, "fonts-noto-cjk 1:20220127+repack1-1")
        glyphs = draw_characters(Unihan(arguments.unicode), arguments.fonts, arguments.sample)
    except DataError as error:
        parser.exit(1, f"{error}\n")
    rows = np.arange(len(glyphs.points))
    seen, held_out = (
        glyphs.take(rows[mask]) for mask in (rows % HELD_OUT > 0, rows % HELD_OUT == 0)
    )
    learner = pretrain(seen, settings, arguments.work)
    scores = score(learner, held_out)
    table = "\n".join(
        f"| {name.replace('_', ' ')} | {share:.3f} |" for name, share in scores.items()
    )
    print(table)
    card = {"scores": table, "held_out": f"{len(held_out.points):,}"}
    write_tower(learner.tower, seen, settings, card, arguments.target)


if __name__ == "__main__":
    main()
