"""The first look: a few trajectories that tell schedule, shapes and preview for the record of a new data set."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..console import say
from ..errors import NbenchError
from ..pipelines.generate import Trajectories
from ..shards.schema import DatasetInfo, PreviewMap
from ..shards.signals import DEFAULT_SIGNALS, activations_of
from .candidates import Plan
from .out_of_memory import ONE_DOES_NOT_FIT, halved_note, unless_out_of_memory
from .spec import empty_dataset

if TYPE_CHECKING:
    from .process import LoadedProcess

PREVIEW_ROWS = 16
"""Number of images that a preview is fitted to."""


def first_look_rows(has_preview: bool, n_prompts: int) -> int:
    """Trajectories that a build makes twice: its first ones, to fit a preview where the pipeline has none."""
    return min(1 if has_preview else PREVIEW_ROWS, n_prompts)


def first_look(plan: Plan, process: LoadedProcess, shown: bool) -> DatasetInfo:
    """The record of a new data set for `plan`, from a few rows that `process` makes."""
    config, entry = plan.config, plan.entry
    # the first candidates of the first prompts, which differ more than the candidates of one
    cells = [(number, 0) for number in range(first_look_rows(entry.preview is not None, len(plan.prompts)))]
    trajectories = _make(plan, process, cells, shown)
    positions = trajectories.positions
    if len(positions) != config.n_steps + 1:
        raise NbenchError(
            f"{entry.name} runs {len(positions) - 1} steps when called with {config.n_steps}: give what it runs"
        )
    final = trajectories.latents[config.n_steps].float().numpy()
    sound = np.isfinite(final).all(axis=(1, 2, 3)) & [not error for error in trajectories.errors]
    fitted = fit_preview(final[sound], trajectories.images[sound] / 255) if sound.any() else None
    return empty_dataset(
        plan.spec,
        final.shape[1:],
        trajectories.images.shape[1:3],
        [positions[k] for k in config.stored],
        entry.preview or fitted,
        _with_widths(config.signals, trajectories),
    )


def fit_preview(latents: np.ndarray, images: np.ndarray) -> PreviewMap:
    """Least squares from finished latents [B, C, H, W] to their images [B, h, w, 3] (0..1), average-pooled to H x W."""
    pixels = torch.from_numpy(images).double().permute(0, 3, 1, 2)
    target = torch.nn.functional.adaptive_avg_pool2d(pixels, latents.shape[-2:]).permute(0, 2, 3, 1).reshape(-1, 3)
    values = latents.astype(np.float64).transpose(0, 2, 3, 1).reshape(-1, latents.shape[1])
    design = np.concatenate([values, np.ones((len(values), 1))], axis=1)
    solution = np.linalg.lstsq(design, target.numpy(), rcond=None)[0].round(6)
    red, green, blue = (tuple(map(float, column)) for column in solution[:-1].T)
    return PreviewMap((red, green, blue), (float(solution[-1, 0]), float(solution[-1, 1]), float(solution[-1, 2])))


def _make(plan: Plan, process: LoadedProcess, cells: list[tuple[int, int]], shown: bool) -> Trajectories:
    """`cells` in batches that fit into memory: finished latents, images, and the signals of position 0."""
    steps, size, batches = plan.config.n_steps, len(cells), list[Trajectories]()
    positions = [steps] if plan.config.signals == DEFAULT_SIGNALS else [0, steps]
    while (done := sum(len(batch.images) for batch in batches)) < len(cells):
        now = cells[done : done + size]
        batch = unless_out_of_memory(partial(process.make, plan.candidates(now), positions, plan.config.signals))
        if batch is not None:
            batches.append(batch)
            continue
        if len(now) == 1:
            raise NbenchError(ONE_DOES_NOT_FIT)
        if shown:
            say(halved_note(len(now), len(now) // 2), error=True)
        size = len(now) // 2
    final = torch.cat([batch.latents[steps] for batch in batches if steps in batch.latents])
    images = np.concatenate([batch.images for batch in batches])
    errors = tuple(error for batch in batches for error in batch.errors)
    return replace(batches[0], latents={steps: final}, images=images, errors=errors)


def _with_widths(signals: tuple[str, ...], trajectories: Trajectories) -> tuple[str, ...]:
    """The signals, those of activations with the width of their layer."""
    widths = {
        layer.name: replace(layer, width=trajectories.activations[layer.key][0].shape[1]).name
        for layer in activations_of(signals)
    }
    return tuple(widths.get(name, name) for name in signals)
