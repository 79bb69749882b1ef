"""The fingerprint of a data set: a hash of everything that determines its content."""

from __future__ import annotations

from typing import Any

from .schema import digest

FINGERPRINT_VERSION = 1


def fingerprint(spec: dict[str, Any]) -> str:
    """SHA-256 over the canonical JSON of a build's spec; a pipeline and a LoRA enter by content hash, not by name."""
    loras = [{key: value for key, value in lora.items() if key != "name"} for lora in spec.get("loras", [])]
    named = {**spec, "pipeline": spec["pipeline"]["content"], **({"loras": loras} if loras else {})}
    return digest({**named, "version": FINGERPRINT_VERSION})
