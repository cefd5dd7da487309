"""Asking what was learned: a predictor for people, experts, and their answers to a test set."""

from mkgformer_kedro.inference.predictor import Predictor

__all__ = ["Predictor"]
