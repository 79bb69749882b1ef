"""Ways to damage a data set on disk: bytes, the values of its record, the members of tars, the columns of tables."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from nbench.shards.scores import reference_path

from .conftest import SHAPE
from .test_webdataset import npy

Damage = Callable[[st.DataObject, Path], None]


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / "dataset.json").read_text())
    change(content)
    (folder / "dataset.json").write_text(json.dumps(content))


def record(folder: Path) -> None:
    """Make the record fit the shards, as somebody would who wants them to be believed."""

    def change(content: dict[str, Any]) -> None:
        for shard in content["shards"]:
            shard["bytes"] = (folder / shard["path"]).stat().st_size

    edit(folder, change)


def shards(folder: Path) -> list[Path]:
    return sorted((folder / "data").iterdir())


def scramble(data: st.DataObject, path: Path) -> None:
    """Flip, insert, drop and repeat bytes; the ends, which hold the structure, as often as all the rest."""
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        last = max(0, len(content) - 1)
        place = data.draw(st.one_of(st.integers(0, last), st.integers(max(0, last - 3000), last)))
        more = data.draw(st.one_of(st.binary(min_size=1, max_size=8), st.sampled_from([b"\xff" * 8, b"\0" * 512])))
        kind = data.draw(st.sampled_from(["over", "insert", "drop", "cut", "repeat"]))
        if kind == "over":
            content[place : place + len(more)] = more
        elif kind == "insert":
            content[place:place] = more
        elif kind == "drop":
            del content[place : place + len(more)]
        elif kind == "cut":
            del content[place:]
        else:
            content[place:place] = content[place : place + 700]
    path.write_bytes(content)


def damage_shard(data: st.DataObject, folder: Path) -> None:
    scramble(data, data.draw(st.sampled_from(shards(folder))))
    if data.draw(st.booleans()):
        record(folder)


def damage_record(data: st.DataObject, folder: Path) -> None:
    scramble(data, folder / "dataset.json")


def damage_scores(data: st.DataObject, folder: Path) -> None:
    scramble(data, reference_path(folder, "clip"))


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        [0, -1, 1, 2**30, 2**31, 2**62, 2**64, 10**400, 1e308, "", "12", "../../x", "\ud800", "a\nb", "\0"]
    ),
)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every replaceable part of a JSON value: its container, and its key or index."""
    for key in list(content) if isinstance(content, dict) else range(len(content)):
        yield content, key
        if isinstance(content[key], (dict, list)):
            yield from places(content[key])


def alter(data: st.DataObject, content: dict[str, Any]) -> None:
    """Replace, remove and add arbitrary JSON values anywhere."""
    for _ in range(data.draw(st.integers(1, 3))):
        top = [(content, key) for key in content]
        slots = top if data.draw(st.booleans()) else list(places(content))
        inside, key = slots[data.draw(st.integers(0, len(slots) - 1))]
        kind = data.draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
        if kind == "remove" and len(content) > 1:
            del inside[key]
        elif kind == "add" and isinstance(inside, dict):
            inside[data.draw(st.one_of(st.text(max_size=8), st.sampled_from(["a\nb", "\ud800"])))] = data.draw(JSON)
        elif isinstance(inside[key], list) and len(inside[key]) == 3 and data.draw(st.booleans()):
            inside[key] = [data.draw(LEAVES) for _ in range(3)]
        else:
            inside[key] = data.draw(JSON)


def alter_record(data: st.DataObject, folder: Path) -> None:
    edit(folder, lambda content: alter(data, content))


def other_members(data: st.DataObject, folder: Path) -> None:
    """A tar of a few members of any name, type, size and content."""
    path = data.draw(st.sampled_from(shards(folder)))
    with tarfile.open(path, "r:*") if path.suffix == ".tar" else tarfile.open(fileobj=io.BytesIO(bytes(10240))) as tar:
        old = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    names = st.one_of(
        st.from_regex(r"0000000[0-9]\.(meta\.json|image\.png|x(00|10|20|30|50|99)\.npy)", fullmatch=True),
        st.sampled_from(["../../outside", "/tmp/outside", "00000000.meta.json/..", "a\nb", "00000000.x20.npy\0.txt"]),
        st.text(st.characters(codec="utf-8"), max_size=20),
    )
    contents = st.one_of(st.binary(max_size=64), arrays(), metas())
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in old[: data.draw(st.integers(0, len(old)))]:
            tar.addfile(member(name, len(content)), io.BytesIO(content))
        for _ in range(data.draw(st.integers(1, 4))):
            name, content = data.draw(names), data.draw(contents)
            again: bool = data.draw(st.booleans())
            if old and again:
                name = data.draw(st.sampled_from(old))[0]
            new = member(name, len(content))
            if data.draw(st.integers(0, 3)) == 0:
                new.type = data.draw(st.sampled_from([b"\0", *(b"%c" % c for c in b"01234567xgXLKSDVA")]))
                new.linkname = data.draw(st.sampled_from(["", "/etc/passwd", "../../outside"]))
            if data.draw(st.integers(0, 3)) == 0:
                new.pax_headers = data.draw(headers())
            tar.addfile(new, io.BytesIO(content))
            if data.draw(st.integers(0, 3)) == 0:
                spoil_size(data, archive)
    path.write_bytes(archive.getvalue())
    record(folder)


def member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    return info


def headers() -> st.SearchStrategy[dict[str, str]]:
    keys = ["size", "path", "GNU.sparse.major", "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.name", "mtime"]
    values = ["-1", "-99999", "9" * 30, "0,1", "1", "../../outside", "00000000.x20.npy", "nan", "x"]
    return st.dictionaries(st.sampled_from(keys), st.sampled_from(values), max_size=3)


def spoil_size(data: st.DataObject, archive: io.BytesIO) -> None:
    """Another size in the last header, with a matching checksum."""
    raw = bytearray(archive.getvalue())
    start = max((at for at in range(0, len(raw), 512) if raw[at + 257 : at + 262] == b"ustar"), default=None)
    if start is None:
        return
    block = raw[start : start + 512]
    block[124:136] = data.draw(
        st.sampled_from([b"\xff" * 12, b"\x80" + b"\xff" * 11, b"77777777777\0", b"-0000000777\0"])
    )
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    archive.seek(start)
    archive.write(block)
    archive.seek(0, io.SEEK_END)


def arrays() -> st.SearchStrategy[bytes]:
    """Files that begin like arrays: sound ones, of other types, and with headers that claim anything."""
    sound = [npy(np.zeros(SHAPE, kind)) for kind in ("float16", "int8", ">f2")]
    start = "'descr': '<f2', 'fortran_order': False, 'shape': "
    texts = [
        f"{{{start}(4, 8, 8)",
        f"{{{start}({10**12},)}}",
        f"{{{start}(4, 8, 8)}}",
        "{[]: 1}",
        "{1: 2, 'a': 3}",
        "(",
    ]
    texts += ["{'descr': (1,), 'fortran_order': False, 'shape': (1,)}", f"{{{start}(-1,)}}", "'''", "[" * 900]
    texts += ["{'descr': [('a', '<f2')], 'fortran_order': False, 'shape': (4, 8, 8)}", f"{{{start}(4, 8, 10**9)}}"]
    damaged = [b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text.encode() + bytes(512) for text in texts]
    damaged += [b"\x93NUMPY\x02\0" + b"\xff\xff\xff\xff", b"PK\x03\x04", b"PK\x05\x06" + bytes(18), b"\x80\x04N."]
    return st.sampled_from(sound + damaged)


def metas() -> st.SearchStrategy[bytes]:
    plain = {"id": "p0/0", "prompt_id": "p0", "prompt": "x", "candidate": 0, "seed": 1, "tags": None, "status": "ok"}

    @st.composite
    def one(draw: st.DrawFn) -> bytes:
        keys = st.sampled_from([*plain, "corruptions", "image", "error", "latent_20", "scale_20"])
        return json.dumps(plain | draw(st.dictionaries(keys, JSON, max_size=3))).encode()

    return one()


def other_table(data: st.DataObject, folder: Path) -> None:
    """A Parquet file whose columns are missing, of another type, in another order, null or of other values."""
    path = data.draw(st.sampled_from([*shards(folder), reference_path(folder, "clip")]))
    table = pq.read_table(path) if path.suffix == ".parquet" else pa.table({"status": ["ok"], "prompt_id": ["p0"]})
    changes: dict[str, Callable[[pa.ChunkedArray], Any]] = {
        "null": lambda column: pa.nulls(len(table), column.type),
        "some null": lambda column: [*column.slice(1).chunks, pa.nulls(min(1, len(table)), column.type)],
        "integers": lambda column: pa.array(range(len(table))),
        "no text": lambda column: pa.array([b"\xff\xfe"] * len(table), pa.binary()).view(pa.string()),
        "bytes": lambda column: pa.array([b"x"] * len(table)),
        "lists": lambda column: pa.array([[1.0, None]] * len(table)),
        "structs": lambda column: pa.array([{"bytes": b"\x89PNG\r\n\x1a\n", "path": "/etc/passwd"}] * len(table)),
        "dictionary": lambda column: pa.array(["ok"] * len(table), pa.string()).dictionary_encode(),
        "fewer": lambda column: pa.array([[0.0]] * len(table)),
    }
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(table.schema.names))
        at = table.schema.names.index(name)
        kind = data.draw(st.sampled_from([*changes, "remove", "rename", "order", "again", "more rows", "no rows"]))
        if kind in changes:
            table = table.set_column(at, name, changes[kind](table[at]))
        elif kind == "remove" and len(table.schema.names) > 1:
            table = table.remove_column(at)
        elif kind == "rename":
            other = data.draw(st.sampled_from(["status", "prompt.x", "latent_20.list.element", "a\nb", ""]))
            table = table.rename_columns([*table.schema.names[:at], other, *table.schema.names[at + 1 :]])
        elif kind == "order":
            table = table.select(list(range(len(table.schema.names)))[::-1])
        elif kind == "again":
            table = table.append_column(name, table[at])
        else:
            table = pa.concat_tables([table] * 4) if kind == "more rows" else table.slice(0, 0)
    if data.draw(st.booleans()):
        meta = st.sampled_from([b"", b"[1]", b"{", b"[" * 100_000, b"\xff", b'{"bench_fingerprint": []}'])
        table = table.replace_schema_metadata({"nbench": data.draw(meta)})
    pq.write_table(table, path, store_schema=data.draw(st.booleans()), row_group_size=data.draw(st.integers(1, 9)))
    record(folder)


DAMAGES: dict[str, Damage] = {
    "bytes of a shard": damage_shard,
    "bytes of the record": damage_record,
    "bytes of a score table": damage_scores,
    "values of the record": alter_record,
    "members of a tar": other_members,
    "columns of a table": other_table,
}
