"""The command line: parses, calls the library, prints. Each command imports heavy modules itself when it runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from . import __version__
from .commands.build import build_app
from .commands.configured import Group
from .commands.corrupt import corrupt_app
from .commands.data import data_app
from .commands.diff import diff_app
from .commands.environments import environments_app
from .commands.evaluate import evaluate_app
from .commands.jobs import jobs_app
from .commands.models import models_app
from .commands.panels import SCORERS
from .commands.pipelines import pipelines_app
from .commands.references import references_app
from .commands.report import report_app
from .commands.results import results_app
from .commands.sample import sample_app
from .commands.scores import scores_app
from .commands.serve import serve_app
from .commands.train import train_app
from .commands.tune import tune_app
from .errors import NbenchError, one_line

INTERRUPTED = 130

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
for topic in (
    build_app,
    jobs_app,
    corrupt_app,
    data_app,
    diff_app,
    evaluate_app,
    references_app,
    scores_app,
    results_app,
    report_app,
    tune_app,
    sample_app,
    serve_app,
    pipelines_app,
):
    app.add_typer(topic)
app.add_typer(models_app, name="models", rich_help_panel=SCORERS)
app.add_typer(train_app, name="train", rich_help_panel=SCORERS)
app.add_typer(environments_app)


def main() -> None:
    """Run the command line; an error that the user can fix becomes one line on stderr and exit code 2."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character
    try:
        app(arguments, prog_name="nbench")
    except NbenchError as error:
        if len(arguments) < len(sys.argv) - 1:
            raise
        print("error:", one_line(str(error), 4000), file=sys.stderr)
        sys.exit(2)
    except SystemExit as exit:
        if exit.code == INTERRUPTED:
            print("interrupted: run the same command again to resume", file=sys.stderr)
        raise


def _version(show: bool) -> None:
    if show:
        print(f"nbench {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; works in any place.")] = False,
) -> None:
    """Record what a text-to-image diffusion model knows at every step, and measure which scorer predicts earliest and
    cheapest whether the image will match its prompt.

    `nbench build genai-bench --limit 20 --out data/small`

    `nbench evaluate --model clip --model noisyclip --bench data/small --latents 20,30`

    `nbench build ncc --positions 20:30`

    `nbench train noisyclip --data data/ncc --positions 20:30 --out data/noisyclip`
    """
