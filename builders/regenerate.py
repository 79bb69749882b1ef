"""Candidates made again from what a data set says of them, and compared with what it holds."""

from __future__ import annotations

import numpy as np

from ..errors import NbenchError
from ..pipelines.generate import Trajectories
from ..shards.reader import Bench
from ..shards.rows import columns_of, from_arrow
from ..shards.schema import TrajectoryBatch
from ..shards.verify import Defect
from .candidates import Candidates
from .process import PROCESSES

TOLERANCE = 0.02
"""Times the standard deviation of a latent, if that is above 1. A candidate is made alone here and was made in a batch,
which changes last bits of every matrix product, and float16 keeps 1e-3 of a number."""
IMAGE_TOLERANCE = 8
"""Levels of 255, on the average of an image."""


def regenerate(bench: Bench, count: int, seed: int = 0, pipeline: str | None = None) -> list[Defect]:
    """Make `count` random candidates of `bench` anew; every one that differs is a defect.

    `pipeline` says where the pipeline lies now, None that it is to be had by the name that the data set gives.

    Raises:
        NbenchError: the pipeline is not within reach, or is another by now; or a data set that no pipeline made.
    """
    spec, info = bench.info.spec, bench.info
    if "seed" not in spec:
        raise NbenchError("it was imported, and nobody knows the seeds of its candidates: they cannot be made again")
    process = PROCESSES[spec.get("process", "reverse")].reload(spec, pipeline)
    defects = []
    for number in sorted(np.random.default_rng(seed).choice(info.rows, min(count, info.rows), replace=False).tolist()):
        stored, place, name = _row(bench, number)
        if not len(stored):
            continue  # it failed, and may do so again
        candidates = Candidates([info.cell(number)], stored.prompts, stored.seeds)
        made = process.make(candidates, info.stored, info.signals)
        defects += [Defect(place, name, what) for what in _differences(stored, made, bench)]
    return defects


def _row(bench: Bench, number: int) -> tuple[TrajectoryBatch, str, str]:
    info = bench.info
    index = info.shard_of(number)
    offset = number - info.shard_rows(index).start
    columns = ["id", *columns_of(info, info.stored, True, info.signals)]
    for rows in bench.shard_rows(index, columns, 16):
        if offset < len(rows):
            found = rows.slice(offset, 1)
            return from_arrow(found, info, info.stored, True, info.signals), info.shard_path(index), str(found["id"][0])
        offset -= len(rows)
    raise NbenchError(f"{info.shard_path(index)} has too few rows")


def _differences(stored: TrajectoryBatch, made: Trajectories, bench: Bench) -> list[str]:
    told = []
    for position in bench.info.stored:
        was = stored.latents[position].astype(np.float32)
        step = np.abs(was).max((2, 3), keepdims=True) / 254 if bench.info.latent_dtype == "int8" else 0.0
        error = np.abs(was - made.latents[position].float().numpy()) - step
        if not error.max() <= TOLERANCE * max(1.0, float(was.std())):
            told.append(f"made again, its latent at {position} differs by {error.max():.3g}")
            break  # what comes later follows from it
    told += _other_differences(stored, made, bench)
    if stored.images is not None:
        error = np.abs(stored.images.astype(float) - made.images).mean()
        if error > IMAGE_TOLERANCE:
            told.append(f"made again, its image differs by {error:.0f} of 255 on average")
    return told


def _other_differences(stored: TrajectoryBatch, made: Trajectories, bench: Bench) -> list[str]:
    """Signals that differ from what is stored; all are compared by their own size, since x0 grows with the noise."""
    pairs = [(f"x0 at {k}", stored.x0[k], values) for k, values in made.x0.items()]
    for layer, places in made.activations.items():
        pairs += [(f"{layer} at {k}", stored.activations[layer][k], values) for k, values in places.items()]
    if made.cfg_gap is not None and stored.cfg_gap is not None:
        pairs.append(("cfg_gap", stored.cfg_gap, made.cfg_gap))
    told = []
    for name, kept, values in pairs:
        was = kept.astype(np.float32)
        size = max(1.0, float(np.abs(was).max()))
        step = size / 254 if bench.info.latent_dtype == "int8" and name.startswith("x0") else 0.0
        error = np.abs(was - values.float().numpy()).max() - step
        if not error <= TOLERANCE * size:
            told.append(f"made again, its {name} differs by {error:.3g}")
    return told[:1]
