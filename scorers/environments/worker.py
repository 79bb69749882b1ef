"""Runs one scorer for nbench in a process of its own, under any Python from 3.9 with numpy.

This file is the whole program and imports nothing else of nbench: `PYTHON worker.py REQUESTS REPLIES MEMORY`, where the
arguments are file descriptors of two pipes and of a block of shared memory. A message is one line of JSON; a reply is
followed by the raw bytes of its array. The arrays of requests are in the shared memory. Standard output is not used, so
nothing that a package prints can break the protocol.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import json
import mmap
import os
import queue
import re
import select
import signal
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, NamedTuple

import numpy as np

PROTOCOL = 1
METHODS = ("embed_text", "embed_inputs", "score", "score_names")
DTYPES = ("float16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")
"""The dtypes of arrays in messages, little-endian."""
_LONGEST_TRACEBACK = 20_000
_CHECK_PARENT_SECONDS = 2.0


class Position(NamedTuple):
    """The position that a conditioned scorer is told; the attributes of nbench's PositionInfo."""

    position: int
    timestep: float | None
    sigma: float | None
    input_scale: float


def description(array: np.ndarray) -> dict[str, Any]:
    """How a message describes an array; its bytes are in C order."""
    return {"shape": list(array.shape), "dtype": array.dtype.name, "bytes": array.nbytes}


def described_array(description: Mapping[str, Any], buffer: Any, offset: int = 0) -> np.ndarray:
    """The array of a description, a view of `buffer`.

    Raises:
        ValueError: the description is not of this protocol, or does not fit the buffer.
    """
    shape, dtype, size = (description.get(key) for key in ("shape", "dtype", "bytes"))
    if dtype not in DTYPES or not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
        raise ValueError(f"an array cannot be {str(dtype)[:20]} {str(shape)[:60]}")
    count = 1
    for length in shape:
        count *= length
    if count * np.dtype(dtype).itemsize != size or len(buffer) - offset < size:
        raise ValueError(f"an array of {dtype} {str(shape)[:60]} does not have {size} bytes")
    kind = np.dtype(dtype).newbyteorder("<")
    array = (np.frombuffer(buffer, kind, count, offset) if count else np.empty(0, kind)).reshape(shape)
    if description.get("channels_last"):  # [B, H, W, C] in memory: convolutions keep that layout, and their rounding
        array = np.moveaxis(array, -1, 1)
    return array


class Host:
    """A scorer and its answers to requests.

    Args:
        scorer: an object with the attributes and methods of an nbench scorer.
        fingerprint: replaces its own.
        versions: of the packages that it uses, for information.

    Raises:
        TypeError: it is not a scorer.
    """

    def __init__(self, scorer: Any, fingerprint: str, versions: Mapping[str, str]) -> None:
        self._scorer, self._fingerprint, self._versions = scorer, fingerprint, versions
        methods = [method for method in METHODS if callable(getattr(scorer, method, None))]
        if "score_names" in methods:
            self._kind = "names"
        elif "embed_text" in methods and "embed_inputs" in methods:
            self._kind = "twin"
        elif "score" in methods:
            self._kind = "pair"
        else:
            raise TypeError("not a scorer: give it embed_text and embed_inputs, or score, or score_names")
        self._conditioned = bool(getattr(scorer, "conditioned", False))
        self._tensors = getattr(scorer, "arrays", "torch") != "numpy" and importlib.util.find_spec("torch") is not None

    def hello(self) -> dict[str, Any]:
        """What nbench must know about the scorer."""
        scorer = self._scorer
        return {
            "protocol": PROTOCOL,
            "name": scorer.name,
            "reads": scorer.reads,
            "fingerprint": self._fingerprint,
            "kind": self._kind,
            "conditioned": self._conditioned,
            "scale": float(getattr(scorer, "scale", 1.0)),
            "width": getattr(scorer, "width", None),
            "versions": dict(self._versions),
        }

    def answer(self, request: Mapping[str, Any], inputs: np.ndarray | None) -> np.ndarray:
        """Call the method that a request names.

        Raises:
            Exception: whatever the scorer raises, or TypeError if it does not return real numbers.
        """
        method = request["method"]
        if method not in METHODS:
            raise ValueError(f"no method {str(method)[:40]}: there are {', '.join(METHODS)}")
        arguments: list[Any] = [] if inputs is None else [self._given(inputs)]
        arguments += request["arguments"]
        if self._conditioned and method in ("embed_inputs", "score"):
            arguments.append(Position(**request["at"]))
        return self._array(method, getattr(self._scorer, method)(*arguments))

    def _given(self, inputs: np.ndarray) -> Any:
        if not self._tensors:
            return inputs
        import torch

        return torch.from_numpy(inputs)

    def _array(self, method: str, value: Any) -> np.ndarray:
        if hasattr(value, "detach"):  # a torch tensor
            value = value.detach().cpu()
            value = (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{method} returns a {type(value).__name__}, not an array")
        if value.dtype.name not in DTYPES:
            raise TypeError(f"{method} returns {value.dtype.name}, not real numbers")
        return np.ascontiguousarray(value, value.dtype.newbyteorder("<"))


def load(factory: str, available: Mapping[str, Any]) -> Host:
    """The scorer of FILE.py:CLASS or MODULE:CLASS, called with those of `available` that its signature names.

    Its fingerprint gets hashes of its code and of the versions of all packages that it has loaded.

    Raises:
        Exception: whatever its code raises, or TypeError if it is not a scorer.
    """
    before = set(sys.modules) - {"numpy"}
    source, _, name = factory.rpartition(":")
    if source.endswith(".py"):
        spec = importlib.util.spec_from_file_location("nbench_scorer", source)
        if spec is None or spec.loader is None:
            raise ImportError(f"cannot import {source}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses and pickle look it up
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(source)
    maker = getattr(module, name)
    parameters = inspect.signature(maker).parameters
    scorer = maker(**{key: value for key, value in available.items() if key in parameters})
    absent = [name for name in ("name", "reads", "fingerprint") if not isinstance(getattr(scorer, name, None), str)]
    if absent:
        raise TypeError(f"not a scorer: it has no {', no '.join(absent)} (a str)")
    code = Path(source) if source.endswith(".py") else Path(inspect.getfile(maker))
    versions = _versions(set(sys.modules) - before)
    digests = (code.read_bytes(), json.dumps(versions, sort_keys=True).encode())
    parts = [scorer.fingerprint, *(hashlib.sha256(digest).hexdigest()[:8] for digest in digests)]
    return Host(scorer, "-".join(parts), versions)


def _versions(modules: set[str]) -> dict[str, str]:
    """The versions of Python and of the distributions that `modules` come from, without labels such as +cpu."""
    tops = {module.partition(".")[0] for module in modules}
    versions = {"python": "{}.{}".format(*sys.version_info)}
    for distribution in metadata.distributions():
        if not tops.isdisjoint(_top_modules(distribution)):
            name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "unnamed").lower()
            versions.setdefault(name, distribution.version.partition("+")[0])
    return versions


def _top_modules(distribution: metadata.Distribution) -> set[str]:
    """Names of top modules and, as reading is faster than telling them apart, of other top files and folders."""
    listed = distribution.read_text("top_level.txt")
    if listed:
        return set(listed.split())
    return set(re.findall(r"^([^/,.\n]+)[/.]", distribution.read_text("RECORD") or "", re.MULTILINE))


def failure(error: BaseException) -> dict[str, str]:
    """An exception as a reply describes it."""
    text = traceback.format_exc()[-_LONGEST_TRACEBACK:]
    return {"type": type(error).__name__, "message": str(error)[:2000], "traceback": text}


class _Memory:
    """The shared memory with the arrays of requests; it grows."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map: mmap.mmap | None = None

    def array(self, inputs: Mapping[str, Any] | None) -> np.ndarray | None:
        if inputs is None:
            return None
        if self._map is None or inputs["at"] + inputs["bytes"] > len(self._map):
            self._map = mmap.mmap(self._descriptor, 0)  # older arrays keep the older map
        return described_array(inputs, self._map, inputs["at"])


def _read(descriptor: int, requests: queue.Queue[dict[str, Any]]) -> None:
    """Put requests into a queue as they come, and end the process when nbench has ended."""
    parent, rest = os.getppid(), b""
    while True:
        if not select.select([descriptor], [], [], _CHECK_PARENT_SECONDS)[0]:
            if os.getppid() != parent:
                break
            continue
        data = os.read(descriptor, 2**20)
        if not data:
            break
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            requests.put(json.loads(line))
    if os.getsid(0) == os.getpid():  # also ends processes that the scorer started
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _available(request: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that a constructor may name."""
    info = dict(request["info"])
    preview = info["preview"]
    info["preview"] = None if preview is None else SimpleNamespace(**preview)
    info["positions"] = tuple(Position(**position) for position in info["positions"])
    for key in ("latent_shape", "image_size"):
        info[key] = tuple(info[key])
    return {"info": SimpleNamespace(**info), **{key: request[key] for key in ("device", "dtype")}, **request["own"]}


def write_reply(replies: BinaryIO, header: dict[str, Any], array: np.ndarray | None) -> None:
    """Write a line of JSON and the bytes of the array."""
    if array is not None:
        header["array"] = description(array)
    replies.write(json.dumps(header).encode() + b"\n")
    if array is not None:
        replies.write(array.tobytes())
    replies.flush()


def main(arguments: Sequence[str]) -> None:
    requests_from, replies_to, memory_of = map(int, arguments)
    for descriptor in (requests_from, replies_to, memory_of):
        os.set_inheritable(descriptor, False)
    here = str(Path(__file__).parent)
    sys.path[:] = [path for path in sys.path if path != here]  # Python put this file's folder there
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # they are text files
    requests: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_read, args=(requests_from, requests), daemon=True).start()
    host, memory = None, _Memory(memory_of)
    with os.fdopen(replies_to, "wb") as replies:
        while True:
            request = requests.get()
            header: dict[str, Any] = {"id": request["id"]}
            array = None
            try:
                if request["method"] == "hello":
                    host = load(request["factory"], _available(request))
                    header["hello"] = host.hello()
                else:
                    assert host is not None
                    array = host.answer(request, memory.array(request.get("inputs")))
            except BaseException as error:  # user code can raise any type, SystemExit too
                header["error"] = failure(error)
            write_reply(replies, header, array)


if __name__ == "__main__":
    main(sys.argv[1:])
