"""A bucket keeps what was first, whatever happens to connections and writers."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nbench.errors import NbenchError
from nbench.jobs import aws, object_store
from nbench.jobs.object_store import ObjectStore
from nbench.jobs.records import Record, Records

from ..fault_proxy import Fault
from ..s3_servers import S3Folder, s3_folder, small_server


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_FIRST_WAIT", 0.01)
    monkeypatch.setattr(object_store, "_LONGEST_WAIT", 0.05)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def put(store: ObjectStore, content: bytes, name: str = "data/3") -> str:
    """The hash of what is there after putting `content`."""
    with store.attempt(3) as folder:
        (folder / "file").write_bytes(content)
        size, sha256 = store.put(name, folder / "file", sha(content))
    assert {size} == {size for size, _ in store.list(name.partition("/")[0]).values()}
    return sha256


def rivals(store: ObjectStore, count: int) -> Counter[bool]:
    """How many of `count` writers at once, each with other content, think that they created one object."""
    start = threading.Barrier(count)

    def create(number: int) -> bool:
        start.wait()
        return store.create("a/b", b"%d" % number)

    with ThreadPoolExecutor(count) as pool:
        won = list(pool.map(create, range(count)))
    assert store.read("a/b") == b"%d" % won.index(True)
    return Counter(won)


def test_the_first_of_many_rivals_wins_and_all_learn_its_hash(s3: S3Folder) -> None:
    store = ObjectStore(s3.url)
    store.probe()
    with ThreadPoolExecutor(16) as pool:
        hashes = set(pool.map(lambda i: put(store, b"%d" % i * (i + 1)), range(16)))
    assert hashes == {sha(store.read("data/3") or b"")}
    assert rivals(store, 16) == {True: 1, False: 15}


def test_small_files(s3: S3Folder) -> None:
    store: ObjectStore = pickle.loads(pickle.dumps(ObjectStore(s3.url)))
    assert store.read("x/1") is None
    assert store.list("x") == {}
    store.write("x/1", b"one")
    store.write("x/1", b"two")
    store.write("x1", b"")
    assert dict(store.read_all(["x/1", "x/2"])) == {"x/1": b"two", "x/2": None}
    assert {name: size for name, (size, _) in store.list("x").items()} == {"x/1": 3}
    store.remove(["x/1", "x/2"])
    assert set(store.list("")) == {"x1"}
    records = Records(store, "key")
    assert records.add(1, Record("key", {"rows": 1}))
    assert not records.add(1, Record("key", {"rows": 2}))
    assert records.sound(records.done()) == {1: Record("key", {"rows": 1})}


def test_a_hash_is_computed_where_another_program_left_the_file(s3: S3Folder) -> None:
    store = ObjectStore(s3.url)
    store.write("data/3", b"copied")
    assert put(store, b"new") == sha(b"copied")


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT", "status", 500),
        Fault("PUT", "status", 503, times=2),
        Fault("PUT", "status", 429),
        Fault("PUT", "status", 409),  # Amazon's answer while another conditional write is under way
        Fault("PUT", "cut"),
        Fault("PUT", "lost"),
        Fault("PUT", "gone", times=3),
        Fault("PUT", "slow", seconds=0.2),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}" if fault.kind == "status" else fault.kind,
)
def test_a_put_that_is_disturbed_is_done_once(s3: S3Folder, fault: Fault) -> None:
    store, content = ObjectStore(s3.url), bytes(300_000)
    s3.proxy.faults.append(Fault(**vars(fault)))
    assert put(store, content) == sha(content)
    assert store.read("data/3") == content
    s3.proxy.faults.append(Fault(**vars(fault)))
    assert store.create("records/3", b"mine")  # also if its answer was lost
    assert not store.create("records/3", b"other")
    assert not any(each.times for each in s3.proxy.faults)


@pytest.mark.parametrize("kind", ["cut", "lost", "gone", "short", "status"])
def test_reading_that_is_disturbed_is_repeated(s3: S3Folder, kind: str) -> None:
    store = ObjectStore(s3.url)
    store.write("x/1", bytes(10_000))
    s3.proxy.faults += [Fault("GET", kind, times=2), Fault("GET .*list-type", kind)]  # type: ignore[arg-type]
    assert store.read("x/1") == bytes(10_000)
    assert set(store.list("x")) == {"x/1"}
    assert not any(fault.times for fault in s3.proxy.faults)


def test_a_store_that_ends_is_one_line_without_secrets(s3: S3Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_ATTEMPTS", 3)
    store = ObjectStore(s3.url)
    s3.proxy.faults.append(Fault("", "gone", times=1000))
    with pytest.raises(NbenchError, match=r"^cannot write s3://.*/a/b \(.*\): finished units are kept") as caught:
        store.create("a/b", b"x")
    assert "\n" not in str(caught.value)
    assert "Debug source" not in str(caught.value)
    assert "local-" not in str(caught.value)
    s3.proxy.faults[:] = [Fault("", "status", 403, times=1000)]
    with pytest.raises(NbenchError, match="403 Forbidden"):
        store.read("a/b")
    s3.proxy.faults.clear()
    with pytest.raises(NbenchError, match=r"cannot write s3://absent-bucket/a/a/b: there is no such bucket"):
        ObjectStore("s3://absent-bucket/a").create("a/b", b"x")


def test_without_credentials(s3: S3Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(NbenchError, match="no credentials for S3: set AWS_ACCESS_KEY_ID"):
        ObjectStore(s3.url).read("x")
    aws._session.cache_clear()
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_text("[work]\naws_access_key_id = k\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_PROFILE", "work")
    aws._client.cache_clear()
    assert ObjectStore(s3.url).read("x") is None


def test_a_store_that_ignores_conditions_is_refused() -> None:
    refusal = r"lets a second writer overwrite a file \(it ignores If-None-Match\)"
    with small_server() as server, s3_folder(server) as folder, pytest.raises(NbenchError, match=refusal):
        ObjectStore(folder.url).probe()


@pytest.mark.parametrize("scheme", ["gs", "gcs", "az"])
def test_google_and_azure_create_once_too(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """With the conditions that their services document."""
    with small_server(["x-goog-if-generation-match", "If-None-Match"]) as server:
        google = {"gcs_base_url": server.endpoint, "disable_oauth": True}
        google |= dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        for name, value in {
            "NO_PROXY": "127.0.0.1",
            "AZURE_STORAGE_ACCOUNT_NAME": "account",
            "AZURE_STORAGE_ACCOUNT_KEY": "a2V5",
            "AZURE_STORAGE_ENDPOINT": server.endpoint,
            "GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps(google),
        }.items():
            monkeypatch.setenv(name, value)
        object_store._client.cache_clear()
        store = ObjectStore(f"{scheme}://bucket/folder")
        assert store.create("a", b"first")
        assert not store.create("a", b"second")
        assert store.read("a") == b"first"
        object_store._client.cache_clear()


def test_parts_are_not_sent_to_a_server_that_would_overwrite(s3: S3Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "ONE_REQUEST_BYTES", 2**20)
    monkeypatch.setattr(aws, "_NOT_CREATED", ())
    client = aws._client()

    def without_condition(params: dict[str, dict[str, str]], **_: object) -> None:
        params["headers"].pop("If-None-Match", None)

    client.meta.events.register("before-call.s3.CompleteMultipartUpload", without_condition)
    with pytest.raises(NbenchError, match="lets an upload in parts overwrite a file"):
        put(ObjectStore(s3.url), bytes(2**20 + 1))


def large_files(folder: S3Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of three parts appears whole, once, and is not sent to a server that would overwrite."""
    monkeypatch.setattr(object_store, "ONE_REQUEST_BYTES", 2**20)
    monkeypatch.setattr(aws, "PART_BYTES", 5 * 2**20)  # the smallest that S3 takes
    store, first, second = ObjectStore(folder.url), os.urandom(11 * 2**20), os.urandom(11 * 2**20)
    folder.proxy.faults += [Fault("PUT .*partNumber=2", "cut"), Fault("POST .*uploadId", "lost", skip=1)]
    assert put(store, first) == sha(first)
    assert not any(fault.times for fault in folder.proxy.faults)
    assert put(store, second) == sha(first)
    assert sha(store.read("data/3") or b"") == sha(first)
    assert set(store.list("data")) == {"data/3"}
    assert not aws._client().list_multipart_uploads(Bucket=folder.url.split("/")[2]).get("Uploads")


@pytest.mark.slow
def test_a_real_server(real_s3: S3Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore(real_s3.url)
    store.probe()
    assert rivals(store, 16) == {True: 1, False: 15}
    large_files(real_s3, monkeypatch)


_RIVAL = """
import hashlib, os, random, signal, sys, threading
from nbench.jobs.object_store import ObjectStore
from nbench.jobs.records import Record, Records

store, writer = ObjectStore(sys.argv[1]), sys.argv[2]
records, dice = Records(store, "key"), random.Random(writer)
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
for index in sorted(range(40), key=lambda _: dice.random()):
    if index in records.done():
        continue
    content = f"{writer} {index} ".encode() * 50_000
    with store.attempt(index) as folder:
        (folder / "x").write_bytes(content)
        if dice.random() < 0.2:
            threading.Timer(dice.uniform(0, 0.02), die).start()  # in the middle of the upload, or of the record
        size, there = store.put(f"data/{index}", folder / "x", hashlib.sha256(content).hexdigest())
    if dice.random() < 0.2:
        die()
    records.add(index, Record("key", {"sha256": there}, writer))
    if dice.random() < 0.1:
        die()
"""


@pytest.mark.slow
def test_rivals_with_other_bytes_and_crashes_leave_records_that_match(real_s3: S3Folder, tmp_path: Path) -> None:
    store, crashes = ObjectStore(real_s3.url), 0
    records = Records(store, "key")
    environment = os.environ | real_s3.environment | {"TMPDIR": str(tmp_path)}
    while len(records.done()) < 40:
        commands = [[sys.executable, "-c", _RIVAL, real_s3.url, f"{crashes} {rival}"] for rival in "ab"]
        processes = [subprocess.Popen(command, env=environment) for command in commands]
        codes = [process.wait() for process in processes]
        assert set(codes) <= {0, -signal.SIGKILL}
        crashes += sum(code != 0 for code in codes)
    print(f"{crashes} crashes")
    assert crashes >= 10
    recorded = {index: record.result["sha256"] for index, record in records.read(range(40)).items()}
    assert recorded == {index: sha(store.read(f"data/{index}") or b"") for index in range(40)}
