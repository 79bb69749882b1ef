"""Places that can be written, and those that cannot refuse to overwrite."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from uuid import uuid4

import pytest

from nbench.errors import NbenchError, StorageError
from nbench.jobs.object_store import ObjectStore
from nbench.jobs.places import store_at
from nbench.jobs.store import LocalStore
from nbench.jobs.url_store import UrlStore


def test_the_store_of_a_place(tmp_path: Path) -> None:
    assert store_at(tmp_path) == store_at(str(tmp_path)) == store_at(f"file://{tmp_path}") == LocalStore(tmp_path)
    assert store_at("s3://bucket/a/") == ObjectStore("s3://bucket/a")
    assert store_at("az://container/a") == ObjectStore("az://container/a")
    assert store_at("hf://buckets/user/name/a") == UrlStore("hf://buckets/user/name/a")
    for place, problem in (
        ("hf://datasets/user/name", "every file would be a commit"),
        ("https://host/a", "cannot be written"),
        (Path("s3://bucket/a"), "s3://bucket/a became a path, which loses a slash"),
    ):
        with pytest.raises(NbenchError, match=problem):
            store_at(place)


def test_any_url_of_fsspec_is_written_by_one_worker(tmp_path: Path) -> None:
    store: UrlStore = pickle.loads(pickle.dumps(UrlStore(f"memory://{uuid4().hex}/a")))
    assert store.read("x/1") is None
    assert store.list("x") == store.list("") == {}
    assert store.create("x/1", b"one")
    assert not store.create("x/1", b"two")
    store.write("x/2", b"two")
    assert dict(store.read_all(["x/1", "x/2", "x/3"])) == {"x/1": b"one", "x/2": b"two", "x/3": None}
    assert {name: size for name, (size, changed) in store.list("x").items() if changed > 0} == {"x/1": 3, "x/2": 3}
    hashes = [hashlib.sha256(content).hexdigest() for content in (b"first", b"another")]
    with store.attempt(0) as folder:
        for content, digest in zip((b"first", b"another"), hashes, strict=True):
            (folder / "file").write_bytes(content)
            assert store.put("data/0", folder / "file", digest) == (5, hashes[0])
    store.remove(["x/1", "x/9"])
    assert set(store.list("")) == {"x/2", "data/0"}
    with pytest.raises(NbenchError, match="cannot refuse to overwrite a file, so processes cannot share work there"):
        store.probe()


def test_a_place_that_cannot_be_reached() -> None:
    with pytest.raises(NbenchError, match="cannot open nonsense://x"):
        UrlStore("nonsense://x").read("a")
    with pytest.raises(StorageError, match=r"cannot write file:///proc/none/a \(.*\): finished units are kept"):
        UrlStore("file:///proc/none").write("a", b"")
