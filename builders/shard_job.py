"""A build as a job: its units are shards, and its first task is the first look. Only its workers need torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..errors import NbenchError
from ..jobs.job import BEGIN, Context, JobError, Unit
from ..jobs.run import Run
from ..jobs.store import Store
from ..shards.dataset import INFO_FILE, DatasetFolder
from ..shards.dataset_job import DatasetJob, dataset_info, made_shard
from ..shards.features import FEATURES_FILE, features_file
from ..shards.fingerprint import fingerprint
from ..shards.formats import shard_writer
from ..shards.reader import Bench
from ..shards.schema import DatasetInfo
from ..shards.storage import Location
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

    def run(self, folder: DatasetFolder, how: Run) -> None:
        """Do what is missing; `how` says who."""


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
        writer = shard_writer(folder, self._info, index)
        there = Location.of(self._of.store.url, hub_ids=False)
        again = plan.config.retry_failed and there.size(self._info.shard_path(index)) is not None
        if again:
            record = maker.failed_again(Bench(self._info, there), index, writer, self._pool)
        else:
            record = maker.shard(index, writer, self._pool)
        self._batch_size = maker.batch_size
        return made_shard(folder, record, again)

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


class ShardJob(DatasetJob):
    """The build of `plan` in a store, as its driver sees it."""

    def __init__(
        self, plan: Plan, process: Process, store: Store, last: LastStep | None, shown: bool, check: bool = True
    ) -> None:
        of = OpenShards(replace(plan, prompts=()), process, store, last, shown)
        super().__init__(store, fingerprint(plan.spec), KINDS[plan.config.kind].name, of)
        self._plan, self._check = plan, check

    def payload(self, index: int) -> Excerpt:
        """The prompts of a shard."""
        prompts = self._plan.prompts
        if index == BEGIN:
            return Excerpt({number: prompts[number] for number in range(min(_LOOKED_AT, len(prompts)))})
        numbers = {self.info.cell(row)[0] for row in self.info.shard_rows(index)}
        lead = [prompts[number] for number in range(min(_CHECKED_PROMPTS, len(prompts)))] if self._check else []
        self._check = False  # one check is enough
        return Excerpt({number: prompts[number] for number in numbers}, lead)
