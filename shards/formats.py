"""The file formats of shards, behind one interface: Arrow rows in, Arrow rows out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from .parquet import ParquetShardWriter, parquet_misfit, read_parquet
from .schema import DatasetInfo
from .webdataset import TarShardWriter, read_tar, tar_misfit
from .writer import ShardWriter


@dataclass(frozen=True)
class Format:
    """How one format is written, read and checked.

    writer: a shard's writer, from folder, data set and shard number. read: columns of a shard in batches, from file,
    data set, columns and batch size. misfit: how an open file differs from shard number N, "" if it does not.
    """

    writer: Callable[[Path, DatasetInfo, int], ShardWriter]
    read: Callable[[Path | BinaryIO, DatasetInfo, Sequence[str], int], Iterator[pa.RecordBatch]]
    misfit: Callable[[BinaryIO, DatasetInfo, int], str]


FORMATS = {
    "parquet": Format(ParquetShardWriter, read_parquet, parquet_misfit),
    "webdataset": Format(TarShardWriter, read_tar, tar_misfit),
}


def shard_writer(folder: Path, info: DatasetInfo, index: int) -> ShardWriter:
    """The writer of shard `index` of a data set in `folder`, in its format."""
    return FORMATS[info.format].writer(folder, info, index)
