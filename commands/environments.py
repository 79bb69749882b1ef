"""The commands that make an environment of a scorer package, and that serve a scorer."""

from __future__ import annotations

from typing import Annotated

import typer

from ..console import say
from ..options import Argument, Fields, Option
from ..scorers.placement import Placement
from .configured import command
from .panels import SCORERS

environments_app = typer.Typer()


@command(environments_app, panel=SCORERS)
def env(
    name: Annotated[str, Argument("Package: t2v_metrics, image-reward or hpsv3.")],
    torch: Annotated[
        str | None,
        Option("PyTorch build, as uv's --torch-backend: cpu, cu130, auto, ... [default: the package index's]"),
    ] = None,
    fresh: Annotated[bool, Option("Make it again.")] = False,
) -> None:
    """Make an environment for a scorer package that cannot be installed beside nbench, with uv and tested versions.

    It is made in NBENCH_ENVS, by default ~/.cache/nbench/envs.

    `nbench env t2v_metrics --torch cpu`
    """
    from ..scorers.environments.packages import PACKAGES, environment_report, make_environment

    folder = make_environment(name, torch, fresh)
    for line in environment_report(name):
        say(line)
    say(f"environment: {folder}")
    say(f"use it: --model {PACKAGES[name].model}")


@command(environments_app, name="serve-scorer", panel=SCORERS)
def serve_scorer(
    scorer: Annotated[str, Argument("Scorer, as for `nbench evaluate --model`.")],
    port: Annotated[int, Option("Port; 0: any free one.", min=0)] = 8500,
    host: Annotated[
        str, Option("Address to listen at; 0.0.0.0 lets other machines in, without a password.")
    ] = "127.0.0.1",
    bench: Annotated[str | None, Option("Bench whose latents are tried first. [default: the embedded world's]")] = None,
    *,
    placement: Annotated[Placement, Fields(made_by=Placement.best)],
) -> None:
    """Serve a scorer over HTTP, for `--model http:URL` of other processes and machines; one server per GPU.

    `nbench serve-scorer vqascore --port 8500`
    """
    from ..pipelines.quiet import quieten_transformers
    from ..scorers.check import WORLD
    from ..scorers.environments.server import ScorerServer
    from ..scorers.registry import get_scorer
    from ..shards.reader import open_bench

    quieten_transformers()
    space = WORLD if bench is None else open_bench(bench).info.latent_space
    with ScorerServer(host, port, lambda other: get_scorer(scorer, other, placement), space) as server:
        say(f"serving {scorer}: --model http:{server.url}")
        server.serve_forever()
