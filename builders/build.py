"""The build: plans rows, makes them shard by shard, and takes up where a killed one stopped."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import NbenchError
from ..shards.dataset import DatasetFolder
from ..shards.fingerprint import fingerprint
from ..shards.formats import shard_writer
from ..shards.reader import open_bench
from ..shards.rows import count_failed
from ..shards.schema import BYTES, DatasetInfo
from .config import KINDS, BuildConfig, build_spec
from .corruptions import corrupt_prompts
from .generate import generate
from .make import Maker
from .pipelines import load_pipeline, resolve_pipeline
from .plan import Plan, rows_a_shard
from .preview import fit_preview
from .progress import BuildProgress
from .prompt_length import tokenizers, too_long_note
from .prompts import PromptSet, load_prompts
from .references import check_names, fitting_references, score_missing

PREVIEW_ROWS = 16


@dataclass(frozen=True)
class BuildReport:
    """What a build has made: `rows` in all, `built` of them by this run in `seconds`, `failed` without latents."""

    out: Path
    rows: int
    built: int
    failed: int
    seconds: float


def build(config: BuildConfig, progress: bool = True) -> BuildReport:
    """Build the data set that `config` asks for, or finish it; on return it is complete, with its references.

    Raises:
        NbenchError: a file, folder, pipeline or setting that the user must mend.
    """
    began = time.monotonic()
    check_names(config.references)
    chosen = _prompts(config)
    for note in chosen.notes if progress else ():
        print(note, file=sys.stderr)
    entry = resolve_pipeline(config.pipeline, config.pipeline_options)
    plan = Plan(config, entry, chosen.prompts, build_spec(config, entry, chosen.prompts, chosen.source))
    with DatasetFolder(config.folder) as folder:
        begun, built = folder.take_up(fingerprint(plan.spec), plan.spec, config.fresh), 0
        if not begun or folder.missing():
            built = _build_missing(plan, folder, progress)
        if config.retry_failed:
            built += _retry_failed(plan, folder, progress)
        if config.kind == "genai-bench":
            score_missing(config.references, folder, progress)
    bench = open_bench(config.folder)
    return BuildReport(config.folder, bench.info.rows, built, bench.n_failed, time.monotonic() - began)


def _prompts(config: BuildConfig) -> PromptSet:
    found = load_prompts(config.prompt_request, config.kind)
    return replace(found, prompts=corrupt_prompts(found.prompts)) if config.kind == "ncc" else found


def _build_missing(plan: Plan, folder: DatasetFolder, shown: bool) -> int:
    """Make all shards that are not committed; the number of rows made."""
    pipe = load_pipeline(plan.entry, plan.spec["dtype"], None, plan.config.options)
    if not folder.started:
        folder.create(_begin(plan, pipe))
    info, missing = folder.info, folder.missing()
    todo = sum(len(info.shard_rows(index)) for index in missing)
    with BuildProgress(info.name, info.rows, info.rows - todo, shown) as progress, ThreadPoolExecutor(1) as pool:
        if note := too_long_note(plan.prompts, tokenizers(pipe)):
            progress.say(note)
        if plan.config.kind == "ncc" and (bare := sum(prompt.corruptions is None for prompt in plan.prompts)):
            progress.say(f"{bare} of {len(plan.prompts)} captions have no corruptions: none given, none in the grammar")
        if plan.config.kind == "genai-bench":
            fitting_references(plan.config.references, info, progress)  # a misfit is said before the long work
        maker = Maker(plan, pipe, info, plan.config.batch_size or plan.entry.batch_size, progress)
        for index in missing:
            folder.commit_shard(index, maker.shard(index, shard_writer(folder.path, info, index), pool))
    return todo


def _retry_failed(plan: Plan, folder: DatasetFolder, shown: bool) -> int:
    """Make the rows that failed once more, shard by shard; how many were tried."""
    bench = open_bench(folder.path)
    if not bench.n_failed:
        return 0
    pipe, info = load_pipeline(plan.entry, plan.spec["dtype"], None, plan.config.options), bench.info
    folder.drop_scores()  # they miss the rows that now succeed
    with BuildProgress("failed rows", bench.n_failed, shown=shown) as progress, ThreadPoolExecutor(1) as pool:
        maker = Maker(plan, pipe, info, 1, progress)
        for index in range(len(info.shards)):
            if any(count_failed(rows) for rows in bench.shard_rows(index, ["status"], 65536)):
                writer = shard_writer(folder.path, info, index)
                folder.commit_shard(index, maker.failed_again(bench, index, writer, pool))
    return bench.n_failed


def _begin(plan: Plan, pipe: Any) -> DatasetInfo:
    """The record of an empty data set; what only a run can tell (schedule, shapes, preview) is seen in a small one."""
    config, entry, kind = plan.config, plan.entry, KINDS[plan.config.kind]
    # the first candidates of the first prompts, which differ more than the candidates of one
    rows = [i * config.n_candidates for i in range(min(1 if entry.preview else PREVIEW_ROWS, len(plan.prompts)))]
    texts = [prompt.text for prompt in plan.of(rows)]
    seen = generate(pipe, texts, plan.seeds(rows), [config.n_steps], plan.arguments)
    if len(seen.positions) != config.n_steps + 1:
        raise NbenchError(f"{entry.name} runs {len(seen.positions) - 1} steps when asked for {config.n_steps}: ask so")
    final = seen.latents[config.n_steps].float().numpy()
    sound = np.isfinite(final).all(axis=(1, 2, 3))
    fitted = fit_preview(final[sound], seen.images[sound] / 255) if sound.any() else None
    row_bytes = BYTES[config.latent_dtype] * final[0].size * len(config.stored)
    n_rows, per_shard = (
        len(plan.prompts) * config.n_candidates,
        config.rows_per_shard or rows_a_shard(row_bytes, config.n_candidates),
    )
    return DatasetInfo(
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
        rows_per_shard=per_shard,
        positions=tuple(seen.positions[k] for k in config.stored),
        preview=entry.preview or fitted,
        shards=(None,) * -(-n_rows // per_shard),
    )
