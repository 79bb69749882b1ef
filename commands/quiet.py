"""Keeps the libraries that load models from talking on the command line."""

from __future__ import annotations


def quieten_transformers() -> None:
    """No bars and warnings for every model that is loaded; what matters is raised."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
