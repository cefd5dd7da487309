"""Asking what was learned: a predictor for people, experts, their mixture, and completions."""

from mkgformer_kedro.inference.predictor import Predictor

__all__ = ["Predictor"]
