"""Faults, permissions and interruptions while publishing: what is retried, what is reported, what never happens."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .hub_protocol import READ_TOKEN
from .hub_server import Fault, HubServer
from .publisher import SHARDS, Publisher, recorded_sha256


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT", "/lfs/", "status", 429, {"Retry-After": "0"}),
        Fault("PUT", "/lfs/", "status", 503),
        Fault("PUT", "/lfs/", "cut"),
        Fault("POST", "/commit/", "status", 503, times=2),
        Fault("POST", "/commit/", "status", 429, {"Retry-After": "1"}),
        Fault("POST", "/commit/", "cut"),
        Fault("POST", "/commit/", "lost"),
        Fault("POST", "/repos/create", "lost"),
        Fault("GET", "/whoami", "status", 500),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status}-{fault.path.strip('/').replace('/', '-')}",
)
def test_what_passes_is_tried_again(publish: Publisher, hub: HubServer, bench_folder: Path, fault: Fault) -> None:
    hub.faults.append(fault)
    publish(bench_folder).report  # noqa: B018
    assert fault.times == 0
    repo = hub.repos["dataset", "ann/bench"]
    assert set(repo.files()) == {".gitattributes", "README.md", "dataset.json", *SHARDS}
    assert len(repo.commits) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", [None, Fault("PUT", "/lfs/.*/2", "cut"), Fault("POST", "/lfs-complete/", "status", 503)]
)
def test_large_files_go_in_parts(publish: Publisher, hub: HubServer, bench_folder: Path, fault: Fault | None) -> None:
    hub.part_bytes = 1000
    hub.faults += [fault] if fault else []
    publish(bench_folder).report  # noqa: B018
    sizes = [(bench_folder / shard).stat().st_size for shard in SHARDS]
    assert len(set(hub.requested("PUT /lfs/"))) == sum(-(-size // 1000) for size in sizes) > len(SHARDS)
    files = hub.repos["dataset", "ann/bench"].files()
    assert all(files[shard].data == (bench_folder / shard).read_bytes() for shard in SHARDS)


def test_other_errors_are_told_at_once(publish: Publisher, hub: HubServer, bench_folder: Path) -> None:
    hub.faults.append(Fault("POST", "/commit/", "status", 400, times=9))
    error = publish(bench_folder).error
    assert "400 for Bearer ***" in error  # this server tells the token back
    assert len(hub.requested("POST .*/commit/")) == 1


@pytest.mark.slow
def test_a_hub_that_stays_busy_is_told(publish: Publisher, hub: HubServer, bench_folder: Path) -> None:
    hub.faults.append(Fault("GET", "/whoami", "status", 503, {"Retry-After": "0"}, times=99))
    assert "run the same command later, it resumes where it stopped" in publish(bench_folder).error
    assert len(hub.requested("GET .*/whoami")) == 5
    assert not hub.writes


def test_an_interrupted_publish_goes_on(publish: Publisher, hub: HubServer, bench_folder: Path) -> None:
    first = recorded_sha256(bench_folder, 0)
    hub.faults.append(Fault("PUT", f"/lfs/(?!{first})", "hang", times=2))
    process = subprocess.Popen(publish.command(bench_folder), env=publish.environment(), stderr=subprocess.DEVNULL)
    assert hub.hanging.wait(60)
    _until(lambda: first in hub.objects)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.objects = {first: hub.objects[first]}
    hub.faults.clear()
    assert set(hub.repos["dataset", "ann/bench"].files()) == {".gitattributes"}

    hub.requests.clear()
    publish(bench_folder).report  # noqa: B018
    assert sorted(hub.requested("PUT")) == sorted(
        f"PUT /lfs/{recorded_sha256(bench_folder, index)}" for index in (1, 2)
    )
    assert set(SHARDS) < set(hub.repos["dataset", "ann/bench"].files())


@pytest.mark.slow
def test_what_was_committed_is_not_sent_again(publish: Publisher, hub: HubServer, tmp_path: Path) -> None:
    names = [f"bench/model-{number:02d}.json" for number in range(40)]
    for name in names:
        (tmp_path / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        result = {"bench": "bench", "model": name, "rows": [], "nbench_version": "1"}
        (tmp_path / "results" / name).write_text(json.dumps(result))
    hub.faults.append(Fault("POST", "/commit/", "status", 400, skip=1))
    assert "400" in publish(tmp_path / "results").error
    repo = hub.repos["dataset", "ann/bench"]
    assert set(repo.files()) == {".gitattributes", *names[:32]}
    outcome = publish(tmp_path / "results")
    assert outcome.report["sent"] == 9
    assert "9 of 41 files to send" in outcome.process.stderr
    assert set(repo.files()) == {".gitattributes", "README.md", *names}


@pytest.mark.slow
def test_corrupt_content_on_the_hub_is_detected_and_sent_again(
    publish: Publisher, hub: HubServer, bench_folder: Path
) -> None:
    hub.faults.append(Fault("PUT", recorded_sha256(bench_folder, 1), "corrupt"))
    error = publish(bench_folder).error
    assert f"{SHARDS[1]} differs from the file here" in error
    assert SHARDS[0] not in error
    assert publish(bench_folder).report["sent"] == 1
    assert hub.repos["dataset", "ann/bench"].files()[SHARDS[1]].sha256 == recorded_sha256(bench_folder, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("token", "message"),
    [
        (None, "no Hub token: log in with `hf auth login`"),
        ("hf_WrongWrongWrong", "the token is not accepted"),
        (READ_TOKEN, "the token has no permission, use one with write access to ann/bench"),
        ("hf_Line\nBreakLineBreak", "checking the token failed"),
    ],
)
def test_nothing_is_sent_without_permission(
    publish: Publisher, hub: HubServer, bench_folder: Path, token: str | None, message: str
) -> None:
    assert message in publish(bench_folder, token=token).error
    assert not [request for request in hub.writes if "/repos/create" not in request]
    assert not hub.repos


@pytest.mark.slow
def test_a_stranger_s_repository_is_left_alone(publish: Publisher, hub: HubServer, bench_folder: Path) -> None:
    hub.create("bob/bench")
    assert "no permission" in publish(bench_folder, "bob/bench").error
    assert "no permission" in publish(bench_folder, "bob/other").error
    assert hub.writes == ["POST /api/repos/create"]


def test_a_tag_is_no_branch(publish: Publisher, hub: HubServer, bench_folder: Path) -> None:
    repo = hub.create("ann/bench")
    repo.tags["v1"] = repo.oid("main")
    assert "v1 is a tag of ann/bench" in publish(bench_folder, revision="v1").error
    assert not hub.writes


@pytest.mark.slow
def test_private_is_private_or_refused(publish: Publisher, hub: HubServer, bench_folder: Path) -> None:
    publish(bench_folder, private=True).report  # noqa: B018
    assert hub.repos["dataset", "ann/bench"].private
    hub.create("ann/public")
    hub.requests.clear()
    assert "ann/public is already public" in publish(bench_folder, "ann/public", private=True).error
    assert not hub.writes


def _until(true: Callable[[], bool]) -> None:
    for _ in range(600):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("it did not come about in a minute")
