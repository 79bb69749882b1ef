"""What nbench sends to a scorer in another process and what it accepts from there, whichever way it is transported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch

from ...errors import NbenchError, one_line
from ...shards.schema import LatentSpace
from ..placement import Placement
from .worker import DTYPES, METHODS, PROTOCOL, described_array

LONGEST_LINE = 2**20
"""Bytes of a reply's line of JSON."""
LARGEST_REPLY = 256 * 2**20
"""Bytes of a reply's array."""
KINDS = {"twin": "embed_text and embed_inputs", "pair": "score", "names": "score_names"}


class NotTheProtocol(Exception):
    """A reply is not of this protocol."""


class RemoteError(Exception):
    """What a scorer raised in another process; the traceback of that process is its cause."""


@dataclass(frozen=True)
class Call:
    """A call of a scorer's method for `count` rows: `inputs` [B, ...] if it takes any, and its other arguments."""

    method: str
    count: int
    inputs: torch.Tensor | None
    arguments: Sequence[Any]
    at: Mapping[str, Any] | None = None

    def header(self) -> dict[str, Any]:
        """All but the inputs."""
        assert self.method in METHODS
        header = {"method": self.method, "arguments": list(self.arguments)}
        return header if self.at is None else header | {"at": dict(self.at)}


@dataclass(frozen=True)
class Hello:
    """What a scorer in another process says about itself."""

    name: str
    reads: str
    fingerprint: str
    kind: str
    conditioned: bool
    scale: float
    width: int | None
    versions: dict[str, str]


class Transport(Protocol):
    """A way to a scorer in another process."""

    hello: Hello | None

    def run(self, calls: Sequence[Call]) -> list[np.ndarray]:
        """The arrays that `calls` return, in order.

        Raises:
            NbenchError: the other process cannot be reached, ended, is silent, or breaks the protocol.
            RemoteError: the scorer failed.
        """
        ...


def hello_request(space: LatentSpace, placement: Placement, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The first request; own: arguments of the constructor besides info, device and dtype."""
    return {
        "method": "hello",
        "protocol": PROTOCOL,
        "info": asdict(space),
        "device": placement.device,
        "dtype": placement.dtype,
        "own": dict(own or {}),
    }


def read_hello(value: object, origin: str) -> Hello:
    """Check what a scorer says about itself.

    Raises:
        NbenchError: another version of the protocol, or not of the protocol.
    """
    fields = value if isinstance(value, dict) else {}
    if fields.get("protocol") != PROTOCOL:
        version = one_line(str(fields.get("protocol")), 20)
        raise NbenchError(
            f"{origin} speaks version {version} of the scorer protocol, this nbench version {PROTOCOL}: "
            "use the same nbench on both sides"
        )
    texts = [fields.get(key) for key in ("name", "reads", "fingerprint")]
    scale, width, versions = (fields.get(key) for key in ("scale", "width", "versions"))
    sound = (
        all(isinstance(text, str) and 0 < len(text) <= 200 and text.isprintable() for text in texts)
        and fields.get("kind") in KINDS
        and isinstance(scale, float | int)
        and (width is None or type(width) is int)
        and isinstance(versions, dict)
    )
    if not sound:
        raise NbenchError(f"{origin} does not describe a scorer: its name, reads, fingerprint or kind is not valid")
    name, reads, fingerprint = map(str, texts)
    assert isinstance(scale, float | int)
    assert isinstance(versions, dict)
    return Hello(
        name, reads, fingerprint, fields["kind"], bool(fields.get("conditioned")), float(scale), width, versions
    )


def input_array(inputs: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """Inputs as they lie in memory, and their description; images keep a layout with the channels last."""
    channels_last = inputs.ndim == 4 and not inputs.is_contiguous() and inputs.permute(0, 2, 3, 1).is_contiguous()
    values = inputs.permute(0, 2, 3, 1) if channels_last else inputs
    dtype = str(values.dtype).removeprefix("torch.")
    assert dtype in DTYPES
    size = values.numel() * values.element_size()
    return values, {"shape": list(values.shape), "dtype": dtype, "bytes": size, "channels_last": channels_last}


def read_header(line: bytes, number: int | None) -> dict[str, Any]:
    """The line of a reply to request `number`.

    Raises:
        NotTheProtocol: it is something else.
    """
    try:
        header = json.loads(line)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or header.get("id") != number:
        raise NotTheProtocol(f"the line {one_line(line[:60].decode(errors='replace'))!r}")
    return header


def reply_bytes(header: Mapping[str, Any]) -> int:
    """How many bytes follow the line of a reply.

    Raises:
        NotTheProtocol: no valid number, or more than are accepted.
    """
    array = header.get("array")
    if array is None:
        return 0
    size = array.get("bytes") if isinstance(array, dict) else None
    if type(size) is not int or not 0 <= size <= LARGEST_REPLY:
        raise NotTheProtocol(f"an array of {one_line(str(size), 30)} bytes (at most {LARGEST_REPLY} are accepted)")
    return size


def reply_array(header: Mapping[str, Any], body: bytearray) -> np.ndarray:
    """The array of a reply.

    Raises:
        RemoteError: the scorer failed there; of its own type's name, so that messages are those of the process.
        torch.OutOfMemoryError: it ran out of the device's memory.
        NotTheProtocol: there is no valid array.
    """
    if "error" in header:
        raise remote_error(header["error"])
    if not isinstance(header.get("array"), dict):
        raise NotTheProtocol("a reply without an array")
    try:
        return described_array(header["array"], body)
    except ValueError as error:
        raise NotTheProtocol(one_line(str(error))) from None


def remote_error(error: object) -> Exception:
    """The exception that a reply describes."""
    fields = error if isinstance(error, dict) else {}
    kind, message = str(fields.get("type")), str(fields.get("message"))[:2000]
    if kind == "OutOfMemoryError":
        return torch.OutOfMemoryError(message)
    if not kind.isidentifier() or len(kind) > 100:
        kind = "RemoteError"
    raised: Exception = type(kind, (RemoteError,), {})(message)
    raised.__cause__ = RemoteError("\n" + str(fields.get("traceback"))[:20_000])
    return raised
