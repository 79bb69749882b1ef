"""Making a data set as a job: its units are shards, whose records become dataset.json at the end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..errors import NbenchError, StorageError
from ..jobs.job import Context, JobError, Open, Unit
from ..jobs.records import Record
from ..jobs.run import Run, Summary, check_alone, clear, complete
from ..jobs.store import Store
from .dataset import INFO_FILE, DatasetFolder
from .fingerprint import fingerprint
from .formats import shard_writer
from .schema import DatasetInfo, ShardRecord

_REMADE = "remade"
"""Folder of shards that are made again and whose old file stays in its place until all of them are there."""


class DatasetJob:
    """A data set in a store, as the driver sees it that has its shards made."""

    def __init__(self, store: Store, key: str, title: str, open: Open) -> None:
        self.store, self.key, self.title, self.open = store, key, title, open

    @cached_property
    def info(self) -> DatasetInfo:
        """The record of the data set when this driver began."""
        return dataset_info(self.store)

    def begun(self) -> bool:
        """Whether the data set has its record."""
        return self.store.read(INFO_FILE) is not None

    def units(self) -> Collection[int]:
        """All shards."""
        return range(self.info.n_shards)

    def made_before(self) -> Collection[int]:
        """The shards in the record, such as those of a data set that is extended."""
        return [index for index, record in enumerate(dataset_info(self.store).shards) if record is not None]

    def rows(self, index: int) -> int:
        """Its trajectories."""
        return len(self.info.shard_rows(index))

    def payload(self, index: int) -> Any:
        """Nothing: workers know how to make a shard by its number."""

    def damaged(self, records: Mapping[int, Record]) -> dict[int, str]:
        """The shards whose file is missing or has another size than recorded, and that file."""
        return damaged(self.store, shard_records(self.store, records))


@dataclass(frozen=True)
class RowsMaker:
    """Makes the shards of the data set `info`, whose record is there, of the rows that `rows` gives for each."""

    info: DatasetInfo
    rows: Callable[[int], Iterator[pa.RecordBatch]]
    context: Context

    def begin(self, payload: Any) -> None:
        """Nothing."""

    def make(self, index: int, payload: Any, folder: Path) -> Unit:
        """Make shard `index`.

        Raises:
            JobError: there is a row that cannot be read, or stored in this dtype.
        """
        try:
            rows = self.rows(index)
            return made_shard(folder, shard_writer(folder, self.info, index).write_all(rows, self.context.advance))
        except StorageError:
            raise
        except NbenchError as error:
            raise JobError(str(error)) from None

    def close(self) -> None:
        """Nothing is open."""


def made_shard(folder: Path, record: ShardRecord, again: bool = False) -> Unit:
    """The unit of a shard that is written in `folder`; again: in place of a file that is there."""
    name = f"{_REMADE}/{Path(record.path).name}" if again else record.path
    return Unit({name: (folder / record.path, record.sha256)}, asdict(record))


def make_dataset(job: DatasetJob, how: Run, again: str = "the same command") -> Summary:
    """Make the shards of a data set, or this process's share; with all of them, close the data set.

    Raises:
        NbenchError: as `jobs.run.run`, or a shard failed at every attempt; the message says to run `again`.
    """
    summary, records = complete(job, how)
    summary.check(job, again)
    if not summary.left and how.share is None:
        merge(job.store, shard_records(job.store, records))
    return summary


def take_up(folder: DatasetFolder, spec: dict[str, Any], fresh: bool, how: Run) -> None:
    """Prepare a data set for a job that makes it: refuse another one, take out what is damaged; fresh: start over.

    Raises:
        NbenchError: the folder holds another data set, somebody is at work there, or its store cannot be shared.
    """
    if how.is_shared:
        folder.store.probe()
    if not folder.started:
        return
    if fresh:
        check_alone(folder.store, how.lease)
        folder.clear()
        clear(folder.store)
    else:
        folder.check(fingerprint(spec), spec)
        repair(folder.store)


def dataset_info(store: Store) -> DatasetInfo:
    """The record of the data set in a store, as it was last written: shards that only have a record are missing."""
    return DatasetInfo.from_json(store.read(INFO_FILE) or b"", f"{store.url}/{INFO_FILE}")


def shard_records(store: Store, records: Mapping[int, Record]) -> dict[int, ShardRecord]:
    """What the records of a job tell of its shards; those that were made again are put in their place."""
    shards = {index: ShardRecord(**record.result) for index, record in records.items()}
    remade = store.list(_REMADE)
    for record in shards.values():
        if (name := f"{_REMADE}/{Path(record.path).name}") in remade:
            store.move(name, record.path)
    return shards


def damaged(store: Store, shards: Mapping[int, ShardRecord]) -> dict[int, str]:
    """The shards whose file is missing or has another size than recorded, and that file."""
    files = store.list("data")
    return {i: record.path for i, record in shards.items() if files.get(record.path, (-1,))[0] != record.bytes}


def merge(store: Store, shards: Mapping[int, ShardRecord]) -> DatasetInfo:
    """Write the records of all shards into dataset.json, and remove what the job kept beside it."""
    info = dataset_info(store)
    if not info.complete:
        info = replace(info, shards=tuple(shards.get(index, record) for index, record in enumerate(info.shards)))
        store.write(INFO_FILE, info.to_json())
    clear(store)
    store.remove_folder(_REMADE)
    return info


def repair(store: Store) -> None:
    """Take shards that are damaged or lost out of the record of a data set, so that they are made again."""
    shards = {index: record for index, record in enumerate(dataset_info(store).shards) if record}
    if bad := damaged(store, shards):
        store.remove(bad.values())
        take_out(store, bad)


def take_out(store: Store, indices: Iterable[int]) -> None:
    """Take shards out of the record of a data set."""
    info, gone = dataset_info(store), set(indices)
    shards = tuple(None if index in gone else record for index, record in enumerate(info.shards))
    store.write(INFO_FILE, replace(info, shards=shards).to_json())
