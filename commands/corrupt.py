"""The command that writes near-miss captions."""

from __future__ import annotations

import typer

from ..builders.corruption.config import CorruptConfig
from ..console import say
from .configured import AsJson, command
from .panels import BUILD

corrupt_app = typer.Typer()


@command(corrupt_app, panel=BUILD, no_args_is_help=True)
def corrupt(config: CorruptConfig, as_json: AsJson = False) -> None:
    """Write corrupted captions (subject, colour, quantity, background) for `nbench build ncc --prompts FILE`.

    `nbench corrupt captions.txt --out data/near.jsonl`

    `nbench corrupt cc12m --limit 10000 --out data/near.parquet --engine llm --endpoint http://localhost:8000/v1
    --model Qwen/Qwen3-8B`
    """
    import json

    from ..builders.corruption.run import corrupt

    report = corrupt(config)
    if as_json:
        summary = {"rows": report.rows, "engine": report.engine, "counts": report.counts, "errors": report.errors}
        print(json.dumps({"out": str(config.out)} | summary))
        return
    for kind, counts in report.counts.items():
        say(f"{kind}: " + ", ".join(f"{count} {status}" for status, count in sorted(counts.items(), reverse=True)))
    for error, count in sorted(report.errors.items(), key=lambda item: -item[1])[:5]:
        say(f"failed {count} times: {error}")
    say(f"{config.out}: {report.rows} captions by {report.engine}")
