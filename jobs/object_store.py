"""A job's files in a bucket of S3, Google Cloud Storage or Azure, through obstore."""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from ..errors import NbenchError, StorageError, one_line
from . import aws
from .scratch import scratch_folder

SCHEMES = ("s3", "s3a", "gs", "gcs", "az", "azure", "abfs", "abfss")
ONE_REQUEST_BYTES = 256 * 2**20
"""Larger files go to S3 in parts; one request holds its file in memory."""
_SMALL_BYTES, _LONG = 8 * 2**20, 15
_ATTEMPTS, _FIRST_WAIT, _LONGEST_WAIT = 10, 0.1, 15.0
_AT_ONCE = 16
_SHA256, _WRITER = "sha256", "writer"
"""Metadata of objects: the hash of a file, and who created it: a writer whose answer was lost knows its own by that."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class ObjectStore:
    """The objects below `url`, such as s3://bucket/folder.

    An object store has no rename: a file appears whole with its last request, which is refused if there is one.
    """

    url: str

    def attempt(self, index: int) -> AbstractContextManager[Path]:
        """A temporary folder on this machine."""
        return scratch_folder()

    def put(self, name: str, file: Path, sha256: str) -> tuple[int, str]:
        """Upload the file with its hash as metadata unless there is one; size and hash of what is there now."""
        size, metadata, _ = self._created(name, file, {_SHA256: sha256})
        return size, metadata.get(_SHA256) or self._hash(name)

    def create(self, name: str, content: bytes) -> bool:
        """Write an object unless there is one."""
        return self._created(name, content, {})[2]

    def read(self, name: str) -> bytes | None:
        """The content; None if there is no such object."""
        with self._asking("read", name):
            try:
                return _patiently(lambda: bytes(_client(self.url).get(name).bytes()))
            except FileNotFoundError:
                return None

    def read_all(self, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
        """Several at a time."""
        remaining = iter(names)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            while some := list(islice(remaining, 64 * _AT_ONCE)):
                yield from zip(some, pool.map(self.read, some), strict=True)

    def write(self, name: str, content: bytes) -> None:
        """Write or replace an object."""
        with self._asking("write", name):
            _patiently(lambda: _client(self.url, _minutes(len(content))).put(name, content, use_multipart=False))

    def move(self, name: str, to: str) -> None:
        """Copy it inside the store, with its hash, then delete it."""
        with self._asking("write", to):
            _patiently(lambda: _client(self.url, _LONG).copy(name, to))
        self.remove([name])

    def remove(self, names: Iterable[str]) -> None:
        """Delete the objects that exist; S3 takes a thousand per request."""
        existing = list(names)
        with self._asking("remove", f"{len(existing)} files"):
            try:
                _patiently(lambda: _client(self.url).delete(existing))
            except FileNotFoundError:  # from stores that delete one by one
                for name in existing:
                    with suppress(FileNotFoundError):
                        _patiently(partial(_client(self.url).delete, name))

    def remove_folder(self, folder: str) -> None:
        """Delete the objects below `folder`."""
        self.remove(self.list(folder))

    def list(self, folder: str) -> dict[str, tuple[int, float]]:
        """Size and time of the last change of the objects below `folder`: a request per thousand."""

        def objects() -> dict[str, tuple[int, float]]:
            pages = _client(self.url).list(f"{folder}/" if folder else None)
            return {
                entry["path"]: (entry["size"], entry["last_modified"].timestamp()) for page in pages for entry in page
            }

        with self._asking("list", folder):
            return _patiently(objects)

    def folders(self, folder: str) -> Sequence[str]:
        """What is directly below `folder` up to the next slash."""
        with self._asking("list", folder):
            found = _patiently(lambda: _client(self.url).list_with_delimiter(f"{folder}/" if folder else None))
            return [name.rstrip("/") for name in found["common_prefixes"]]

    def probe(self) -> None:
        """Check that the store honours conditions: some small servers ignore them, and every writer wins."""
        name = f".probe-{uuid4().hex}"
        try:
            if not self.create(name, b"first") or self.create(name, b"second") or self.read(name) != b"first":
                raise NbenchError(
                    f"{self.url} lets a second writer overwrite a file (it ignores If-None-Match): processes cannot "
                    "share work there; use another store, or one worker"
                )
        finally:
            with suppress(NbenchError):  # the first error counts
                self.remove([name])

    def _created(self, name: str, content: bytes | Path, metadata: dict[str, str]) -> tuple[int, dict[str, str], bool]:
        """Create an object unless there is one; size and metadata of what is there now, and whether that is it."""
        own = metadata | {_WRITER: uuid4().hex}
        size = content.stat().st_size if isinstance(content, Path) else len(content)
        for attempt in range(_ATTEMPTS):
            if self._upload(name, content, size, own):
                return size, own, True
            if present := self._present(name):
                return *present, present[1].get(_WRITER) == own[_WRITER]
            _wait(attempt)  # somebody else's upload was under way, and failed
        raise StorageError(f"cannot write {self.url}/{name}: the store says that it exists, and that it does not")

    def _upload(self, name: str, content: bytes | Path, size: int, metadata: dict[str, str]) -> bool:
        """One upload; whether it created the object."""
        with self._asking("write", name):
            if isinstance(content, Path) and size > ONE_REQUEST_BYTES and self.url.startswith("s3"):
                bucket, _, folder = self.url.partition("://")[2].partition("/")
                return aws.put_in_parts(bucket, f"{folder}/{name}".lstrip("/"), content, metadata)
            from obstore.exceptions import AlreadyExistsError

            client = _client(self.url, _minutes(size))
            try:
                _patiently(partial(client.put, name, content, attributes=metadata, mode="create"))
                return True
            except AlreadyExistsError:
                return False

    def _present(self, name: str) -> tuple[int, dict[str, str]] | None:
        """Size and metadata of an object; None if there is none."""
        with self._asking("read", name):
            try:
                answer = _patiently(lambda: _client(self.url).get(name, options={"head": True}))
                return answer.meta["size"], dict(answer.attributes)
            except FileNotFoundError:
                return None

    def _hash(self, name: str) -> str:
        """The SHA-256 of an object that has none as metadata, such as a copy made by another program."""

        def digest() -> str:
            total = hashlib.sha256()
            for piece in _client(self.url, _LONG).get(name).stream():
                total.update(piece)
            return total.hexdigest()

        with self._asking("read", name):
            return _patiently(digest)

    @contextmanager
    def _asking(self, what: str, name: str) -> Iterator[None]:
        """Turn the errors of the clients into NbenchErrors."""
        try:
            from botocore.exceptions import BotoCoreError, ClientError
            from obstore.exceptions import BaseError
        except ImportError:
            raise NbenchError(f"{self.url} needs clients of object stores: pip install 'nbench[cloud]'") from None
        try:
            yield
        except FileNotFoundError:
            raise StorageError(f"cannot {what} {self.url}/{name}: there is no such bucket") from None
        except (BaseError, BotoCoreError, ClientError) as error:
            raise StorageError(
                f"cannot {what} {self.url}/{name} ({_reason(error)}): finished units are kept; fix the cause and run "
                "the same command"
            ) from None


@lru_cache
def _client(url: str, minutes: int = 1) -> Any:
    """The obstore client of `url`, whose requests take at most `minutes`.

    Credentials and endpoints come from the usual environment variables.
    """
    from obstore.store import from_url

    url = re.sub("^gcs:", "gs:", url)
    settings = aws.obstore_settings() if url.startswith("s3") else {}
    # without TLS only where the user's environment names such a server
    options: Any = {"timeout": timedelta(minutes=minutes), "allow_http": True}
    waits: Any = {"init_backoff": timedelta(seconds=_FIRST_WAIT), "max_backoff": timedelta(seconds=_LONGEST_WAIT)}
    return from_url(url, client_options=options, retry_config={"backoff": waits}, **settings)


def _patiently(ask: Callable[[], Answer]) -> Answer:
    """`ask()`, again if its connection broke.

    obstore itself retries status 429 and 5xx with jitter, and connections that broke before the answer to a request
    that only reads; not conditional writes and answers cut short.
    """
    from obstore.exceptions import GenericError

    for attempt in range(_ATTEMPTS):
        try:
            return ask()
        except GenericError as error:
            if "HTTP error" not in str(error) or attempt == _ATTEMPTS - 1:
                raise
        _wait(attempt)
    raise AssertionError("unreachable")


def _minutes(size: int) -> int:
    return 1 if size <= _SMALL_BYTES else _LONG


def _wait(attempt: int) -> None:
    time.sleep(random.uniform(0, min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)))


def _reason(error: Exception) -> str:
    """Why a request failed, in one line: without obstore's debugging text, and without query strings, which can hold
    signatures."""
    return one_line(re.sub(r"\?\S+", "", " ".join(str(error).partition("\n\nDebug source")[0].split())))
