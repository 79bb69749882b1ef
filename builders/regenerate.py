"""Regenerates candidates of a data set from its spec and compares them with the stored rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import NbenchError
from ..pipelines.generate import Trajectories
from ..shards.check_shard import Defect
from ..shards.reader import Bench
from ..shards.rows import columns_of, from_arrow
from ..shards.schema import TrajectoryBatch
from .candidates import Candidates
from .process import PROCESSES

TOLERANCE = 0.02
"""Largest difference, in standard deviations of a latent (at least 1). A candidate is regenerated alone and was made in
a batch, which changes the last bits of every matrix product, and float16 has a relative error of 1e-3."""
IMAGE_TOLERANCE = 8
"""Largest mean difference of an image, in levels of 255."""


@dataclass(frozen=True)
class Regenerated:
    """count: candidates made again; largest: difference of any of their latents, beyond rounding to int8."""

    count: int
    largest: float
    defects: tuple[Defect, ...]


def regenerate(
    bench: Bench, count: int, seed: int = 0, pipeline: str | None = None, loras: Sequence[str] = ()
) -> Regenerated:
    """Regenerate `count` random candidates of `bench`; each one that differs is a defect.

    `pipeline` is the folder or Hub id of the pipeline now, `loras` are those of its LoRAs; without them, they have the
    names that the data set records.

    Raises:
        NbenchError: the pipeline cannot be found or has changed, or no pipeline made the data set.
    """
    spec, info = bench.info.spec, bench.info
    if "seed" not in spec:
        raise NbenchError("it was imported without the seeds of its candidates, so they cannot be regenerated")
    process = PROCESSES[spec.get("process", "reverse")].reload(spec, pipeline, loras)
    made, largest, defects = 0, 0.0, list[Defect]()
    for number in sorted(np.random.default_rng(seed).choice(info.rows, min(count, info.rows), replace=False).tolist()):
        stored, place, name = _row(bench, number)
        if not len(stored):
            continue  # it failed, and may do so again
        candidates = Candidates([info.cell(number)], stored.prompts, stored.seeds)
        regenerated = process.make(candidates, info.stored, info.signals)
        errors = [_latent_error(stored, regenerated, bench, position) for position in info.stored]
        made, largest = made + 1, max(largest, *(error for error, _ in errors))
        defects += [Defect(place, name, what) for what in _differences(stored, regenerated, bench, errors)]
    return Regenerated(made, largest, tuple(defects))


def _row(bench: Bench, number: int) -> tuple[TrajectoryBatch, str, str]:
    info = bench.info
    index = info.shard_of(number)
    offset = number - info.shard_rows(index).start
    columns = ["id", *columns_of(info, info.stored, True, info.signals)]
    for rows in bench.shard_rows(index, columns, 16):
        if offset < len(rows):
            row = rows.slice(offset, 1)
            return from_arrow(row, info, info.stored, True, info.signals), info.shard_path(index), str(row["id"][0])
        offset -= len(rows)
    raise NbenchError(f"{info.shard_path(index)} has too few rows")


def _latent_error(
    stored: TrajectoryBatch, regenerated: Trajectories, bench: Bench, position: int
) -> tuple[float, float]:
    """The largest difference of a latent beyond its rounding, and what is tolerated."""
    latent = stored.latents[position].astype(np.float32)
    step = np.abs(latent).max((2, 3), keepdims=True) / 254 if bench.info.latent_dtype == "int8" else 0.0
    error = np.abs(latent - regenerated.latents[position].float().numpy()) - step
    return max(0.0, float(error.max())), TOLERANCE * max(1.0, float(latent.std()))


def _differences(
    stored: TrajectoryBatch, regenerated: Trajectories, bench: Bench, errors: Sequence[tuple[float, float]]
) -> list[str]:
    wrong = (
        (k, error) for k, (error, tolerated) in zip(bench.info.stored, errors, strict=True) if not error <= tolerated
    )
    # later positions follow from the first
    differences = [f"made again, its latent at {k} differs by {error:.3g}" for k, error in wrong][:1]
    differences += _other_differences(stored, regenerated, bench)
    if stored.images is not None:
        error = np.abs(stored.images.astype(float) - regenerated.images).mean()
        if error > IMAGE_TOLERANCE:
            differences.append(f"made again, its image differs by {error:.0f} of 255 on average")
    return differences


def _other_differences(stored: TrajectoryBatch, regenerated: Trajectories, bench: Bench) -> list[str]:
    """The first signal that differs from the stored one, relative to its own size, since x0 grows with the noise."""
    pairs = [
        (f"{signal} at {k}", stored.estimates(signal)[k], values)
        for signal, places in {"x0": regenerated.x0, **regenerated.ahead}.items()
        for k, values in places.items()
    ]
    for layer, places in regenerated.activations.items():
        pairs += [(f"{layer} at {k}", stored.activations[layer][k], values) for k, values in places.items()]
    if regenerated.cfg_gap is not None and stored.cfg_gap is not None:
        pairs.append(("cfg_gap", stored.cfg_gap, regenerated.cfg_gap))
    differences = []
    for name, signal, values in pairs:
        expected = signal.astype(np.float32)
        size = max(1.0, float(np.abs(expected).max()))
        step = size / 254 if bench.info.latent_dtype == "int8" and name.startswith("x0") else 0.0
        error = np.abs(expected - values.float().numpy()).max() - step
        if not error <= TOLERANCE * size:
            differences.append(f"made again, its {name} differs by {error:.3g}")
    return differences[:1]
