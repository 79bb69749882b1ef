"""A data set in the libraries of others: `datasets` and `webdataset`, whichever format its shards have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import check_range
from .row_columns import arrow_schema, latent_column
from .rows import columns_of
from .schema import TrajectoryBatch
from .stream import Order

if TYPE_CHECKING:
    from .reader import Bench

_ROWS = 64
_ABOUT = ("id", "prompt_id", "prompt", "candidate", "seed", "tags", "corruptions", "status", "error")


def to_datasets(
    bench: Bench,
    positions: Sequence[int] | None = None,
    streaming: bool = False,
    images: bool = True,
    signals: Sequence[str] = ("latent",),
) -> Any:
    """A `datasets.Dataset`, or with `streaming` an `IterableDataset` of as many shards as there are; rows as stored.

    Args:
        positions: whose latents to read; None: all stored ones.
        images: read the final images.
        signals: what to read at the positions, as of `Bench.batches`.

    Raises:
        NbenchError: a position or signal is not stored.
    """
    import datasets

    chosen = bench.info.stored if positions is None else tuple(positions)
    bench.require(chosen)
    bench.require_signals(signals)
    wanted = {*_ABOUT, *columns_of(bench.info, chosen, images, signals)}
    schema = arrow_schema(bench.info)
    columns = [name for name in schema.names if name in wanted]
    features = datasets.Features.from_arrow_schema(schema)

    def rows(shards: Sequence[int]) -> Iterator[dict[str, Any]]:
        for index in shards:
            for batch in bench.shard_rows(index, columns, _ROWS):
                yield from batch.to_pylist()

    kind = datasets.IterableDataset if streaming else datasets.Dataset
    return kind.from_generator(
        rows,
        features=datasets.Features({name: features[name] for name in columns}),
        gen_kwargs={"shards": list(range(len(bench.info.shards)))},
    )


def to_webdataset(
    bench: Bench,
    positions: Sequence[int] | None = None,
    shuffle: int = 0,
    split: bool = True,
    images: bool = True,
    signals: Sequence[str] = ("latent",),
    seed: int = 0,
) -> Any:
    """A `webdataset.DataPipeline` of decoded samples: `meta.json`, `image.png` (uint8 [H, W, 3]), `x20.npy` [C, h, w].

    Candidates that failed are left out. The names are those of WebDataset shards (docs/format.md).

    Args:
        positions: whose latents to read; None: all stored ones.
        shuffle: size of the buffer that samples are drawn from; shards are shuffled too. 0: as stored.
        split: each node and each worker of a DataLoader reads other shards.
        signals: what to read at the positions, as of `Bench.batches`.

    Raises:
        NbenchError: a position or signal is not stored, or `shuffle` is negative.
    """
    import webdataset as wds

    check_range("shuffle", shuffle, 0)
    chosen = bench.info.stored if positions is None else tuple(positions)
    bench.require(chosen)
    bench.require_signals(signals)
    parts = len(bench.info.shards)

    def samples(urls: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for entry in urls:
            index = int(entry["url"])
            place = f"{bench.location.url}/{bench.info.shard_path(index)}"
            for batch in bench.batches(chosen, images, _ROWS, Order(part=index, parts=parts), signals=signals):
                yield from _samples(batch, place)

    stages: list[Any] = [wds.SimpleShardList([str(index) for index in range(parts)], seed=seed if shuffle else None)]
    stages += [wds.split_by_node, wds.split_by_worker] if split else []
    stages.append(samples)
    if shuffle:
        stages.append(wds.shuffle(shuffle, seed=seed))
    return wds.DataPipeline(*stages)


def _samples(batch: TrajectoryBatch, place: str) -> Iterator[dict[str, Any]]:
    for row, prompt_id in enumerate(batch.prompt_ids):
        key = f"{prompt_id}/{batch.candidates[row]}"
        about = {name: getattr(batch, f"{name}s")[row] for name in ("prompt", "candidate", "seed")}
        about |= {"tags": batch.tags[row], "corruptions": batch.corruptions[row]}
        sample = {"__key__": key, "__url__": place, "meta.json": {"id": key, "prompt_id": prompt_id, **about}}
        if batch.images is not None:
            sample["image.png"] = batch.images[row]
        sample |= {f"x{position:02d}.npy": values[row] for position, values in batch.latents.items()}
        for signal, places in {"x0": batch.x0, **batch.ahead}.items():
            sample |= {f"{latent_column(position, signal)}.npy": values[row] for position, values in places.items()}
        if batch.cfg_gap is not None:
            sample["cfg_gap.npy"] = batch.cfg_gap[row]
        yield sample
