"""A few small files of a place as a local folder, for code that works on paths."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..options import Place
from .places import store_at
from .scratch import scratch_folder
from .store import LocalStore


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


def _hashes(folder: Path) -> dict[str, str]:
    """By name, the hash of every file below `folder`, except unfinished ones."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".tmp"))
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
