"""Closes a data set that several processes have built in parts."""

from __future__ import annotations

from ..errors import NbenchError
from ..jobs.places import store_at
from ..jobs.records import FAILURES, Records
from ..options import Place
from ..shards.dataset import INFO_FILE
from ..shards.dataset_job import damaged, dataset_info, merge, shard_records
from ..shards.schema import DatasetInfo

_NAMED = 5
"""Missing shards that an error names."""


def merge_parts(place: Place) -> DatasetInfo:
    """Check that all shards are there, and write their records into dataset.json.

    Raises:
        NbenchError: no data set, or a shard is missing or damaged; the message names the first ones.
    """
    store = store_at(place)
    if store.read(INFO_FILE) is None:
        raise NbenchError(f"no data set at {store.url}: it has no {INFO_FILE}; build it with nbench build")
    info = dataset_info(store)
    of = Records(store, info.fingerprint)
    records = of.sound(of.done())
    shards = {index: record for index, record in enumerate(info.shards) if record is not None}
    shards |= shard_records(store, records)
    bad = damaged(store, shards)
    if missing := sorted({*range(info.n_shards)} - shards.keys() | bad.keys()):
        failed = of.read(of.failed(), FAILURES)
        reason = f" ({failed[missing[0]].error})" if missing[0] in failed else ""
        named = ", ".join(map(str, missing[:_NAMED])) + (", ..." if len(missing) > _NAMED else "")
        raise NbenchError(
            f"{store.url} lacks {len(missing)} of {info.n_shards} shards: {named}{reason}; make them by the same "
            "nbench build, with or without --units or --rank, then merge again"
        )
    return merge(store, shards)
