"""Imports the .pt trajectories that the script of NoisyCLIP's authors writes, as a data set."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from ...shards.positions import parse_positions
from ...shards.reader import open_bench
from ...shards.rows import to_arrow
from ...shards.schema import DatasetInfo, PositionInfo, PreviewMap, TrajectoryBatch
from ...shards.stream import prefetch
from ..candidates import as_kept, not_finite
from ..corruption.world import corrupt_prompts
from ..first_look import PREVIEW_ROWS, fit_preview
from ..prompts.choose import read_prompts
from ..spec import empty_dataset, prompts_digest
from .config import ImportConfig
from .noisyclip_layout import (
    DEFAULT_PATTERN,
    BadFileError,
    Candidate,
    Form,
    Layout,
    check_form,
    check_images,
    read_candidate,
    scan,
)
from .scheduler_file import schedule

SOURCE = "noisyclip-pt"
_SDXL_SHAPE = (4, 128, 128)
_AHEAD = 2


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


def import_noisyclip(config: ImportConfig, progress: bool = True) -> ImportReport:
    """Make a data set of a folder of .pt files and PNGs, or resume it, with one candidate in memory at a time.

    A stored latent is the denoiser's input, doubled; division by the scheduler's input scale makes it raw again. A list
    may end with the finished latent or with the last input; then the data set has no finished latent.

    Raises:
        NbenchError: a folder, file or setting that the user must fix; missing files are reported before the long work.
    """
    prompts = read_prompts(config.prompts)
    pattern = config.pattern or DEFAULT_PATTERN
    layout = scan(config.folder, pattern, corrupt_prompts(prompts) if config.kind == "ncc" else prompts)
    stated, positions = schedule(config.scheduler, config.steps)
    form = _form(config, layout)
    stored = _stored(config, form[0])
    work = _Import(config, layout, form, tuple(positions[k] for k in stored))
    spec = _spec(config, layout, stated, stored)
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
    return ImportReport(config.out, info.rows, imported, open_bench(config.out).n_failed, layout.unused)


def _form(config: ImportConfig, layout: Layout) -> Form:
    """The form of the first readable candidate, which all must have."""
    for path in layout.files:
        try:
            form = read_candidate(path, config.steps).form
            if not config.skip_bad:
                check_images(layout, form[2])  # quick, and better reported before the long work
            return form
        except BadFileError as bad:
            _excuse(config, bad)
    raise NbenchError(f"{config.folder} holds no candidate that can be read: import without --skip-bad to see why")


def _excuse(config: ImportConfig, bad: BadFileError) -> None:
    if not config.skip_bad:
        raise NbenchError(f"{bad}: get the file again, or give --skip-bad for a failed row") from None


def _stored(config: ImportConfig, length: int) -> tuple[int, ...]:
    """The positions to store of lists of `length` latents; a bench stores the finished latent if there is one."""
    held = range(length)
    if config.positions.strip() == "all":
        return tuple(held)
    positions = parse_positions(config.positions, config.steps)
    if positions[-1] not in held:
        raise NbenchError(
            f"latents {positions[-1]} not in {config.folder}: its lists end with {held[-1]}; leave it out"
        )
    finished = {config.steps} if config.kind == "genai-bench" and config.steps in held else set()
    return tuple(sorted({*positions, *finished}))


def _spec(
    config: ImportConfig, layout: Layout, scheduler: dict[str, Any] | None, stored: tuple[int, ...]
) -> dict[str, Any]:
    """All that decides the content of the data set. It has no `seed`: those of imported candidates are unknown."""
    return {
        "kind": config.kind,
        "source": SOURCE,
        "pipeline": {"name": SOURCE, "content": layout.content},
        "scheduler": scheduler,
        "steps": config.steps,
        "prompts": {"source": "file", "count": len(layout.prompts), "sha256": prompts_digest(layout.prompts)},
        "candidates": layout.n_candidates,
        "positions": list(stored),
        "rows_per_shard": config.rows_per_shard,
        "format": config.format,
        "latent_dtype": config.latent_dtype,
    }


@dataclass(frozen=True)
class _Import:
    """The candidates of `layout` on their way to rows with `positions`."""

    config: ImportConfig
    layout: Layout
    form: Form
    positions: tuple[PositionInfo, ...]

    def begin(self, spec: dict[str, Any]) -> DatasetInfo:
        """The record of an empty data set."""
        _, (channels, height, width), size = self.form
        preview = ALIASES["sdxl"].preview if self.form[1] == _SDXL_SHAPE else self._fitted_preview()
        return empty_dataset(spec, (channels, height, width), size, self.positions, preview)

    def rows(self, info: DatasetInfo, index: int) -> Iterator[pa.RecordBatch]:
        for number in info.shard_rows(index):
            path, prompt = self.layout.files[number], self.layout.prompts[number // info.candidates]
            latents, png, error = self._content(path, info)
            batch = TrajectoryBatch(
                prompt_ids=[prompt.id],
                prompts=[prompt.text],
                candidates=[number % info.candidates],
                seeds=[0],
                tags=[prompt.tags],
                corruptions=[prompt.corruptions],
                errors=[error],
                latents=latents,
                images=None,
            )
            rows = to_arrow(batch, info)
            place = rows.schema.get_field_index("image")
            image = None if error else {"bytes": png}  # unchanged: the PNG is stored as it is
            yield rows.set_column(place, rows.schema.field(place), pa.array([image], rows.schema.field(place).type))

    def _content(self, path: Path, info: DatasetInfo) -> tuple[dict[int, np.ndarray], bytes, str]:
        """Raw latents [1, C, H, W] by position, the image's PNG, and why the candidate failed ("": it did not)."""
        try:
            candidate = self._read(path)
        except BadFileError as bad:
            _excuse(self.config, bad)
            nothing = np.zeros((1, *info.latent_shape), np.float16)
            name = bad.path.relative_to(self.config.folder).as_posix()
            return dict.fromkeys(info.stored, nothing), b"", f"{name} {bad.reason}"
        latents = {
            place.position: as_kept(
                (candidate.latents[place.position].float() / place.input_scale)[None], info.latent_dtype
            )
            for place in self.positions
        }
        return latents, candidate.png, not_finite(latents)

    def _read(self, path: Path) -> Candidate:
        candidate = read_candidate(path, self.config.steps)
        check_form(path, candidate.form, self.form)
        return candidate

    def _fitted_preview(self) -> PreviewMap | None:
        """The preview map fitted to the last latents of the first candidates of the first prompts."""
        latents, images = [], []
        for path in self.layout.files[:: self.layout.n_candidates][:PREVIEW_ROWS]:
            try:
                candidate = self._read(path)
            except BadFileError as bad:
                _excuse(self.config, bad)
                continue
            last = candidate.latents[-1].float().numpy()
            if np.isfinite(last).all():
                latents.append(last)
                images.append(np.asarray(Image.open(io.BytesIO(candidate.png)).convert("RGB")) / 255)
        return fit_preview(np.stack(latents), np.stack(images)) if latents else None
