"""The models of a pipeline that are called at its steps."""

from __future__ import annotations

from typing import Any

DENOISERS = ("transformer", "transformer_2", "unet")


def denoisers(pipe: Any) -> list[Any]:
    """The denoisers of a pipeline: one, or one for each part of the schedule (Wan 2.2)."""
    return [model for name in DENOISERS if (model := getattr(pipe, name, None)) is not None]
