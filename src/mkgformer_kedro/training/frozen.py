"""States of images below the fusion: of frozen layers they are made once, not in every step."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mkgformer_kedro.datasets.visual_store import VisualStore
from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.files import fingerprint, has_block, sha256_of, write_block
from mkgformer_kedro.progress import Progress
from mkgformer_kedro.training.batches import on_device

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from mkgformer_kedro.training.trainer import StageTrainer

_BLOCK = 32  # owners of a file
_KEY = "finetuning.freeze"
_REMEDY = f"Set {_KEY} to null."


@dataclass(frozen=True)
class FrozenImages:
    """Images by their owner as states below the fusion, read from disk; see ``Images``.

    Attributes:
        folder: Its files hold the states of so many rows each.
        rows: ``(owners,)`` row of each owner's states, -1 for none.
        mask: ``(owners, slots)`` bool, whether a slot holds an image.
        shape: ``(V, d)``, visual tokens and their width.
        dtype: What the states are kept in.
    """

    folder: Path
    rows: NDArray[np.int64]
    mask: NDArray[np.bool_]
    shape: tuple[int, int]
    dtype: torch.dtype

    @property
    def has_images(self) -> NDArray[np.bool_]:
        """Whether each owner has states, ``(owners,)``."""
        return self.rows >= 0

    def read(self, owners: ArrayLike) -> dict[str, Any]:
        """``visual_states`` ``(n, V, d)`` of some owners, and ``image_mask`` ``(n, slots)``."""
        owners = np.asarray(owners)
        size = self.shape[0] * self.shape[1] * self.dtype.itemsize
        places = [divmod(row, _BLOCK) for row in self.rows[owners]]
        states = [
            np.fromfile(_file(self.folder, number), np.uint8, size, offset=at * size)
            for number, at in places
        ]
        kept = torch.from_numpy(np.stack(states)).view(self.dtype)
        return {"visual_states": kept.unflatten(1, self.shape), "image_mask": self.mask[owners]}


def frozen_images(
    trainer: StageTrainer, images: VisualStore, owners: NDArray, folder: Path
) -> FrozenImages:
    """Freeze the visual layers below the fusion, and keep what they make of images.

    The processes that train together share the work. What an interrupted run left is taken where
    it was made by the same weights of the same images.

    Args:
        trainer: The trainer, before it trains.
        images: Images of the items' owners.
        owners: Owners whose images are seen.
        folder: Private folder, in which the states are kept; those of other images or weights,
            which an earlier training left there, are removed.

    Raises:
        DataError: There is nothing to freeze, no image, or dropout among what is to be frozen.
    """
    model = trainer.model.base_model
    _check(model.config)
    rows, encoded = _rows(images, np.unique(owners), model.config.mask_missing_images)
    frozen = model.visual_parameters_below_fusion()
    for parameter in frozen:
        parameter.requires_grad_(False)
    args = trainer.args
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32

    @torch.no_grad()
    def encode(owners: NDArray) -> torch.Tensor:
        arrays = {name: torch.from_numpy(array) for name, array in images.read(owners).items()}
        with trainer.compute_loss_context_manager():
            return model.encode_images(**on_device(arrays, model.device)).to("cpu", dtype)

    key = fingerprint(  # of all that decides the states
        model.config.to_dict(),
        [hashlib.sha256(_bytes(parameter)).hexdigest() for parameter in frozen],
        [sha256_of(images.folder / "store.json"), images.source, images.seed],
        [encoded.tolist(), _BLOCK, str(dtype)],
    )
    if trainer.is_world_process_zero() and folder.is_dir():
        for other in folder.iterdir():
            if other.name != key:
                shutil.rmtree(other)
    folder = folder / key
    blocks = np.split(encoded, range(_BLOCK, len(encoded), _BLOCK))
    mine = range(args.process_index, len(blocks), args.world_size)
    with Progress("Encoding images once", len(mine), "blocks of owners") as progress:
        for number in mine:
            path = _file(folder, number)
            if not has_block(path, path.name):
                write_block(path, _bytes(encode(blocks[number])), path.name)
            progress.advance(1)
    trainer.accelerator.wait_for_everyone()
    shape = encode(encoded[:1]).shape[1:]
    return FrozenImages(folder, rows, np.asarray(images.slots) >= 0, tuple(shape), dtype)


def _check(config: Any) -> None:
    vision = config.vision_config
    if config.num_fusion_layers == vision.num_hidden_layers:
        what = f"all {config.num_fusion_layers} visual layers are fused: none lies below the fusion"
        raise DataError(Problem(_KEY, None, what, _REMEDY))
    for name, value in vision.to_dict().items():
        if ("dropout" in name or "drop_path" in name) and value:
            what = f"the vision tower has {name} {value}: what it makes of images is never the same"
            remedy = f"Set model.vision_config.{name} (or that of the tower's config.json) to 0."
            raise DataError(Problem(_KEY, None, what, remedy))


def _rows(
    images: VisualStore, owners: NDArray, leaves_out: bool
) -> tuple[NDArray[np.int64], NDArray]:
    """The row of each owner's states, and the owner whose images each row is made of."""
    has_images = images.has_images[owners]
    encoded = owners[has_images]
    if not len(encoded):
        what = f"nobody has images here (model.images.source: {images.source})"
        raise DataError(Problem(_KEY, None, what, _REMEDY))
    rows = np.full(len(images), -1)
    rows[encoded] = np.arange(len(encoded))
    if not leaves_out and not has_images.all():
        # Missing images are zeros, so that all who have none see the same.
        without = owners[~has_images]
        rows[without] = len(encoded)
        encoded = np.append(encoded, without[0])
    return rows, encoded


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number}.states"


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()
