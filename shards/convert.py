"""Convert a data set: format, latent dtype, shard size, fewer positions; everything else stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import NbenchError
from ..jobs.job import Context
from ..jobs.mirror import mirrored
from ..jobs.run import QUIET, Run, Summary
from ..jobs.store import Store
from ..options import Place
from .convert_config import ConvertConfig
from .dataset import DatasetFolder
from .dataset_job import DatasetJob, RowsMaker, dataset_info, make_dataset, take_up
from .encoding import check_int8_encoding
from .fingerprint import fingerprint
from .reader import Bench, open_bench
from .row_columns import arrow_schema, latent_column
from .rows import latents_of, latents_to_arrow
from .schema import DatasetInfo
from .scores import reference_path, scores_metadata, write_scores
from .signals import estimates_of
from .storage import Location

_BATCH_BYTES = 64 * 2**20
_OF_LATENT_DTYPE = ("latent_", "scale_", "x0_", "x0at")
"""Prefixes of the columns that `latent_dtype` changes."""


@dataclass(frozen=True)
class OpenConversion:
    """What a worker needs to convert shards; picklable."""

    source: Place
    store: Store

    def __call__(self, context: Context) -> RowsMaker:
        """Open both data sets."""
        source, info = open_bench(self.source), dataset_info(self.store)
        return RowsMaker(info, partial(_rows, source, info), context)


def convert(config: ConvertConfig, how: Run = QUIET) -> tuple[DatasetInfo, Summary]:
    """Convert the data set at `config.source` shard by shard, and what was done; an interrupted conversion is resumed.

    Reference scores are copied: they belong to the finished images, which do not change. If `how` makes only a share of
    the shards, whoever converts without one closes the data set.

    Raises:
        NbenchError: no such source, a position that it does not have, or a destination that cannot be written.
    """
    source, out = open_bench(config.source), Location.of(config.out, hub_ids=False)
    info = _converted(source, config)
    if out.inside(source.location):
        raise NbenchError(f"{config.out} is the source itself, or in it: choose another destination")
    folder = DatasetFolder(out.folder or config.out)
    folder.check_writable()
    take_up(folder, info.spec, config.fresh, how)
    if not folder.started:
        folder.create(info)
    of = OpenConversion(source.location.absolute, folder.store)
    summary = make_dataset(DatasetJob(folder.store, info.fingerprint, "convert", of), how)
    if not summary.left and how.share is None:
        with mirrored(folder.place, "scores") as base:
            _write_references(source, base, info)
    return info, summary


def _converted(source: Bench, config: ConvertConfig) -> DatasetInfo:
    """The initial record of the new data set, with no shard committed."""
    old = source.info
    stored = old.stored if config.positions is None else source.select(config.positions)
    if old.split == "test" and old.steps in old.stored:
        stored = tuple(sorted({*stored, old.steps}))  # every evaluation compares with the finished latent
    per_shard = config.rows_per_shard or old.rows_per_shard
    change: dict[str, Any] = {
        "format": config.format or old.format,
        "latent_dtype": config.latent_dtype or old.latent_dtype,
        "rows_per_shard": per_shard,
    }
    check_int8_encoding(config.int8_encoding, change["format"], change["latent_dtype"])
    encoding = config.int8_encoding or old.int8_encoding
    if (change["format"], change["latent_dtype"]) != ("parquet", "int8"):
        encoding = "plain"
    spec = old.spec | change | {"positions": list(stored), "converted_from": old.fingerprint}
    spec = {key: value for key, value in spec.items() if key != "int8_encoding"}
    spec |= {} if encoding == "plain" else {"int8_encoding": encoding}
    info = replace(
        old,
        **change,
        int8_encoding=encoding,
        fingerprint=fingerprint(spec),
        spec=spec,
        positions=tuple(place for place in old.positions if place.position in stored),
        blocks=tuple(replace(block, fingerprint=fingerprint(spec)) for block in old.blocks),
    )
    return replace(info, shards=(None,) * info.n_shards)


def _write_references(source: Bench, folder: Path, info: DatasetInfo) -> None:
    """Copy the score tables of the source to the data set `info`."""
    for name, table in source.references.items():
        origin = scores_metadata(table)
        if origin.get("bench_fingerprint") == source.info.fingerprint:  # else it scores another build, and still does
            origin["bench_fingerprint"] = info.fingerprint
        write_scores(reference_path(folder, name), table, origin)


def _rows(source: Bench, info: DatasetInfo, index: int) -> Iterator[pa.RecordBatch]:
    """The rows of shard `index` of the new data set, read from the shards of the old one."""
    wanted, old = info.shard_rows(index), source.info
    plain = [name for name in arrow_schema(info).names if not name.startswith(_OF_LATENT_DTYPE)]
    kept = set(arrow_schema(replace(old, positions=info.positions)).names)
    columns = [name for name in arrow_schema(old).names if name in kept]
    size = max(1, _BATCH_BYTES // (4 * info.row_bytes))
    for number in range(old.shard_of(wanted.start), old.shard_of(wanted.stop - 1) + 1):
        start = old.shard_rows(number).start
        for rows in source.shard_rows(number, columns, size):
            first, last = max(wanted.start - start, 0), min(wanted.stop - start, len(rows))
            start += len(rows)
            if first < last:
                yield _change(rows.slice(first, last - first), old, info, plain)


def _change(rows: pa.RecordBatch, old: DatasetInfo, info: DatasetInfo, plain: list[str]) -> pa.RecordBatch:
    """`rows` with the columns of the new data set."""
    schema = arrow_schema(info)
    if old.latent_dtype == info.latent_dtype:
        return rows.select(schema.names).cast(schema)
    failed = pc.not_equal(rows["status"], "ok").to_numpy(zero_copy_only=False)
    sound, arrays = rows.filter(pc.equal(rows["status"], "ok")), {name: rows[name] for name in plain}
    for position in info.stored:
        for signal in ("latent", *estimates_of(info.signals)):
            if latent_column(position, signal) in schema.names:
                latents = np.zeros((len(rows), *old.latent_shape), np.float32)
                latents[~failed] = latents_of(sound, old, position, signal)
                arrays |= latents_to_arrow(latents, info, position, failed, signal)
    return pa.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema)
