"""Check a data set against its record and report every defect."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import NbenchError, one_line, reason_of
from ..jobs.job import JOB_FILE, Context, Unit
from ..jobs.places import beneath, store_at
from ..jobs.records import Record, Records
from ..jobs.run import QUIET, Run, complete
from ..jobs.scratch import scratch_folder
from ..jobs.store import LocalStore, Store
from ..options import Place
from .dataset import INFO_FILE, read_info
from .fingerprint import fingerprint
from .formats import FORMATS
from .reader import Bench
from .references import finished_scores
from .row_columns import array_columns, arrow_schema, scale_of
from .rows import decode_image
from .schema import SUFFIXES, DatasetInfo, ShardRecord, digest
from .seeds import candidate_seed
from .storage import Location

CHECKS = ".verify"
"""Folder in a data set for the records of a check that several machines share."""
_BATCH_BYTES = 64 * 2**20
_PIECE = 4 * 2**20


@dataclass(frozen=True)
class Defect:
    """A defect: the file, the row's id (or ""), and what is wrong."""

    file: str
    row: str
    what: str

    def __str__(self) -> str:
        return one_line(f"{self.file}{f', row {self.row}' if self.row else ''}: {self.what}")


@dataclass(frozen=True)
class Verification:
    """What was checked, and every defect; left: shards that others have not checked yet."""

    rows: int
    shards: int
    defects: tuple[Defect, ...]
    left: int = 0


@dataclass
class _Rows:
    """What the check of all shards together needs of one.

    Attributes:
        first: the rows of its first prompt, which may have begun in the shard before: name, prompt id and prompt.
        prompts: for each other prompt, the name of its first row, its number, and its id.
        last: the last of these: its number, id and text.
    """

    first: list[tuple[str, str, str]] = field(default_factory=list)
    prompts: list[tuple[str, int, str]] = field(default_factory=list)
    last: tuple[int, str, str] | None = None


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
        info, location = self.bench.info, self.bench.location
        name, record, rows = info.shard_path(index), info.shards[index], _Rows()
        defects = [Defect(name, "", "is not built yet")]
        if record is not None:
            defects = [Defect(name, "", what) for what in _file(location, info, index, record)]
            if location.size(name) is not None:
                defects += _rows(self.bench, index, rows, self.context.advance)
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


def _file(location: Location, info: DatasetInfo, index: int, record: ShardRecord) -> Iterator[str]:
    size = location.size(record.path)
    if size is None:
        yield "is missing"
        return
    if size != record.bytes:
        yield f"has {size} bytes, not {record.bytes}"
    source = location.open(record.path)
    total = hashlib.sha256()
    with source.open("rb") if isinstance(source, Path) else source as file:
        with location.reading(record.path):
            while piece := file.read(_PIECE):
                total.update(piece)
        if total.hexdigest() != record.sha256:
            yield "its SHA-256 differs from the recorded one"
        try:
            file.seek(0)
            misfit = FORMATS[info.format].misfit(file, info, index)
        except Exception as error:  # as in `Bench.shard_rows`
            misfit = f"cannot be opened ({reason_of(error)})"
        if misfit:
            yield misfit


def _rows(bench: Bench, index: int, of: _Rows, advance: Callable[[int], None]) -> Iterator[Defect]:
    info, name = bench.info, bench.info.shard_path(index)
    columns = arrow_schema(info).names
    size = max(1, _BATCH_BYTES // info.row_bytes)
    first = info.shard_rows(index).start
    try:
        for rows in bench.shard_rows(index, columns, size):
            for row, what in _names(rows, info, first, of):
                yield Defect(name, row, what)
            for row, what in _content(rows, info):
                yield Defect(name, row, what)
            first += len(rows)
            advance(len(rows))
    except NbenchError as error:
        yield Defect(name, "", str(error))


def _names(rows: pa.RecordBatch, info: DatasetInfo, first: int, of: _Rows) -> Iterator[tuple[str, str]]:
    """Ids, prompts, candidates and seeds."""
    base, begun = info.spec.get("seed"), info.cell(info.shard_rows(info.shard_of(first)).start)[0]
    for number, row in enumerate(rows.select(["id", "prompt_id", "prompt", "candidate", "seed"]).to_pylist(), first):
        prompt, candidate = str(row["prompt_id"]), row["candidate"]
        name = str(row["id"])
        if row["id"] != f"{row['prompt_id']}/{candidate}":
            yield name, f"its id is not that of prompt {row['prompt_id']}, candidate {candidate}"
        prompt_number, expected = info.cell(number)
        if candidate != expected:
            yield name, f"candidate {candidate} is in the place of candidate {expected}"
        here = (prompt_number, prompt, row["prompt"])
        if prompt_number != (of.last[0] if of.last else begun):
            of.prompts.append((name, prompt_number, prompt))
            of.last = here
        elif of.last is None:
            of.first.append((name, prompt, row["prompt"]))
        elif of.last != here:
            yield name, _stray(prompt, of.last[1])
        if isinstance(base, int) and row["seed"] != candidate_seed(base, str(row["prompt_id"]), int(candidate or 0)):
            yield name, f"its seed {row['seed']} does not follow from the data set's seed {base}"


def _prompts(info: DatasetInfo, shards: Sequence[Mapping[str, Any]]) -> Iterator[Defect]:
    """What only a look at all shards shows: prompts that appear twice, or go on as others; `shards` are `_Rows`."""
    numbers, last = dict[str, int](), None
    for index, shard in enumerate(shards):
        name, number = info.shard_path(index), info.cell(info.shard_rows(index).start)[0]
        prompts = list(shard["prompts"])
        for row, prompt, text in shard["first"]:
            if last is None or last[0] != number:
                prompts.insert(0, (row, number, prompt))
                last = [number, prompt, text]
            elif last != [number, prompt, text]:
                yield Defect(name, row, _stray(prompt, last[1]))
        for row, number, prompt in prompts:
            if numbers.setdefault(prompt, number) != number:
                yield Defect(name, row, f"prompt {prompt} appears twice")
        last = shard["last"] or last


def _stray(prompt: str, other: str) -> str:
    return f"belongs to prompt {prompt}, but is among the candidates of {other}"


def _content(rows: pa.RecordBatch, info: DatasetInfo) -> Iterator[tuple[str, str]]:
    """Status, latents, other signals and image."""
    names, status = rows["id"].to_pylist(), rows["status"].to_pylist()
    failed = np.array([value == "failed" for value in status], bool)
    for name, value, error in zip(names, status, rows["error"].to_pylist(), strict=True):
        if value not in ("ok", "failed") or (value == "failed") != bool(error):
            yield str(name), f"status {value!r} with error {error!r}"
    for column, array in array_columns(info).items():
        if array.scale:
            continue
        present = rows[column].is_valid().to_numpy(zero_copy_only=False)
        yield from ((str(names[i]), f"has no {array.label}") for i in np.flatnonzero(~present & ~failed))
        yield from ((str(names[i]), f"failed, and has a {array.label}") for i in np.flatnonzero(present & failed))
        finite = _finite(rows[column])
        if array.element == "int8":
            finite &= _finite(rows[scale_of(column)])
        for i in np.flatnonzero(present & ~finite):
            yield str(names[i]), f"its {array.label} is not finite"
    for name, bad, png in zip(names, failed, pc.struct_field(rows["image"], "bytes").to_pylist(), strict=True):
        if not bad:
            try:
                decode_image(png, info.image_size)
            except ValueError as error:
                yield str(name), str(error)


def _finite(lists: pa.Array) -> np.ndarray:
    """Bool [B]: whether a row has a list of finite numbers only."""
    count, width = len(lists), lists.type.list_size
    numbers = lists.values.slice(lists.offset * width, count * width).to_numpy(zero_copy_only=False)
    valid: np.ndarray = lists.is_valid().to_numpy(zero_copy_only=False)
    return valid & np.isfinite(numbers).reshape(count, width).all(1)


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
