"""Experiments in the embedded world: `make experiments` runs what is missing and writes docs/experiments.md."""
