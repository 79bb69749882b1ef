"""Ways to write trajectories to disk and read them again: nbench's and others."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nbench.shards.dataset import DatasetFolder
from nbench.shards.formats import shard_writer
from nbench.shards.reader import open_bench
from nbench.shards.row_columns import latent_column
from nbench.shards.schema import PositionInfo, TrajectoryBatch
from nbench.tests.dataset_info import commit_shard, dataset_info

STEPS = 50
BATCH_ROWS = 4


@dataclass(frozen=True)
class Layout:
    """A storage layout of trajectories.

    write: takes a folder and latents, float16 [N, P, C, H, W]; read: yields all latents of some positions, in arrays of
    any shape; needs: a package that nbench does not depend on; mapped: read by memory map, so bytes are not counted.
    """

    name: str
    write: Callable[[Path, np.ndarray], None]
    read: Callable[[Path, Sequence[int]], Iterator[np.ndarray]]
    needs: str | None = None
    mapped: bool = False

    @property
    def missing(self) -> bool:
        """Whether the needed package is not installed."""
        return self.needs is not None and importlib.util.find_spec(self.needs) is None


def sdxl_sigmas() -> np.ndarray:
    """The noise levels [51] of 50 Euler steps of SDXL: from 14.6 to 0, evenly spaced in its 1,000 timesteps."""
    alphas = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)
    sigmas = np.sqrt((1 - alphas) / alphas)
    return np.append(np.interp(np.linspace(999, 0, STEPS), np.arange(1000), sigmas), 0)


def trajectories(rows: int, size: int, seed: int = 0) -> np.ndarray:
    """Latents, float16 [rows, 51, 4, size, size]: a smooth picture with some grain, and its noise at each position."""
    rng = np.random.default_rng(seed)
    latents = np.empty((rows, STEPS + 1, 4, size, size), np.float16)
    coarse = size // 8
    for row in latents:
        waves = np.fft.rfft2(rng.normal(size=(4, coarse, coarse)))
        smooth = np.fft.irfft2(waves, s=(size, size)) * (size / coarse) ** 2
        noise = rng.normal(size=smooth.shape)
        for k, sigma in enumerate(sdxl_sigmas()):
            row[k] = smooth + 0.1 * rng.normal(size=smooth.shape) + sigma * noise
    return latents


def write_nbench(folder: Path, latents: np.ndarray, form: str = "parquet", shards: int = 1) -> None:
    """A data set by nbench's own writers; every shard has the rows `latents`."""
    n, _, *shape = latents.shape
    info = dataset_info(
        n_prompts=n * shards,
        candidates=1,
        steps=STEPS,
        rows_per_shard=n,
        stored=(),
        latent_shape=tuple(shape),
        format=form,
        image_size=(8 * shape[1], 8 * shape[2]),
        positions=tuple(PositionInfo(k, None, float(sigma), 1.0) for k, sigma in enumerate(sdxl_sigmas())),
    )
    dataset = DatasetFolder(folder)
    dataset.create(info)
    for index in range(shards):
        writer = shard_writer(folder, info, index)
        for first in range(0, n, BATCH_ROWS):
            writer.write(_batch(latents[first : first + BATCH_ROWS], index * n + first))
        commit_shard(dataset, index, writer.commit())


def _batch(latents: np.ndarray, first: int) -> TrajectoryBatch:
    numbers = range(first, first + len(latents))
    nothing = [None] * len(latents)
    return TrajectoryBatch(
        prompt_ids=[f"p{number}" for number in numbers],
        prompts=[f"prompt {number}" for number in numbers],
        candidates=[0] * len(latents),
        seeds=list(numbers),
        tags=nothing,
        corruptions=nothing,
        errors=[""] * len(latents),
        latents={k: latents[:, k] for k in range(latents.shape[1])},
        images=None,
    )


def read_nbench(folder: Path, positions: Sequence[int]) -> Iterator[np.ndarray]:
    for batch in open_bench(folder).batches(positions, batch_size=BATCH_ROWS):
        yield from batch.latents.values()


def write_datasets(folder: Path, latents: np.ndarray) -> None:
    """One Array3D column per position, written as `Dataset.from_generator` does, then `to_parquet`."""
    from datasets import Array3D, Dataset, Features
    from datasets.arrow_writer import ArrowWriter

    shape = latents.shape[2:]
    features = Features({latent_column(k): Array3D(shape, "float16") for k in range(latents.shape[1])})
    arrow = folder / "rows.arrow"
    with ArrowWriter(path=str(arrow), features=features) as writer:
        for row in latents:
            writer.write({latent_column(k): values for k, values in enumerate(row)})
        writer.finalize()
    Dataset.from_file(str(arrow)).to_parquet(str(folder / "rows.parquet"))
    arrow.unlink()


def read_datasets(folder: Path, positions: Sequence[int]) -> Iterator[np.ndarray]:
    """Streamed, to avoid the copy to its cache."""
    from datasets import load_dataset

    columns = [latent_column(k) for k in positions]
    file = str(folder / "rows.parquet")
    rows = load_dataset("parquet", data_files=file, split="train", columns=columns, streaming=True)
    for row in rows.with_format("numpy"):
        yield from row.values()


def write_npy_each(folder: Path, latents: np.ndarray) -> None:
    for number, row in enumerate(latents):
        (folder / f"{number:06d}").mkdir()
        for k, values in enumerate(row):
            np.save(folder / f"{number:06d}" / f"{k:02d}.npy", values)


def read_npy_each(folder: Path, positions: Sequence[int]) -> Iterator[np.ndarray]:
    for row in sorted(folder.iterdir()):
        for k in positions:
            yield np.load(row / f"{k:02d}.npy")


def write_npy(folder: Path, latents: np.ndarray) -> None:
    for number, row in enumerate(latents):
        np.save(folder / f"{number:06d}.npy", row)


def read_npy(folder: Path, positions: Sequence[int]) -> Iterator[np.ndarray]:
    """Plain reads at the offsets of the positions: a memory map would read the same bytes, but uncounted."""
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            start, count = file.tell(), int(np.prod(shape[1:]))
            for k in positions:
                file.seek(start + k * count * dtype.itemsize)
                yield np.fromfile(file, dtype, count).reshape(shape[1:])


def write_torch(folder: Path, latents: np.ndarray) -> None:
    """As the authors of NoisyCLIP do: a list of the denoiser's inputs, doubled for guidance, [2, C, H, W] each."""
    import torch

    for number, row in enumerate(latents):
        torch.save([torch.from_numpy(values).expand(2, -1, -1, -1).clone() for values in row], folder / f"{number}.pt")


def read_torch(folder: Path, positions: Sequence[int]) -> Iterator[np.ndarray]:
    import torch

    for path in sorted(folder.iterdir()):
        row = torch.load(path, weights_only=True)
        for k in positions:
            yield row[k][0].numpy()


def write_litdata(folder: Path, latents: np.ndarray) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(folder), chunk_bytes="64MB")
    for number, row in enumerate(latents):
        writer[number] = {latent_column(k): values for k, values in enumerate(row)}
    writer.done()
    writer.merge()


def read_litdata(folder: Path, positions: Sequence[int]) -> Iterator[np.ndarray]:
    from litdata import StreamingDataset

    for row in StreamingDataset(str(folder)):
        for k in positions:
            yield row[latent_column(k)]


LAYOUTS = (
    Layout("nbench parquet", write_nbench, read_nbench),
    Layout("nbench webdataset", lambda folder, latents: write_nbench(folder, latents, "webdataset"), read_nbench),
    Layout("datasets Array3D", write_datasets, read_datasets, needs="datasets"),
    Layout("npy, one per position", write_npy_each, read_npy_each),
    Layout("npy, one per trajectory", write_npy, read_npy),
    Layout("torch.save, doubled", write_torch, read_torch),
    Layout("litdata", write_litdata, read_litdata, needs="litdata", mapped=True),
)
"""The first is the baseline."""
