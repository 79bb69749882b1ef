"""The command that generates images: Best-of-N with pruning."""

from __future__ import annotations

import typer

from ..console import say
from ..sampling.config import SampleConfig
from .configured import AsJson, command
from .panels import SAMPLE
from .yaml_options import ConfigFile

sample_app = typer.Typer()


@command(sample_app, panel=SAMPLE)
def sample(config: SampleConfig, options: ConfigFile = None, as_json: AsJson = False) -> None:
    """Generate several candidates and keep the best: the candidates that score lowest are dropped early, and only the
    survivors are decoded.

    `nbench sample "two red circles above one blue square" --best-of 6 --out image.png`

    `nbench sample "one green star" --policy 10:3,20:1 --show-candidates --json`

    `nbench sample "a red bicycle" --pipeline sdxl --height 768 --width 1024 --model x0-image`
    """
    import json

    from ..pipelines.quiet import quieten_diffusers
    from ..sampling.sample import sample

    quieten_diffusers()
    result, files = sample(config)
    if as_json:
        print(json.dumps(result.to_dict()))
        return
    rows, full = result.denoiser_rows, result.full_denoiser_rows
    say(
        f"{rows} of {full} denoiser rows ({rows / full:.0%}), "
        f"{result.seconds:.2f} s, of which {result.scorer_seconds:.2f} s for scoring"
    )
    say("written:", *files)
