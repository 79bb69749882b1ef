"""What a job is: units of work, each of which leaves files whose content depends on the job and its number alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ..errors import NbenchError
from .records import Record
from .store import Store

BEGIN = -1
"""The number of the task that prepares a job, before its units are known."""
JOB_FILE = "job.json"


class JobError(NbenchError):
    """No unit of the job would fare better."""


@dataclass(frozen=True)
class Unit:
    """What making a unit has left: local `files` by the name that they get, and `result`, plain JSON for the record.

    Of a unit's only file, `result` may have "bytes" and "sha256"; those of an adopted file replace them.
    """

    files: Mapping[str, tuple[Path, str]]
    result: dict[str, Any]


@dataclass(frozen=True)
class Context:
    """What a maker may do besides: print a line, count rows that are made or shares of them, and tell what a denoiser
    step of one trajectory took, in seconds."""

    say: Callable[[str], None]
    advance: Callable[[float], None]
    step: Callable[[float], None] = lambda seconds: None


class Maker(Protocol):
    """A job that is opened in a worker: models are in memory, files are open."""

    def begin(self, payload: Any) -> None:
        """Write, create-only, what the whole job needs to know, such as the shapes of the latents."""

    def make(self, index: int, payload: Any, folder: Path) -> Unit:
        """Make unit `index` in the empty local `folder`.

        Raises:
            JobError: no unit can be made.
            Exception: this one cannot; it is tried again.
        """

    def close(self) -> None:
        """Let go of what is open."""


Open = Callable[[Context], Maker]
"""Opens a job in a worker; picklable if workers are other processes."""


class Job(Protocol):
    """A job as its driver sees it."""

    @property
    def store(self) -> Store:
        """Where its files and records go."""

    @property
    def key(self) -> str:
        """A digest of all that decides its files."""

    @property
    def title(self) -> str:
        """Its name in progress and messages."""

    @property
    def open(self) -> Open:
        """What workers open."""

    def begun(self) -> bool:
        """Whether `Maker.begin` has been done, by anybody."""

    def units(self) -> Collection[int]:
        """All its units, once it has begun."""

    def made_before(self) -> Collection[int]:
        """Units that need no record, since something older tells that they are finished."""

    def damaged(self, records: Mapping[int, Record]) -> Mapping[int, str]:
        """The units whose file is not what their record says, and that file."""

    def rows(self, index: int) -> int:
        """The rows of a unit, which progress counts."""

    def payload(self, index: int) -> Any:
        """What a worker needs to know to make a unit, or to begin; picklable and small."""


@dataclass(frozen=True)
class JobFile:
    """The content of job.json, which is there while a job is at work."""

    key: str
    title: str
    units: int
    rows: int
    rows_per_unit: int
    made_before: int = 0

    def to_json(self) -> bytes:
        """As JSON."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, store: Store) -> JobFile | None:
        """The job at work in a store; None if there is none."""
        content = store.read(JOB_FILE)
        return None if content is None else cls(**json.loads(content))
