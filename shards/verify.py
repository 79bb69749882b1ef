"""Check a data set against its record and report every defect."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import NbenchError
from ..jobs.job import JOB_FILE, Context, Unit
from ..jobs.places import beneath, store_at
from ..jobs.records import Record, Records
from ..jobs.run import QUIET, Run, complete
from ..jobs.scratch import scratch_folder
from ..jobs.store import LocalStore, Store
from ..options import Place
from .check_shard import Defect, check_shard, stray
from .dataset import INFO_FILE, read_info
from .fingerprint import fingerprint
from .reader import Bench
from .references import finished_scores
from .schema import SUFFIXES, DatasetInfo, digest
from .storage import Location

CHECKS = ".verify"
"""Folder in a data set for the records of a check that several machines share."""


@dataclass(frozen=True)
class Verification:
    """What was checked, and every defect; left: shards that others have not checked yet."""

    rows: int
    shards: int
    defects: tuple[Defect, ...]
    left: int = 0


@dataclass(frozen=True)
class OpenVerification:
    """What a worker needs to check shards; picklable."""

    place: Place

    def __call__(self, context: Context) -> ShardChecker:
        """Open the data set, which may lack shards."""
        location = Location.of(self.place)
        return ShardChecker(Bench(read_info(location), location), context)


@dataclass(frozen=True)
class ShardChecker:
    """Checks shards, each for itself."""

    bench: Bench
    context: Context

    def begin(self, payload: Any) -> None:
        """Nothing."""

    def make(self, index: int, payload: Any, folder: Path) -> Unit:
        """Check shard `index`: its defects, and what the check of all shards together needs to know."""
        defects, rows = check_shard(self.bench, index, self.context.advance)
        return Unit({}, {"defects": [astuple(defect) for defect in defects], **asdict(rows)})

    def close(self) -> None:
        """Nothing is open."""


class VerifyJob:
    """The check of a data set, as its driver sees it."""

    title = "verify"

    def __init__(self, info: DatasetInfo, location: Location, store: Store) -> None:
        self.store, self.open, self._info = store, OpenVerification(location.absolute), info
        files = store_at(location.absolute).list("data") if store.url.endswith(CHECKS) else {}
        self.key = digest({"fingerprint": info.fingerprint, "files": files})  # those of other files do not count

    def begun(self) -> bool:
        """Always."""
        return True

    def units(self) -> Collection[int]:
        """The shards."""
        return range(len(self._info.shards))

    def made_before(self) -> Collection[int]:
        """None."""
        return ()

    def damaged(self, records: Mapping[int, Record]) -> dict[int, str]:
        """None: a check leaves no file."""
        return {}

    def rows(self, index: int) -> int:
        """Its trajectories."""
        return len(self._info.shard_rows(index))

    def payload(self, index: int) -> None:
        """Nothing: workers read the shard."""


def verify(where: Place, how: Run = QUIET) -> Verification:
    """Check the record, every shard, every row and the score tables of a data set.

    If `how` selects a share, only its shards, and not yet what concerns all of them together. Shares, and workers on
    other machines, keep their records in the data set; the check without a share that ends them removes these.

    Raises:
        NbenchError: no data set, an invalid dataset.json, or a place for records that cannot be written.
    """
    location = Location.of(where)
    info = read_info(location)
    with ExitStack() as stack:
        store = _store(location, how, stack)
        job = VerifyJob(info, location, store)
        summary, records = complete(job, replace(how, retry_failed=True))
        summary.check(job)
        if how.share is not None:
            of = Records(store, job.key)
            records = of.read(of.done())
        checked = [records[index].result for index in sorted(records)]
        defects = [Defect(*fields) for result in checked for fields in result["defects"]]
        if how.share is None:
            defects = [*_record(location, info), *defects, *_prompts(info, checked)]
            defects += _scores(Bench(info, location), all(defect.file == INFO_FILE for defect in defects))
            store.remove_folder("")
    return Verification(info.rows, len(info.shards), tuple(defects), summary.left)


def _store(location: Location, how: Run, stack: ExitStack) -> Store:
    """Where the records of a check go: a temporary folder if only processes here are at it."""
    is_shared = how.share is not None or how.engine.elsewhere
    if is_shared and not location.writable:
        raise NbenchError(f"{location.url} cannot be written, so only processes of one machine can share its check")
    if is_shared or location.size(f"{CHECKS}/{JOB_FILE}") is not None:
        return store_at(beneath(location.absolute, CHECKS))
    return LocalStore(stack.enter_context(scratch_folder()))


def _record(location: Location, info: DatasetInfo) -> Iterator[Defect]:
    content = json.loads(location.read(INFO_FILE))
    if content.pop("digest", None) != digest(content):
        yield Defect(INFO_FILE, "", "was edited: its digest does not match")
    try:
        if fingerprint(info.spec) != info.fingerprint:
            yield Defect(INFO_FILE, "", "its fingerprint does not match its spec")
    except (KeyError, TypeError):
        yield Defect(INFO_FILE, "", "its spec names no pipeline")
    expected = {info.shard_path(index) for index in range(len(info.shards))}
    for suffix in SUFFIXES.values():
        for name in set(location.names("data", f".{suffix}")) - expected:
            yield Defect(name, "", "is not a shard of this data set")


def _prompts(info: DatasetInfo, shards: Sequence[Mapping[str, Any]]) -> Iterator[Defect]:
    """What only all shards together show: prompts that appear twice, or go on as others; `shards` are `CheckedRows`."""
    numbers, last = dict[str, int](), None
    for index, shard in enumerate(shards):
        name, number = info.shard_path(index), info.cell(info.shard_rows(index).start)[0]
        prompts = list(shard["prompts"])
        for row, prompt, text in shard["first"]:
            if last is None or last[0] != number:
                prompts.insert(0, (row, number, prompt))
                last = [number, prompt, text]
            elif last != [number, prompt, text]:
                yield Defect(name, row, stray(prompt, last[1]))
        for row, number, prompt in prompts:
            if numbers.setdefault(prompt, number) != number:
                yield Defect(name, row, f"prompt {prompt} appears twice")
        last = shard["last"] or last


def _scores(bench: Bench, sound: bool) -> Iterator[Defect]:
    try:
        tables = bench.references
    except NbenchError as error:
        yield Defect("scores", "", str(error))
        return
    for name, table in tables.items() if sound else ():  # unreadable rows are not a defect of their scores
        try:
            finished_scores(bench, name)
        except NbenchError as error:
            yield Defect(f"scores/{name}.parquet", "", str(error))
            continue
        keys = table.select(["prompt_id", "candidate", "position", "caption"])
        if keys.group_by(keys.column_names).aggregate([]).num_rows != table.num_rows:
            yield Defect(f"scores/{name}.parquet", "", "scores a candidate twice")
