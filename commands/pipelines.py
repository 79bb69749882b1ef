"""The command that lists the pipelines that have a name."""

from __future__ import annotations

from typing import Any

import typer

from .configured import AsJson, command
from .panels import SCORERS

pipelines_app = typer.Typer()


@command(pipelines_app, panel=SCORERS)
def pipelines(as_json: AsJson = False) -> None:
    """List the pipelines that have a name: source, default settings, latents, and bytes per trajectory.

    `nbench pipelines`

    `nbench pipelines --json`
    """
    import json

    from ..pipelines.aliases import ALIASES, WORLD_PIPELINE

    told: list[dict[str, Any]] = [
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
        print(json.dumps({"pipelines": told}))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "source", "steps", "guidance", "dtype", "image", "latent", "MB a trajectory")
    for each in told:
        sizes = ["x".join(map(str, each[name])) for name in ("image", "latent")]
        plain = [str(each[name]) for name in ("name", "source", "steps", "guidance", "dtype")]
        table.add_row(*plain, *sizes, f"{each['bytes'] / 1e6:.1f}")
    console = Console()
    console.width = max(console.width, Console(width=1000).measure(table).maximum)
    console.print(table)
