"""Tiny randomly initialised pipelines that differ from the usual: prompts padded to the longest, frames for images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from nbench.shapes.tokenizer import build_tokenizer

from .tiny_parts import decoder, t5, vae

LENGTH = 64


def save_cogview4(path: Path) -> Path:
    """A random CogView4Pipeline: no attention mask says which tokens are padding."""
    import diffusers
    from transformers import GlmConfig, GlmModel

    torch.manual_seed(0)
    transformer = diffusers.CogView4Transformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        text_embed_dim=16,
        time_embed_dim=16,
        condition_dim=8,
        pos_embed_max_size=16,
        sample_size=8,
        rope_axes_dim=(16, 16),
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        base_shift=0.25, max_shift=0.75, base_image_seq_len=256, use_dynamic_shifting=True, time_shift_type="linear"
    )
    text = GlmModel(GlmConfig(**decoder(), head_dim=8, pad_token_id=0))
    diffusers.CogView4Pipeline(build_tokenizer(1024), text, vae(), transformer, scheduler).save_pretrained(path)
    return _called(path)


def save_lumina2(path: Path) -> Path:
    """A random Lumina2Pipeline: the denoiser puts text and image into one sequence, padded to the longest."""
    import diffusers
    from transformers import Gemma2Config, Gemma2Model

    torch.manual_seed(0)
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        hidden_size=24,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=3,
        num_kv_heads=1,
        multiple_of=2,
        axes_dim_rope=(4, 2, 2),
        axes_lens=(256, 32, 32),
        cap_feat_dim=16,
    )
    text = Gemma2Model(
        Gemma2Config(**decoder(), query_pre_attn_scalar=8, sliding_window=64, pad_token_id=0, head_dim=8)
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=6.0)
    diffusers.Lumina2Pipeline(
        transformer, scheduler, vae(shift_factor=0.1), text, build_tokenizer(LENGTH)
    ).save_pretrained(path)
    return _called(path)


def save_wan(path: Path, two: bool = False) -> Path:
    """A random WanPipeline, of videos of one frame, with `two` denoisers for the two parts of its schedule."""
    import diffusers

    torch.manual_seed(0)

    def denoiser() -> Any:
        return diffusers.WanTransformer3DModel(
            patch_size=(1, 2, 2),
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=32,
            freq_dim=16,
            ffn_dim=16,
            num_layers=1,
            rope_max_seq_len=32,
        )

    coder = diffusers.AutoencoderKLWan(
        base_dim=3,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    diffusers.WanPipeline(
        tokenizer=build_tokenizer(LENGTH),
        text_encoder=t5(32),
        vae=coder,
        scheduler=scheduler,
        transformer=denoiser(),
        transformer_2=denoiser() if two else None,
        boundary_ratio=0.875 if two else None,
    ).save_pretrained(path)
    return _called(path, num_frames=1, height=32, width=32)


def _called(path: Path, **more: int) -> Path:
    arguments: dict[str, Any] = {"height": 16, "width": 16, "max_sequence_length": LENGTH, **more}
    (path / "nbench.json").write_text(json.dumps({"call_kwargs": arguments}))
    return path
