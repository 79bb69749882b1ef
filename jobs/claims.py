"""Claims: small files by which processes that share a store agree who makes which unit, without locks or clocks.

A claim is created once, renewed while its owner works, and removed at the end. If its owner is dead, or has not renewed
it for a lease as measured by a watcher's own clock, the unit is claimed again under the next generation. An owner that
was only frozen then does no harm, since files and records are created once too.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread
from uuid import uuid4

from ..errors import StorageError
from .store import Store

CLAIMS = "claims"
LEASE = 60.0
"""Seconds without a renewal after which others may take a unit over."""
_RENEWALS = 4
"""Renewals per lease."""


@dataclass(frozen=True)
class Owner:
    """A process that makes units; `machine` tells whether its `pid` means something here."""

    name: str
    machine: str
    pid: int
    started: str

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        device = os.environ.get("CUDA_VISIBLE_DEVICES")
        name = f"{socket.gethostname()}/{os.getpid()}" + (f"/gpu{device}" if device else "")
        return cls(name, _machine(), os.getpid(), _started(os.getpid()))

    @property
    def alive(self) -> bool:
        """Whether it is known to be alive: it is on this machine."""
        return bool(self.started) and self.machine == _machine() and _started(self.pid) == self.started

    @property
    def dead(self) -> bool:
        """Whether it is known to have ended: it was on this machine, and is no more."""
        return bool(self.started) and self.machine == _machine() and _started(self.pid) != self.started


@dataclass(frozen=True)
class Claim:
    """The right of `owner` to make unit `index`; `token` is unique."""

    index: int
    generation: int
    owner: Owner
    token: str

    @property
    def name(self) -> str:
        """Its file."""
        return f"{CLAIMS}/{self.index}.{self.generation}"

    def to_json(self) -> bytes:
        """The content of its file."""
        return json.dumps({**vars(self), "owner": vars(self.owner)}).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Claim:
        """Read what `to_json` wrote."""
        fields = json.loads(content)
        return cls(**fields | {"owner": Owner(**fields["owner"])})


class Claims:
    """The claims of one process in a store; a thread renews those that it holds."""

    def __init__(self, store: Store, lease: float = LEASE) -> None:
        self.owner = Owner.here()
        self._store, self._lease = store, lease
        self._held = dict[str, Claim]()
        self._lock, self._end = Lock(), Event()
        self._thread: Thread | None = None

    def take(self, index: int, lost: Collection[str] = ()) -> tuple[Claim, bool]:
        """Claim a unit: the new claim and True, or the living claim of somebody else and False.

        `lost` are tokens of claims that have expired, and names of owners that have died.
        """
        generation = 0
        while True:
            claim = Claim(index, generation, self.owner, uuid4().hex)
            if self._store.create(claim.name, claim.to_json()):
                self._hold(claim)
                return claim, True
            content = self._store.read(claim.name)
            if content is None:
                continue  # it was released just now
            there = Claim.from_json(content)
            if not (there.token in lost or there.owner.name in lost or there.owner.dead):
                return there, False
            generation += 1

    def release(self, claim: Claim, finished: bool) -> None:
        """Give a claim up. With it go the earlier ones if the unit is `finished`; before, they keep rivals in order."""
        with self._lock:
            self._held.pop(claim.token, None)
        first = 0 if finished else claim.generation
        self._store.remove([f"{CLAIMS}/{claim.index}.{number}" for number in range(first, claim.generation + 1)])

    def close(self) -> None:
        """End the renewals."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def _hold(self, claim: Claim) -> None:
        with self._lock:
            self._held[claim.token] = claim
        if self._thread is None:
            self._thread = Thread(target=self._renew, name="claims", daemon=True)
            self._thread.start()

    def _renew(self) -> None:
        while not self._end.wait(self._lease / _RENEWALS):
            with self._lock:
                for claim in self._held.values():
                    try:
                        self._store.write(claim.name, claim.to_json())
                    except StorageError:
                        continue  # the next renewal may succeed; the worker's own writes tell the user otherwise


def owners(store: Store) -> list[Owner]:
    """The owners of all claims in a store that are not known to be dead."""
    contents = (content for _, content in store.read_all(store.list(CLAIMS)) if content)
    return [owner for content in contents if not (owner := Claim.from_json(content).owner).dead]


def _machine() -> str:
    """What two processes share if each can see the other's pid: boot and process namespace, else the host's name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str:
    """When a process started, which tells it from a later one with its pid; "" if there is none or no telling."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if status[0] in "ZX" else status[19]
