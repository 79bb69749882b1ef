"""A build as a job: its units are shards, and its first task is the first look. Only its workers need torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..errors import NbenchError
from ..jobs.job import BEGIN, Context, JobError, Unit
from ..jobs.records import Record
from ..jobs.run import clear
from ..jobs.store import Store
from ..shards.dataset import INFO_FILE, DatasetFolder
from ..shards.features import FEATURES_FILE, features_file
from ..shards.fingerprint import fingerprint
from ..shards.formats import shard_writer
from ..shards.schema import DatasetInfo, ShardRecord
from .candidates import Plan
from .config import KINDS
from .prompts.rows import Prompt

if TYPE_CHECKING:
    from .process import LoadedProcess, Process

_CHECKED_PROMPTS = 10_000
"""Prompts whose length is checked before the long work."""
_LOOKED_AT = 16
"""Prompts that a first look may need."""


class LastStep(Protocol):
    """A step that runs once a data set has all its rows, such as scoring its references; picklable."""

    def check(self, info: DatasetInfo, say: Callable[[str], None]) -> None:
        """Raise before the long work if `run` could not succeed after it; `say` prints a line."""

    def run(self, folder: DatasetFolder) -> None:
        """Do what is missing."""


@dataclass(frozen=True)
class Excerpt:
    """The prompts of a unit by number; `lead`: of the first unit, prompts to check before the long work."""

    prompts: Mapping[int, Prompt]
    lead: Sequence[Prompt] = ()


@dataclass(frozen=True)
class OpenShards:
    """What a worker needs to make shards; picklable, and without the prompts."""

    plan: Plan
    process: Process
    store: Store
    last: LastStep | None
    shown: bool

    def __call__(self, context: Context) -> ShardMaker:
        """Load the models."""
        return ShardMaker(self, self.process.load(self.plan), context)


class ShardMaker:
    """Makes shards with a loaded process."""

    def __init__(self, of: OpenShards, loaded: LoadedProcess, context: Context) -> None:
        self._of, self._loaded, self._context = of, loaded, context
        self._batch_size = of.plan.batch_size
        self._pool = ThreadPoolExecutor(1)

    def begin(self, payload: Excerpt) -> None:
        """Create the record of the data set from a first look."""
        from .first_look import first_look

        info = first_look(replace(self._of.plan, prompts=payload.prompts), self._loaded, self._of.shown)
        if features := features_file(info):
            self._of.store.write(FEATURES_FILE, features)
        # as it will be read back: an int in a float field would change the bytes when the build is resumed
        self._of.store.create(INFO_FILE, DatasetInfo.from_json(info.to_json(), INFO_FILE).to_json())

    def make(self, index: int, payload: Excerpt, folder: Path) -> Unit:
        """Make shard `index`."""
        from .shard_maker import Maker

        if payload.lead:
            self._check(payload.lead)
        plan = replace(self._of.plan, prompts=payload.prompts)
        maker = Maker(plan, self._loaded, self._info, self._batch_size, self._context)
        record = maker.shard(index, shard_writer(folder, self._info, index), self._pool)
        self._batch_size = maker.batch_size
        return Unit({record.path: (folder / record.path, record.sha256)}, asdict(record))

    def close(self) -> None:
        """End the writing thread."""
        self._pool.shutdown()

    @cached_property
    def _info(self) -> DatasetInfo:
        return dataset_info(self._of.store)

    def _check(self, prompts: Sequence[Prompt]) -> None:
        if note := self._loaded.note(prompts):
            self._context.say(note)
        if self._of.last is not None:
            try:
                self._of.last.check(self._info, self._context.say)
            except NbenchError as error:
                raise JobError(str(error)) from None


class ShardJob:
    """The build of `plan` in a store, as its driver sees it."""

    def __init__(
        self, plan: Plan, process: Process, store: Store, last: LastStep | None, shown: bool, check: bool = True
    ) -> None:
        self._plan, self.store, self._check = plan, store, check
        self.open = OpenShards(replace(plan, prompts=()), process, store, last, shown)

    @property
    def key(self) -> str:
        """The fingerprint."""
        return fingerprint(self._plan.spec)

    @property
    def title(self) -> str:
        """The kind of data set."""
        return KINDS[self._plan.config.kind].name

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

    def payload(self, index: int) -> Excerpt:
        """The prompts of a shard."""
        prompts = self._plan.prompts
        if index == BEGIN:
            return Excerpt({number: prompts[number] for number in range(min(_LOOKED_AT, len(prompts)))})
        numbers = {self.info.cell(row)[0] for row in self.info.shard_rows(index)}
        lead = [prompts[number] for number in range(min(_CHECKED_PROMPTS, len(prompts)))] if self._check else []
        self._check = False  # one check is enough
        return Excerpt({number: prompts[number] for number in numbers}, lead)

    def damaged(self, records: Mapping[int, Record]) -> dict[int, str]:
        """The shards whose file is missing or has another size than recorded, and that file."""
        return damaged(self.store, {index: ShardRecord(**record.result) for index, record in records.items()})


def damaged(store: Store, records: Mapping[int, ShardRecord]) -> dict[int, str]:
    """The shards whose file is missing or has another size than recorded, and that file."""
    files = store.list("data")
    return {i: record.path for i, record in records.items() if files.get(record.path, (-1,))[0] != record.bytes}


def dataset_info(store: Store) -> DatasetInfo:
    """The record of the data set in a store, as it was last written: shards that only have a record are missing."""
    return DatasetInfo.from_json(store.read(INFO_FILE) or b"", f"{store.url}/{INFO_FILE}")


def merge(store: Store, records: Mapping[int, Record]) -> DatasetInfo:
    """Write the records of all shards into dataset.json, and remove what the job kept beside it."""
    info = dataset_info(store)
    if not info.complete:
        made = {index: ShardRecord(**record.result) for index, record in records.items()}
        info = replace(info, shards=tuple(made.get(index, record) for index, record in enumerate(info.shards)))
        store.write(INFO_FILE, info.to_json())
    clear(store)
    return info


def repair(store: Store) -> None:
    """Take shards that are damaged or lost out of the record of a data set, so that they are made again."""
    info = dataset_info(store)
    if bad := damaged(store, {index: record for index, record in enumerate(info.shards) if record}):
        store.remove(bad.values())
        shards = tuple(None if index in bad else record for index, record in enumerate(info.shards))
        store.write(INFO_FILE, replace(info, shards=shards).to_json())
