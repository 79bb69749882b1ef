"""The command line: parses, calls the library, prints. What is heavy is imported by the command that needs it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import __version__
from .commands.configured import configured, configured_by
from .commands.corrupt import corrupt_app
from .commands.data import data_app
from .commands.models import models_app
from .commands.pipeline_options import pipeline_options
from .commands.pipelines import pipelines_app
from .commands.plan import NOT_PLANNED, plan, run_build
from .commands.references import references_app
from .commands.report import report_app
from .commands.results import results_app
from .commands.sample import sample_app
from .commands.scores import scores_app
from .commands.train import train_app
from .commands.tune import tune_app
from .errors import NbenchError

if TYPE_CHECKING:
    from .builders.config import BuildConfig
    from .pipelines.options import PipelineOptions

INTERRUPTED = 130

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)
app.add_typer(train_app, name="train")
app.add_typer(corrupt_app)
app.add_typer(data_app)
app.add_typer(tune_app)
app.add_typer(report_app)
app.add_typer(references_app)
app.add_typer(results_app)
app.add_typer(scores_app)
app.add_typer(pipelines_app)
app.add_typer(models_app, name="models")
app.add_typer(sample_app)


def main() -> None:
    """Run the command line; what the user can mend becomes one line on stderr and exit code 2."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments, prog_name="nbench")
    except NbenchError as error:
        if len(arguments) < len(sys.argv) - 1:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as exit:
        if exit.code == INTERRUPTED:
            print("interrupted: the same command goes on where it stopped", file=sys.stderr)
        raise


def _version(wanted: bool) -> None:
    if wanted:
        print(f"nbench {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which one.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; goes anywhere.")] = False,
) -> None:
    """Record what a text-to-image diffusion model knows at every step, and measure which scorer can tell, earliest and
    cheapest, whether the image will match its prompt.

    `nbench build genai-bench --limit 20 --out data/small`

    `nbench evaluate --model clip --model noisyclip --bench data/small --latents 20,30`

    `nbench build ncc --positions 20:30`

    `nbench train noisyclip --data data/ncc --positions 20:30 --out data/noisyclip`
    """


@app.command(no_args_is_help=True)
@configured(run_build)
@configured_by(pipeline_options)
def build(
    kind: Annotated[Literal["genai-bench", "ncc"], typer.Argument(help="A data set to evaluate on, or to train on.")],
    pipeline: Annotated[
        str, typer.Option(help="A name (`nbench pipelines`), a diffusers folder or a Hub id.")
    ] = "shapes",
    out: Annotated[Path | None, typer.Option(help="Folder. [default: data/noisy-genai-bench, data/ncc]")] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="genai-bench, genai-bench-527, cc12m, a data set on the Hub (user/name[@revision][:split]), a CSV, "
            "TSV, JSONL, Parquet or text file, or - (stdin). [default: the world's own]"
        ),
    ] = None,
    process: Annotated[
        Literal["reverse", "forward"],
        typer.Option(help="Generate images, or add noise to given ones: one encoding in place of T denoiser calls."),
    ] = "reverse",
    images: Annotated[
        str | None,
        typer.Option(
            help="Of the forward process: a folder with captions.jsonl or NAME.txt beside NAME.png, tar shards, "
            "genai-bench (with human ratings), or a data set on the Hub."
        ),
    ] = None,
    image_column: Annotated[
        list[str] | None, typer.Option(help="Of a data set on the Hub; repeats: one for each candidate.")
    ] = None,
    prompt_column: Annotated[str | None, typer.Option(help="Column of the texts. [default: the source's]")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of the ids. [default: the source's]")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many prompts, the first.")] = None,
    sample: Annotated[int | None, typer.Option(help="Draw so many of the prompts, as --seed decides.")] = None,
    filter_tag: Annotated[
        list[str] | None, typer.Option(help="Only prompts with this skill; repeats: with any of them.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out empty prompts and repeated ids.")] = False,
    steps: Annotated[int | None, typer.Option(help="Denoising steps T. [default: the pipeline's, or 50]")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale. [default: the pipeline's]")] = None,
    candidates: Annotated[int | None, typer.Option(help="Seeds a prompt. [default: 6; 1 in ncc]")] = None,
    positions: Annotated[str, typer.Option(help="What to keep: all, 20,30 or 0:50:5.")] = "all",
    batch_size: Annotated[int | None, typer.Option(help="Images at a time.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16.")] = None,
    seed: Annotated[int, typer.Option(help="Base seed, from which each candidate's own is derived.")] = 0,
    rows_per_shard: Annotated[int | None, typer.Option(help="Trajectories a file.")] = None,
    format: Annotated[Literal["parquet", "webdataset"], typer.Option(help="Of the shards.")] = "parquet",
    latent_dtype: Annotated[
        Literal["float16", "float32", "int8"],
        typer.Option(help="As which latents are kept; int8 with a scale a channel."),
    ] = "float16",
    signals: Annotated[
        list[str] | None,
        typer.Option(
            help="What to keep of each position: latent, image, x0 (the predicted finished latent), cfg_gap (norm of "
            "conditional minus unconditional prediction), activations:LAYER[:DIM]; repeats. [default: latent,image]"
        ),
    ] = None,
    references: Annotated[
        str | None,
        typer.Option(help="Of a bench: SCORER or NAME=SCORER, any scorer of pictures. [default: clip,vqascore]"),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh/--resume", help="Begin anew, or go on where a build stopped.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Make the candidates that failed once more.")
    ] = False,
    extend: Annotated[
        bool, typer.Option("--extend", help="Add the prompts and candidates that the data set lacks, in new shards.")
    ] = False,
    *,
    options: PipelineOptions,
) -> BuildConfig:
    """Generate trajectories: for each prompt the latents of every step, final images and, in a bench, their scores.

    `nbench build genai-bench --limit 20 --out data/small`

    `nbench build ncc --pipeline sdxl --prompts captions.jsonl --positions 20:30 --out data/ncc-sdxl`

    `nbench build genai-bench --pipeline flux --height 768 --width 1024 --compile --out data/flux`

    `nbench build genai-bench --pipeline sdxl --process forward --images genai-bench --out data/rated`
    """
    from .builders.config import BuildConfig
    from .shards.signals import DEFAULT_SIGNALS

    return _checked(
        BuildConfig(
            kind=kind,
            pipeline=pipeline,
            out=out,
            prompts=prompts,
            process=process,
            images=images,
            image_columns=tuple(image_column or ()),
            prompt_column=prompt_column,
            id_column=id_column,
            limit=limit,
            sample=sample,
            filter_tags=tuple(filter_tag or ()),
            skip_bad=skip_bad,
            steps=steps,
            guidance=guidance,
            candidates=candidates,
            positions=positions,
            batch_size=batch_size,
            dtype=dtype,
            seed=seed,
            rows_per_shard=rows_per_shard,
            format=format,
            latent_dtype=latent_dtype,
            references=None if references is None else tuple(filter(None, references.split(","))),
            fresh=fresh,
            retry_failed=retry_failed,
            extend=extend,
            options=options,
            signals=tuple(",".join(signals).split(",")) if signals else DEFAULT_SIGNALS,
        )
    )


def _checked(config: BuildConfig) -> BuildConfig:
    """A plan refuses what its build would refuse."""
    from .scorers.references import parse_references

    parse_references(config.references)
    return config


app.command("plan", no_args_is_help=True)(configured(plan, without=NOT_PLANNED)(build.options))


@app.command()
def evaluate(
    model: Annotated[
        list[str] | None,
        typer.Option(help="A name (`nbench models`), Hub id, folder or class; repeats. [default: clip, noisyclip]"),
    ] = None,
    bench: Annotated[
        str | None,
        typer.Option(
            envvar="NBENCH_BENCH",
            help="Folder, URL or Hub id. [default: data/noisy-genai-bench, built if there is none]",
        ),
    ] = None,
    latents: Annotated[str, typer.Option(help="Positions: all, 20,30 or 0:50:5; the final one is added.")] = "all",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Draw a picture: a PNG file.")] = None,
    out: Annotated[Path, typer.Option(help="Where result files go.")] = Path("results"),
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ... [default: the GPU where there is one]")] = None,
    dtype: Annotated[str, typer.Option(help="Of the scorers' weights: float32, float16 or bfloat16.")] = "float32",
    batch_size: Annotated[
        str, typer.Option(help="Rows that a scorer sees at a time; auto: as many as memory holds.")
    ] = "auto",
    num_workers: Annotated[int, typer.Option(help="Batches that a thread reads in advance; 0: none.")] = 1,
    captions: Annotated[bool, typer.Option("--captions", help="Score corrupted captions too: separation.")] = False,
    retrieval: Annotated[bool, typer.Option("--retrieval", help="Tell the recall of scorers with two towers.")] = False,
    preview: Annotated[str, typer.Option(help="linear, tiny (TAESD) or tiny:FOLDER-OR-HUB-ID.")] = "linear",
    vae: Annotated[
        str | None, typer.Option(help="Folder or Hub id of what decodes x0 estimates. [default: the bench's pipeline]")
    ] = None,
    time_steps: Annotated[
        int | None, typer.Option(help="Time so many steps of the bench's pipeline: costs in denoiser steps.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Score anew what has been scored before.")] = False,
    yardstick: Annotated[
        str | None, typer.Option(help="Reference that final-image selection goes by. [default: clip]")
    ] = None,
) -> None:
    """Score models at several positions, and measure how well they foretell the references of the finished images.

    Scores are kept: what is there already is not scored again, and a run that was killed goes on where it stopped.

    `nbench evaluate --model clip --model noisyclip --latents 0:50:5 --plot results/early.png`

    `nbench evaluate --model noisyclip --bench data/small --latents 20,30 --json`

    `nbench evaluate --model x0-clip --captions --retrieval --time-steps 10`
    """
    from .benchmarks.evaluate import EvaluateConfig, evaluate
    from .benchmarks.scoring.inputs import score_options
    from .pipelines.quiet import quieten_transformers
    from .scorers.placement import Placement

    quieten_transformers()
    config = EvaluateConfig(
        bench=bench or _default_bench(),
        latents=latents,
        out=out,
        placement=Placement.best(device, dtype),
        options=score_options(batch_size, captions, preview, vae, num_workers),
        retrieval=retrieval,
        time_steps=time_steps,
        fresh=fresh,
        yardstick=yardstick,
    )
    report = evaluate(replace(config, models=tuple(model)) if model else config, progress=True)
    if plot:
        from .benchmarks.results.plot import plot_report

        plot_report(report, plot)
    if as_json:
        print(report.to_json())
        return
    from .benchmarks.results.terminal import print_wide, report_table

    print_wide(report_table(report))
    print("written:", *report.files, *([plot] if plot else []))


def _default_bench() -> Path:
    """Where a bench is when none is named; the embedded one is built or finished there first if need be."""
    from .builders.config import BuildConfig
    from .shards.dataset import INFO_FILE, read_info

    config = BuildConfig("genai-bench")
    if not (config.folder / INFO_FILE).exists() or not read_info(config.folder).complete:
        from .benchmarks.scoring.references import build

        print(f"no finished bench at {config.folder}: building it (nbench build genai-bench)", file=sys.stderr)
        build(config)
    return config.folder
