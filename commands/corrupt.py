"""The command that writes near-miss captions."""

from __future__ import annotations

from typing import Annotated

import typer

from ..builders.corruption.config import CorruptConfig
from ..console import say
from ..jobs.options import EngineOptions
from ..options import Fields
from .configured import AsJson, command
from .panels import BUILD

corrupt_app = typer.Typer()


@command(corrupt_app, panel=BUILD, no_args_is_help=True)
def corrupt(
    config: CorruptConfig,
    workers: Annotated[EngineOptions, Fields(without=("engine", "address", "gpus_per_worker", "runtime_env"))],
    as_json: AsJson = False,
) -> None:
    """Write corrupted captions (subject, colour, quantity, background) for `nbench build ncc --prompts FILE`.

    `nbench corrupt captions.txt --out data/near.jsonl`

    `nbench corrupt cc12m --limit 10000 --out data/near.parquet --engine llm --endpoint http://localhost:8000/v1
    --model Qwen/Qwen3-8B`

    `nbench corrupt cc12m --out data/near.parquet --workers 16`
    """
    import json

    from ..builders.corruption.run import corrupt

    report = corrupt(config, how=workers.run())
    if workers.share is not None and not as_json:
        rest = f"{report.left} parts are left to others" if report.left else "all parts are there"
        say(f"{rest}; at the end, the same command without --rank or --units writes {config.out}")
        return
    if as_json:
        summary: dict[str, object] = {"left": report.left} if workers.share is not None else {}
        summary |= {"rows": report.rows, "engine": report.engine, "counts": report.counts, "errors": report.errors}
        print(json.dumps({"out": str(config.out)} | summary))
        return
    for kind, counts in report.counts.items():
        say(f"{kind}: " + ", ".join(f"{count} {status}" for status, count in sorted(counts.items(), reverse=True)))
    for error, count in sorted(report.errors.items(), key=lambda item: -item[1])[:5]:
        say(f"failed {count} times: {error}")
    say(f"{config.out}: {report.rows} captions by {report.engine}")
