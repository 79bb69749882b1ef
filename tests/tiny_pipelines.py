"""Tiny randomly initialised pipelines of the stock classes, saved to folders: 8x8 latents, 16x16 images."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from nbench.shapes.tokenizer import build_tokenizer

from .tiny_parts import CHAT, TOKENS, clip, decoder, t5, vae


@dataclass(frozen=True)
class Family:
    """A kind of pipeline and how it is called.

    Latents are [4, 8, 8], images 16x16 (Sana: 32x32). `packed` says whether the scheduler sees [B, 16, 16] in place of
    [B, 4, 8, 8]; `arguments` are those without which the tiny one does not run at its size. `guidance` is how it
    guides: "doubled" rows in a call of the denoiser (the unconditional first, but for `conditional_first`), "two calls"
    a step (the conditional first), or "embedded" in the denoiser, which then has one row a candidate.
    """

    name: str
    pipeline: str
    save: Callable[[Path], Path]
    guidance: Literal["doubled", "two calls", "embedded"] = "doubled"
    packed: bool = False
    conditional_first: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)

    def saved(self, path: Path) -> Path:
        """`path`, with the pipeline and an nbench.json which says what it is to be called with."""
        self.save(path)
        (path / "nbench.json").write_text(json.dumps({"call_kwargs": self.arguments}))
        return path

    def batched(self, count: int) -> dict[str, Any]:
        """`arguments` for so many prompts: Qwen-Image wants a list with a negative prompt for each."""
        return {name: [value] * count if name == "negative_prompt" else value for name, value in self.arguments.items()}


def save_sd15(path: Path, size: int = 8, channels: tuple[int, ...] = (8, 16), scheduler: str = "DDIM") -> Path:
    """A random StableDiffusionPipeline of `size` x `size` latents; with one channel count the VAE keeps the size."""
    import diffusers

    torch.manual_seed(0)
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
    diffusers.StableDiffusionPipeline(
        vae=vae(channels),
        text_encoder=clip(),
        tokenizer=build_tokenizer(TOKENS),
        unet=unet,
        scheduler=getattr(diffusers, f"{scheduler}Scheduler")(beta_schedule="scaled_linear"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(path)
    return path


def save_sdxl(path: Path, size: int = 8) -> Path:
    """A random StableDiffusionXLPipeline: two text encoders, sizes embedded with the time step."""
    import diffusers

    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=size,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=4,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 16,
    )
    diffusers.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip(),
        text_encoder_2=clip(projected=True),
        tokenizer=build_tokenizer(TOKENS),
        tokenizer_2=build_tokenizer(TOKENS),
        unet=unet,
        scheduler=diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", timestep_spacing="leading"),
        add_watermarker=False,
    ).save_pretrained(path)
    return path


def save_sd3(path: Path) -> Path:
    """A random StableDiffusion3Pipeline: three text encoders, a joint transformer, flow matching."""
    import diffusers

    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )
    return save_sd3_with(path, transformer, vae(shift_factor=0.1))


def save_sd3_with(path: Path, transformer: Any, autoencoder: Any) -> Path:
    """A Stable Diffusion 3 pipeline with this transformer and VAE, and three tiny text encoders."""
    import diffusers

    diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder,
        text_encoder=clip(projected=True),
        tokenizer=build_tokenizer(TOKENS),
        text_encoder_2=clip(projected=True),
        tokenizer_2=build_tokenizer(TOKENS),
        text_encoder_3=t5(32),
        tokenizer_3=build_tokenizer(TOKENS),
    ).save_pretrained(path)
    return path


def save_flux(path: Path) -> Path:
    """A random FluxPipeline: packed latents, guidance embedded."""
    import diffusers

    torch.manual_seed(0)
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    )
    diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(shift_factor=0.1),
        text_encoder=clip(),
        tokenizer=build_tokenizer(TOKENS),
        text_encoder_2=t5(32),
        tokenizer_2=build_tokenizer(TOKENS),
        transformer=transformer,
    ).save_pretrained(path)
    return path


def save_pixart(path: Path) -> Path:
    """A random PixArtSigmaPipeline: variance predicted beside the noise, no callbacks."""
    import diffusers

    torch.manual_seed(0)
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=8,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        cross_attention_dim=16,
        caption_channels=32,
    )
    diffusers.PixArtSigmaPipeline(
        tokenizer=build_tokenizer(TOKENS),
        text_encoder=t5(32),
        vae=vae(),
        transformer=transformer,
        scheduler=diffusers.DPMSolverMultistepScheduler(),
    ).save_pretrained(path)
    return path


def save_sana(path: Path) -> Path:
    """A random SanaPipeline: linear attention, a deep-compression autoencoder, Gemma as text encoder."""
    import diffusers
    from transformers import Gemma2Config, Gemma2Model

    torch.manual_seed(0)
    text = Gemma2Model(
        Gemma2Config(**decoder(), query_pre_attn_scalar=8, sliding_window=64, pad_token_id=0, head_dim=8)
    )
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=8,
    )
    vae = diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_out_channels=(8, 8, 16),
        decoder_block_out_channels=(8, 8, 16),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        decoder_norm_types="rms_norm",
        scaling_factor=0.4,
    )
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    diffusers.SanaPipeline(build_tokenizer(TOKENS), text, vae, transformer, scheduler).save_pretrained(path)
    return path


def save_qwen_image(path: Path) -> Path:
    """A random QwenImagePipeline: packed latents with a frame axis in the VAE, two calls of the denoiser a step."""
    import diffusers
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    torch.manual_seed(0)
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    text = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config={**decoder(), "rope_parameters": rope}, vision_config=vision)
    )
    transformer = diffusers.QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0, 0.1, -0.1, 0.2],
        latents_std=[1.0, 2.0, 1.5, 0.5],
    )
    diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=text,
        tokenizer=build_tokenizer(TOKENS),
        transformer=transformer,
    ).save_pretrained(path)
    return path


def save_z_image(path: Path) -> Path:
    """A random ZImagePipeline: lists of latents with a frame axis go to the denoiser, the conditional ones first."""
    import diffusers
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(0)
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=16,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[4, 2, 2],
        axes_lens=[128, 32, 32],
    )
    tokenizer = build_tokenizer(TOKENS)
    tokenizer.chat_template = CHAT
    diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(shift_factor=0.1),
        text_encoder=Qwen3Model(Qwen3Config(**decoder(), head_dim=8)),
        tokenizer=tokenizer,
        transformer=transformer,
    ).save_pretrained(path)
    return path


def save_flux2(path: Path) -> Path:
    """A random Flux2KleinPipeline: packed latents, normalised by the statistics of its VAE's batch norm."""
    import diffusers
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=False,
    )
    vae = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        mid_block_add_attention=False,
    )
    vae.bn.running_mean.copy_(torch.randn(16))
    vae.bn.running_var.copy_(torch.rand(16) * 3 + 0.2)
    tokenizer = build_tokenizer(TOKENS)
    tokenizer.chat_template = CHAT
    diffusers.Flux2KleinPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae,
        text_encoder=Qwen3ForCausalLM(Qwen3Config(**decoder(), head_dim=8)),
        tokenizer=tokenizer,
        transformer=transformer,
    ).save_pretrained(path)
    return path


_SQUARE = {"height": 16, "width": 16}
_SHORT = {"max_sequence_length": TOKENS}
_PLAIN = {"use_resolution_binning": False, **_SHORT}
FAMILIES = (
    Family("sd15", "StableDiffusionPipeline", save_sd15),
    Family("sdxl", "StableDiffusionXLPipeline", save_sdxl),
    Family("sd3", "StableDiffusion3Pipeline", save_sd3),
    Family("flux", "FluxPipeline", save_flux, "embedded", packed=True, arguments=_SQUARE),
    Family("pixart", "PixArtSigmaPipeline", save_pixart, arguments=_PLAIN),
    Family(
        "sana",  # takes sides of 32 n, so that its autoencoder goes down by 4
        "SanaPipeline",
        save_sana,
        arguments={**_PLAIN, "complex_human_instruction": None, "height": 32, "width": 32},
    ),
    Family(
        "qwen-image",
        "QwenImagePipeline",
        save_qwen_image,
        "two calls",
        packed=True,
        arguments={**_SQUARE, "negative_prompt": " "},
    ),
    Family("z-image", "ZImagePipeline", save_z_image, conditional_first=True, arguments={**_SQUARE, **_SHORT}),
)
FLUX2 = Family(
    "flux2",
    "Flux2KleinPipeline",
    save_flux2,
    "two calls",
    packed=True,
    conditional_first=True,
    arguments={**_SQUARE, **_SHORT, "text_encoder_out_layers": [1, 2]},
)
"""Where its VAE is what matters; else it is as the FAMILIES."""
