"""Save trained transformers models: half precision on disk, float32 in use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def save_half(model: Any, out: Path) -> None:
    """Write `model` to `out` in half precision; the model itself stays in half precision."""
    model.half().save_pretrained(out)
    declare_float32(out)


def declare_float32(folder: Path) -> None:
    """Set dtype float32 in a transformers config: CPUs need it, though the weights are in half precision."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")
