"""Asking what was learned: experts and their answers to a test set, and a predictor for people."""
