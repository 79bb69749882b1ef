"""The command that lists pipeline names."""

from __future__ import annotations

from typing import Any

import typer

from .configured import AsJson, command
from .panels import SCORERS

pipelines_app = typer.Typer()


@command(pipelines_app, panel=SCORERS)
def pipelines(as_json: AsJson = False) -> None:
    """List the pipeline names: source, default settings, latents, and bytes per trajectory.

    `nbench pipelines`

    `nbench pipelines --json`
    """
    import json

    from ..pipelines.aliases import ALIASES, WORLD_PIPELINE

    rows: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "source": "embedded" if entry.source == str(WORLD_PIPELINE) else entry.source,
            "steps": entry.steps,
            "guidance": entry.guidance,
            "dtype": entry.dtype,
            "image": entry.image_size,
            "latent": entry.latent_shape,
            "bytes": entry.trajectory_bytes(),
        }
        for entry in ALIASES.values()
    ]
    if as_json:
        print(json.dumps({"pipelines": rows}))
        return
    from rich.table import Table

    from ..benchmarks.results.terminal import print_wide

    table = Table("name", "source", "steps", "guidance", "dtype", "image", "latent", "MB per trajectory")
    for row in rows:
        sizes = ["x".join(map(str, row[name])) for name in ("image", "latent")]
        plain = [str(row[name]) for name in ("name", "source", "steps", "guidance", "dtype")]
        table.add_row(*plain, *sizes, f"{row['bytes'] / 1e6:.1f}")
    print_wide(table)
