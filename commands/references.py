"""The command that lists the references of a data set, and adds some."""

from __future__ import annotations

from typing import Annotated

import typer

references_app = typer.Typer()


@references_app.command(no_args_is_help=True)
def references(
    bench: Annotated[str, typer.Argument(help="A data set: folder, URL or Hub id; to --add, a folder.")],
    add: Annotated[
        list[str] | None,
        typer.Option(help="Score the finished images by SCORER, or NAME=SCORER: any scorer of pictures; repeats."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Score again a NAME that another scorer has.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... [default: the GPU where there is one]")] = None,
    dtype: Annotated[str, typer.Option(help="Of the scorers' weights: float32, float16 or bfloat16.")] = "float32",
    batch_size: Annotated[
        str, typer.Option(help="Rows that a scorer sees at a time; auto: as many as memory holds.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """List the references of a data set, which all figures are measured against, or add some to it.

    `nbench references data/small`

    `nbench references data/small --add pickscore --add judge=vqascore:llava-hf/llava-1.5-7b-hf --dtype bfloat16`
    """
    import json
    from dataclasses import asdict

    from ..benchmarks.scoring.references import AddConfig, add_references, list_references
    from ..errors import NbenchError, one_line
    from ..shards.reader import open_bench

    if replace and not add:
        raise NbenchError("--replace is for --add: say by which scorer")
    if add:
        from ..benchmarks.scoring.inputs import score_options
        from ..pipelines.quiet import quieten_transformers
        from ..scorers.placement import Placement

        quieten_transformers()
        options = score_options(batch_size, captions=False, preview="linear", vae=None, ahead=1)
        names = tuple(filter(None, ",".join(add).split(",")))
        add_references(AddConfig(bench, names, replace, Placement.best(device, dtype), options), progress=True)
    rows = list_references(open_bench(bench))
    if as_json:
        print(json.dumps({"bench": bench, "references": [asdict(row) for row in rows]}))
        return
    for row in rows:
        scorer = f"{row.name}: {row.scorer} ({row.fingerprint[:12]})"
        print(f"{one_line(scorer)}, {row.n_scored} scored, {row.n_unscored} unscored")
        if row.flaw:
            print(f"  {row.flaw}")
    if not rows:
        print(f"{bench} has no references: --add NAME=SCORER scores its images")
