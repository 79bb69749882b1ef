"""The store of a place: a local folder, a bucket, or another URL."""

from __future__ import annotations

from pathlib import Path

from ..errors import NbenchError
from ..options import Place, lost_url
from .object_store import SCHEMES, ObjectStore
from .store import LocalStore, Store
from .url_store import UrlStore


def store_at(place: Place) -> Store:
    """The store of `place`, of which nothing is read yet.

    Raises:
        NbenchError: files cannot be written there one by one, or it is a URL that became a `Path`.
    """
    if url := lost_url(place):
        raise NbenchError(f"{url} became a path, which loses a slash: give it as text")
    text = str(place)
    scheme, separator, rest = text.partition("://")
    if not separator or scheme in ("file", "local"):
        return LocalStore(Path(rest if separator else text))
    if scheme == "hf" and not rest.startswith("buckets/"):
        raise NbenchError(
            f"{text} is a repository, in which every file would be a commit: write to hf://buckets/USER/NAME or to a "
            "folder, and send that with nbench publish"
        )
    if scheme in ("http", "https"):
        raise NbenchError(f"{text} cannot be written: give a folder, or a URL of a bucket")
    return (ObjectStore if scheme in SCHEMES else UrlStore)(text.rstrip("/"))


def beneath(place: Place, name: str) -> Place:
    """The place `name` in a folder or URL.

    >>> beneath("s3://bucket/results/", "bench"), beneath("results", "bench").as_posix()
    ('s3://bucket/results/bench', 'results/bench')
    """
    text = str(place)
    return f"{text.rstrip('/')}/{name}" if "://" in text else Path(text) / name
