"""Find what is named in an image, with a pretrained zero-shot detector."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from mkgformer_kedro.errors import DataError, Problem
from mkgformer_kedro.training.finite import fault_of_weights

if TYPE_CHECKING:
    from PIL import Image

Box = tuple[int, int, int, int]
Found = tuple[str, Box, float]
"""A query, the box in which it was found (left, upper, right, lower in pixels), and the score."""


_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_QUERIES_APART = {"owlv2", "owlvit"}
_QUERIES_IN_ONE_TEXT = {"grounding-dino", "mm-grounding-dino"}


class ZeroShotDetector:
    """A zero-shot detector of transformers: OWLv2 (or OWL-ViT), or Grounding DINO.

    Args:
        model: Folder or hub name.
        threshold: Least score of a box, between 0 and 1.
        min_side: Least side, in pixels, of what is left of a box within its image.

    Raises:
        DataError: There is no such model, or it is no zero-shot detector.
    """

    def __init__(self, model: str, threshold: float, min_side: int = 1) -> None:
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        try:
            source = Path(model).expanduser()
            if not source.is_dir():
                # A path is never asked of the hub, which takes a minute to say no.
                if not _HUB_NAME.fullmatch(model):
                    raise OSError("there is no such folder")
                source = model
            # Pillow's image processor: the other one needs torchvision.
            self.processor = AutoProcessor.from_pretrained(source, backend="pil")
            self.model, loading = AutoModelForZeroShotObjectDetection.from_pretrained(
                source, use_safetensors=True, output_loading_info=True
            )
            if (fault := fault_of_weights(self.model, loading)) is not None:
                raise ValueError(fault)
        except Exception as error:  # whatever a library says of files that people put there
            what = f"no zero-shot detector can be loaded from '{model}' ({error})".split("\n")[0]
            remedy = "Name a folder or a hub name of OWLv2 or Grounding DINO."
            problem = Problem("image_association.detector.model", None, what, remedy)
            raise DataError(problem) from error
        self.threshold, self.min_side = threshold, min_side
        self.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        kind = self.model.config.model_type
        if kind not in _QUERIES_APART | _QUERIES_IN_ONE_TEXT:
            what = f"'{model}' is a detector of another kind ({kind})"
            remedy = "Name a folder or a hub name of OWLv2 or Grounding DINO."
            raise DataError(Problem("image_association.detector.model", None, what, remedy))
        # Grounding DINO answers with words of one text; a text of its own per query tells which.
        self._one_query_a_text = kind in _QUERIES_IN_ONE_TEXT

    def detect(
        self, images: Sequence[Image.Image], queries: Sequence[Sequence[str]]
    ) -> list[list[Found]]:
        """Find the best box of each query.

        Args:
            images: RGB images.
            queries: What to look for in each, at least one query.

        Returns:
            For each image the queries that were found, with box and score, in their order.
        """
        if not images:
            return []
        if not self._one_query_a_text:
            return self._detect(images, queries)
        found: list[list[Found]] = []
        for image, asked in zip(images, queries, strict=True):
            parts = self._detect([image] * len(asked), [[query] for query in asked])
            found.append([each for part in parts for each in part])
        return found

    @torch.no_grad()
    def _detect(
        self, images: Sequence[Image.Image], queries: Sequence[Sequence[str]]
    ) -> list[list[Found]]:
        text: Any = [[query.lower() for query in asked] for asked in queries]
        if self._one_query_a_text:
            text = [f"{asked[0]}." for asked in text]
        inputs = self.processor(
            images=list(images),
            text=text,
            # OWLv2's processor pads the texts of each image on their own.
            padding=True if self._one_query_a_text else "max_length",
            truncation=True,
            return_tensors="pt",
        ).to(self.model.device)
        outputs = self.model(**inputs)
        # Every box, in the pixels of its image; the answers to each query are picked below, as
        # the processors would give a box to one query alone.
        results = self.processor.post_process_grounded_object_detection(
            outputs,
            threshold=-1.0,
            target_sizes=[(image.height, image.width) for image in images],
        )
        scores = outputs.logits.float().sigmoid()  # (images, boxes, queries or tokens)
        if self._one_query_a_text:
            scores = scores.amax(-1, keepdim=True)
        found = []
        for number, (image, asked) in enumerate(zip(images, queries, strict=True)):
            boxes = _within(results[number]["boxes"], image)
            large = (boxes[:, 2:] - boxes[:, :2] >= self.min_side).all(1)
            # OWLv2 pads images, and queries where another image has more of them.
            usable = scores[number].masked_fill(~large[:, None], -1.0)
            here: list[Found] = []
            for query, column in zip(asked, usable.T, strict=False):
                score, row = column.max(0)
                if score >= self.threshold:
                    left, upper, right, lower = boxes[row].tolist()
                    here.append((query, (left, upper, right, lower), round(float(score), 6)))
            found.append(here)
        return found


def _within(boxes: torch.Tensor, image: Image.Image) -> torch.Tensor:
    """What of boxes ``(n, 4)`` lies within an image, in whole pixels."""
    edges = torch.tensor([image.width, image.height] * 2, device=boxes.device)
    return torch.minimum(boxes.round().long().clamp(min=0), edges)
