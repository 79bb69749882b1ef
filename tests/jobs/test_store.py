"""A local store keeps what was first, and many processes may use it at a time."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nbench.errors import NbenchError
from nbench.jobs.records import Record, Records
from nbench.jobs.store import ATTEMPTS, LocalStore


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(store: LocalStore, content: bytes) -> tuple[int, str]:
    with store.attempt(3) as folder:
        (folder / "file").write_bytes(content)
        return store.put("data/3", folder / "file", sha(content))


def fact(content: bytes) -> tuple[int, str]:
    return len(content), sha(content)


def test_the_first_of_many_rivals_wins_and_all_learn_its_hash(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with ThreadPoolExecutor(16) as pool:
        hashes = set(pool.map(lambda i: put(store, b"%d" % i), range(16)))
    assert hashes == {fact((tmp_path / "data/3").read_bytes())}
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["3"]  # no attempt leaves a file


def test_a_file_is_created_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with ThreadPoolExecutor(16) as pool:
        won = [i for i, created in enumerate(pool.map(lambda i: store.create("a/b", b"%d" % i), range(16))) if created]
    assert len(won) == 1
    assert store.read("a/b") == b"%d" % won[0]
    store.write("a/b", b"new")
    assert store.read("a/b") == b"new"
    assert set(store.list("a")) == {"a/b"}
    store.remove(["a/b", "a/c"])
    assert store.read("a/b") is None
    for folder in ("a", ATTEMPTS):
        store.remove_folder(folder)
    assert list(tmp_path.iterdir()) == []


def test_without_hard_links_one_process_can_work_and_the_folder_is_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: object, target: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    store = LocalStore(tmp_path)
    assert put(store, b"one") == fact(b"one")
    assert put(store, b"second") == fact(b"one")


def test_a_disk_that_overwrites_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LocalStore(tmp_path).probe()
    monkeypatch.setattr(os, "link", lambda source, target: Path(source).replace(target))
    monkeypatch.setattr(Path, "unlink", lambda self, missing_ok=False: None)
    with pytest.raises(NbenchError, match="second writer overwrite"):
        LocalStore(tmp_path).probe()


def test_records_of_another_job_or_cut_short_do_not_count(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    records = Records(store, "key")
    assert records.add(1, Record("key", {"sha256": "a"}, "me", 1.5))
    assert not records.add(1, Record("key", {"sha256": "b"}))
    assert records.add(2000, Record("other"))
    store.create("records/0/5.json", b'{"key": "ke')
    assert set(records.done()) == {1, 5, 2000}
    assert records.sound(records.done()) == {1: Record("key", {"sha256": "a"}, "me", 1.5)}
    assert set(records.done()) == {1}
    assert (records.has(1), records.has(5)) == (True, False)
