"""Plans the rows of a build, has them made shard by shard, and resumes an interrupted build."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from ..console import say
from ..jobs.run import Run
from ..options import RECIPE_FILE, Place
from ..pipelines.find import resolve_pipeline
from ..shards.dataset import DatasetFolder
from ..shards.dataset_job import make_dataset, take_out, take_up
from ..shards.reader import open_bench
from ..shards.rows import count_failed
from .config import BuildConfig
from .corruption.world import corrupt_prompts
from .extension import taken_up
from .process import process_of
from .recipe import recipe_of
from .shard_job import LastStep, ShardJob

if TYPE_CHECKING:
    from .process import Process

_AGAIN = "the same command with --retry-failed"
_STATUS_ROWS = 65536


@dataclass(frozen=True)
class BuildReport:
    """Result of a build: `rows` in total, `built` of them by this run in `seconds`, `failed` without latents.

    `left` counts the shards that others have not finished yet; the data set is complete if there are none.
    """

    out: Place
    rows: int
    built: int
    failed: int
    seconds: float
    left: int = 0


def build(
    config: BuildConfig,
    progress: bool = True,
    last: LastStep | None = None,
    process: Process | None = None,
    how: Run | None = None,
) -> BuildReport:
    """Build the data set that `config` describes, or resume it, then run `last`.

    `nbench.build` is this function with the references as `last`. `process` makes the rows; the default is the one that
    `config` names.

    Raises:
        NbenchError: a file, folder, pipeline or setting that the user must fix.
    """
    began = time.monotonic()
    how = replace(how or Run(), shown=progress, retry_failed=config.retry_failed)
    process = process or process_of(config)
    chosen = process.choose()
    if config.kind == "ncc":
        chosen = replace(chosen, prompts=corrupt_prompts(chosen.prompts))
    for note in chosen.notes if progress else ():
        say(note, error=True)
    # checking a pipeline imports diffusers and torch, which a driver of other workers does not need
    plan = process.plan(chosen, partial(how.engine.call, resolve_pipeline))
    folder = DatasetFolder(config.folder)
    store = folder.store
    folder.check_writable()
    if folder.started and not config.fresh:
        plan = taken_up(plan, chosen, folder)
    take_up(folder, plan.spec, config.fresh, how)
    if config.kind == "ncc" and (n_bare := sum(prompt.corruptions is None for prompt in chosen.prompts)) and progress:
        n_captions = len(chosen.prompts)
        note = f"{n_bare} of {n_captions} captions have no corruptions: neither given nor by the grammar"
        say(note, error=True)
    store.write(RECIPE_FILE, recipe_of(config))
    job = ShardJob(plan, process, store, last, progress)
    summary = make_dataset(job, how, _AGAIN)
    if summary.left or how.share is not None:
        return BuildReport(config.folder, job.info.rows, summary.rows, 0, time.monotonic() - began, summary.left)
    folder, built = DatasetFolder(config.folder), summary.rows
    if config.retry_failed:
        built += _retry_failed(job, folder, how)
    process.finish(plan, folder)
    if last is not None:
        last.run(folder, how)
    bench = open_bench(config.folder)
    return BuildReport(config.folder, bench.info.rows, built, bench.n_failed, time.monotonic() - began)


def _retry_failed(job: ShardJob, folder: DatasetFolder, how: Run) -> int:
    """Retry the failed rows, shard by shard; returns how many were tried."""
    bench = open_bench(folder.place)
    if not bench.n_failed:
        return 0
    folder.drop_partial_scores()  # finished tables stay: they lack the rows that may succeed now
    shards = range(len(bench.info.shards))
    take_out(job.store, (i for i in shards if any(map(count_failed, bench.shard_rows(i, ["status"], _STATUS_ROWS)))))
    make_dataset(job, how, _AGAIN)
    return bench.n_failed
