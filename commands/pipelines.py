"""The command that lists pipeline names."""

from __future__ import annotations

from typing import Any

import typer

from ..console import plain_table, print_table
from .configured import AsJson, Wide, command
from .panels import SCORERS

pipelines_app = typer.Typer()


@command(pipelines_app, panel=SCORERS)
def pipelines(wide: Wide = False, as_json: AsJson = False) -> None:
    """List the pipeline names: source, default settings, latents, and bytes per trajectory.

    `nbench pipelines`

    `nbench pipelines --json`
    """
    import json

    from ..pipelines.aliases import ALIASES, WORLD_PIPELINES

    rows: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "source": "embedded" if entry.name in WORLD_PIPELINES else entry.source,
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

    columns = ["name", "source", "steps", "guidance", "image", *(["dtype", "latent"] if wide else ())]
    caption = "MB: of the latents of a trajectory; any other pipeline by folder or Hub id"
    table = plain_table(*columns, "MB", caption=caption, left=("name", "source"))
    for row in rows:
        shown = row | {name: "x".join(map(str, row[name])) for name in ("image", "latent")}
        table.add_row(*(str(shown[column]) for column in columns), f"{row['bytes'] / 1e6:.1f}")
    print_table(table, wide)
