"""Stages and the runs that compose them."""
