"""Scorers under another Python: they equal themselves in this process, and no misbehaviour goes unnoticed."""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nbench.errors import NbenchError
from nbench.scorers.apply import AppliedScorer, Rows
from nbench.scorers.check import PROMPTS, WORLD, check_scorer, made_up_inputs
from nbench.scorers.environments import pipes
from nbench.scorers.protocols import score_pairs
from nbench.scorers.registry import get_scorer
from nbench.shards.schema import PositionInfo
from nbench.shards.scores import PROMPT

STRANGE = Path(__file__).with_name("strange.py")
AT = WORLD.positions[0]


def remote(name: str) -> Any:
    """A scorer of `strange` in a process of this Python."""
    return get_scorer(f"python:{sys.executable}:{STRANGE}:{name}", WORLD)


def local(name: str) -> Any:
    """The same scorer in this process."""
    return get_scorer(f"{STRANGE}:{name}", WORLD)


@pytest.fixture(scope="module")
def sums() -> Any:
    """The sound scorer of pairs, in another process."""
    return remote("Sums")


@pytest.mark.parametrize(
    "inputs",
    [
        torch.randn(6, 4, 16, 16),
        torch.rand(6, 3, 32, 32).contiguous(memory_format=torch.channels_last),
        torch.rand(6, 3, 40, 24)[:, :, ::2, 1:],
        torch.rand(6, 25),
        torch.empty(6, 0),
        torch.rand(6, dtype=torch.float64),
    ],
    ids=["latent", "image", "strided", "cfg_gap", "no steps", "reference"],
)
def test_every_kind_of_input_arrives_as_it_is(sums: Any, inputs: torch.Tensor) -> None:
    expected = inputs.numpy().reshape(6, -1).sum(1, dtype="float64") + [len(prompt) for prompt in PROMPTS]
    assert sums.score(inputs, PROMPTS).tolist() == expected.tolist()


def test_parts_of_a_batch_keep_their_order(sums: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbench.scorers.environments.remote._PART_BYTES", 3 * 4 * 8 * 8)
    inputs = torch.randn(50, 1, 8, 8, dtype=torch.float32)
    prompts = ["x" * number for number in range(50)]
    assert sums.score(inputs, prompts).tolist() == local("Sums").score(inputs, prompts).tolist()
    larger = torch.randn(3, 1, 64, 64)
    assert sums.score(larger, prompts[:3]).tolist() == local("Sums").score(larger, prompts[:3]).tolist()


def test_images_keep_their_layout_in_memory() -> None:
    images = torch.rand(2, 3, 8, 8)
    scorer = remote("Layout")
    assert scorer.score(images, ["", ""]).tolist() == [8 * 8 * 4] * 2
    assert scorer.score(images.contiguous(memory_format=torch.channels_last), ["", ""]).tolist() == [4] * 2


@pytest.mark.parametrize("name", ["Sums", "Told", "Twin", "Names"])
def test_a_scorer_elsewhere_equals_itself_here(name: str) -> None:
    here, there = local(name), remote(name)
    assert (there.name, there.reads) == (here.name, here.reads)
    inputs = made_up_inputs(here, WORLD)
    rows = Rows([f"p{number}" for number in range(6)], list(range(6)), {PROMPT: PROMPTS})
    at = PositionInfo(25, 500.0, 0.75, 1.0)
    scores = [
        AppliedScorer(scorer).score(rows, at, lambda part: inputs[part]).by_caption[PROMPT] for scorer in (here, there)
    ]
    assert torch.equal(*scores)
    if name != "Names":
        assert check_scorer(there, inputs, PROMPTS, at) == []


def test_the_fingerprint_covers_code_and_versions_and_the_constructor_gets_what_it_names() -> None:
    here, there = local("Told"), remote("Told")
    assert there.fingerprint.startswith(f"{here.fingerprint}-")  # its own, then its code, then versions
    assert "float32-(4,-16,-16)-1.0" in there.fingerprint
    assert set(there.versions) >= {"python", "numpy"}
    assert there.versions["python"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert "torch" not in there.versions  # it is installed, but not loaded
    other = get_scorer(f"python:{sys.executable}:{STRANGE}:Told", replace(WORLD, latent_shape=(16, 8, 8)))
    assert other.fingerprint != there.fingerprint


def test_another_reading_has_its_own_name_and_fingerprint() -> None:
    scorer = get_scorer(f"x0-image:python:{sys.executable}:{STRANGE}:Twin", WORLD)
    assert (scorer.name, scorer.reads) == ("x0-image-strange.py-Twin", "x0_image")
    assert scorer.fingerprint.endswith("-x0_image")


def test_what_a_scorer_prints_is_passed_on_and_breaks_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    scorer = remote("Noisy")
    inputs = torch.ones(2, 1, 2, 2)
    assert [scorer.score(inputs, ["a", ""]).tolist() for _ in range(2)] == [[5.0, 4.0]] * 2
    del scorer
    out, err = capfd.readouterr()
    assert out == ""
    assert all(text in err for text in ("printed at import", '{"id": 1}', "half a line", "a child"))


def test_silence_ends_a_scorer_with_a_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pipes, "_POLL_SECONDS", 0.05)
    scorer = remote("Hangs")
    scorer._transport._timeout = 0.5
    started = tmp_path / "started"
    with pytest.raises(NbenchError, match=r"did not answer for 0.5 seconds .* smaller --batch-size, or set NBENCH_SC"):
        scorer.score(torch.ones(1, 1), [str(started)])
    assert not Path(f"/proc/{started.read_text()}").exists()
    monkeypatch.setenv(pipes.TIMEOUT, "soon")
    with pytest.raises(NbenchError, match="NBENCH_SCORER_TIMEOUT=soon is not a number of seconds"):
        remote("Hangs")


@pytest.mark.parametrize("deaths", [1, 2])
def test_a_process_that_is_killed_is_replaced_once(
    deaths: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mortal = tmp_path / "mortal"
    mortal.write_bytes(b"x" * deaths)
    monkeypatch.setenv("MORTAL", str(mortal))
    monkeypatch.setattr("nbench.scorers.environments.remote._PART_BYTES", 8)
    inputs = torch.arange(6.0)[:, None]
    scorer = remote("Dies")
    assert scorer.score(inputs[:1], [""]).tolist() == [0.0]
    scores = scorer.score(inputs, [""] * 6)  # in parts of two; each new process dies in its second call
    assert scores.tolist() == inputs[:, 0].tolist()
    assert capfd.readouterr().err.count(
        "its process ended and is started again: killed by SIGKILL; it last printed"
    ) == (deaths)


def test_a_process_that_always_ends_is_an_error() -> None:
    with pytest.raises(NbenchError, match=r"its process ended again: exit code 3; it last printed: no memory left$"):
        remote("Leaves").score(torch.ones(1, 1), [""])


def test_errors_of_a_scorer_read_as_in_this_process() -> None:
    rows = Rows(["p", "q"], [0, 0], {PROMPT: ["bad", "good"]})
    inputs = torch.ones(2, 4, 16, 16)
    there = remote("Raises")
    for scorer in (local("Raises"), there):
        with pytest.raises(NbenchError, match=r"^scorer sums: score raises ValueError: a bad day and more"):
            AppliedScorer(scorer).score(rows, AT, lambda part: inputs[part])
    assert check_scorer(there, inputs, ["bad", "good"], AT) == ["score raises ValueError: a bad day and more"]
    with pytest.raises(Exception, match="a bad day") as raised:
        there.score(inputs, ["bad", ""])
    assert "strange.py" in str(raised.value.__cause__)  # the traceback of the other process
    assert there.score(inputs, ["good", ""]).tolist() == [1028.0, 1024.0]
    with pytest.raises(Exception, match="bad weights"):
        remote("Exits").score(inputs, ["", ""])


def test_a_failing_part_does_not_shift_later_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbench.scorers.environments.remote._PART_BYTES", 4)
    scorer, inputs = remote("Raises"), torch.arange(4.0)[:, None]
    with pytest.raises(Exception, match="a bad day"):
        scorer.score(inputs, ["bad", "", "", ""])
    assert scorer.score(inputs, [""] * 4).tolist() == [0.0, 1.0, 2.0, 3.0]


def test_batches_are_halved_when_memory_runs_out_there() -> None:
    rows = Rows(["p"] * 5, list(range(5)), {PROMPT: [""] * 5})
    inputs = torch.arange(5.0)[:, None, None, None]
    scores = AppliedScorer(remote("Full")).score(rows, AT, lambda part: inputs[part]).by_caption[PROMPT]
    assert scores.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_results_of_a_wrong_kind_or_shape_are_refused() -> None:
    scorer, inputs = remote("Answers"), torch.ones(3, 1)
    for prompt, message in {
        "list": "score returns a list, not an array",
        "none": "score returns a NoneType, not an array",
        "short": r"score returns shape \[2\] for 3 rows, not \[B\]",
        "wide": r"score returns shape \[3, 3\] for 3 rows, not \[B\]",
        "complex": "score returns complex128, not real numbers",
    }.items():
        with pytest.raises(Exception, match=message):
            scorer.score(inputs, [prompt] * 3)
    assert torch.isnan(scorer.score(inputs, ["nan"] * 3)).tolist() == [False, True, False]
    assert scorer.score(inputs, ["whole"] * 3).dtype == torch.int64


def test_scorers_that_cannot_be_created_are_one_line(tmp_path: Path) -> None:
    for name, message in {
        "Unready": "cannot be created: RuntimeError: no licence",
        "Nameless": r"cannot be created: TypeError: not a scorer: it has no name \(a str\)",
        "Missing": "cannot be created: AttributeError: .*Missing",
    }.items():
        with pytest.raises(NbenchError, match=message):
            remote(name)
    with pytest.raises(NbenchError, match=r"no Python at .*nowhere"):
        get_scorer(f"python:{tmp_path / 'nowhere'}:{STRANGE}:Sums", WORLD)
    with pytest.raises(NbenchError, match=r"no file gone\.py: `nbench models new gone\.py` writes one"):
        get_scorer(f"python:{sys.executable}:gone.py:Sums", WORLD)
    with pytest.raises(NbenchError, match=r"python:mine.py lacks a part: give python:PYTHON:FILE.py:CLASS"):
        get_scorer("python:mine.py", WORLD)
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'numpy'\"; exit 1\n")
    broken.chmod(0o755)
    with pytest.raises(NbenchError, match=r"process ended: exit code 1; it last printed: .*No module named 'numpy'"):
        get_scorer(f"python:{broken}:{STRANGE}:Sums", WORLD)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system cannot wait for a process of another parent")
def test_a_process_ends_with_its_parent_even_at_work(tmp_path: Path) -> None:
    started = tmp_path / "started"
    os.mkfifo(started)
    child = os.fork()
    if not child:
        try:
            remote("Hangs").score(torch.ones(1, 1), [str(started)])
        finally:
            os._exit(1)
    worker = os.pidfd_open(int(started.read_text()))  # waits for the scorer
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert select.select([worker], [], [], 30)[0]
    os.close(worker)


HELLO = (
    '{"id": 1, "hello": {"protocol": 1, "name": "n", "reads": "latent", "fingerprint": "1", "kind": "pair", '
    '"conditioned": false, "scale": 1.0, "width": null, "versions": {}}}\n'
)


def fake(monkeypatch: pytest.MonkeyPatch, folder: Path, *writes: str) -> Callable[[], Any]:
    """A scorer whose process writes what expressions of Python give, one per request."""
    program = folder / "fake.py"
    program.write_text(
        "import os, sys, time\nrequests, replies, memory = map(int, sys.argv[1:])\n"
        + "".join(f"os.read(requests, 10**6)\nos.write(replies, {write})\n" for write in writes)
        + "time.sleep(60)\n"
    )
    monkeypatch.setattr(pipes, "worker", SimpleNamespace(__file__=str(program)))
    return lambda: remote("Sums")


@pytest.mark.parametrize(
    ("hello", "message"),
    [
        (
            HELLO.replace('"protocol": 1', '"protocol": 2'),
            "speaks version 2 of the scorer protocol, this",
        ),
        (HELLO.replace('"pair"', '"judge"'), "does not describe a scorer"),
        (HELLO.replace('"n"', '"' + "n" * 500 + '"'), "does not describe a scorer"),
        (HELLO.replace('"latent"', '"pixels"'), "reads 'pixels', which does not exist"),
        ("Welcome to my package!\n", "cannot be created: the line 'Welcome to my package!"),
        ("[" * 100_000 + "\n", "cannot be created: the line"),
        (HELLO.replace('"id": 1', '"id": 7'), "cannot be created: the line"),
    ],
)
def test_a_hello_of_another_protocol_is_refused(
    hello: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(NbenchError, match=message):
        fake(monkeypatch, tmp_path, repr(hello.encode()))()


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            '{"id": 2, "array": {"shape": [1], "dtype": "float32", "bytes": 1099511627776}}\n',
            "an array of 1099511627776",
        ),
        ('{"id": 2, "array": {"shape": [9], "dtype": "float32", "bytes": 4}}\n1234', "does not have 4 bytes"),
        ('{"id": 2, "array": {"shape": [-1], "dtype": "float32", "bytes": 4}}\n1234', "an array cannot be"),
        ('{"id": 2, "array": {"shape": [1], "dtype": "object", "bytes": 8}}\n12345678', "an array cannot be object"),
        ('{"id": 2}\n', "a reply without an array"),
        ('{"id": 3}\n', "the line"),
    ],
)
def test_replies_of_another_protocol_are_refused(
    reply: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    scorer = fake(monkeypatch, tmp_path, repr(HELLO.encode()), repr(reply.encode()))()
    with pytest.raises(NbenchError, match=message):
        scorer.score(torch.ones(1, 1), [""])


def test_a_line_without_end_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pipes, "LONGEST_LINE", 30_000)
    scorer = fake(monkeypatch, tmp_path, repr(HELLO.encode()), "b'x' * 60_000")()
    with pytest.raises(NbenchError, match="broke the protocol with a line of more than 30000 bytes"):
        score_pairs(scorer, torch.ones(1, 1), [""], AT)
