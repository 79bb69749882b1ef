"""Imports the .pt trajectories that the script of NoisyCLIP's authors writes, as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...shards.schema import PositionInfo
from ..corruption.world import corrupt_prompts
from ..prompts.choose import read_prompts
from ..prompts.rows import Prompt
from .config import ImportConfig
from .noisyclip_layout import DEFAULT_PATTERN, check_form, check_images, read_candidate, scan
from .record import ImportReport, Recorded, import_source
from .scheduler_file import schedule

__all__ = ["ImportReport", "import_noisyclip"]


def import_noisyclip(config: ImportConfig, progress: bool = True) -> ImportReport:
    """Make a data set of a folder of .pt files and PNGs, or resume it, with one candidate in memory at a time.

    A stored latent is the denoiser's input, doubled; division by the scheduler's input scale makes it raw again. A list
    may end with the finished latent or with the last input; then the data set has no finished latent.

    Raises:
        NbenchError: a folder, file or setting that the user must fix; missing files are reported before the long work.
    """
    return import_source(config, _Files(config), progress)


class _Files:
    """A folder of lists of denoiser inputs; see `record.Source`."""

    name = "noisyclip-pt"

    def __init__(self, config: ImportConfig) -> None:
        prompts = read_prompts(config.prompts)
        chosen = corrupt_prompts(prompts) if config.kind == "ncc" else prompts
        self._layout = scan(config.folder, config.pattern or DEFAULT_PATTERN, chosen)
        self.prompts: Sequence[Prompt] = self._layout.prompts
        self.n_candidates, self.content = self._layout.n_candidates, self._layout.content
        self.unused = self._layout.unused
        stated, places = schedule(config.scheduler, config.steps)
        self.scheduler: dict[str, Any] | None = stated
        self.places: Sequence[PositionInfo] = places
        self._steps = config.steps
        self._form: Any = None

    def path(self, row: int) -> Path:
        return self._layout.files[row]

    def read(self, row: int) -> Recorded:
        path = self.path(row)
        candidate = read_candidate(path, self._steps)
        self._form = self._form or candidate.form
        check_form(path, candidate.form, self._form)
        scaled = enumerate(candidate.latents)
        latents = {k: latent.float() / self.places[k].input_scale for k, latent in scaled}
        return Recorded(latents, candidate.png, candidate.image_size)

    def check(self, first: Recorded) -> None:
        check_images(self._layout, first.image_size)
