"""Prepare a folder for publishing: detect its kind, collect its files, check that they are complete."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ...errors import NbenchError, reason_of
from ...options import RECIPE_FILE
from ..dataset import INFO_FILE
from ..reader import open_bench
from ..storage import Location
from .card import dataset_card, model_card, results_card

CARD = "README.md"
Kind = Literal["data set", "model", "results"]
_LOCAL_PATH = re.compile(r"""(?:^|[\s'",=\[])(?:[/~]|[A-Za-z]:[\\/])""")
_PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")
_RESULT, _PROVENANCE = {"bench", "model", "rows"}, {"nbench_version", "provenance"}
"""A JSON file is an evaluation result if it has all fields of the first set and one of the second."""


@dataclass(frozen=True)
class Remote:
    """A file at a URL."""

    location: Location
    name: str


@dataclass(frozen=True)
class PublishedFile:
    """A file to send: its path in the repository, its content (path, bytes or at a URL), size in bytes and hash."""

    path: str
    source: Path | bytes | Remote
    bytes: int
    sha256: str

    def git_blob(self) -> str:
        """Its git blob id, which the Hub records for small files."""
        if isinstance(self.source, Remote):
            data = self.source.location.read(self.source.name)
        else:
            data = self.source if isinstance(self.source, bytes) else self.source.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Package:
    """A checked folder. `files`: in sending order, without the card. `readme`: the folder's own README, if any."""

    kind: Kind
    files: tuple[PublishedFile, ...]
    left_out: tuple[str, ...]
    readme: str | None
    card: Callable[[str], str]

    def complete(self, remote: str = "") -> tuple[PublishedFile, ...]:
        """All files, the card last. `remote` is the Hub's README, kept if the folder has none."""
        data = self.card(remote if self.readme is None else self.readme).encode()
        return (*self.files, PublishedFile(CARD, data, len(data), hashlib.sha256(data).hexdigest()))


def pack(folder: Path, repo_id: str, num_workers: int) -> Package:
    """Detect the kind of `folder`, and hash its files.

    Raises:
        NbenchError: neither a data set nor a model nor results; or unfinished, or damaged.
    """
    if not folder.is_dir():
        raise NbenchError(f"no folder {folder}: name one with a data set, a model or results")
    found = sorted(folder.rglob("*"))
    if links := [path for path in found if path.is_symlink() and path.is_dir()]:
        raise NbenchError(f"{links[0]} links to a folder, whose files would be left out: replace it by the folder")
    paths = {path.relative_to(folder).as_posix(): path for path in found if path.is_file()}
    own = {name: path for name, path in paths.items() if name != CARD and not _private(name)}
    _refuse_links_out(folder, [*own.values(), *([paths[CARD]] if CARD in paths else [])])
    recorded: dict[str, str] = {}
    kind: Kind
    card: Callable[[str], str]
    if INFO_FILE in own:
        info = open_bench(folder).info
        recorded = {record.path: record.sha256 for record in info.shards if record}
        own = {name: path for name, path in own.items() if name in recorded or not name.startswith("data/")}
        if RECIPE_FILE in own and _LOCAL_PATH.search(own[RECIPE_FILE].read_text("utf-8", "replace")):
            del own[RECIPE_FILE]  # it would show the folders of this machine
        if lost := sorted(recorded.keys() - own.keys()):
            raise NbenchError(f"shard {folder / lost[0]} is missing: run the same `nbench build` command to repair it")
        kind, card = "data set", partial(dataset_card, info, repo_id)
    elif "config.json" in own:
        kind, card = "model", partial(model_card, _recipe(folder, own), repo_id)
    elif results := _results(own):
        tables = any(name.endswith(".parquet") for name in own)
        kind, card = "results", partial(results_card, results, repo_id, tables)
    else:
        raise NbenchError(
            f"nothing to publish in {folder}: it has neither {INFO_FILE} (a data set) nor config.json (a model) nor "
            "result files as `nbench evaluate` writes them"
        )
    # dataset.json last, so that a partial upload never looks complete
    order = sorted(own, key=lambda name: (name == INFO_FILE, not name.startswith("data/"), name))
    with ThreadPoolExecutor(num_workers) as pool:
        files = tuple(pool.map(lambda name: _hashed(name, own[name]), order))
    for file in files:
        _check(folder, file, recorded.get(file.path, file.sha256))
    left_out = tuple(name for name in paths if name not in own and name != CARD)
    return Package(kind, files, left_out, _read(paths[CARD]) if CARD in paths else None, card)


def _private(name: str) -> bool:
    """Whether a file is hidden, temporary, or a pickle, which is unsafe to open."""
    hidden = any(part.startswith(".") or part == "__pycache__" for part in name.split("/"))
    return hidden or name.endswith(("~", ".tmp", *_PICKLES))


def _refuse_links_out(folder: Path, paths: Iterable[Path]) -> None:
    inside = folder.resolve()
    for path in paths:
        if not path.resolve().is_relative_to(inside):
            raise NbenchError(f"{path} links to a file outside {folder}: replace the link by a copy, or remove it")


def _check(folder: Path, file: PublishedFile, recorded: str) -> None:
    if file.sha256 != recorded:
        raise NbenchError(
            f"shard {folder / file.path} was changed since it was recorded: remove it and run the same "
            "`nbench build` command to repair it"
        )


def _recipe(folder: Path, own: dict[str, Path]) -> dict[str, Any]:
    """A model's training.json; empty if there is none."""
    if (folder / "checkpoint.pt").exists() or any(folder.glob("checkpoint-*")):
        raise NbenchError(f"{folder} is half trained: run the same `nbench train` command again to finish it")
    if not any(name.endswith(".safetensors") for name in own):
        raise NbenchError(f"{folder} has no weights as safetensors: save the model there with save_pretrained")
    recipe = _json(own["training.json"]) if "training.json" in own else {}
    return recipe if isinstance(recipe, dict) else {}


def _results(own: dict[str, Path]) -> list[dict[str, Any]]:
    contents = [_json(path) for name, path in own.items() if name.endswith(".json")]
    results = [content for content in contents if isinstance(content, dict) and content.keys() >= _RESULT]
    return [content for content in results if content.keys() & _PROVENANCE]


def _json(path: Path) -> Any:
    try:
        return json.loads(_read(path))
    except ValueError as error:
        raise NbenchError(f"{path} is damaged ({reason_of(error)}): create it again or move it away") from None


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise NbenchError(f"cannot read {path} as UTF-8 text ({reason_of(error)}): fix it or move it away") from None


def _hashed(name: str, path: Path) -> PublishedFile:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return PublishedFile(name, path, file.tell(), digest)
    except OSError as error:
        raise NbenchError(f"cannot read {path} ({reason_of(error)}): make it readable or move it away") from None
