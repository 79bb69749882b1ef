"""The commands that import trajectories that other programs recorded."""

from __future__ import annotations

import typer

from ..builders.importing.config import EngineConfig, GenericConfig, ImportConfig
from ..console import say
from .configured import Group, command

import_app = typer.Typer(cls=Group, no_args_is_help=True, help="Import trajectories that other tools recorded.")


@command(import_app, "noisyclip-pt", no_args_is_help=True)
def noisyclip_pt(config: ImportConfig) -> None:
    """Import latents in the format of NoisyCLIP's authors: per candidate a list of tensors and a PNG.

    `nbench import noisyclip-pt latents --prompts prompts.jsonl --out data/theirs`
    """
    from ..builders.importing.noisyclip import import_noisyclip

    say(import_noisyclip(config))


@command(import_app, "sglang", no_args_is_help=True)
def sglang(config: EngineConfig) -> None:
    """Import answers of SGLang-Diffusion: of POST /rollout/generate, or of its generator with trajectories.

    `nbench import sglang answers --prompts prompts.jsonl --out data/flux`
    """
    from ..builders.importing.engine_files import import_engine

    say(import_engine("sglang", config))


@command(import_app, "vllm-omni", no_args_is_help=True)
def vllm_omni(config: EngineConfig) -> None:
    """Import answers of vLLM-Omni with trajectory_latents and trajectory_timesteps.

    `nbench import vllm-omni answers --steps 50 --out data/qwen`
    """
    from ..builders.importing.engine_files import import_engine

    say(import_engine("vllm-omni", config))


@command(import_app, "generic", no_args_is_help=True)
def generic(config: GenericConfig) -> None:
    """Import .pt, .npz or .safetensors files, one per candidate, by a mapping file that says what is where in them.

    `nbench import generic latents --map map.yaml --prompts prompts.jsonl --out data/mine`
    """
    from ..builders.importing.mapping import import_generic

    say(import_generic(config))
