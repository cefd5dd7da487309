"""MKGformer: multimodal knowledge graph completion as reproducible Kedro pipelines."""

__version__ = "0.1.0"
