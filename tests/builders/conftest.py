"""Tiny random pipelines of stock classes, and quick builds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from nbench.builders.pipelines import load_pipeline, resolve_pipeline
from nbench.shapes.tokenizer import build_tokenizer

DIES = """
import os, signal

def dies(owner, name, calls):
    original, left = getattr(owner, name), [calls]
    def method(self, *arguments):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *arguments)
    setattr(owner, name, method)
"""
"""For programs of `run_python` that are to be killed when a method has been called so many times."""


def save_sd15(path: Path, size: int = 8, channels: tuple[int, ...] = (8, 16), scheduler: str = "DDIM") -> Path:
    """A random StableDiffusionPipeline of `size` x `size` latents; with one channel count the VAE keeps the size."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tokenizer = build_tokenizer(16)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=16,
            projection_dim=16,
        )
    )
    depth = len(channels)
    attention = "CrossAttn" if depth > 1 else ""
    unet = diffusers.UNet2DConditionModel(
        sample_size=size,
        block_out_channels=channels,
        layers_per_block=1,
        down_block_types=(*("DownBlock2D",) * (depth - 1), f"{attention}DownBlock2D"),
        up_block_types=(f"{attention}UpBlock2D", *("UpBlock2D",) * (depth - 1)),
        mid_block_type="UNetMidBlock2DCrossAttn" if depth > 1 else None,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * depth,
        up_block_types=("UpDecoderBlock2D",) * depth,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )
    diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=getattr(diffusers, f"{scheduler}Scheduler")(beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def sd15_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random SD1.5 pipeline: 4x8x8 latents, 16x16 images."""
    return save_sd15(tmp_path_factory.mktemp("sd15"))


@pytest.fixture(scope="session")
def world() -> Any:
    """The embedded pipeline in float32 on the CPU."""
    return load_pipeline(resolve_pipeline("shapes"), "float32", "cpu")


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
