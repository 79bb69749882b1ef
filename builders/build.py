"""Plans the rows of a build, makes them shard by shard, and resumes an interrupted build."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ..console import say
from ..progress import BuildProgress
from ..shards.dataset import DatasetFolder
from ..shards.fingerprint import fingerprint
from ..shards.formats import shard_writer
from ..shards.reader import open_bench
from ..shards.rows import count_failed
from ..shards.schema import DatasetInfo
from .candidates import Plan
from .config import BuildConfig
from .corruption.world import corrupt_prompts
from .extension import taken_up
from .first_look import first_look
from .process import Process, process_of
from .shard_maker import Maker


@dataclass(frozen=True)
class BuildReport:
    """Result of a build: `rows` in total, `built` of them by this run in `seconds`, `failed` without latents."""

    out: Path
    rows: int
    built: int
    failed: int
    seconds: float


class LastStep(Protocol):
    """A step that runs once a data set has all its rows, such as scoring its references."""

    def check(self, info: DatasetInfo, progress: BuildProgress) -> None:
        """Raise before the long work if `run` could not succeed after it."""

    def run(self, folder: DatasetFolder) -> None:
        """Do what is missing."""


def build(
    config: BuildConfig, progress: bool = True, last: LastStep | None = None, process: Process | None = None
) -> BuildReport:
    """Build the data set that `config` describes, or resume it, then run `last`.

    `nbench.build` is this function with the references as `last`. `process` makes the rows; the default is the one that
    `config` names.

    Raises:
        NbenchError: a file, folder, pipeline or setting that the user must fix.
    """
    began = time.monotonic()
    process = process or process_of(config)
    chosen = process.choose()
    if config.kind == "ncc":
        chosen = replace(chosen, prompts=corrupt_prompts(chosen.prompts))
    for note in chosen.notes if progress else ():
        say(note, error=True)
    plan = process.plan(chosen)
    with DatasetFolder(config.folder) as folder:
        if folder.started and not config.fresh:
            plan = taken_up(plan, chosen, folder)
        resumed, built = folder.take_up(fingerprint(plan.spec), plan.spec, config.fresh), 0
        if not resumed or folder.missing():
            built = _build_missing(plan, folder, progress, last, process)
        if config.retry_failed:
            built += _retry_failed(plan, folder, progress, process)
        process.finish(plan, folder)
        if last is not None:
            last.run(folder)
    bench = open_bench(config.folder)
    return BuildReport(config.folder, bench.info.rows, built, bench.n_failed, time.monotonic() - began)


def _build_missing(plan: Plan, folder: DatasetFolder, shown: bool, last: LastStep | None, process: Process) -> int:
    """Make every shard that is not committed yet; returns the number of rows made."""
    loaded = process.load(plan)
    if not folder.started:
        folder.create(first_look(plan, loaded, shown))
    info, missing = folder.info, folder.missing()
    todo = sum(len(info.shard_rows(index)) for index in missing)
    with BuildProgress(info.name, info.rows, info.rows - todo, shown) as progress, ThreadPoolExecutor(1) as pool:
        if note := loaded.note(plan.prompts):
            progress.say(note)
        if plan.config.kind == "ncc" and (n_bare := sum(prompt.corruptions is None for prompt in plan.prompts)):
            progress.say(
                f"{n_bare} of {len(plan.prompts)} captions have no corruptions: neither given nor by the grammar"
            )
        if last is not None:
            last.check(info, progress)
        maker = Maker(plan, loaded, info, plan.batch_size, progress)
        for index in missing:
            folder.commit_shard(index, maker.shard(index, shard_writer(folder.path, info, index), pool))
    return todo


def _retry_failed(plan: Plan, folder: DatasetFolder, shown: bool, process: Process) -> int:
    """Retry the failed rows, shard by shard; returns how many were tried."""
    bench = open_bench(folder.path)
    if not bench.n_failed:
        return 0
    loaded, info = process.load(plan), bench.info
    folder.drop_partial_scores()  # finished tables stay: they lack the rows that may succeed now
    with BuildProgress("failed rows", bench.n_failed, shown=shown) as progress, ThreadPoolExecutor(1) as pool:
        maker = Maker(plan, loaded, info, 1, progress)
        for index in range(len(info.shards)):
            if any(count_failed(rows) for rows in bench.shard_rows(index, ["status"], 65536)):
                writer = shard_writer(folder.path, info, index)
                folder.commit_shard(index, maker.failed_again(bench, index, writer, pool))
    return bench.n_failed
