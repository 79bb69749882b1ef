"""Silence the libraries that load models: what matters is raised."""

from __future__ import annotations


def quieten_transformers() -> None:
    """No progress bars and warnings when transformers loads a model."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def quieten_diffusers() -> None:
    """The same for diffusers, which also uses transformers. Call it before looking up a diffusers class."""
    quieten_transformers()
    from diffusers.utils import logging

    logging.set_verbosity(logging.CRITICAL)  # it logs errors that it raises, in many lines
    logging.disable_progress_bar()
