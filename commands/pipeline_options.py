"""The options of a pipeline that commands which run one share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from ..pipelines.options import PipelineOptions


def pipeline_options(
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub id.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="A first-order one of diffusers: Euler, DDIM, UniPC.")] = None,
    eta: Annotated[float | None, typer.Option(help="Of DDIM: 0 adds no noise, 1 as much as DDPM.")] = None,
    height: Annotated[int | None, typer.Option(help="Of the images, pixels. [default: the pipeline's]")] = None,
    width: Annotated[int | None, typer.Option(help="Of the images, pixels. [default: the pipeline's]")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What guidance leads away from.")] = None,
    max_sequence_length: Annotated[int | None, typer.Option(help="Tokens of a prompt that are read.")] = None,
    pipeline_arg: Annotated[
        list[str] | None, typer.Option(help="key=value for the pipeline's call, value as JSON; repeats.")
    ] = None,
    quantize: Annotated[
        str | None, typer.Option(help="The denoiser, by bitsandbytes_4bit, bitsandbytes_8bit, torchao or quanto.")
    ] = None,
    attention: Annotated[str | None, typer.Option(help="A backend of diffusers: native, flash, sage.")] = None,
    compile: Annotated[bool, typer.Option("--compile", help="torch.compile the denoiser's repeated blocks.")] = False,
    offload: Annotated[
        Literal["model", "sequential", "group"] | None, typer.Option(help="Keep weights off the GPU while unused.")
    ] = None,
    vae_slicing: Annotated[bool, typer.Option("--vae-slicing", help="Decode images one by one.")] = False,
    vae_tiling: Annotated[bool, typer.Option("--vae-tiling", help="Decode large images in tiles.")] = False,
) -> PipelineOptions:
    """What is asked of a pipeline beyond its own defaults."""
    from ..pipelines.options import PipelineOptions, parse_arguments

    return PipelineOptions(
        revision=revision,
        scheduler=scheduler,
        eta=eta,
        height=height,
        width=width,
        negative_prompt=negative_prompt,
        max_sequence_length=max_sequence_length,
        arguments=parse_arguments(pipeline_arg or ()),
        quantize=quantize,
        attention=attention,
        compile=compile,
        offload=offload,
        vae_slicing=vae_slicing,
        vae_tiling=vae_tiling,
    )
