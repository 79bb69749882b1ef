"""Runs `nbench corrupt`: prompts in, a file with their near misses out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...console import say
from ...jobs.run import Run, complete
from ...shards.atomic import commit, temporary, writing_to
from ...shards.schema import CORRUPTION_KINDS, SKILL_LEVELS
from ..prompts.choose import load_prompts
from .answers import gather_answers
from .config import CorruptConfig
from .job import CorruptJob, row_line

_ROWS = 1024
_TEXTS = pa.list_(pa.string())
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", pa.string()),
        ("tags", pa.struct([(level, _TEXTS) for level in SKILL_LEVELS])),
        ("corruptions", pa.struct([(kind, pa.string()) for kind in CORRUPTION_KINDS])),
        (
            "changes",
            pa.list_(pa.struct([(n, pa.string()) for n in ("kind", "engine", "status", "before", "after", "error")])),
        ),
    ]
)


@dataclass(frozen=True)
class CorruptReport:
    """What was written: number of near misses by kind and status ("ok", "not applicable", "failed").

    left: parts that others have not finished yet; then nothing is written.
    """

    out: Path
    rows: int
    engine: str
    counts: dict[str, dict[str, int]]
    errors: dict[str, int]
    left: int = 0


def corrupt(config: CorruptConfig, progress: bool = True, how: Run | None = None) -> CorruptReport:
    """Write a row per prompt: id, prompt, tags, corruptions by kind (or null), and the changes behind them.

    The file appears when it is complete; until then finished parts are in a hidden folder beside it. A language model's
    answers are saved to `<out>.answers.jsonl` as they come, those of several processes to a file each until the end.

    Raises:
        NbenchError: prompts that cannot be read, an engine that cannot start, an endpoint that does not answer.
    """
    how = replace(how or Run(), shown=progress, retry_failed=True)
    prompt_set = load_prompts(config.prompts, kind="ncc")
    for note in prompt_set.notes if progress else ():
        say(note, error=True)
    kinds = [kind for kind in CORRUPTION_KINDS if kind in config.kinds]
    counts, errors = {kind: Counter[str]() for kind in kinds}, Counter[str]()
    with writing_to(config.out):
        config.out.parent.mkdir(parents=True, exist_ok=True)
        job = CorruptJob(config, prompt_set.prompts, not how.is_shared)
        if how.is_shared:
            job.store.probe()
        job.discard_others(how.lease)
        summary, records = complete(job, how)
        summary.check(job)
        for record in records.values():
            errors.update(record.result["errors"])
            for kind in kinds:
                counts[kind].update(record.result["counts"][kind])
        if how.share is None:
            (_write_parquet if config.out.suffix == ".parquet" else _write_jsonl)(config.out, job.all_rows())
            gather_answers(config.out)
            job.remove()
    by_status = {kind: dict(count) for kind, count in counts.items()}
    return CorruptReport(config.out, len(prompt_set.prompts), config.chosen, by_status, dict(errors), summary.left)


def _write_jsonl(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with temporary(path).open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(row_line(row))
    commit(path)


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with pq.ParquetWriter(temporary(path), _SCHEMA, compression="zstd") as writer:
        while batch := list(islice(rows, _ROWS)):
            writer.write_table(pa.Table.from_pylist(batch, schema=_SCHEMA))
    commit(path)
