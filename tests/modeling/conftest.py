"""Tiny models and inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mkgformer_kedro.modeling import MKGformerConfig, MKGformerForLinkPrediction


class Tiny:
    """Makes tiny models and inputs that fit them."""

    words, entities, relations, mask = 40, 7, 3, 4
    vocabulary = words + entities + relations
    sizes = {"full": 24, "grounding": 16, "detection": 8}  # noqa: RUF012
    counts = {"full": 1, "grounding": 2, "detection": 1}  # noqa: RUF012
    crops = {"grounding": 2, "detection": 1}  # noqa: RUF012
    slots = sum(counts.values())
    tags = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")

    def config(
        self,
        preset: str = "corrected",
        task: str = "link_prediction",
        text: dict[str, Any] | None = None,
        vision: dict[str, Any] | None = None,
        **fields: Any,
    ) -> MKGformerConfig:
        """Two fused layers of four, and images of all roles that the task has."""
        text_config = {
            "vocab_size": self.words,
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "max_position_embeddings": 24,
        }
        vision_config = {
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "intermediate_size": 40,
            "image_size": 16,
            "patch_size": 8,
        }
        values = {
            **MKGformerConfig.preset(preset, task),
            "num_fusion_layers": 2,
            "fusion_init": "normal",
            "image_sizes": self.sizes,
            "num_entities": self.entities,
            "num_relations": self.relations,
            "mask_token_id": self.mask,
            **fields,
        }
        if "image_counts" not in fields:
            crops_only = values["visual_embeddings"] == "class_and_crops"
            values["image_counts"] = self.crops if crops_only else self.counts
        return MKGformerConfig(
            text_config={**text_config, **(text or {})},
            vision_config={**vision_config, **(vision or {})},
            **values,
        )

    def model(
        self,
        *args: Any,
        attention: str = "sdpa",
        model_class: Any = MKGformerForLinkPrediction,
        **kwargs: Any,
    ) -> Any:
        """A model in evaluation mode with weights so large that every part matters."""
        torch.manual_seed(1)
        config = self.config(*args, **{"task": model_class.task, **kwargs})
        model = model_class._from_config(config, attn_implementation=attention)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "fusion_dense" not in name:
                    if parameter.ndim > 1:
                        parameter.normal_(std=0.2)
                elif config.fusion_init == "normal":
                    parameter.normal_(std=0.4)
        return model.eval()

    def texts(
        self, lengths: tuple[int, ...] = (9, 6, 9, 7), tokens: int = words
    ) -> dict[str, torch.Tensor]:
        """Texts of the first ``tokens`` tokens with one mask each, padded to the longest."""
        generator = torch.Generator().manual_seed(1)
        shape = (len(lengths), max(lengths))
        attention_mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
        input_ids = torch.randint(5, tokens, shape, generator=generator)
        input_ids[:, 2] = self.mask
        segments = (torch.arange(shape[1]) > 3).long().expand(shape)
        return {
            "input_ids": input_ids * attention_mask,
            "attention_mask": attention_mask,
            "token_type_ids": segments * attention_mask,
        }

    def images(self, rows: int, crops_only: bool = False) -> dict[str, torch.Tensor]:
        """Random uint8 images in every slot."""
        generator = torch.Generator().manual_seed(2)
        return {
            name: torch.randint(
                256, (rows, self.counts[role], 3, size, size), generator=generator
            ).to(torch.uint8)
            for name, (role, size) in zip(
                ("pixel_values", "grounding_pixel_values", "detection_pixel_values"),
                self.sizes.items(),
                strict=True,
            )
            if role != "full" or not crops_only
        }


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """Maker of tiny models and inputs."""
    return Tiny()
