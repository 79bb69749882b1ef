"""The commands that inspect, verify, convert and publish data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import counted, print_table, print_text, say
from ..errors import NbenchError
from ..jobs.options import EngineOptions
from ..options import Argument, Option
from ..shards.convert_config import ConvertConfig
from ..shards.hub.config import PublishConfig
from .configured import AsJson, command
from .imports import import_app
from .jobs import left_to_others
from .panels import BUILD, DATA

data_app = typer.Typer()
data_app.add_typer(import_app, name="import", rich_help_panel=BUILD)

DataSet = Annotated[str, Argument("Data set: folder, URL or Hub id.")]


@command(data_app, panel=DATA)
def inspect(
    path: DataSet,
    row: Annotated[str | None, Option("Trajectory to draw: PROMPT-ID/CANDIDATE.")] = None,
    sheet: Annotated[Path, Option("PNG file for the previews of --row.")] = Path("results/trajectory.png"),
    as_json: AsJson = False,
) -> None:
    """Summarize a data set: sizes, and mean and standard deviation of the latents by position; or draw one trajectory.

    `nbench inspect data/small`

    `nbench inspect data/small --row shapes-00003/1 --sheet results/trajectory.png`
    """
    import json

    from ..shards.atomic import write_out
    from ..shards.inspect import contact_sheet, inspect
    from ..shards.reader import open_bench

    bench = open_bench(path)
    if row is not None:
        write_out(sheet, contact_sheet(bench, row))
        say("written:", sheet)
        return
    inspection = inspect(bench)
    if as_json:
        print(json.dumps(inspection.to_dict()))
        return
    from ..shards.inspect import inspection_table

    print_table(inspection_table(inspection))


@command(data_app, panel=DATA)
def verify(
    path: DataSet,
    workers: EngineOptions,
    regenerate: Annotated[int, Option("Number of random candidates to generate again and compare.")] = 0,
    pipeline: Annotated[str | None, Option("Pipeline for --regenerate, if it has moved: folder or Hub id.")] = None,
    lora: Annotated[tuple[str, ...], Option("Its LoRAs for --regenerate, in their order, if they have moved.")] = (),
    as_json: AsJson = False,
) -> None:
    """Check every shard and row of a data set against its manifest; exit code 1 if there is a defect.

    `nbench verify data/small`

    `nbench verify data/small --regenerate 5`

    `nbench verify data/mine --regenerate 5 --pipeline models/mine`

    `nbench verify /shared/ncc --workers 16`
    """
    import json

    from ..shards.verify import verify

    for name in (name for name, value in (("--pipeline", pipeline), ("--lora", lora)) if value and not regenerate):
        raise NbenchError(f"{name} is for --regenerate: add --regenerate, or leave {name} out")
    if regenerate and workers.share is not None:
        raise NbenchError("--regenerate is for a whole data set: leave it out, or --rank and --units")
    report = verify(path, workers.run())
    defects, again = list(report.defects), None
    if regenerate and not defects:
        from ..builders.regenerate import regenerate as compare_regenerated
        from ..shards.reader import open_bench

        again = compare_regenerated(open_bench(path), regenerate, pipeline=pipeline, loras=lora)
        defects += again.defects
    if as_json:
        rows = [{"file": defect.file, "row": defect.row, "what": defect.what} for defect in defects]
        compared = {} if again is None else {"regenerated": {"count": again.count, "largest_difference": again.largest}}
        print(json.dumps({"rows": report.rows, "shards": report.shards, "defects": rows} | compared))
    else:
        for defect in defects:
            say(defect)
        if again is not None:
            say(f"{counted(again.count, 'candidate')} made again: their latents differ by at most {again.largest:.2g}")
        found = counted(len(defects), "defect") if defects else "no defects"
        checked = f"{path}: {counted(report.rows, 'row')} in {counted(report.shards, 'shard')}, {found}"
        say(checked if workers.share is None else f"{checked} so far; {_rest(report.left)}")
    raise typer.Exit(1 if defects else 0)


@command(data_app, panel=DATA)
def convert(config: ConvertConfig, workers: EngineOptions) -> None:
    """Write a data set in another format, dtype or shard size, or with fewer positions; all else stays the same.

    `nbench convert data/small data/small-tars --format webdataset`

    `nbench convert user/noisy-genai-bench data/mid --positions 20,30`

    `nbench convert /shared/ncc s3://bucket/ncc-int8 --latent-dtype int8 --workers 16`
    """
    from ..shards.convert import convert

    info, summary = convert(config, workers.run())
    if workers.share is not None:
        say(f"{config.out}: {counted(summary.rows, 'trajectory')} converted now; {_rest(summary.left)}")
        return
    say(f"{config.out}: {counted(info.rows, 'trajectory')} in {counted(len(info.shards), 'shard')}")


def _rest(left: int) -> str:
    rest = left_to_others(left, "there")
    return f"{rest}; at the end, the same command without --rank or --units"


@command(data_app, panel=DATA, no_args_is_help=True)
def publish(config: PublishConfig) -> None:
    """Publish a data set, a model or results on the Hub; run the same command again to resume an interrupted upload.

    `nbench publish data/noisy-genai-bench user/name --dry-run`

    `nbench publish data/noisyclip user/noisyclip --private`
    """
    from ..shards.hub.publish import publish

    report = publish(config)
    if config.dry_run:
        print_text(f"{report.listing()}\n")
        return
    upload = f"{counted(len(report.files), 'file')}, {report.bytes:,} bytes, {report.sent} sent now"
    say(f"{report.url}: {upload}, commit {report.commit}")
