"""Temporary folders go with their owner, at the latest when the next process needs one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nbench.errors import NbenchError
from nbench.jobs.scratch import scratch_folder


def test_the_folder_of_a_killed_process_is_removed_and_that_of_a_living_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "from nbench.jobs.scratch import scratch_folder\n"
        "with scratch_folder() as folder:\n"
        "    (folder / 'shard').write_bytes(b'x')\n"
        "    print(folder, flush=True)\n"
        "    input()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"TMPDIR": str(tmp_path)}, **pipes) as process:  # type: ignore[call-overload]
        folder = Path(process.stdout.readline().decode().strip())
        os.utime(folder, (0, 0))
        with scratch_folder() as own:
            assert set(tmp_path.iterdir()) == {folder, own}
        process.send_signal(signal.SIGKILL)
        process.wait()
    with scratch_folder() as own:
        assert list(tmp_path.iterdir()) == [own]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(NbenchError, match=r"cannot write .*absent .*: set TMPDIR"), scratch_folder():
        pass
