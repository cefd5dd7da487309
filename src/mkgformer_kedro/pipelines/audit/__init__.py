"""Audit: what a graph gives away, asks in vain or says twice, as a table and a page."""

from mkgformer_kedro.pipelines.audit.pipeline import create_pipeline

__all__ = ["create_pipeline"]
