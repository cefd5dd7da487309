"""Asking what was learned: experts, their mixture, completions, predictions."""
