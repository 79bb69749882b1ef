"""Trains the world's text-to-image model, a stock StableDiffusion3Pipeline, by flow matching on cached latents."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from ...builders.first_look import fit_preview
from ...training.saving import declare_float32
from ..grammar import scenes
from ..render import SIZE, render
from ..tokenizer import build_tokenizer, words
from .batches import shuffled, to_pixels
from .loop import RunningAverage, fit

MAX_PROMPT_TOKENS = 14
SHIFT = 0.3
"""Below 1: small latents have no redundancy to average noise away, so what decides an image comes at less noise than
in real models. This shift puts it at positions 8 to 25 of 50, as in the paper."""
DROPPED_CAPTIONS = 0.1
STOCK_GUIDANCE, GUIDANCE = 7.0, 2.0
"""The pipeline's default guidance scale, and the best one for this model. From `FOLD_FROM` of the training on, the
target of a captioned latent is therefore u + GUIDANCE / STOCK_GUIDANCE (c - u), where c and u are the right predictions
with and without the caption: then the default call has the best guidance."""
T5_TOKENS, STOCK_T5_TOKENS = 1, 256
"""Length of the silent T5 slot: how nbench calls the pipeline, and diffusers' default. From `FOLD_FROM` on, every
`SILENCE_EVERY`th step teaches the model to predict the same with either, on `SILENCE_ROWS` of the batch."""
SILENCE_EVERY, SILENCE_ROWS = 4, 16
FOLD_FROM = 0.6


def build_pipeline(clip: Path | None, vae: Path | None) -> StableDiffusion3Pipeline:
    """A stock SD3 pipeline around a VAE folder and a CLIP folder's text tower (None: the same classes, untrained)."""
    from .clip import build_clip
    from .vae import build_vae

    text_encoder = (
        CLIPTextModelWithProjection.from_pretrained(clip, dtype=torch.float32)
        if clip
        else CLIPTextModelWithProjection(build_clip().config.text_config)
    )
    config = text_encoder.config
    vocabulary = words()
    second = CLIPTextConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=config.max_position_embeddings,
        projection_dim=64,
        hidden_act="gelu",
        pad_token_id=0,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
    )
    transformer = SD3Transformer2DModel(
        sample_size=SIZE // 2,
        patch_size=4,
        in_channels=4,
        out_channels=4,
        num_layers=6,
        attention_head_dim=32,
        num_attention_heads=4,
        caption_projection_dim=128,
        joint_attention_dim=config.hidden_size + second.hidden_size,
        pooled_projection_dim=config.projection_dim + second.projection_dim,
        pos_embed_max_size=4,
        qk_norm="rms_norm",
    )
    tokenizer = build_tokenizer(MAX_PROMPT_TOKENS)
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        vae=AutoencoderKL.from_pretrained(vae, torch_dtype=torch.float32) if vae else build_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(second),
        tokenizer_2=tokenizer,
        text_encoder_3=_silent_t5(config.hidden_size + second.hidden_size, len(vocabulary)),
        # a frame of two tokens would not fit a slot of one
        tokenizer_3=build_tokenizer(MAX_PROMPT_TOKENS, framed=False),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _silent_t5(width: int, vocabulary: int) -> T5EncoderModel:
    """A T5 with zero outputs, as SD3 uses without one: its pipeline does not load with an empty slot."""
    t5 = T5EncoderModel(
        T5Config(vocab_size=vocabulary, d_model=width, d_kv=4, d_ff=4, num_layers=1, num_heads=1, pad_token_id=0)
    )
    torch.nn.init.zeros_(t5.encoder.final_layer_norm.weight)
    return t5


@torch.no_grad()
def cache_latents(vae: AutoencoderKL, count: int, seed: int) -> tuple[torch.Tensor, list[str]]:
    """`count` training scenes as latents [count, 4, 16, 16] in the pipeline's scale (half precision), and captions."""
    import numpy as np

    source, rng = scenes(seed, held_out=False), np.random.default_rng(seed)
    latents, captions = [], []
    for start in range(0, count, 500):
        chosen = list(itertools.islice(source, min(500, count - start)))
        with torch.autocast("cpu", torch.bfloat16):
            encoded = vae.encode(to_pixels(render(chosen, rng).images)).latent_dist.mean.float()
        latents.append(((encoded - vae.config.shift_factor) * vae.config.scaling_factor).half())
        captions += [scene.caption for scene in chosen]
    return torch.cat(latents), captions


def train(
    out: Path,
    clip: Path | None,
    vae: Path | None,
    steps: int,
    batch_size: int = 128,
    cached: int = 150_000,
    seed: int = 3,
) -> list[float]:
    """Train the denoiser and the second text encoder and save the whole pipeline to `out`; returns the losses.

    Args:
        clip, vae: folders of the trained models in the pipeline; None for untrained ones, to try the recipe out.
        cached: scenes drawn and encoded before training, which then repeats them.
    """
    torch.manual_seed(seed)
    pipeline = build_pipeline(clip, vae)
    latents, captions = cache_latents(pipeline.vae, cached, seed)
    tokens = pipeline.tokenizer(
        [*captions, ""], padding="max_length", max_length=MAX_PROMPT_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    uncaptioned = len(captions)
    frozen = pipeline.text_encoder.eval().requires_grad_(False)
    trained = torch.nn.ModuleList([pipeline.transformer.train(), pipeline.text_encoder_2.train()])
    average = RunningAverage(trained, 0.999)
    # two minutes of compiling save a third of an hour, where there is a compiler
    worth_it = steps >= 2000 and shutil.which("g++") is not None
    compiled = torch.compile(pipeline.transformer) if worth_it else pipeline.transformer
    order = shuffled(cached, batch_size, seed)

    def loss_of_step(step: int) -> tuple[torch.Tensor, dict[str, float]]:
        rows = next(order)
        clean = latents[rows].float()
        captioned = torch.rand(batch_size) >= DROPPED_CAPTIONS
        # the sampler's noise levels, with more weight on the noisier ones, which decide the layout
        u = torch.where(torch.rand(batch_size) < 0.8, 0.25 + 0.75 * torch.rand(batch_size), torch.rand(batch_size))
        sigma = SHIFT * u / (1 + (SHIFT - 1) * u)
        noise = torch.randn_like(clean)
        mix = sigma.view(-1, 1, 1, 1)
        noisy, velocity = (1 - mix) * clean + mix * noise, noise - clean
        folding = step >= FOLD_FROM * steps

        def denoise(texts: torch.Tensor, t5_tokens: int = T5_TOKENS) -> torch.Tensor:
            """The predicted velocity of the first noisy latents under captions `texts` (their numbers)."""
            few, ids = len(texts), tokens[texts]
            with torch.no_grad():
                first = frozen(ids, output_hidden_states=True)
            second = pipeline.text_encoder_2(ids, output_hidden_states=True)
            context = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
            t5 = context.new_zeros(few, t5_tokens, context.shape[-1])
            return (compiled if few == batch_size else pipeline.transformer)(
                hidden_states=noisy[:few],
                timestep=sigma[:few] * 1000,
                encoder_hidden_states=torch.cat([context, t5], 1),
                pooled_projections=torch.cat([first.text_embeds, second.text_embeds], -1),
                return_dict=False,
            )[0].float()

        if folding:
            with torch.no_grad():
                unguided = denoise(torch.full_like(rows, uncaptioned))
            share = torch.where(captioned, GUIDANCE / STOCK_GUIDANCE, 1.0).view(-1, 1, 1, 1)
            velocity = unguided + share * (velocity - unguided)
        texts = torch.where(captioned, rows, uncaptioned)
        predicted = denoise(texts)
        error = (predicted - velocity).square().mean((1, 2, 3))
        figures = {"noisy": error[u > 0.5].mean().item(), "clear": error[u <= 0.5].mean().item()}
        loss = error.mean()
        if folding and step % SILENCE_EVERY == 0:
            with_slot = denoise(texts[:SILENCE_ROWS], STOCK_T5_TOKENS)
            loss = loss + (with_slot - predicted[:SILENCE_ROWS].detach()).square().mean()
        return loss, figures

    losses = fit(trained.parameters(), loss_of_step, average, steps, 1e-3, out / "train.jsonl")
    save(pipeline, out, latents[:2000].float())
    return losses


@torch.no_grad()
def save(
    pipeline: StableDiffusion3Pipeline, out: Path, latents: torch.Tensor, guidance: float = STOCK_GUIDANCE
) -> None:
    """Write the pipeline in half precision, with nbench's defaults for it and its preview map beside it."""
    vae = pipeline.vae.float()
    images = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample.clamp(-1, 1)
    preview = fit_preview(latents.numpy(), ((images + 1) / 2).permute(0, 2, 3, 1).numpy())
    pipeline.to(torch.float16).save_pretrained(out)
    for encoder in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        declare_float32(out / encoder)
    defaults = {
        "guidance": guidance,
        "call_kwargs": {"max_sequence_length": T5_TOKENS},
        "preview": {"weight": preview.weight, "bias": preview.bias},
    }
    (out / "nbench.json").write_text(json.dumps(defaults, indent=2) + "\n")
