"""Find what is named in a picture, with a pretrained zero-shot detector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from mkgformer_kedro.errors import DataError, Problem

if TYPE_CHECKING:
    from PIL import Image

Box = tuple[int, int, int, int]
Found = tuple[str, Box, float]
"""A query, the box in which it was found (left, upper, right, lower in pixels), and the score."""


class ZeroShotDetector:
    """A zero-shot detector of transformers: OWLv2 (or OWL-ViT), or Grounding DINO.

    Args:
        model: Folder or hub name.
        threshold: Least score of a box, between 0 and 1.

    Raises:
        DataError: There is no such model, or it is no zero-shot detector.
    """

    def __init__(self, model: str, threshold: float) -> None:
        from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor

        try:
            # Pillow's image processor: the other one needs torchvision.
            self.processor = AutoProcessor.from_pretrained(model, backend="pil")
            self.model = AutoModelForZeroShotObjectDetection.from_pretrained(model)
        except (OSError, ValueError) as error:
            what = f"no zero-shot detector can be loaded from '{model}' ({error})".split("\n")[0]
            remedy = "Name a folder or a hub name of OWLv2 or Grounding DINO."
            problem = Problem("image_association.detector.model", None, what, remedy)
            raise DataError(problem) from error
        self.threshold = threshold
        self.model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        # Grounding DINO answers with words of one text; a text of its own per query tells which.
        self._one_query_a_text = self.model.config.model_type == "grounding-dino"

    def detect(
        self, pictures: Sequence[Image.Image], queries: Sequence[Sequence[str]]
    ) -> list[list[Found]]:
        """Find the best box of each query.

        Args:
            pictures: RGB pictures.
            queries: What to look for in each, at least one query.

        Returns:
            For each picture the queries that were found, with box and score, in their order.
        """
        if not pictures:
            return []
        if not self._one_query_a_text:
            return self._detect(pictures, queries)
        found: list[list[Found]] = []
        for picture, asked in zip(pictures, queries, strict=True):
            parts = self._detect([picture] * len(asked), [[query] for query in asked])
            found.append([each for part in parts for each in part])
        return found

    @torch.no_grad()
    def _detect(
        self, pictures: Sequence[Image.Image], queries: Sequence[Sequence[str]]
    ) -> list[list[Found]]:
        text: Any = [[query.lower() for query in asked] for asked in queries]
        if self._one_query_a_text:
            text = [f"{asked[0]}." for asked in text]
        inputs = self.processor(
            images=list(pictures), text=text, padding=True, truncation=True, return_tensors="pt"
        ).to(self.model.device)
        outputs = self.model(**inputs)
        scores_of_all = outputs.logits
        found: list[list[Found]] = [[] for _ in pictures]
        for number in range(max(map(len, queries))):
            if not self._one_query_a_text:
                # A box belongs to the query that fits it best: one at a time, so that the answer to
                # a query does not depend on the others.
                outputs.logits = scores_of_all[:, :, number : number + 1]
            results = self.processor.post_process_grounded_object_detection(
                outputs,
                threshold=self.threshold,
                target_sizes=[(picture.height, picture.width) for picture in pictures],
            )
            for here, picture, asked, result in zip(found, pictures, queries, results, strict=True):
                if number < len(asked) and len(result["scores"]):
                    best = int(result["scores"].argmax())
                    box = _within(result["boxes"][best].tolist(), picture)
                    here.append((asked[number], box, round(float(result["scores"][best]), 6)))
        return found


def _within(box: Sequence[float], picture: Image.Image) -> Box:
    """A box in whole pixels of the picture."""
    edges = zip(box, (picture.width, picture.height) * 2, strict=True)
    left, upper, right, lower = (min(max(round(edge), 0), most) for edge, most in edges)
    return left, upper, right, lower
