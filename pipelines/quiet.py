"""Silence the libraries that load models: what matters is raised."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


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


@contextlib.contextmanager
def no_progress_bar(pipe: Any) -> Iterator[None]:
    """While entered, calls of `pipe` show no progress bar: for trial calls that end early."""
    config = getattr(pipe, "_progress_bar_config", {})
    pipe._progress_bar_config = {**config, "disable": True}
    try:
        yield
    finally:
        pipe._progress_bar_config = config
