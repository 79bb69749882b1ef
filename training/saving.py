"""How trained transformers models are written: half precision on disk, float32 in use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def save_half(model: Any, out: Path) -> None:
    """Write `model` to `out` in half precision; it is left in half precision, too."""
    model.half().save_pretrained(out)
    declare_float32(out)


def declare_float32(folder: Path) -> None:
    """Say in a transformers folder's config that its half-precision weights compute in float32, as a CPU needs."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")
