"""What a trainer reads: batches of rows of a data set, each row at one position, in an order that ranks agree on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from ..errors import NbenchError
from ..shards.reader import Bench
from ..shards.references import finished_scores
from ..shards.rows import columns_of, from_arrow, images_of
from ..shards.schema import TrajectoryBatch
from ..shards.scores import scores_at
from ..shards.signals import ACTIVATIONS, activations_of
from ..shards.stream import prefetch
from .config import FineTuneConfig
from .dataset import TrajectoryDataset
from .noise import noise_of

WINDOW_BYTES = 256 * 2**20
"""Limit on the bytes of latents in memory: of all positions if they fit, else of one position per row."""
VALIDATION_ROWS = 2048
"""At most this many held-out rows are used."""


Row = tuple["Shard", int]
"""A shard in memory and the number of a row in it."""


@dataclass(frozen=True)
class Images:
    """The final images of B rows, decoded when they are needed."""

    rows: Sequence[Row]

    def decoded(self, chosen: Sequence[int]) -> torch.Tensor:
        """RGB float32 [len(chosen), 3, H, W] in 0..1."""
        images = np.concatenate([shard.image(row) for shard, row in (self.rows[number] for number in chosen)])
        return torch.from_numpy(images).permute(0, 3, 1, 2) / 255


@dataclass(frozen=True)
class Examples:
    """A batch of B rows over all processes, of which this one computes b.

    Attributes:
        own: the rows of this process; `counts` are the numbers of rows of each process.
        latents: latents or x0 estimates, float32 [b, C, h, w]; or activations [b, D].
        position, noise_level: of each row of `latents`, int64 and float32 [b]; see `noise_share`.
        images: the final images of the b rows.
        keys: prompt id and candidate of each of the B rows.
        groups: int64 [B]; rows whose candidates are compared have the same number.
        captions, corrupted: text of each of the B rows, and its near misses.
        reference: float32 [B], NaN where there is none.
        draw: a random number of this batch, for what a learner draws.
    """

    own: slice
    counts: list[int]
    latents: torch.Tensor
    position: torch.Tensor
    noise_level: torch.Tensor
    images: Images
    keys: list[tuple[str, int]]
    groups: torch.Tensor
    captions: list[str]
    corrupted: list[list[str]]
    reference: torch.Tensor
    draw: int

    def __len__(self) -> int:
        return len(self.captions)


class Shard:
    """Rows of a shard that did not fail: their texts, and their latents (or another signal) at some positions."""

    def __init__(self, bench: Bench, index: int, positions: Sequence[int], signal: str, images: bool) -> None:
        columns = columns_of(bench.info, positions, images, (signal,))
        table = pa.Table.from_batches(list(bench.shard_rows(index, columns, 2**20))).combine_chunks()
        table = table.filter(pc.equal(table["status"], "ok")).combine_chunks()
        rows = table.to_batches()[0] if len(table) else pa.RecordBatch.from_pylist([], table.schema)
        self.batch: TrajectoryBatch = from_arrow(rows, bench.info, positions, False, (signal,))
        recorded = {"latent": self.batch.latents, "x0": self.batch.x0}
        self.latents = recorded.get(signal) or self.batch.activations[signal.removeprefix(ACTIVATIONS)]
        self._images = rows.select(["prompt_id", "candidate", "image"]) if images else None
        self._size = bench.info.image_size

    def image(self, row: int) -> np.ndarray:
        """The final image of a row, uint8 [1, H, W, 3]."""
        assert self._images is not None
        return images_of(self._images.slice(row, 1), self._size)


class ExampleDataset(TrajectoryDataset):
    """Batches of `Examples` of the training or the held-out rows; each row at one position, drawn per batch.

    Every row comes once per epoch, whatever the sizes of the shards: batches cross their borders. If the latents at all
    positions fit in memory they are read once. Else shards are read in windows, each at as few positions as it takes
    for a window to hold them all. All processes read the same order and take their share of each batch, so results do
    not depend on their number.

    Args:
        images: read the final images, too.
        share: number of this process, and of all.
        held_out: the validation rows instead of the training rows.

    Raises:
        NbenchError: a position, signal or reference is missing, there are fewer rows than a batch has, or the reference
            scores all alike that a loss compares.
    """

    def __init__(
        self, config: FineTuneConfig, bench: Bench, images: bool, share: tuple[int, int], held_out: bool = False
    ) -> None:
        self.config, self.noise = config, noise_of(config, bench)
        super().__init__(bench, self.noise.stored, config.batch_size, images=images, shuffle=config.seed)
        bench.require_signals([config.signal, *(["image"] if images else [])])
        self._share, self._held_out, self._cached = share, held_out, dict[int, Shard]()
        self._per_batch = max(1, config.batch_size // bench.info.candidates) if config.ranks else config.batch_size
        if self._per_batch % share[1]:
            unit = "prompts per batch" if config.ranks else "rows per batch"
            raise NbenchError(
                f"{self._per_batch} {unit} cannot be split among {share[1]} processes: change --batch-size"
            )
        if not held_out and self.units < self._per_batch:
            raise NbenchError(
                f"{config.data} has too few rows: give at least {config.batch_size}, or a smaller --batch-size"
            )
        if config.needs_reference is not None and not held_out and not self._told_apart():
            unit = "the candidates of a prompt" if config.ranks else "the final images"
            raise NbenchError(
                f"{config.needs_reference} tells no two of {unit} in {config.data} apart: there is nothing to "
                "learn; use other data or another --reference"
            )

    @cached_property
    def units(self) -> int:
        """Number of rows per epoch, or of groups of rows if they stay together."""
        seen, total, row = set[object](), 0, 0
        for index in range(len(self.bench.info.shards)):
            if not self._in_memory:
                total, seen = total + len(seen), set()
            for rows in self.bench.shard_rows(index, ["prompt_id", "status"], 2**16):
                for name, status in zip(rows["prompt_id"].to_pylist(), rows["status"].to_pylist(), strict=True):
                    if status == "ok" and self._wanted(name):
                        seen.add(self._group(index, name, row))
                    row += 1
        total += len(seen)
        return min(total, VALIDATION_ROWS) if self._held_out else total

    @cached_property
    def reference(self) -> dict[tuple[str, int], float]:
        """The reference's score of each candidate, if a loss needs one."""
        name = self.config.needs_reference
        return {} if name is None else scores_at(finished_scores(self.bench, name), self.bench.info.steps)

    def _told_apart(self) -> bool:
        """Whether the reference has different scores for rows that a loss compares."""
        scores = dict[str, set[float]]()
        for (name, _), score in self.reference.items():
            if self._wanted(name) and np.isfinite(score):
                scores.setdefault(name if self.config.ranks else "", set()).add(score)
        return any(len(different) > 1 for different in scores.values())

    def __len__(self) -> int:
        """Batches per epoch; the last may be smaller, but not than two rows or one per process."""
        whole, rest = divmod(self.units, self._per_batch)
        return whole + (rest >= max(self._share[1], 1 if self.config.ranks else 2))

    def __iter__(self) -> Iterator[Examples]:  # type: ignore[override]
        yield from prefetch(self._batches(), 2)

    def _batches(self) -> Iterator[Examples]:
        taken = list[list[Row]]()
        count = 0
        for window in self._windows():
            if count == len(self):
                return  # the rest of a large data set holds more rows than are validated on
            groups = self._groups(window)
            taken += [groups[number] for number in self._rng(window[0]).permutation(len(groups))]
            while len(taken) >= self._per_batch and count < len(self):
                chosen, taken = taken[: self._per_batch], taken[self._per_batch :]
                yield self._examples(chosen, count)
                count += 1
        if count < len(self):
            yield self._examples(taken, count)

    def _windows(self) -> Iterator[list[int]]:
        """The shards of each window, in this epoch's order; their content is in `_cached`."""
        info, size = self.bench.info, self._row_bytes()
        order = [int(index) for index in self._rng().permutation(len(info.shards))]
        if self._in_memory:
            for index in order:
                if index not in self._cached:
                    self._cached[index] = self._shard(index, self.noise.stored)
            yield order
            return
        together = max(1, WINDOW_BYTES // max(1, size * info.rows_per_shard))
        for start in range(0, len(order), together):
            window = order[start : start + together]
            wanted = list(self.noise.stored if self.noise.scales else self._allowed(start / len(order)))
            each = -(-len(wanted) // min(together, len(order)))
            dealt = np.resize(self._rng(window[0], 1).permutation(wanted), each * len(window))
            self._cached = {
                index: self._shard(index, sorted({int(k) for k in dealt[number :: len(window)]}))
                for number, index in enumerate(window)
            }
            yield window

    def _shard(self, index: int, positions: Sequence[int]) -> Shard:
        return Shard(self.bench, index, positions, self.config.signal, self._images)

    @cached_property
    def _in_memory(self) -> bool:
        return self._row_bytes() * len(self.noise.stored) * self.bench.info.rows <= WINDOW_BYTES

    def _row_bytes(self) -> int:
        """Bytes of a row at one position, with its compressed image."""
        info = self.bench.info
        image = int(np.prod(info.image_size)) if self._images else 0
        for layer in activations_of(info.signals):
            if self.config.signal == f"{ACTIVATIONS}{layer.key}" and layer.width is not None:
                return 4 * layer.width
        return int(np.prod(info.latent_shape)) * (4 if info.latent_dtype == "float32" else 2) + image

    def _groups(self, window: Sequence[int]) -> list[list[Row]]:
        """The wanted rows of a window: single ones, or all of a prompt together."""
        groups = dict[object, list[Row]]()
        for index in window:
            shard = self._cached[index]
            for row, name in enumerate(shard.batch.prompt_ids):
                if self._wanted(name):
                    groups.setdefault(self._group(index, name, row), []).append((shard, row))
        return list(groups.values())

    def _group(self, index: int, prompt_id: str, row: int) -> object:
        """What rows have in common that stay together: the prompt, of a shard if not all shards are in memory."""
        if not self.config.ranks:
            return index, row
        return prompt_id if self._in_memory else (index, prompt_id)

    def _examples(self, groups: Sequence[Sequence[Row]], number: int) -> Examples:
        """A batch: positions are drawn per group, noise per row, both for the whole batch on every process."""
        rng = self._rng(number, 2)
        allowed = set(self._allowed(number / len(self)))
        positions = [self._draw(rng, group[0][0], allowed) for group in groups]
        rank, world = self._share
        borders = np.cumsum([0, *map(len, groups)])[[round(part * len(groups) / world) for part in range(world + 1)]]
        rows, own = [row for group in groups for row in group], slice(int(borders[rank]), int(borders[rank + 1]))
        at = np.repeat(positions, [len(group) for group in groups])
        latents = self.noise.latents(rows, at, own, self._rng(number, 3))
        names = [(shard.batch.prompt_ids[row], shard.batch.candidates[row]) for shard, row in rows]
        return Examples(
            own=own,
            counts=np.diff(borders).tolist(),
            latents=latents,
            position=torch.from_numpy(at[own]),
            noise_level=torch.tensor([self.noise.level[int(k)] for k in at[own]], dtype=torch.float32),
            images=Images(rows[own]),
            keys=names,
            groups=torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups])),
            captions=[shard.batch.prompts[row] for shard, row in rows],
            corrupted=[[text for text in (shard.batch.corruptions[row] or {}).values() if text] for shard, row in rows],
            reference=torch.tensor([self.reference.get(name, np.nan) for name in names], dtype=torch.float32),
            draw=int(rng.integers(2**31)),
        )

    def _draw(self, rng: np.random.Generator, shard: Shard, allowed: set[int]) -> int:
        """A position that training has come to, and that was read of the shard (all are, of clean latents)."""
        read = self.noise.positions if self.noise.scales else tuple(shard.latents)
        return int(rng.choice([k for k in read if k in allowed] or [max(read)]))

    def _allowed(self, done: float) -> list[int]:
        """The positions in use after a share of the epoch: with a curriculum, the last tenth of them first and all from
        the middle of the run on.
        """
        positions = list(self.noise.positions)
        if not self.config.curriculum or self._held_out:
            return positions
        share = min(1.0, 0.1 + 1.8 * (self._order.epoch + done) / self.config.epochs)
        return positions[-max(1, round(share * len(positions))) :]

    def _wanted(self, prompt_id: str) -> bool:
        held_out = hashlib.sha256(prompt_id.encode()).digest()[0] % self.config.held_out == 0
        return held_out == self._held_out

    def _rng(self, *more: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, self._order.epoch, *more])
