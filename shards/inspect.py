"""Summary statistics and a contact sheet of a data set."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image, ImageDraw
from rich.console import Group
from rich.table import Table

from ..console import plain_table, stacked
from ..errors import NbenchError
from .reader import Bench
from .row_columns import signal_bytes
from .rows import columns_of, from_arrow, latents_of
from .schema import PreviewMap

SAMPLE = 1000
"""Statistics are computed over this many leading rows."""
_TILE, _LABEL, _COLUMNS = 96, 14, 10
_BATCH_ROWS = 64


@dataclass(frozen=True)
class PositionStatistics:
    """A stored position; mean and standard deviation of its latents, NaN if no row has any."""

    position: int
    timestep: float | None
    sigma: float | None
    mean: float
    std: float


@dataclass(frozen=True)
class Inspection:
    """A data set's summary.

    bytes: of all shards; raw_bytes: of the numbers of all signals before compression, `signals` by signal; sampled:
    rows in the statistics.
    """

    name: str
    where: str
    format: str
    latent_dtype: str
    latent_shape: tuple[int, ...]
    image_size: tuple[int, ...]
    pipeline: str
    rows: int
    failed: int
    prompts: int
    candidates: int
    shards: int
    bytes: int
    raw_bytes: int
    signals: dict[str, int]
    references: tuple[str, ...]
    sampled: int
    positions: tuple[PositionStatistics, ...]

    def to_dict(self) -> dict[str, Any]:
        """What `nbench inspect --json` prints."""
        return asdict(self)


def inspect(bench: Bench, sample: int = SAMPLE) -> Inspection:
    """Summarize a data set; only the latents of the first `sample` rows are read."""
    info = bench.info
    moments = np.zeros((len(info.stored), 3))  # count, sum, sum of squares
    sampled = 0
    for rows in bench.rows(columns_of(info, info.stored, images=False), min(_BATCH_ROWS, sample)):
        rows = rows.slice(0, sample - sampled)
        sampled += len(rows)
        sound = rows.filter(pc.equal(rows["status"], "ok"))
        for index, position in enumerate(info.stored):
            values = latents_of(sound, info, position).astype(np.float64)
            moments[index] += values.size, values.sum(), np.square(values).sum()
        if sampled >= sample:
            break
    with np.errstate(invalid="ignore"):
        mean = moments[:, 1] / moments[:, 0]
        std = np.sqrt(np.maximum(moments[:, 2] / moments[:, 0] - mean**2, 0))
    signals = {name: size * info.rows for name, size in signal_bytes(info).items()}
    return Inspection(
        name=info.name,
        where=bench.location.url,
        format=info.format,
        latent_dtype=info.latent_dtype,
        latent_shape=tuple(info.latent_shape),
        image_size=tuple(info.image_size),
        pipeline=info.spec["pipeline"]["name"],
        rows=info.rows,
        failed=bench.n_failed,
        prompts=info.n_prompts,
        candidates=info.candidates,
        shards=len(info.shards),
        bytes=sum(record.bytes for record in info.shards if record),
        raw_bytes=sum(signals.values()),
        signals=signals,
        references=tuple(bench.references),
        sampled=sampled,
        positions=tuple(
            PositionStatistics(place.position, place.timestep, place.sigma, float(mean[i]), float(std[i]))
            for i, place in enumerate(info.positions)
        ),
    )


def inspection_table(summary: Inspection) -> Group:
    """The summary as text for the terminal."""
    shape, image = ("x".join(map(str, size)) for size in (summary.latent_shape, summary.image_size))
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("data set", f"{summary.name} at {summary.where}"),
        ("made by", f"pipeline {summary.pipeline}, images {image}"),
        (
            "rows",
            f"{summary.rows:,}: {summary.prompts:,} prompts x {summary.candidates}, {summary.failed:,} failed",
        ),
        *(
            ("latents", f"{summary.latent_dtype} {shape} at {len(summary.positions)} positions, {size:,} bytes raw")
            if name == "latent"
            else (name, f"{size:,} bytes raw")
            for name, size in summary.signals.items()
        ),
        ("shards", f"{summary.shards:,} ({summary.format}), {summary.bytes:,} bytes"),
        ("per trajectory", f"{summary.bytes / max(1, summary.rows):,.0f} bytes"),
        ("references", ", ".join(summary.references) or "none"),
    ):
        facts.add_row(name, value)
    columns = ("position", "timestep", "sigma", "mean", "std")
    table = plain_table(*columns, title=f"latents of the first {summary.sampled:,} rows")
    for place in summary.positions:
        schedule = ("-" if value is None else f"{value:.4g}" for value in (place.timestep, place.sigma))
        table.add_row(str(place.position), *schedule, f"{place.mean:+.4f}", f"{place.std:.4f}")
    return stacked([facts, table])


def contact_sheet(bench: Bench, row: str) -> bytes:
    """A PNG of the trajectory with id `row`: the preview of every stored position, and the final image.

    Raises:
        NbenchError: no such row, a failed row, or a data set without a preview map.
    """
    info = bench.info
    if info.preview is None:
        raise NbenchError(f"{bench.location.url} has no preview map, so latents cannot be shown")
    for index in range(len(info.shards)):
        ids = [name for rows in bench.shard_rows(index, ["id"], 4096) for name in rows["id"].to_pylist()]
        if row in ids:
            break
    else:
        raise NbenchError(f"no row {row!r} in {bench.location.url}: rows are named <prompt id>/<candidate>")
    columns, number = columns_of(info, info.stored, images=True), ids.index(row)
    for rows in bench.shard_rows(index, columns, _BATCH_ROWS):
        if number < len(rows):
            break
        number -= len(rows)
    batch = from_arrow(rows.slice(number, 1), info, info.stored, images=True)
    if not len(batch) or batch.images is None:
        raise NbenchError(f"row {row!r} failed: it has no latents to show")
    tiles = [(str(k), preview_image(batch.latents[k][0], info.preview)) for k in info.stored]
    return sheet_of([*tiles, ("image", batch.images[0])], f"{row}: {batch.prompts[0]}")


def preview_image(latent: np.ndarray, preview: PreviewMap) -> np.ndarray:
    """uint8 [H, W, 3] from a latent [C, H, W], through the linear map."""
    rgb = np.einsum("rc,chw->hwr", np.array(preview.weight), latent.astype(np.float64)) + np.array(preview.bias)
    return (np.clip(np.nan_to_num(rgb), 0, 1) * 255).round().astype(np.uint8)


def sheet_of(tiles: list[tuple[str, np.ndarray]], title: str) -> bytes:
    """A PNG of labelled images, uint8 [H, W, 3], under a title."""
    columns = min(_COLUMNS, len(tiles))
    height = _TILE + _LABEL
    sheet = Image.new("RGB", (columns * _TILE, _LABEL + -(-len(tiles) // columns) * height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((2, 1), title, "black")
    for i, (label, pixels) in enumerate(tiles):
        x, y = i % columns * _TILE, _LABEL + i // columns * height
        sheet.paste(Image.fromarray(pixels).resize((_TILE - 2, _TILE - 2), Image.Resampling.NEAREST), (x + 1, y))
        draw.text((x + 2, y + _TILE - 2), label, "black")
    buffer = io.BytesIO()
    sheet.save(buffer, "png")
    return buffer.getvalue()
