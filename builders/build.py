"""The build: plans rows, makes them shard by shard, and takes up where a killed one stopped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import NbenchError
from ..shards.dataset import DatasetFolder
from ..shards.fingerprint import fingerprint
from ..shards.formats import shard_writer
from ..shards.reader import open_bench
from ..shards.schema import BYTES, DatasetInfo, ShardRecord, TrajectoryBatch
from ..shards.seeds import candidate_seed
from ..shards.writer import ShardWriter
from .config import KINDS, BuildConfig, build_spec
from .corruptions import corrupt_prompts
from .generate import Trajectories, generate
from .pipelines import PipelineEntry, load_pipeline, resolve_pipeline
from .preview import fit_preview
from .progress import BuildProgress
from .prompts import Prompt, read_prompts, world_prompts
from .references import check_names, fitting_references, score_missing

SHARD_BYTES, SHARD_ROWS = 256 * 2**20, 600
PREVIEW_ROWS = 16


@dataclass(frozen=True)
class BuildReport:
    """What a build has made: `rows` in all, `built` of them by this run in `seconds`, `failed` without latents."""

    out: Path
    rows: int
    built: int
    failed: int
    seconds: float


@dataclass(frozen=True)
class _Plan:
    """Which candidate is row number r (prompt-major, candidate minor), and how it is to be made."""

    config: BuildConfig
    entry: PipelineEntry
    prompts: Sequence[Prompt]
    spec: dict[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """What the pipeline is called with; a guidance of None is left to the pipeline."""
        guidance = {} if self.spec["guidance"] is None else {"guidance_scale": self.spec["guidance"]}
        return {"num_inference_steps": self.spec["steps"], **guidance, **self.spec["call_kwargs"]}

    def seeds(self, rows: Sequence[int]) -> list[int]:
        """The seeds of rows."""
        named = [(self.prompts[row // self.config.n_candidates].id, row % self.config.n_candidates) for row in rows]
        return [candidate_seed(self.config.seed, prompt, candidate) for prompt, candidate in named]

    def batch(self, rows: Sequence[int], made: Trajectories) -> TrajectoryBatch:
        """Rows as they go to disk."""
        prompts = [self.prompts[row // self.config.n_candidates] for row in rows]
        # int8 is scaled from what float32 holds, and reads back as float16
        kept = torch.float16 if self.config.latent_dtype == "float16" else torch.float32
        latents = {position: latent.to(kept).numpy() for position, latent in made.latents.items()}
        return TrajectoryBatch(
            prompt_ids=[prompt.id for prompt in prompts],
            prompts=[prompt.text for prompt in prompts],
            candidates=[row % self.config.n_candidates for row in rows],
            seeds=self.seeds(rows),
            tags=[prompt.tags for prompt in prompts],
            corruptions=[prompt.corruptions for prompt in prompts],
            errors=[_error({position: latent[i] for position, latent in latents.items()}) for i in range(len(rows))],
            latents=latents,
            images=made.images,
        )


def build(config: BuildConfig, progress: bool = True) -> BuildReport:
    """Build the data set that `config` asks for, or finish it; on return it is complete, with its references.

    Raises:
        NbenchError: a file, folder, pipeline or setting that the user must mend.
    """
    began = time.monotonic()
    check_names(config.references)
    prompts = _prompts(config)
    entry = resolve_pipeline(config.pipeline)
    plan = _Plan(config, entry, prompts, build_spec(config, entry, prompts))
    with DatasetFolder(config.folder) as folder:
        if config.fresh and folder.started:
            folder.clear()
        if folder.started:
            folder.check(fingerprint(plan.spec), plan.spec)
        built = 0
        if not folder.started or folder.missing():
            built = _build_missing(plan, folder, progress)
        if config.kind == "genai-bench":
            score_missing(config.references, folder, progress)
    bench = open_bench(config.folder)
    return BuildReport(config.folder, bench.info.rows, built, bench.n_failed, time.monotonic() - began)


def _prompts(config: BuildConfig) -> list[Prompt]:
    if config.prompts is None:
        return world_prompts(config.kind, config.limit)
    prompts = read_prompts(config.prompts)[: config.limit]
    return corrupt_prompts(prompts) if config.kind == "ncc" else prompts


def _build_missing(plan: _Plan, folder: DatasetFolder, shown: bool) -> int:
    """Make all shards that are not committed; the number of rows made."""
    pipe = load_pipeline(plan.entry, plan.spec["dtype"])
    if not folder.started:
        folder.create(_begin(plan, pipe))
    info, missing = folder.info, folder.missing()
    todo = sum(len(info.shard_rows(index)) for index in missing)
    with BuildProgress(info.name, info.rows, info.rows - todo, shown) as progress, ThreadPoolExecutor(1) as pool:
        if plan.config.kind == "ncc" and (bare := sum(prompt.corruptions is None for prompt in plan.prompts)):
            progress.say(f"{bare} of {len(plan.prompts)} captions have no corruptions: none given, none in the grammar")
        if plan.config.kind == "genai-bench":
            fitting_references(plan.config.references, info, progress)  # a misfit is said before the long work
        for index in missing:
            writer = shard_writer(folder.path, info, index)
            folder.commit_shard(index, _build_shard(plan, pipe, info, index, writer, pool, progress))
    return todo


def _begin(plan: _Plan, pipe: Any) -> DatasetInfo:
    """The record of an empty data set; what only a run can tell (schedule, shapes, preview) is seen in a small one."""
    config, entry, kind = plan.config, plan.entry, KINDS[plan.config.kind]
    # the first candidates of the first prompts, which differ more than the candidates of one
    rows = [i * config.n_candidates for i in range(min(1 if entry.preview else PREVIEW_ROWS, len(plan.prompts)))]
    texts = [plan.prompts[row // config.n_candidates].text for row in rows]
    seen = generate(pipe, texts, plan.seeds(rows), [config.steps], plan.arguments)
    if len(seen.positions) != config.steps + 1:
        raise NbenchError(f"{entry.name} runs {len(seen.positions) - 1} steps when asked for {config.steps}: ask so")
    final = seen.latents[config.steps].float().numpy()
    sound = np.isfinite(final).all(axis=(1, 2, 3))
    fitted = fit_preview(final[sound], seen.images[sound] / 255) if sound.any() else None
    row_bytes = BYTES[config.latent_dtype] * final[0].size * len(config.stored)
    # a prompt's candidates stay together, and a shard small enough to be lost without much grief
    fitting = max(1, min(SHARD_ROWS, SHARD_BYTES // row_bytes) // config.n_candidates) * config.n_candidates
    n_rows, per_shard = len(plan.prompts) * config.n_candidates, config.rows_per_shard or fitting
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
        steps=config.steps,
        candidates=config.n_candidates,
        n_prompts=len(plan.prompts),
        rows=n_rows,
        rows_per_shard=per_shard,
        positions=tuple(seen.positions[k] for k in config.stored),
        preview=entry.preview or fitted,
        shards=(None,) * -(-n_rows // per_shard),
    )


def _build_shard(
    plan: _Plan,
    pipe: Any,
    info: DatasetInfo,
    index: int,
    writer: ShardWriter,
    pool: ThreadPoolExecutor,
    progress: BuildProgress,
) -> ShardRecord:
    """Make and commit one shard. Batches begin anew with it, so that its content depends on nothing before it."""
    rows, size = info.shard_rows(index), plan.config.batch_size or plan.entry.batch_size
    writing: Future[None] | None = None
    try:
        for start in range(0, len(rows), size):
            now = rows[start : start + size]
            texts = [plan.prompts[row // info.candidates].text for row in now]
            made = generate(pipe, texts, plan.seeds(now), info.stored, plan.arguments, info.latent_shape)
            if writing is not None:
                writing.result()  # one batch is written while the next is made, and no more are kept
            writing = pool.submit(writer.write, plan.batch(now, made))
            progress.advance(len(now))
        if writing is not None:
            writing.result()
        return writer.commit()
    except BaseException:
        if writing is not None:
            writing.exception()
        writer.discard()
        raise


def _error(latents: dict[int, np.ndarray]) -> str:
    """Why a candidate failed, or ""."""
    bad = [position for position, latent in latents.items() if not np.isfinite(latent).all()]
    return f"latent not finite from position {min(bad)}" if bad else ""
