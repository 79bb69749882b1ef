"""The requests that wait for an engine: how many may, and which of them start next."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from ..errors import NbenchError
from ..pipelines.prompt_groups import prompt_groups
from .engine_runs import Request


class QueueFull(NbenchError):
    """As many requests are waiting as the engine's queue holds."""


class RequestQueue:
    """At most `room` requests, first come, first served; not for several threads at a time.

    Args:
        pipe: tells which prompts may share a call.
        pooled: whether the scorer reads averages over tokens.
    """

    def __init__(self, room: int, pipe: Any, pooled: bool) -> None:
        self._room, self._pipe, self._pooled = room, pipe, pooled
        self._requests = deque[Request]()

    def __iter__(self) -> Iterator[Request]:
        return iter(tuple(self._requests))

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def waiting(self) -> int:
        """How many there are that were not cancelled."""
        return sum(not request.future.cancelled() for request in self._requests)

    @property
    def candidates(self) -> int:
        """How many candidates they draw at a time, in all."""
        return sum(request.rules.size for request in self._requests)

    @property
    def is_full(self) -> bool:
        """Whether no further request may wait."""
        return self.waiting >= self._room

    def add(self, request: Request) -> None:
        """Let `request` wait as the last.

        Raises:
            QueueFull: too many wait.
        """
        if self.is_full:
            raise QueueFull(f"{self.waiting} requests are waiting, as many as the queue holds: try again later")
        self._requests.append(request)

    def add_first(self, requests: Iterable[Request]) -> None:
        """Let requests that have been taken wait again, before all others."""
        self._requests.extendleft(reversed(list(requests)))

    def take_cancelled(self) -> list[Request]:
        """Those that were cancelled, taken from the queue."""
        return self._taken([request for request in self._requests if request.future.cancelled()])

    def take(self, room: int, most: int) -> list[Request]:
        """Those that share the next call, of at most `most` candidates, taken from the queue; none without `room`.

        A single request that needs more candidates than `most` has a call of its own.
        """
        if not self._requests or (size := self._requests[0].rules.size) > room:
            return []
        return self._taken(self._alike(self._requests[0])[: max(1, min(room, most) // size)])

    def _alike(self, head: Request) -> list[Request]:
        """Those that may share a call with the first of them."""
        if head.single:
            return [head]
        alike = [request for request in self._requests if request.key == head.key and not request.alone]
        prompts = [request.task.prompt for request in alike]
        try:
            groups = prompt_groups(self._pipe, prompts, head.arguments, self._pooled)
        except NbenchError:  # one of them is at fault: each by itself, it fails alone
            return [head]
        return [alike[number] for number in groups[0]]

    def _taken(self, requests: list[Request]) -> list[Request]:
        for request in requests:
            self._requests.remove(request)
        return requests
