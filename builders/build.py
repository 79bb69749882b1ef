"""Plans the rows of a build, has them made shard by shard, and resumes an interrupted build."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..console import say
from ..jobs.engine import Here
from ..jobs.job import Context
from ..jobs.run import Run, check_alone, clear, complete
from ..options import RECIPE_FILE, Place
from ..progress import BuildProgress
from ..shards.dataset import DatasetFolder
from ..shards.fingerprint import fingerprint
from ..shards.formats import shard_writer
from ..shards.reader import open_bench
from ..shards.rows import count_failed
from .candidates import Plan
from .config import BuildConfig
from .corruption.world import corrupt_prompts
from .extension import taken_up
from .process import process_of
from .recipe import recipe_of
from .shard_job import LastStep, ShardJob, merge, repair

if TYPE_CHECKING:
    from .process import Process


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
    plan = process.plan(chosen)
    folder = DatasetFolder(config.folder)
    store = folder.store
    folder.check_writable()
    if how.share is not None or not isinstance(how.engine, Here):
        store.probe()
    if folder.started:
        if config.fresh:
            check_alone(store, how.lease)
            folder.clear()
            clear(store)
        else:
            plan = taken_up(plan, chosen, folder)
            folder.check(fingerprint(plan.spec), plan.spec)
            repair(store)
    if config.kind == "ncc" and (n_bare := sum(prompt.corruptions is None for prompt in chosen.prompts)) and progress:
        n_captions = len(chosen.prompts)
        note = f"{n_bare} of {n_captions} captions have no corruptions: neither given nor by the grammar"
        say(note, error=True)
    store.write(RECIPE_FILE, recipe_of(config))
    job = ShardJob(plan, process, store, last, progress)
    summary, records = complete(job, how)
    summary.check(job)
    if summary.left or how.share is not None:
        return BuildReport(config.folder, job.info.rows, summary.rows, 0, time.monotonic() - began, summary.left)
    merge(store, records)
    folder, built = DatasetFolder(config.folder), summary.rows
    if config.retry_failed:
        with folder:
            built += _retry_failed(plan, folder, progress, process)
    process.finish(plan, folder)
    if last is not None:
        last.run(folder)
    bench = open_bench(config.folder)
    return BuildReport(config.folder, bench.info.rows, built, bench.n_failed, time.monotonic() - began)


def _retry_failed(plan: Plan, folder: DatasetFolder, shown: bool, process: Process) -> int:
    """Retry the failed rows, shard by shard; returns how many were tried."""
    from .shard_maker import Maker

    bench = open_bench(folder.place)
    if not bench.n_failed:
        return 0
    loaded, info = process.load(plan), bench.info
    folder.drop_partial_scores()  # finished tables stay: they lack the rows that may succeed now
    with BuildProgress("failed rows", bench.n_failed, shown=shown) as progress, ThreadPoolExecutor(1) as pool:
        maker = Maker(plan, loaded, info, 1, Context(progress.say, progress.advance))
        for index in range(len(info.shards)):
            if any(count_failed(rows) for rows in bench.shard_rows(index, ["status"], 65536)):
                with folder.making(index) as path:
                    record = maker.failed_again(bench, index, shard_writer(path, info, index), pool)
                folder.commit_shard(index, record)
    return bench.n_failed
