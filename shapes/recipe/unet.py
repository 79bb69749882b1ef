"""Trains the world's second generator, a stock StableDiffusionPipeline, to predict noise.

All but VAE and CLIP text tower differs from the first one: a convolutional UNet for a transformer, predicted noise for
flow matching, another schedule, sampler and seed. A throw-away head on its coarsest features names the objects in each
cell of the clean image, as in CLIP's training: the UNet learns to see objects long before it learns to draw them.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel

from ...builders.first_look import fit_preview
from ...training.saving import declare_float32
from ..grammar import scenes
from ..render import GRID, SIZE, Drawing, render
from ..tokenizer import build_tokenizer
from .batches import shuffled, to_pixels
from .denoiser import DROPPED_CAPTIONS, MAX_PROMPT_TOKENS
from .loop import RunningAverage, fit
from .naming import LOOKS, objects_by_patch

GUIDANCE = 2.0
NAMING_WEIGHT = 0.02
LARGEST_WEIGHT = 50.0
STEPS, CACHED, BATCH_SIZE = 3000, 50_000, 64


def build_pipeline(clip: Path | None, vae: Path | None) -> StableDiffusionPipeline:
    """A stock pipeline around a VAE folder and a CLIP folder's text tower (None: the same classes, untrained)."""
    from .clip import build_clip
    from .vae import build_vae

    text_encoder = (
        CLIPTextModel.from_pretrained(clip, dtype=torch.float32)
        if clip
        else CLIPTextModel(build_clip().config.text_config)
    )
    autoencoder = AutoencoderKL.from_pretrained(vae, torch_dtype=torch.float32) if vae else build_vae()
    autoencoder.register_to_config(shift_factor=0.0)  # this pipeline does not shift latents
    unet = UNet2DConditionModel(
        sample_size=SIZE // 2,
        in_channels=4,
        out_channels=4,
        block_out_channels=(24, 48, 112),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=text_encoder.config.hidden_size,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False, steps_offset=1)
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=build_tokenizer(MAX_PROMPT_TOKENS),
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def cache_scenes(vae: AutoencoderKL, count: int, seed: int) -> tuple[torch.Tensor, list[str], torch.Tensor]:
    """`count` training scenes: latents [count, 4, 16, 16] in the pipeline's scale (half precision), captions, and the
    objects of each cell, bool [count, 16, LOOKS]."""
    source, rng = scenes(seed, held_out=False), np.random.default_rng(seed)
    latents, captions, objects = [], [], []
    for start in range(0, count, 500):
        chosen = list(itertools.islice(source, min(500, count - start)))
        drawing: Drawing = render(chosen, rng)
        with torch.autocast("cpu", torch.bfloat16):
            encoded = vae.encode(to_pixels(drawing.images)).latent_dist.mean.float()
        latents.append((encoded * vae.config.scaling_factor).half())
        captions += [scene.caption for scene in chosen]
        objects.append(objects_by_patch(drawing, SIZE // GRID).bool())
    return torch.cat(latents), captions, torch.cat(objects)


def train(
    out: Path,
    clip: Path | None,
    vae: Path | None,
    steps: int = STEPS,
    batch_size: int = BATCH_SIZE,
    cached: int = CACHED,
    seed: int = 5,
) -> list[float]:
    """Train the UNet and save the whole pipeline to `out`; returns the losses.

    Args:
        clip, vae: folders of the trained models in the pipeline; None for untrained ones, to try the recipe out.
        cached: scenes drawn and encoded before training, which then repeats them.
    """
    torch.manual_seed(seed)
    pipeline = build_pipeline(clip, vae)
    latents, captions, objects = cache_scenes(pipeline.vae, cached, seed)
    tokens = pipeline.tokenizer(
        [*captions, ""], padding="max_length", max_length=MAX_PROMPT_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    unet = pipeline.unet.to(memory_format=torch.channels_last).train()
    frozen = pipeline.text_encoder.eval().requires_grad_(False)
    naming = torch.nn.Linear(unet.config.block_out_channels[-1], LOOKS)
    trained = torch.nn.ModuleList([unet, naming])
    average = RunningAverage(trained, 0.999)
    share = pipeline.scheduler.alphas_cumprod
    coarse: dict[str, torch.Tensor] = {}

    def keep(module: Any, arguments: Any, output: Any) -> None:
        coarse["features"] = output[0]

    unet.up_blocks[0].attentions[-1].register_forward_hook(keep)
    order = shuffled(cached, batch_size, seed)

    def loss_of_step(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rows = next(order)
        clean = latents[rows].float()
        # more weight on the noisier levels, which decide the layout
        u = torch.where(torch.rand(batch_size) < 0.8, 0.1 + 0.9 * torch.rand(batch_size), torch.rand(batch_size))
        times = (u * len(share)).long().clamp(max=len(share) - 1)
        signal = share[times].view(-1, 1, 1, 1)
        noise = torch.randn_like(clean)
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        texts = torch.where(torch.rand(batch_size) >= DROPPED_CAPTIONS, rows, len(captions))
        with torch.no_grad():
            context = frozen(tokens[texts]).last_hidden_state
        predicted = unet(noisy.to(memory_format=torch.channels_last), times, context, return_dict=False)[0].float()
        squared = (predicted - noise).square().mean((1, 2, 3))
        # the error that flow matching would have with these x0 estimates
        snr = share[times] / (1 - share[times])
        error = squared * ((1 + snr.sqrt()).square() / snr).clamp(max=LARGEST_WEIGHT)
        logits = naming(coarse["features"].flatten(2).transpose(1, 2)).float()
        there = objects[rows].float()
        named = torch.nn.functional.binary_cross_entropy_with_logits(logits, there, reduction="sum") / there.sum()
        figures = {
            "noisy": error[u > 0.5].mean().item(),
            "clear": error[u <= 0.5].mean().item(),
            "naming": named.item(),
        }
        return error.mean() + NAMING_WEIGHT * named, figures

    losses = fit(trained.parameters(), loss_of_step, average, steps, 1e-3, out / "train.jsonl")
    save(pipeline, out, latents[:2000].float())
    return losses


@torch.no_grad()
def save(pipeline: StableDiffusionPipeline, out: Path, latents: torch.Tensor) -> None:
    """Write the pipeline in half precision, with nbench's defaults for it and its preview map beside it."""
    vae = pipeline.vae.float()
    images = vae.decode(latents / vae.config.scaling_factor).sample.clamp(-1, 1)
    preview = fit_preview(latents.numpy(), ((images + 1) / 2).permute(0, 2, 3, 1).numpy())
    pipeline.to(torch.float16).save_pretrained(out)
    declare_float32(out / "text_encoder")
    defaults = {"guidance": GUIDANCE, "preview": {"weight": preview.weight, "bias": preview.bias}}
    (out / "nbench.json").write_text(json.dumps(defaults, indent=2) + "\n")
