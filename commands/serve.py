"""The command that serves images over HTTP."""

from __future__ import annotations

import sys

import typer

from ..sampling.serving.config import ServeConfig
from .configured import command
from .panels import SAMPLE
from .yaml_options import ConfigFile

serve_app = typer.Typer()


@command(serve_app, panel=SAMPLE)
def serve(config: ServeConfig, options: ConfigFile = None) -> None:
    """Serve images in OpenAI's protocol: Best-of-N with pruning, many requests at a time (needs nbench[serve]).

    `nbench serve --pipeline shapes --model noisyclip --policy 10:3,20:1 --port 8000`
    """
    from ..pipelines.quiet import quieten_diffusers
    from ..sampling.serving.serve import serve

    quieten_diffusers()
    serve(config, lambda address: print(f"serving at {address}", file=sys.stderr, flush=True))
