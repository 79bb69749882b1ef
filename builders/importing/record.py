"""Writes what another program recorded, candidate by candidate, as a data set."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
from PIL import Image

from ...errors import NbenchError
from ...jobs.job import Context
from ...jobs.run import Run
from ...options import Place
from ...pipelines.aliases import ALIASES
from ...shards.dataset import DatasetFolder
from ...shards.dataset_job import DatasetJob, RowsMaker, make_dataset, take_up
from ...shards.fingerprint import fingerprint
from ...shards.positions import describe_positions, parse_positions
from ...shards.reader import open_bench
from ...shards.rows import to_arrow
from ...shards.schema import DatasetInfo, PositionInfo, PreviewMap, TrajectoryBatch
from ...shards.stream import prefetch
from ..candidates import as_kept, not_finite
from ..first_look import PREVIEW_ROWS, fit_preview
from ..prompts.rows import Prompt
from ..spec import empty_dataset, prompts_digest
from .config import ImportOptions

if TYPE_CHECKING:
    import torch

_SDXL_SHAPE = (4, 128, 128)
_AHEAD = 2


class BadFileError(Exception):
    """A file does not fit the layout; the message is `path` and `reason`."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path, self.reason = path, reason


@dataclass(frozen=True)
class Recorded:
    """What was recorded of a candidate: raw latents [C, H, W] by position, the image as PNG, and the seed (0: unknown).

    image_size: height and width in pixels.
    """

    latents: Mapping[int, torch.Tensor]
    png: bytes
    image_size: tuple[int, int]
    seed: int = 0

    @property
    def form(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, int]]:
        """What all candidates must share: the recorded positions, the shape of their latents, and the image size."""
        return tuple(sorted(self.latents)), tuple(next(iter(self.latents.values())).shape), self.image_size


class Source(Protocol):
    """Candidates that another program recorded, prompt by prompt, N each; nothing is executed by reading them.

    name, content: of the spec, the latter a hash of the files; scheduler: its configuration, for the spec; unused:
    prompts without files; places: the positions 0..T of the runs.
    """

    name: str
    content: str
    prompts: Sequence[Prompt]
    n_candidates: int
    unused: int
    scheduler: dict[str, Any] | None
    places: Sequence[PositionInfo]

    def path(self, row: int) -> Path:
        """The file of a row."""

    def read(self, row: int) -> Recorded:
        """A row's content.

        Raises:
            BadFileError: its file does not fit.
        """

    def check(self, first: Recorded) -> None:
        """Quick checks of all files against the first one that can be read, before the long work.

        Raises:
            BadFileError: a file does not fit.
        """


@dataclass(frozen=True)
class ImportReport:
    """Result of an import: `rows` in total, `imported` of them by this run, `failed` without latents.

    `unused` prompts of the prompt file have no files.
    """

    out: Place
    rows: int
    imported: int
    failed: int
    unused: int

    def __str__(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        unused = f"; prompts without files: {self.unused}" if self.unused else ""
        return f"{self.out}: {self.rows} trajectories{failed}, {self.imported} imported now{unused}"


def import_source(config: ImportOptions, source: Source, progress: bool = True) -> ImportReport:
    """Make a data set of `source`, or resume it, with one candidate in memory at a time.

    Raises:
        NbenchError: a folder, file or setting that the user must fix.
    """
    first = _first(config, source)
    stored = _stored(config, source, sorted(first.latents))
    work = _Import(config, source, first, stored)
    spec = _spec(config, source, stored)
    folder, how = DatasetFolder(config.out), Run(shown=progress)
    folder.check_writable()
    take_up(folder, spec, config.fresh, how)
    if not folder.started:
        folder.create(work.begin(spec))
    info = folder.info

    def open_files(context: Context) -> RowsMaker:
        return RowsMaker(info, lambda index: prefetch(work.rows(info, index), _AHEAD), context)

    job = DatasetJob(folder.store, fingerprint(spec), "import", open_files)
    imported = make_dataset(job, how).rows
    return ImportReport(config.out, info.rows, imported, open_bench(config.out).n_failed, source.unused)


def _first(config: ImportOptions, source: Source) -> Recorded:
    """The first readable candidate, whose form all must have."""
    for row in range(len(source.prompts) * source.n_candidates):
        try:
            first = source.read(row)
            if not config.skip_bad:
                source.check(first)
            return first
        except BadFileError as bad:
            _excuse(config, bad)
    raise NbenchError(f"{config.folder} holds no candidate that can be read: import without --skip-bad to see why")


def _excuse(config: ImportOptions, bad: BadFileError) -> None:
    if not config.skip_bad:
        raise NbenchError(f"{bad}: get the file again, or give --skip-bad for a failed row") from None


def _stored(config: ImportOptions, source: Source, held: Sequence[int]) -> tuple[int, ...]:
    """The positions to store of those that the files hold; a bench stores the finished latent if there is one."""
    if config.positions.strip() == "all":
        return tuple(held)
    steps = len(source.places) - 1
    positions = parse_positions(config.positions, steps)
    if absent := [position for position in positions if position not in held]:
        raise NbenchError(
            f"latents {', '.join(map(str, absent))} not in {config.folder}: its files hold {describe_positions(held)}"
        )
    finished = {steps} if config.kind == "genai-bench" and steps in held else set()
    return tuple(sorted({*positions, *finished}))


def _spec(config: ImportOptions, source: Source, stored: tuple[int, ...]) -> dict[str, Any]:
    """All that decides the content of the data set. It has no `seed`: nbench did not draw the noise."""
    return {
        "kind": config.kind,
        "source": source.name,
        "pipeline": {"name": source.name, "content": source.content},
        "scheduler": source.scheduler,
        "steps": len(source.places) - 1,
        "prompts": {"source": "file", "count": len(source.prompts), "sha256": prompts_digest(source.prompts)},
        "candidates": source.n_candidates,
        "positions": list(stored),
        "rows_per_shard": config.rows_per_shard,
        "format": config.format,
        "latent_dtype": config.latent_dtype,
    }


@dataclass(frozen=True)
class _Import:
    """The candidates of `source` on their way to rows with the positions `stored`."""

    config: ImportOptions
    source: Source
    first: Recorded
    stored: tuple[int, ...]

    def begin(self, spec: dict[str, Any]) -> DatasetInfo:
        """The record of an empty data set."""
        _, (channels, height, width), size = self.first.form
        preview = ALIASES["sdxl"].preview if (channels, height, width) == _SDXL_SHAPE else self._fitted_preview()
        places = [self.source.places[k] for k in self.stored]
        return empty_dataset(spec, (channels, height, width), size, places, preview)

    def rows(self, info: DatasetInfo, index: int) -> Iterator[pa.RecordBatch]:
        """The rows of shard `index`."""
        for number in info.shard_rows(index):
            prompt = self.source.prompts[number // info.candidates]
            latents, recorded, error = self._content(number, info)
            batch = TrajectoryBatch(
                prompt_ids=[prompt.id],
                prompts=[prompt.text],
                candidates=[number % info.candidates],
                seeds=[recorded.seed if recorded else 0],
                tags=[prompt.tags],
                corruptions=[prompt.corruptions],
                errors=[error],
                latents=latents,
                images=None,
            )
            rows = to_arrow(batch, info)
            place = rows.schema.get_field_index("image")
            image = None if error or recorded is None else {"bytes": recorded.png}  # unchanged: stored as it is
            yield rows.set_column(place, rows.schema.field(place), pa.array([image], rows.schema.field(place).type))

    def _content(self, row: int, info: DatasetInfo) -> tuple[dict[int, np.ndarray], Recorded | None, str]:
        """Raw latents [1, C, H, W] by position, the candidate, and why it failed ("": it did not)."""
        try:
            recorded = self._read(row)
        except BadFileError as bad:
            _excuse(self.config, bad)
            nothing = np.zeros((1, *info.latent_shape), np.float16)
            name = bad.path.relative_to(self.config.folder).as_posix()
            return dict.fromkeys(info.stored, nothing), None, f"{name} {bad.reason}"
        latents = {k: as_kept(recorded.latents[k][None], info.latent_dtype) for k in info.stored}
        return latents, recorded, not_finite(latents)

    def _read(self, row: int) -> Recorded:
        recorded = self.source.read(row)
        for (what, own), wanted in zip(
            zip(("latents at", "latents of", "an image of"), recorded.form, strict=True), self.first.form, strict=True
        ):
            if own != wanted:
                raise BadFileError(
                    self.source.path(row), f"holds {what} {list(own)}, the first candidate {list(wanted)}"
                )
        return recorded

    def _fitted_preview(self) -> PreviewMap | None:
        """The preview map fitted to the last latents of the first candidates of the first prompts."""
        latents, images = [], []
        for row in range(0, len(self.source.prompts) * self.source.n_candidates, self.source.n_candidates)[
            :PREVIEW_ROWS
        ]:
            try:
                recorded = self._read(row)
            except BadFileError as bad:
                _excuse(self.config, bad)
                continue
            last = recorded.latents[max(recorded.latents)].float().numpy()
            if np.isfinite(last).all():
                latents.append(last)
                images.append(np.asarray(Image.open(io.BytesIO(recorded.png)).convert("RGB")) / 255)
        return fit_preview(np.stack(latents), np.stack(images)) if latents else None
