"""The command that lists the references of a data set and adds new ones."""

from __future__ import annotations

import typer

from ..benchmarks.scoring.references_config import AddConfig
from ..console import say
from ..jobs.options import EngineOptions
from .configured import AsJson, command
from .jobs import left_to_others
from .panels import MEASURE
from .yaml_options import ConfigFile

references_app = typer.Typer()


@command(references_app, panel=MEASURE, no_args_is_help=True)
def references(config: AddConfig, workers: EngineOptions, options: ConfigFile = None, as_json: AsJson = False) -> None:
    """List the references of a data set (the scores that figures are measured against), or add new ones.

    `nbench references data/small`

    `nbench references data/small --add pickscore --add judge=vqascore:llava-hf/llava-1.5-7b-hf --dtype bfloat16`
    """
    import json
    from dataclasses import asdict

    from ..benchmarks.scoring.references import add_references, list_references
    from ..shards.reader import open_bench

    if config.references:
        left = add_references(config, progress=True, workers=workers).left
        if workers.share is not None:
            rest = left_to_others(left, "scored")
            say(f"{rest}; at the end, the same command without --rank or --units adds the references")
            return
    rows = list_references(open_bench(config.bench))
    if as_json:
        print(json.dumps({"bench": config.bench, "references": [asdict(row) for row in rows]}))
        return
    for row in rows:
        scorer = f"{row.name}: {row.scorer} ({row.fingerprint[:12]})"
        say(f"{scorer}, {row.n_scored} scored, {row.n_unscored} unscored")
        if row.flaw:
            say(f"  {row.flaw}")
    if not rows:
        say(f"{config.bench} has no references: --add NAME=SCORER scores its images")
