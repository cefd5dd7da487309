"""Relation extraction and entity recognition: counts, micro scores, and what is said from them."""

from mkgformer_kedro.evaluation.extraction.entities import EntityEvaluation, evaluate_entities
from mkgformer_kedro.evaluation.extraction.evaluation import ExtractionEvaluation
from mkgformer_kedro.evaluation.extraction.relations import (
    RelationEvaluation,
    evaluate_relations,
)

__all__ = [
    "EntityEvaluation",
    "ExtractionEvaluation",
    "RelationEvaluation",
    "evaluate_entities",
    "evaluate_relations",
]
