"""Publish a data set from a URL: its manifest has the hashes of the shards, which are fetched as they are sent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from ...errors import NbenchError
from ...jobs.scratch import scratch_folder
from ..dataset import INFO_FILE
from ..reader import open_bench
from ..storage import Location
from .card import dataset_card
from .package import CARD, Package, PublishedFile, Remote

_PIECE = 4 * 2**20


def pack_url(url: str, repo_id: str) -> Package:
    """The files of the data set at `url`; shards are not read yet, small files are.

    Raises:
        NbenchError: no data set, or unfinished, or the URL cannot be read.
    """
    bench = open_bench(url)
    location, info = bench.location, bench.info
    shards = [record for record in info.shards if record]
    files = [PublishedFile(each.path, Remote(location, each.path), each.bytes, each.sha256) for each in shards]
    files += [_small(location, name) for name in (*location.names("scores", ".parquet"), INFO_FILE)]
    left_out = sorted(location.sizes("data").keys() - {record.path for record in shards})
    readme = location.read(CARD).decode() if location.size(CARD) is not None else None
    return Package("data set", tuple(files), tuple(left_out), readme, partial(dataset_card, info, repo_id))


def _small(location: Location, name: str) -> PublishedFile:
    content = location.read(name)
    return PublishedFile(name, content, len(content), hashlib.sha256(content).hexdigest())


@contextmanager
def on_this_machine(files: Sequence[PublishedFile]) -> Iterator[list[PublishedFile]]:
    """`files` with those at a URL fetched to a temporary folder.

    Raises:
        NbenchError: one cannot be read, or differs from its recorded hash.
    """
    with scratch_folder() as folder:
        yield [_fetched(file, folder / str(number)) for number, file in enumerate(files)]


def _fetched(file: PublishedFile, path: Path) -> PublishedFile:
    if not isinstance(file.source, Remote):
        return file
    location, digest = file.source.location, hashlib.sha256()
    source = location.open(file.source.name)
    assert not isinstance(source, Path)
    with source, path.open("wb") as copy, location.reading(file.source.name):
        while piece := source.read(_PIECE):
            digest.update(piece)
            copy.write(piece)
    if digest.hexdigest() != file.sha256:
        raise NbenchError(
            f"shard {location.url}/{file.path} was changed since it was recorded: remove it and run the same "
            "`nbench build` command to repair it"
        )
    return replace(file, source=path)
