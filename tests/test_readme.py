"""The commands and code in the documents run as shown, in order."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from nbench import cli

from .shards.hub.hub_protocol import USER
from .shards.hub.hub_server import HubServer

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [README, *(path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md")))]
BLOCKS = [
    block for text in DOCUMENTS for block in re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
]

# The command that takes minutes and the one that runs this test are run as shown, but the documented variables of the
# Makefile make them smaller.
SMALLER = {
    "make demo": {"LIMIT": "2"},
    "make test": {"ARGS": "tests/test_progress.py"},
}


@pytest.fixture(scope="module")
def clone(checkout: Path) -> Path:
    """A clone after `make setup`: it shares this environment."""
    (checkout / ".venv").symlink_to(sys.prefix)
    return checkout


RUNNER = """
import json, sys
from nbench import cli

for kind, text, words in json.load(sys.stdin):
    print("ran:", text, flush=True)
    if kind == "python":
        exec(compile(text, "document", "exec"), {"__name__": "__main__"})
        continue
    sys.argv = words
    try:
        cli.main()
    except SystemExit as exit:
        if exit.code:
            sys.exit(f"{text}: exit code {exit.code}")
"""
"""Runs nbench commands and Python code one after the other in one process, which imports torch only once."""


@pytest.mark.slow
def test_commands_and_code_run_as_shown(clone: Path, hub: HubServer, tmp_path: Path) -> None:
    shown = [
        ("python", text, []) if kind == "python" else ("sh", line, shlex.split(line))
        for kind, text in BLOCKS
        for line in ([""] if kind == "python" else text.splitlines())
    ]
    assert len(shown) > len(SMALLER)
    # without what pytest and a make that runs this test hand on
    handed_on = re.compile(r"PYTEST_.*|MAKE.*|MFLAGS|ARGS")
    environment = {name: value for name, value in os.environ.items() if not handed_on.fullmatch(name)}
    environment |= hub.environment(tmp_path / "home")
    environment |= {"PATH": f"{clone / '.venv/bin'}{os.pathsep}{os.environ['PATH']}", "NBENCH_BENCH": "data/small"}
    # make and the first nbench command run as in a shell; all others share one process
    alone = 1 + [words[:1] for _, _, words in shown].index(["nbench"])
    assert [words[0] for _, _, words in shown[:alone]] == ["make"] * (alone - 1) + ["nbench"]
    for _, line, words in shown[:alone]:
        # the environment is ready: make must not compare file times in a copy
        command = ["make", "-o", ".venv/.ready", *words[1:]] if words[0] == "make" else words
        own = environment | SMALLER.get(line, {})
        done = subprocess.run(command, cwd=clone, env=own, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    rest = [
        (kind, text, [re.sub("^user/", f"{USER}/", word) for word in words])  # the owner of the token
        for kind, text, words in shown[alone:]
    ]
    command = [str(clone / ".venv/bin/python"), "-c", RUNNER]
    done = subprocess.run(command, cwd=clone, env=environment, input=json.dumps(rest), capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    assert done.stdout.count("ran: ") == len(rest)
    assert (clone / "results/demo.png").stat().st_size > 10_000


def test_links_and_folders_exist() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README) + re.findall(r"^\| `(\w+/)`", README, re.MULTILINE)
    assert len(links) > 6
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_make_targets_named_in_the_documents_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    targets |= {f"experiment-{name}" for name in re.findall(r"^EXPERIMENTS = (.*)$", makefile, re.MULTILINE)[0].split()}
    named = {
        target
        for document in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
        for target in re.findall(r"`make ([a-z-]+)(?![A-Za-z-])", (ROOT / document).read_text(encoding="utf-8"))
    }
    assert named
    assert named - targets == set()


@pytest.mark.slow
def test_commands_that_need_a_gpu_or_the_hub_are_understood() -> None:
    blocks = [block for text in DOCUMENTS for block in re.findall(r"^```\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    shown = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("nbench ")]
    assert len(shown) > 5
    for words in shown:
        command: Any = typer.main.get_command(cli.app)
        while hasattr(command, "commands"):
            command, words = command.commands[words[0]], words[1:]
        command.make_context(command.name, list(words))  # raises if not understood
