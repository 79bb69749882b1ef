"""Keeps the libraries that load models from talking: what matters is raised."""

from __future__ import annotations


def quieten_transformers() -> None:
    """No bars and warnings for every model that transformers loads."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def quieten_diffusers() -> None:
    """Nor for what diffusers loads, by way of transformers too. To be called before a class of its is looked up."""
    quieten_transformers()
    from diffusers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
