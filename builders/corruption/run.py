"""Runs `nbench corrupt`: prompts in, a file with their near misses out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ...progress import BuildProgress
from ...shards.atomic import commit, temporary, writing_to
from ...shards.schema import CORRUPTION_KINDS, SKILL_LEVELS
from ..prompts.choose import Prompt, load_prompts
from .answers import AnswerFile
from .change import Change, Engine
from .config import CorruptConfig
from .endpoint import Endpoint
from .llm import ChatModel, LlmEngine
from .local import LocalModel
from .rules import RulesEngine
from .wordnet import CoHyponyms
from .world import WorldEngine

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
    """What was written: number of near misses by kind and status ("ok", "not applicable", "failed")."""

    out: Path
    rows: int
    engine: str
    counts: dict[str, dict[str, int]]
    errors: dict[str, int]


def corrupt(config: CorruptConfig, progress: bool = True) -> CorruptReport:
    """Write a row per prompt: id, prompt, tags, corruptions by kind (or null), and the changes behind them.

    The file appears when it is complete. A language model's answers are saved to `<out>.answers.jsonl` as they come.

    Raises:
        NbenchError: prompts that cannot be read, an engine that cannot start, an endpoint that does not answer.
    """
    prompt_set = load_prompts(config.prompts, kind="ncc")
    kinds = [kind for kind in CORRUPTION_KINDS if kind in config.kinds]
    counts = {kind: Counter[str]() for kind in kinds}
    errors = Counter[str]()
    with writing_to(config.out), ExitStack() as stack:
        config.out.parent.mkdir(parents=True, exist_ok=True)
        engine = _engine(config, stack)
        bar = stack.enter_context(BuildProgress("corrupt", len(prompt_set.prompts), shown=progress))
        for note in prompt_set.notes:
            bar.say(note)
        rows = _rows(prompt_set.prompts, engine, kinds, counts, errors, bar)
        (_write_parquet if config.out.suffix == ".parquet" else _write_jsonl)(config.out, rows)
    by_status = {kind: dict(count) for kind, count in counts.items()}
    return CorruptReport(config.out, len(prompt_set.prompts), engine.name, by_status, dict(errors))


def _engine(config: CorruptConfig, stack: ExitStack) -> Engine:
    seed = config.prompts.seed
    if config.chosen == "world":
        return WorldEngine(seed)
    if config.chosen == "rules":
        return RulesEngine(seed, config.spacy_model, CoHyponyms(config.wordnet) if config.wordnet else None)
    assert config.model is not None
    model: ChatModel
    if config.endpoint is None:
        model = LocalModel(config.model, config.revision)
    else:
        model = Endpoint(config.endpoint, config.model, config.key_name, config.timeout_s)
    answers = stack.enter_context(AnswerFile(config.out.with_name(config.out.name + ".answers.jsonl")))
    return LlmEngine(model, answers, seed, config.concurrency, config.retry_failed)


def _rows(
    prompts: list[Prompt],
    engine: Engine,
    kinds: list[str],
    counts: dict[str, Counter[str]],
    errors: Counter[str],
    bar: BuildProgress,
) -> Iterator[dict[str, Any]]:
    changed = engine.changes([prompt.text for prompt in prompts], kinds)
    for prompt, changes in zip(prompts, changed, strict=True):
        for change in changes:
            counts[change.kind][change.status] += 1
            if change.error:
                errors[change.error] += 1
        yield _row(prompt, changes, engine.name)
        bar.advance(1)


def _row(prompt: Prompt, changes: list[Change], engine: str) -> dict[str, Any]:
    near = dict.fromkeys(CORRUPTION_KINDS) | {change.kind: change.caption for change in changes}
    details = [
        {
            "kind": change.kind,
            "engine": engine,
            "status": change.status,
            "before": change.before,
            "after": change.after,
            "error": change.error,
        }
        for change in changes
    ]
    return {"id": prompt.id, "prompt": prompt.text, "tags": prompt.tags, "corruptions": near, "changes": details}


def _write_jsonl(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with temporary(path).open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    commit(path)


def _write_parquet(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with pq.ParquetWriter(temporary(path), _SCHEMA, compression="zstd") as writer:
        while batch := list(islice(rows, _ROWS)):
            writer.write_table(pa.Table.from_pylist(batch, schema=_SCHEMA))
    commit(path)
