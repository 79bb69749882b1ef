"""The commands of the command line that handle data sets as they are: look, check, convert, publish."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import NbenchError

data_app = typer.Typer()
import_app = typer.Typer(no_args_is_help=True, help="Make a data set of trajectories that others have recorded.")
data_app.add_typer(import_app, name="import")


@data_app.command()
def inspect(
    path: Annotated[str, typer.Argument(help="A data set: folder, URL or Hub id.")],
    row: Annotated[str | None, typer.Option(help="A trajectory, <prompt id>/<candidate>, to draw.")] = None,
    sheet: Annotated[Path, typer.Option(help="PNG for its previews.")] = Path("results/trajectory.png"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Say what is in a data set: sizes, and mean and spread of the latents by position; or draw one trajectory.

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
        print("written:", sheet)
        return
    found = inspect(bench)
    if as_json:
        print(json.dumps(found.to_dict()))
        return
    from rich.console import Console

    from ..shards.inspect import inspection_table

    Console().print(inspection_table(found))


@data_app.command()
def verify(
    path: Annotated[str, typer.Argument(help="A data set: folder, URL or Hub id.")],
    regenerate: Annotated[int, typer.Option(help="Make so many random candidates anew, and compare.")] = 0,
    pipeline: Annotated[
        str | None, typer.Option(help="Where the pipeline for --regenerate is now: folder or Hub id.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Check every shard and every row of a data set against its record; exit code 1 if anything is wrong.

    `nbench verify data/small`

    `nbench verify data/small --regenerate 5`

    `nbench verify data/mine --regenerate 5 --pipeline models/mine`
    """
    import json

    from ..progress import BuildProgress
    from ..shards.dataset import read_info
    from ..shards.storage import Location
    from ..shards.verify import verify

    if pipeline is not None and not regenerate:
        raise NbenchError("--pipeline is for --regenerate: add it, or leave it out")
    with BuildProgress("verify", max(1, read_info(Location.of(path)).rows)) as progress:
        report = verify(path, progress.advance)
    defects = list(report.defects)
    if regenerate and not defects:
        from ..builders.regenerate import regenerate as make_again
        from ..shards.reader import open_bench

        defects += make_again(open_bench(path), regenerate, pipeline=pipeline)
    if as_json:
        told = [{"file": defect.file, "row": defect.row, "what": defect.what} for defect in defects]
        print(json.dumps({"rows": report.rows, "shards": report.shards, "defects": told}))
    else:
        for defect in defects:
            print(defect)
        print(f"{path}: {report.rows} rows in {report.shards} shards, {len(defects) or 'no'} defects")
    raise typer.Exit(1 if defects else 0)


@data_app.command()
def convert(
    source: Annotated[str, typer.Argument(help="A data set: folder, URL or Hub id.")],
    out: Annotated[str, typer.Argument(help="Where to: folder or URL (s3://..., memory://...).")],
    format: Annotated[Literal["parquet", "webdataset"] | None, typer.Option(help="Of the shards.")] = None,
    positions: Annotated[str | None, typer.Option(help="What to keep: 20,30 or 0:50:5.")] = None,
    latent_dtype: Annotated[
        Literal["float16", "float32", "int8"] | None, typer.Option(help="As which latents are kept.")
    ] = None,
    rows_per_shard: Annotated[int | None, typer.Option(help="Trajectories a file.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh/--resume", help="Begin anew, or go on where it stopped.")] = False,
) -> None:
    """Write a data set in another format, type or size, or with fewer positions; the rest is as it was.

    `nbench convert data/small data/small-tars --format webdataset`

    `nbench convert user/noisy-genai-bench data/mid --positions 20,30`
    """
    from ..progress import BuildProgress
    from ..shards.convert import ConvertConfig, convert
    from ..shards.dataset import read_info
    from ..shards.storage import Location

    config = ConvertConfig(source, out, format, positions, latent_dtype, rows_per_shard, fresh)
    with BuildProgress("convert", max(1, read_info(Location.of(source)).rows)) as progress:
        info = convert(config, progress.advance)
    print(f"{out}: {info.rows} trajectories in {len(info.shards)} shards")


@data_app.command(no_args_is_help=True)
def publish(
    path: Annotated[Path, typer.Argument(help="Folder: a data set, a model or results.")],
    repo: Annotated[str, typer.Argument(help="Where to on the Hub: user/name.")],
    private: Annotated[bool, typer.Option("--private", help="Create it for your eyes only.")] = False,
    revision: Annotated[str, typer.Option(help="Branch; created if there is none.")] = "main",
    num_workers: Annotated[int, typer.Option(help="Files read and sent at a time.")] = 4,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List files and show the card; send nothing.")] = False,
) -> None:
    """Publish a data set, a model or results on the Hub; given again, it goes on where it stopped.

    `nbench publish data/noisy-genai-bench user/name --dry-run`

    `nbench publish data/noisyclip user/noisyclip --private`
    """
    from ..shards.hub.publish import PublishConfig, publish

    report = publish(PublishConfig(path, repo, private, revision, num_workers, dry_run))
    if dry_run:
        print(report.listing())
        return
    sent = f"{len(report.files)} files, {report.bytes:,} bytes, {report.sent} sent now"
    print(f"{report.url}: {sent}, commit {report.commit}")


@import_app.callback()
def _import() -> None:
    """Make a data set of trajectories that others have recorded."""  # a sole command keeps its name through this


@import_app.command("noisyclip-pt", no_args_is_help=True)
def noisyclip_pt(
    folder: Annotated[Path, typer.Argument(help="Holds a .pt file and a PNG for each candidate.")],
    out: Annotated[Path, typer.Option(help="Folder for the data set.")],
    prompts: Annotated[Path, typer.Option(help="Prompt file; its ids are those in the names of the files.")],
    kind: Annotated[
        Literal["genai-bench", "ncc"], typer.Option(help="To evaluate on, or to train on.")
    ] = "genai-bench",
    pattern: Annotated[
        str | None,
        typer.Option(
            help="Regular expression for names without .pt, with the groups prompt and candidate. "
            "[default: what fits 12_3, prompt_12_seed_3, 00012-3, 12/3]"
        ),
    ] = None,
    scheduler: Annotated[
        str, typer.Option(help="Whose input scale is undone: euler-sdxl, a diffusers scheduler's folder, or none.")
    ] = "euler-sdxl",
    steps: Annotated[int, typer.Option(help="Denoising steps T of the runs.")] = 50,
    positions: Annotated[str, typer.Option(help="What to keep: all, 20,30 or 0:50:5.")] = "all",
    rows_per_shard: Annotated[int | None, typer.Option(help="Trajectories a file.")] = None,
    format: Annotated[Literal["parquet", "webdataset"], typer.Option(help="Of the shards.")] = "parquet",
    latent_dtype: Annotated[
        Literal["float16", "float32", "int8"],
        typer.Option(help="As which latents are kept; int8 with a scale a channel."),
    ] = "float16",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Make a bad file a failed row, and go on.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh/--resume", help="Begin anew, or go on where it stopped.")] = False,
) -> None:
    """Make a data set of latents as NoisyCLIP's authors keep them: a list of tensors a candidate, and a PNG beside it.

    `nbench import noisyclip-pt latents --prompts prompts.jsonl --out data/theirs`
    """
    from ..builders.importing.noisyclip import ImportConfig, import_noisyclip

    config = ImportConfig(
        folder=folder,
        out=out,
        prompts=prompts,
        kind=kind,
        scheduler=scheduler,
        steps=steps,
        positions=positions,
        rows_per_shard=rows_per_shard,
        format=format,
        latent_dtype=latent_dtype,
        skip_bad=skip_bad,
        fresh=fresh,
    )
    report = import_noisyclip(config if pattern is None else replace(config, pattern=pattern))
    failed = f", {report.failed} failed" if report.failed else ""
    unused = f"; prompts without files: {report.unused}" if report.unused else ""
    print(f"{report.out}: {report.rows} trajectories{failed}, {report.imported} imported now{unused}")
