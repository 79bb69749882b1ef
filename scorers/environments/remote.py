"""Scorers in other processes as scorers of this one: batches are cut into parts, which a transport passes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from ...errors import NbenchError
from ...shards.schema import PositionInfo
from ..apply import answer_misfit
from ..protocols import Scorer, checked_scorer
from .messages import Call, Hello, Transport

_PART_BYTES = 32 * 2**20
"""Bytes of the inputs that go at once, so that one part is copied while the scorer works on another."""


class RemoteScorer:
    """A scorer that is elsewhere; the class of its kind has the methods.

    Attributes:
        apart: its work leaves this process free, so reading ahead is worth it.
        versions: of the packages that it has loaded.
    """

    apart = True

    def __init__(self, hello: Hello, transport: Transport) -> None:
        self._transport = transport
        self.name, self.reads, self.fingerprint = hello.name, hello.reads, hello.fingerprint
        self.conditioned, self.scale, self.width = hello.conditioned, hello.scale, hello.width
        self.versions = hello.versions

    def _result(self, calls: Sequence[Call]) -> torch.Tensor:
        parts = []
        for call, array in zip(calls, self._transport.run(calls), strict=True):
            part = torch.from_numpy(array)
            if misfit := answer_misfit(call.method, part, call.count, wide=call.method.startswith("embed")):
                raise NbenchError(f"scorer {self.name}: {misfit}")
            parts.append(part)
        if len({part.shape[1:] for part in parts}) > 1:
            raise NbenchError(f"scorer {self.name}: {calls[0].method} returns embeddings of several widths")
        return torch.cat(parts)


class _Reader(RemoteScorer):
    def _of_inputs(
        self, method: str, inputs: torch.Tensor, columns: Sequence[Sequence[str]], at: PositionInfo | None
    ) -> torch.Tensor:
        rows = max(1, _PART_BYTES // max(1, inputs[:1].nbytes))
        slices = [slice(start, min(start + rows, len(inputs))) for start in range(0, len(inputs), rows)]
        position = None if at is None else asdict(at)
        return self._result(
            [
                Call(method, part.stop - part.start, inputs[part], [list(column[part]) for column in columns], position)
                for part in slices
            ]
        )


class RemoteTwin(_Reader):
    """A TwinTower elsewhere."""

    def embed_text(self, prompts: Sequence[str]) -> torch.Tensor:
        """Embeddings [P, D]."""
        return self._result([Call("embed_text", len(prompts), None, [list(prompts)])])

    def embed_inputs(self, inputs: torch.Tensor, at: PositionInfo | None = None) -> torch.Tensor:
        """Embeddings [B, D] of the inputs."""
        return self._of_inputs("embed_inputs", inputs, [], at)


class RemotePair(_Reader):
    """A PairScorer elsewhere."""

    def score(self, inputs: torch.Tensor, prompts: Sequence[str], at: PositionInfo | None = None) -> torch.Tensor:
        """Scores [B] of each input with its own prompt."""
        return self._of_inputs("score", inputs, [prompts], at)


class RemoteNames(RemoteScorer):
    """A NameScorer elsewhere."""

    def score_names(self, prompt_ids: Sequence[str], candidates: Sequence[int], position: int) -> torch.Tensor:
        """Scores [B]."""
        arguments = [list(prompt_ids), list(candidates), position]
        return self._result([Call("score_names", len(prompt_ids), None, arguments)])


_CLASSES: dict[str, Any] = {"twin": RemoteTwin, "pair": RemotePair, "names": RemoteNames}


def remote_scorer(transport: Transport, origin: str) -> Scorer:
    """The scorer at the other end of a transport; origin: names it in messages.

    Raises:
        NbenchError: it reads an unknown input.
    """
    hello = transport.hello
    assert hello is not None
    return checked_scorer(_CLASSES[hello.kind](hello, transport), origin)
