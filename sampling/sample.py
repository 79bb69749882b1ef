"""Runs `nbench sample`: Best-of-N for one prompt, with its images written to files."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import NbenchError
from ..pipelines.aliases import PipelineEntry
from ..pipelines.find import load_pipeline, resolve_pipeline
from ..shards.atomic import atomic_write, writing_to
from ..shards.inspect import sheet_of
from ..shards.reader import open_bench
from ..shards.schema import PreviewMap
from .bestofn import BestOfN, BestOfNResult
from .config import SampleConfig
from .policy import Policy, parse_policy, read_policy

if TYPE_CHECKING:
    from .serving.config import ServeConfig


@dataclass(frozen=True)
class Setting:
    """A pipeline that is found but not loaded, how candidates are selected, and how it is called."""

    entry: PipelineEntry
    policy: Policy
    preview: PreviewMap | None
    arguments: dict[str, Any]


def setting_of(config: SampleConfig | ServeConfig) -> Setting:
    """The setting that a command's options state.

    Raises:
        NbenchError: options that do not fit together.
    """
    entry = resolve_pipeline(config.pipeline, config.options)
    policy, steps = parse_policy(config.policy), config.steps or entry.steps
    policy.check(config.best_of, steps)
    policy.check_calibrated()
    if Path(config.policy).is_file():
        read_policy(Path(config.policy)).check_setting(config.policy, config.model, config.best_of, steps)
    preview = entry.preview if config.bench is None else open_bench(config.bench).info.preview
    guidance = {} if entry.guidance is None else {"guidance_scale": entry.guidance}
    return Setting(entry, policy, preview, {"num_inference_steps": steps, **guidance, **entry.call_kwargs})


def sample(config: SampleConfig) -> tuple[BestOfNResult, list[Path]]:
    """Generate and write `config.out` and the files beside it; returns the result and the paths written.

    Raises:
        NbenchError: options that do not fit together (raised before anything is generated), or a file that cannot be
            written.
    """
    out = config.out
    file_format = Image.registered_extensions().get(out.suffix.lower())
    if file_format not in Image.SAVE:
        raise NbenchError(f"--out {out}: unknown image format {out.suffix!r}; use .png, .jpg or .webp")
    setting = setting_of(config)
    bestofn = BestOfN(
        load_pipeline(setting.entry, config.dtype or setting.entry.dtype, options=config.options),
        config.model,
        n=config.best_of,
        policy=setting.policy,
        keep=config.keep,
        max_batch=config.max_batch,
        accept=config.accept,
        budget=config.budget,
        restart=config.restart,
        seed=config.seed,
        preview=setting.preview,
    )
    result = bestofn.best(config.prompt, config.prompt_id, **setting.arguments)
    files: dict[Path, bytes] = {}
    for number, image in enumerate(result.images, 1):
        image.save(buffer := io.BytesIO(), file_format)
        files[out if number == 1 else out.with_stem(f"{out.stem}-{number}")] = buffer.getvalue()
    if config.show_candidates:
        files[out.with_name(f"{out.stem}-candidates.png")] = _sheet(result, config.prompt)
    for path, data in files.items():
        with writing_to(path):
            atomic_write(path, data)
    return result, list(files)


def _sheet(result: BestOfNResult, prompt: str) -> bytes:
    blank = np.full((1, 1, 3), 255, np.uint8)
    tiles = []
    for candidate in result.candidates:
        score = f" {list(candidate.scores.values())[-1]:.3f}" if candidate.scores else ""
        outcome = "selected" if candidate.left_at is None else f"dropped at {candidate.left_at}"
        tiles.append((outcome + score, blank if candidate.seen is None else candidate.seen))
    return sheet_of(tiles, prompt)
