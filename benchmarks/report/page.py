"""The page as one self-contained HTML file: figures, pictures, styles and scripts; no network, no other file."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from ...errors import NbenchError, one_line, reason_of
from ...shards.atomic import atomic_write
from ...shards.reader import Bench
from .inputs import Inputs
from .payload import dumps, figures, viewer

LIMIT = 8_000_000
"""Most bytes of a page."""
_SCRIPTS = ("core.js", "tables.js", "leaderboard.js", "download.js", "plots.js", "viewer.js")
_LIBRARIES = ("vendor/d3.min.js", "vendor/plot.min.js")
_SPARE = 20_000


@dataclass(frozen=True)
class Page:
    """A page, and how many of the bench's prompts it shows."""

    text: str
    shown: int
    of: int


def make_page(inputs: Inputs, bench: Bench | None, prompts: int, limit: int = LIMIT) -> Page:
    """The page of some results with the trajectories of at most `prompts` prompts; none without the bench.

    Raises:
        NbenchError: the figures alone take more than `limit` bytes.
    """
    data = figures(inputs)
    title = f"nbench: {data['bench']}"
    data["viewer"] = None
    room = limit - len(_filled(title, dumps(data)).encode()) - _SPARE
    if room < 0:
        raise NbenchError(f"the page would have more than {limit:,} bytes: give fewer results")
    if bench is not None and prompts:
        data["viewer"] = viewer(inputs, bench, prompts, room)
    shown = data["viewer"]
    text = _filled(title, dumps(data))
    return Page(text, len(shown["prompts"]) if shown else 0, shown["of"] if shown else data["n_prompts"])


def write_page(folder: Path, page: Page) -> Path:
    """Write `folder`/index.html.

    Raises:
        NbenchError: the folder cannot be written.
    """
    return _write(folder / "index.html", page.text)


def write_space(folder: Path, page: Page, bench: str) -> Path:
    """Write a page as a static Space for the Hugging Face Hub: index.html, and README.md with the settings.

    Raises:
        NbenchError: the folder cannot be written.
    """
    title = json.dumps(f"nbench: {bench}")  # every JSON string is a YAML string
    settings = f"title: {title}\nemoji: 📈\ncolorFrom: blue\ncolorTo: green\nsdk: static\napp_file: index.html\n"
    about = "Which scorer can tell, earliest and cheapest, whether an image will match its prompt. Made by nbench.\n"
    _write(folder / "README.md", f"---\n{settings}pinned: false\n---\n\n{about}")
    return write_page(folder, page)


def _filled(title: str, data: str) -> str:
    libraries = [_static(name) for name in _LIBRARIES]
    script = "(() => {\n" + "".join(_static(name) for name in _SCRIPTS) + "})();\n"
    scripts = [*libraries, script]
    hashes = " ".join(f"'sha256-{_digest(text)}'" for text in scripts)
    # the plots add style elements of their own; styles are harmless without network access
    policy = f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'"
    return Template(_static("template.html")).substitute(
        title=html.escape(one_line(title)),
        policy=f"{policy}; form-action 'none'",
        style=_static("style.css"),
        data=data,
        scripts="\n".join(f"<script>{text}</script>" for text in scripts),
    )


def _static(name: str) -> str:
    return files(__package__).joinpath("static", name).read_text("utf-8")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _write(path: Path, text: str) -> Path:
    try:
        atomic_write(path, text.encode())
    except OSError as error:
        raise NbenchError(f"cannot write {path}: {reason_of(error)}; choose another folder") from None
    return path
