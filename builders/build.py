"""The build: plans rows, makes them shard by shard, and takes up where a killed one stopped."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..errors import NbenchError
from ..pipelines.find import load_pipeline, resolve_pipeline
from ..pipelines.generate import Trajectories
from ..pipelines.sizes import image_size
from ..progress import BuildProgress
from ..shards.dataset import DatasetFolder
from ..shards.fingerprint import fingerprint
from ..shards.formats import shard_writer
from ..shards.reader import open_bench
from ..shards.rows import count_failed
from ..shards.schema import DatasetInfo
from ..shards.scores import reference_path
from ..shards.signals import DEFAULT_SIGNALS, Activations, activations_of
from .candidates import Plan, first_look, rows_a_shard
from .config import KINDS, BuildConfig, build_spec, forward_spec
from .corruption.world import corrupt_prompts
from .forward import PARTS, PROCESS, open_forward
from .images.given import HUMAN, given_images, write_ratings
from .images.source import ChosenImages
from .preview_map import fit_preview
from .prompts.choose import PromptSet, load_prompts
from .prompts.length import seen_tokens, too_long_note
from .shard_maker import OUT_OF_MEMORY, Maker, candidates, halved_note, unless_out_of_memory


@dataclass(frozen=True)
class BuildReport:
    """What a build has made: `rows` in all, `built` of them by this run in `seconds`, `failed` without latents."""

    out: Path
    rows: int
    built: int
    failed: int
    seconds: float


class LastStep(Protocol):
    """What a data set gets once all its rows are there."""

    def check(self, info: DatasetInfo, progress: BuildProgress) -> None:
        """Refuse before the long work what could not be done after it."""

    def run(self, folder: DatasetFolder) -> None:
        """Do what is not done yet."""


def build(config: BuildConfig, progress: bool = True, last: LastStep | None = None) -> BuildReport:
    """Make the trajectories of the data set that `config` asks for, or finish them, then do `last`.

    Its references are a last step: `nbench.build` is this function with them.

    Raises:
        NbenchError: a file, folder, pipeline or setting that the user must mend.
    """
    began = time.monotonic()
    chosen, images = (
        given_images(config)
        if config.process == PROCESS
        else (
            load_prompts(config.prompt_request, config.kind),
            None,
        )
    )
    if config.kind == "ncc":
        chosen = replace(chosen, prompts=corrupt_prompts(chosen.prompts))
    for note in chosen.notes if progress else ():
        print(note, file=sys.stderr)
    plan = _plan(config, chosen, images)
    with DatasetFolder(config.folder) as folder:
        begun, built = folder.take_up(fingerprint(plan.spec), plan.spec, config.fresh), 0
        if not begun or folder.missing():
            built = _build_missing(plan, folder, progress, images, last)
        if config.retry_failed:
            built += _retry_failed(plan, folder, progress, images)
        if images is not None and not reference_path(config.folder, HUMAN).exists():
            write_ratings(plan, images, folder)
        if last is not None:
            last.run(folder)
    bench = open_bench(config.folder)
    return BuildReport(config.folder, bench.info.rows, built, bench.n_failed, time.monotonic() - began)


def _plan(config: BuildConfig, chosen: PromptSet, images: ChosenImages | None) -> Plan:
    entry = resolve_pipeline(config.pipeline, config.pipeline_options, None if images is None else PARTS)
    if images is None:
        return Plan(config, entry, chosen.prompts, build_spec(config, entry, chosen.prompts, chosen.source))
    config = replace(config, candidates=images.candidates)
    spec = build_spec(config, entry, chosen.prompts, chosen.source)
    return Plan(config, entry, chosen.prompts, forward_spec(spec, images.spec(), image_size(entry)))


def _open(plan: Plan, images: ChosenImages | None) -> Any:
    """What makes the candidates: the pipeline, or the forward process."""
    if images is None:
        return load_pipeline(plan.entry, plan.spec["dtype"], None, plan.config.options)
    return open_forward(plan.entry, images, plan.config.n_steps, plan.spec["dtype"])


def _build_missing(
    plan: Plan, folder: DatasetFolder, shown: bool, images: ChosenImages | None, last: LastStep | None
) -> int:
    """Make all shards that are not committed; the number of rows made."""
    pipe = _open(plan, images)
    if not folder.started:
        folder.create(_begin(plan, pipe, shown))
    info, missing = folder.info, folder.missing()
    todo = sum(len(info.shard_rows(index)) for index in missing)
    with BuildProgress(info.name, info.rows, info.rows - todo, shown) as progress, ThreadPoolExecutor(1) as pool:
        if images is None and (note := too_long_note(plan.prompts, seen_tokens(pipe, plan.arguments))):
            progress.say(note)
        if plan.config.kind == "ncc" and (bare := sum(prompt.corruptions is None for prompt in plan.prompts)):
            progress.say(f"{bare} of {len(plan.prompts)} captions have no corruptions: none given, none in the grammar")
        if last is not None:
            last.check(info, progress)
        maker = Maker(plan, pipe, info, plan.config.batch_size or plan.entry.batch_size, progress)
        for index in missing:
            folder.commit_shard(index, maker.shard(index, shard_writer(folder.path, info, index), pool))
    return todo


def _retry_failed(plan: Plan, folder: DatasetFolder, shown: bool, images: ChosenImages | None) -> int:
    """Make the rows that failed once more, shard by shard; how many were tried."""
    bench = open_bench(folder.path)
    if not bench.n_failed:
        return 0
    pipe, info = _open(plan, images), bench.info
    folder.drop_scores()  # they miss the rows that now succeed
    with BuildProgress("failed rows", bench.n_failed, shown=shown) as progress, ThreadPoolExecutor(1) as pool:
        maker = Maker(plan, pipe, info, 1, progress)
        for index in range(len(info.shards)):
            if any(count_failed(rows) for rows in bench.shard_rows(index, ["status"], 65536)):
                writer = shard_writer(folder.path, info, index)
                folder.commit_shard(index, maker.failed_again(bench, index, writer, pool))
    return bench.n_failed


def _begin(plan: Plan, pipe: Any, shown: bool) -> DatasetInfo:
    """The record of an empty data set; what only a run can tell (schedule, shapes, preview) is seen in a small one."""
    config, entry, kind = plan.config, plan.entry, KINDS[plan.config.kind]
    # the first candidates of the first prompts, which differ more than the candidates of one
    rows = [i * config.n_candidates for i in range(first_look(entry.preview is not None, len(plan.prompts)))]
    seen = _first_look(plan, pipe, rows, shown)
    if len(seen.positions) != config.n_steps + 1:
        raise NbenchError(f"{entry.name} runs {len(seen.positions) - 1} steps when asked for {config.n_steps}: ask so")
    final = seen.latents[config.n_steps].float().numpy()
    sound = np.isfinite(final).all(axis=(1, 2, 3)) & [not error for error in seen.errors]
    fitted = fit_preview(final[sound], seen.images[sound] / 255) if sound.any() else None
    n_rows = len(plan.prompts) * config.n_candidates
    info = DatasetInfo(
        format_version=1,
        name=kind.name,
        split=kind.split,
        fingerprint=fingerprint(plan.spec),
        spec=plan.spec,
        latent_shape=final.shape[1:],
        format=config.format,
        latent_dtype=config.latent_dtype,
        image_size=seen.images.shape[1:3],
        steps=config.n_steps,
        candidates=config.n_candidates,
        n_prompts=len(plan.prompts),
        rows=n_rows,
        rows_per_shard=1,
        positions=tuple(seen.positions[k] for k in config.stored),
        preview=entry.preview or fitted,
        shards=(),
        signals=_with_widths(config.signals, seen),
    )
    per_shard = config.rows_per_shard or rows_a_shard(info.row_bytes, config.n_candidates)
    return replace(info, rows_per_shard=per_shard, shards=(None,) * -(-n_rows // per_shard))


def _first_look(plan: Plan, pipe: Any, rows: list[int], shown: bool) -> Trajectories:
    """`rows`, as many at a time as memory allows: the finished latents and images, and the signals of position 0."""
    steps, size, found = plan.config.n_steps, len(rows), list[Trajectories]()
    positions = [steps] if plan.config.signals == DEFAULT_SIGNALS else [0, steps]
    while (done := sum(len(made.images) for made in found)) < len(rows):
        now = rows[done : done + size]
        made = unless_out_of_memory(partial(candidates, plan, pipe, now, positions, plan.config.signals))
        if made is not None:
            found.append(made)
            continue
        if len(now) == 1:
            raise NbenchError(f"{OUT_OF_MEMORY} with one image: use --dtype float16, a smaller size or another machine")
        if shown:
            print(halved_note(len(now), len(now) // 2), file=sys.stderr)
        size = len(now) // 2
    final = torch.cat([made.latents[steps] for made in found if steps in made.latents])
    images, errors = np.concatenate([made.images for made in found]), tuple(e for made in found for e in made.errors)
    return replace(found[0], latents={steps: final}, images=images, errors=errors)


def _with_widths(signals: tuple[str, ...], seen: Trajectories) -> tuple[str, ...]:
    """Signals, activations with as many numbers as have been seen."""
    widths = {
        layer.name: (layer.layer, places[0].shape[1])
        for layer in activations_of(signals)
        for places in [seen.activations[layer.layer]]
    }
    return tuple(Activations(*widths[name]).name if name in widths else name for name in signals)
