"""Small files of a place as a local folder, for code that works on paths."""

from __future__ import annotations

import atexit
import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..errors import NbenchError
from ..options import Place, lost_url
from .places import store_at
from .scratch import scratch_folder
from .store import LocalStore, Store
from .url_store import UrlStore

_FILES = {".json", ".parquet", ".csv", ".tsv", ".jsonl", ".ndjson"}
_RESULTS = {".json", ".parquet", ".arrow"}
_copies = ExitStack()
atexit.register(_copies.close)


@contextmanager
def mirrored(place: Place, below: str) -> Iterator[Path]:
    """`place` as a local folder: itself, or a temporary copy of what is in its folder `below`, but not in hidden ones.

    What has changed in the copy is written back at the end, also after an error; what is gone there is removed.

    Raises:
        NbenchError: the place cannot be read or written.
    """
    store = store_at(place)
    if isinstance(store, LocalStore):
        yield store.root
        return
    with scratch_folder() as folder:
        for name, content in store.read_all(name for name in store.list(below) if "/." not in name):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content or b"")
        before = _hashes(folder)
        try:
            yield folder
        finally:
            after = _hashes(folder)
            for name in sorted(after):
                if after[name] != before.get(name):
                    store.write(name, (folder / name).read_bytes())
            store.remove(sorted(before.keys() - after.keys()))


def read_copy(place: Place) -> Path:
    """`place` as a local path to read: itself, or a copy of what is at a URL, removed when this process ends.

    Of a folder, its result files (JSON, Parquet and Arrow) are copied, but not those in hidden folders; of a JSON file,
    also its scores and the references beside it.

    Raises:
        NbenchError: the place cannot be read, there is nothing, or it is a data set.
    """
    url = lost_url(place) or str(place)
    if "://" not in url:
        return Path(place)
    folder, _, file = url.rstrip("/").rpartition("/")
    suffix = Path(file).suffix
    if suffix not in _FILES:
        folder, file = url.rstrip("/"), ""
    store = _readable(folder)
    if isinstance(store, LocalStore):
        return store.root / file
    names = [file] if file else []
    if suffix not in _FILES - {".json"}:
        names += [name for name in store.list("") if name != file and _is_result(name, beside=bool(file))]
    if "dataset.json" in names and not file:
        raise NbenchError(f"{url} is a data set, not results: give the folder of results")
    copy = _copies.enter_context(scratch_folder()) / folder.partition("://")[2]
    for name, content in store.read_all(names):
        if content is None:
            raise NbenchError(f"nothing at {folder}/{name}")
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    if not names:
        raise NbenchError(f"no results at {url}: run nbench evaluate")
    return copy / file


def _readable(url: str) -> Store:
    """The store at `url`, also if it can only be read."""
    return UrlStore(url) if url.startswith(("hf://", "http://", "https://")) else store_at(url)


def _is_result(name: str, beside: bool) -> bool:
    """Whether a file below a folder belongs to results; beside: only one directly in it."""
    is_hidden = any(part.startswith(".") for part in name.split("/"))
    return Path(name).suffix in _RESULTS and not is_hidden and not (beside and "/" in name.removeprefix("references/"))


def _hashes(folder: Path) -> dict[str, str]:
    """By name, the hash of every file below `folder`, except unfinished ones."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".tmp"))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
