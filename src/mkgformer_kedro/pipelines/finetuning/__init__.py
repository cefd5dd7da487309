"""Stage 2: fine-tune the model for its task."""

from mkgformer_kedro.pipelines.finetuning.pipeline import create_pipeline

__all__ = ["create_pipeline"]
