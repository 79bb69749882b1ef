"""Images with captions on this machine: a folder with a table of captions or a text beside each, or tar shards."""

from __future__ import annotations

import json
import math
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import NbenchError, one_line, reason_of
from ..prompts.files import file_table
from ..prompts.rows import Table
from ..prompts.text_rows import is_missing
from .source import MAX_BYTES, ImageSource

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
TABLES = tuple(f"{stem}{kind}" for stem in ("captions", "metadata") for kind in (".jsonl", ".csv", ".tsv", ".parquet"))
FILE_COLUMNS = ("file_name", "file", "image")
RATING = "rating"
_KEY = re.compile(r"((?:.*/|)[^.]+)(\.[^/]*)")
"""A member of a sample: its key is the path up to the first dot of the name."""
_META = re.compile(r"__[^/]*__(/|$)")
"""Members about the archive, which are in no sample."""
_MAX_TEXT = 2**20
"""Largest caption in a tar shard, in bytes."""


def image_files(path: Path, prompt_column: str | None = None) -> ImageSource:
    """The images of a folder or of a tar shard.

    A folder has captions.jsonl, .csv, .tsv or .parquet (or metadata.*), whose column file_name, file or image names
    files in the folder, as a list where a caption has several; a column `rating` holds human ratings of them, in the
    same form. Or it has tar shards (key.jpg beside key.txt or key.json), or a text beside each image.

    Raises:
        NbenchError: none of these, or captions without files.
    """
    if path.is_file():
        return _tars([path], str(path), prompt_column)
    if not path.is_dir():
        raise NbenchError(f"no images at {path}: give a folder, a tar shard or a data set on the Hub (user/name)")
    named = next((path / name for name in TABLES if (path / name).is_file()), None)
    if named is not None:
        return _tabled(path, named)
    if tars := sorted(path.glob("*.tar")):
        return _tars(tars, str(path), prompt_column)
    return _paired(path)


def _tabled(folder: Path, captions: Path) -> ImageSource:
    table = file_table(captions)
    column = next((name for name in FILE_COLUMNS if name in table.columns), None)
    if column is None:
        raise NbenchError(f"{captions} names no files: give it a column {FILE_COLUMNS[0]}")
    files = [_names(row.get(column), f"{captions} row {n}") for n, row in enumerate(table.read([column]), 1)]
    root = folder.resolve()
    for names in files:
        for name in names:
            if not (root / name).resolve().is_relative_to(root):
                raise NbenchError(f"{captions} names {one_line(name)!r}, which is not in {folder}: put it there")
    per_row = max(map(len, files))
    if not per_row:
        raise NbenchError(f"{captions} names no files in {column}: fill it")

    def read(row: int, candidate: int) -> bytes | None:
        names = files[row]
        return _content(root / names[candidate]) if candidate < len(names) else None

    def ratings() -> Iterator[Sequence[float]]:
        for number, (row, names) in enumerate(zip(table.read([RATING]), files, strict=True), 1):
            means = _numbers(row.get(RATING), len(names), f"{captions} row {number}")
            yield means + [math.nan] * (per_row - len(means))

    if RATING not in table.columns:
        return ImageSource(table, per_row, read)
    for _ in ratings():  # what does not fit is found before the work
        pass
    return ImageSource(table, per_row, read, ratings=ratings)


def _paired(folder: Path) -> ImageSource:
    images = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    paths = [path for path in images if path.with_suffix(".txt").is_file()]
    if not paths:
        raise NbenchError(f"{folder} has no images with captions: write captions.jsonl, or NAME.txt beside NAME.png")

    def rows(names: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        for path in paths:
            text = _decoded(path.with_suffix(".txt").read_bytes(), str(path.with_suffix(".txt")))
            yield {"id": path.stem, "prompt": " ".join(text.split())}

    table = Table("folder", str(folder), ("id", "prompt"), rows, len(str(len(paths))))
    return ImageSource(table, 1, lambda row, _: _content(paths[row]))


def _tars(paths: Sequence[Path], place: str, column: str | None) -> ImageSource:
    """The images of tar shards: one pass over the headers records where each is, and `read` reads one."""
    places, rows = list[tuple[Path, tarfile.TarInfo]](), list[dict[str, Any]]()
    for path in paths:
        for key, members in _groups(path):
            image = next((members[suffix] for suffix in SUFFIXES if suffix in members), None)
            pictures = [member.name for suffix, member in members.items() if suffix.endswith(SUFFIXES)]
            dotted = next((name for name in pictures if not name.rpartition("/")[2].startswith(".")), None)
            if image is None and dotted is not None:
                raise NbenchError(
                    f"{path}: the key of {one_line(dotted)} ends at its first dot, so it is no image of a sample: "
                    "rename it without other dots"
                )
            if image is not None:
                rows.append({"id": key, **_caption(path, members, column)})
                places.append((path, image))
    if not rows:
        raise NbenchError(f"{place} has no images: its tars need key.jpg (png, webp) beside key.txt or key.json")

    def read(row: int, candidate: int) -> bytes:
        return _member(*places[row], MAX_BYTES + 1)

    table = Table(
        "webdataset", place, ("id", column or "prompt"), lambda names: iter(rows), len(str(len(rows))), ours=False
    )
    return ImageSource(table, 1, read)


def _groups(path: Path) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """Consecutive members that share a key, by their suffix, as webdataset groups them (`_KEY`)."""
    key, members = "", dict[str, tarfile.TarInfo]()
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                match = _KEY.fullmatch(member.name)
                if match is None or _META.match(member.name) or not member.isreg():
                    continue
                sample, kind = match[1], match[2].lower()
                if sample != key and members:
                    yield key, members
                    members = {}
                if kind in members:
                    raise NbenchError(f"{path} has {one_line(member.name)} twice in one sample: give each its own key")
                key = sample
                members[kind] = member
    except (tarfile.TarError, OSError) as error:
        raise NbenchError(f"cannot read {path} ({reason_of(error)}): give plain tar shards") from None
    if members:
        yield key, members


def _caption(path: Path, members: Mapping[str, tarfile.TarInfo], column: str | None) -> dict[str, Any]:
    """The text, under the column's name; with `column`, that of the JSON beside the image."""
    text, json_member = members.get(".txt"), members.get(".json")
    if text is not None and column is None:
        return {"prompt": " ".join(_text(path, text).split())}
    value = None
    if json_member is not None:
        try:
            content = json.loads(_text(path, json_member))
            value = content.get(column or "caption") if isinstance(content, dict) else None
        except (ValueError, RecursionError):
            value = None  # no caption: the checks of prompts report it
    return {column or "prompt": value if isinstance(value, str) else None}


def _text(path: Path, member: tarfile.TarInfo) -> str:
    return _decoded(_member(path, member, _MAX_TEXT), f"{path}: {member.name}")


def _decoded(text: bytes, place: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise NbenchError(f"{one_line(place)} is not UTF-8 ({reason_of(error)}): convert it") from None


def _member(path: Path, member: tarfile.TarInfo, limit: int) -> bytes:
    """At most `limit` bytes of a member, without reading the archive up to it."""
    with path.open("rb") as file:
        if member.issparse():  # its bytes are not one after the other
            with tarfile.open(fileobj=file, mode="r:") as tar:
                content = tar.extractfile(member)
                return content.read(limit) if content else b""
        file.seek(member.offset_data)
        return file.read(min(member.size, limit))


def _content(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError:
        return None


def _listed(value: object) -> list[Any]:
    """The value as a list; a table may hold a list as JSON."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return [value]
    return value if isinstance(value, list) else [] if value is None else [value]


def _names(value: object, place: str) -> list[str]:
    names = _listed(value)
    if not all(isinstance(name, str) for name in names):
        raise NbenchError(f"{place}: the file name is not text: write one name, or a list of names")
    return names


def _numbers(value: object, count: int, place: str) -> list[float]:
    """The ratings of the `count` images of a row; NaN where there is none."""
    items = _listed(value)
    try:
        if any(isinstance(item, bool) for item in items):
            raise TypeError
        ratings = [math.nan if is_missing(item) else float(item) for item in items]
    except (TypeError, ValueError):
        raise NbenchError(f"{place}: {RATING} {one_line(str(value))} is not a number: fix it") from None
    if all(math.isnan(rating) for rating in ratings):
        return [math.nan] * count
    if len(ratings) != count:
        raise NbenchError(f"{place}: {len(ratings)} ratings of {count} images: give one per image, null where none is")
    return ratings
