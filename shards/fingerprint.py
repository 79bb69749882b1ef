"""The fingerprint of a data set: a hash of all that decides what is in it."""

from __future__ import annotations

from typing import Any

from .schema import digest

FINGERPRINT_VERSION = 1


def fingerprint(spec: dict[str, Any]) -> str:
    """SHA-256 over the canonical JSON of a build's spec; a pipeline counts by its content, not by its name."""
    return digest({**spec, "pipeline": spec["pipeline"]["content"], "version": FINGERPRINT_VERSION})
