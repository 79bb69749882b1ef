"""The fingerprint of a data set: a hash of everything that determines its content."""

from __future__ import annotations

from typing import Any

from .schema import digest

FINGERPRINT_VERSION = 1


def fingerprint(spec: dict[str, Any]) -> str:
    """SHA-256 over the canonical JSON of a build's spec; a pipeline enters by its content hash, not its name."""
    return digest({**spec, "pipeline": spec["pipeline"]["content"], "version": FINGERPRINT_VERSION})
