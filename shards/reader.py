"""Read a finished data set in batches; only the requested columns are read from disk."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from ..errors import NbenchError, one_line, reason_of
from ..options import Place
from .dataset import intact, read_info
from .formats import FORMATS
from .positions import describe_positions, parse_positions
from .row_columns import array_columns, column_bytes
from .rows import check_rows, columns_of, count_failed, from_arrow
from .schema import DatasetInfo, Tags, TrajectoryBatch
from .scores import read_scores
from .signals import absent_signals, normal_signals
from .storage import Location
from .stream import AS_STORED, Order, prefetch

_BATCH_BYTES = 2**30
"""Limit on latents and other signals in a batch, or one row, whatever batch size is requested."""


class BenchPrompt(NamedTuple):
    """A prompt of a bench, with the skills that it needs."""

    prompt_id: str
    prompt: str
    tags: Tags | None


@dataclass(frozen=True, repr=False)
class Bench:
    """A complete data set of trajectories."""

    info: DatasetInfo
    location: Location

    @property
    def name(self) -> str:
        """The name of its folder.

        Raises:
            NbenchError: the path or URL does not end in a name.
        """
        root, unnamed = Path(self.location.root), ("", "..")
        if root.name in unnamed and self.location.folder is not None:
            root = root.resolve()
        if root.name in unnamed:
            raise NbenchError(f"{self.location.url} does not end in a name, which results need: name the folder")
        return root.name

    @property
    def path(self) -> Path:
        """Its local folder.

        Raises:
            NbenchError: it is not on this machine.
        """
        if self.location.folder is None:
            raise NbenchError(f"{self.location.url} is not on this machine: copy it with `nbench convert` first")
        return self.location.folder

    @cached_property
    def prompts(self) -> list[BenchPrompt]:
        """The prompts in order, each once."""
        prompts: dict[str, BenchPrompt] = {}
        for batch in self.rows(["prompt_id", "prompt", "tags"], 4096):
            for row in batch.to_pylist():
                prompts.setdefault(row["prompt_id"], BenchPrompt(**row))
        return list(prompts.values())

    @cached_property
    def n_failed(self) -> int:
        """Number of candidates that failed and have no latents."""
        return sum(count_failed(batch) for batch in self.rows(["status"], 65536))

    def select(self, text: str) -> tuple[int, ...]:
        """The positions that `text` selects (see `parse_positions`); `all` selects all stored ones.

        Raises:
            NbenchError: invalid text, or a position that is not stored.
        """
        positions = self.info.stored if text.strip() == "all" else parse_positions(text, self.info.steps)
        self.require(positions)
        return positions

    def require(self, positions: Sequence[int]) -> None:
        """Check that all `positions` are stored.

        Raises:
            NbenchError: some are not; the message names them and the stored ones.
        """
        absent = [position for position in positions if position not in self.info.stored]
        if absent:
            has = describe_positions(self.info.stored)
            raise NbenchError(f"latents {one_line(describe_positions(absent), 60)} not in this bench: it has {has}")

    def require_signals(self, names: Sequence[str]) -> None:
        """Check that all signals in `names` are stored; activations are named `activations:LAYER`, attention likewise.

        Raises:
            NbenchError: some are not; the message names them and the stored ones.
        """
        has = self.info.signals
        if absent := absent_signals(names, has):
            wanted = dict.fromkeys(name for name in (*has[:-1], *absent) if name != has[-1])
            try:
                option = ",".join(normal_signals((*wanted, has[-1])))
            except NbenchError:  # a signal that no data set has
                raise NbenchError(f"{', '.join(absent)} not in this bench: it has {', '.join(has)}") from None
            raise NbenchError(
                f"{', '.join(absent)} not in this bench: it has {', '.join(has)}; build it with --signals {option}"
            )

    def batches(
        self,
        positions: Sequence[int] = (),
        images: bool = False,
        batch_size: int = 256,
        order: Order = AS_STORED,
        ahead: int = 0,
        signals: Sequence[str] = ("latent",),
    ) -> Iterator[TrajectoryBatch]:
        """The candidates that succeeded, in batches of at most `batch_size`.

        Args:
            order: shuffled or as stored, the whole or a part, from the start or from a given row.
            ahead: batches that a thread reads in advance.
            signals: what to read at the positions: latent, x0, x0@L, cfg_gap (of all steps), activations:LAYER,
                attention:LAYER; "image" is the same as `images=True`.

        Raises:
            NbenchError: a position or signal is not stored, or there are more readers than shards.
        """
        self.require(positions)
        self.require_signals(signals)
        images = images or "image" in signals
        columns = columns_of(self.info, positions, images, signals)

        def read(index: int) -> Iterator[pa.RecordBatch]:
            return self.shard_rows(index, columns, batch_size)

        rows = order.rows(self.info, self._row_bytes(columns), batch_size, read)
        trajectories = (from_arrow(batch, self.info, positions, images, signals) for batch in rows)
        return prefetch(trajectories, ahead) if ahead else trajectories

    def rows(self, columns: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch]:
        """All rows as stored, failed ones too: `columns` of `arrow_schema`, in batches of at most `batch_size`."""
        for index in range(len(self.info.shards)):
            yield from self.shard_rows(index, columns, batch_size)

    def shard_rows(self, index: int, columns: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch]:
        """The rows of one shard, in batches of at most `batch_size` rows and 1 GiB of numbers.

        Raises:
            NbenchError: the file is damaged, or its columns or row count differ from the record.
        """
        info, name, count = self.info, self.info.shard_path(index), 0
        limit = max(1, min(batch_size, _BATCH_BYTES // max(1, self._row_bytes(columns))))
        expected = len(info.shard_rows(index))
        source = self.location.open(name)
        try:
            for rows in FORMATS[info.format].read(source, info, columns, limit):
                count += len(rows)
                if count > expected:
                    raise ValueError(f"it has more than {expected} rows")
                check_rows(rows)
                yield rows
            if count < expected:
                raise ValueError(f"it has {count} rows, not {expected}")
        except NbenchError:
            raise
        except Exception as error:  # on damaged bytes the reading libraries raise any type
            reason = reason_of(error)
            raise NbenchError(f"cannot read {self._place(name)} ({reason}): see `nbench verify`") from None
        finally:
            if not isinstance(source, Path):
                source.close()

    def to_datasets(self, positions: Sequence[int] | None = None, streaming: bool = False, **options: Any) -> Any:
        """The rows as a data set of the library `datasets`; see `libraries.to_datasets`."""
        from .libraries import to_datasets

        return to_datasets(self, positions, streaming, **options)

    def to_webdataset(self, positions: Sequence[int] | None = None, shuffle: int = 0, **options: Any) -> Any:
        """The samples as a pipeline of the library `webdataset`; see `libraries.to_webdataset`."""
        from .libraries import to_webdataset

        return to_webdataset(self, positions, shuffle, **options)

    def __repr__(self) -> str:
        info = self.info
        shape, image = ("x".join(map(str, size)) for size in (info.latent_shape, info.image_size))
        lines = (
            f"{info.name} at {self.location.url}",
            f"  {info.n_prompts:,} prompts x {info.candidates}, by pipeline {info.spec['pipeline']['name']}"
            if "pipeline" in info.spec
            else f"  {info.n_prompts:,} prompts x {info.candidates}, imported",
            f"  {info.latent_dtype} latents {shape} at positions {describe_positions(info.stored)}, images {image}",
            f"  {len(info.shards):,} shards ({info.format})",
            f"  references: {', '.join(self.references) or 'none'}",
        )
        return "\n".join(one_line(line) for line in lines)

    @cached_property
    def references(self) -> dict[str, pa.Table]:
        """The data set's score tables by name."""
        names = self.location.names("scores", ".parquet")
        folder = self.location.folder
        return {
            Path(name).stem: read_scores(folder / name if folder else self.location.read(name), self._place(name))
            for name in names
        }

    def _row_bytes(self, columns: Collection[str]) -> int:
        return column_bytes(column for name, column in array_columns(self.info).items() if name in columns)

    def _place(self, name: str) -> str:
        return f"{self.location.url}/{name}"


def open_bench(where: Place) -> Bench:
    """Open a data set for reading: a folder, a URL such as `hf://datasets/user/name` or `s3://...`, or a Hub id.

    Raises:
        NbenchError: nothing there, damaged, not finished, or a shard is missing or has another size than recorded.
    """
    location = Location.of(where)
    info = read_info(location)
    if not info.complete:
        done = len(info.shards) - info.shards.count(None)
        raise NbenchError(
            f"{location.url} is half built ({done} of {len(info.shards)} shards): "
            "run the same `nbench build` command again to finish it"
        )
    sizes = location.sizes("data")
    for record in info.shards:
        if record is None or (sizes.get(record.path) != record.bytes and not intact(location, record)):
            place = record and f"{location.url}/{record.path}"
            raise NbenchError(f"shard {place} is missing or cut short: run `nbench build` again to repair it")
    return Bench(info, location)
