"""Small random reward models of noisy latents, in the layouts that their authors publish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from nbench.scorers.latent_rewards.dina_head import RewardHead
from nbench.scorers.latent_rewards.probe_head import ProbeHead
from nbench.shapes.tokenizer import build_tokenizer

from ...tiny_parts import TOKENS, clip, vae
from ...tiny_pipelines import save_sd3_with
from ..recorded.image_reward import save_image_reward

WIDTH = 16
"""Of SD3's blocks."""
LAYERS, VISUAL, TEXT = 3, [1, 3], [2, 3]
"""Blocks of the reward model, and after which it takes features."""
HEAD = {"use_proj_in": False, "width": -1, "out_dim": 1, "num_queries": 3, "num_attn_heads": 2, "dropout": 0.0}


def save_sd3(path: Path, layers: int = 5, width: int = WIDTH) -> Path:
    """A StableDiffusion3Pipeline of SD3's latents, with the second attention of SD3.5 Medium in some blocks."""
    import diffusers

    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        num_layers=layers,
        attention_head_dim=8,
        num_attention_heads=width // 8,
        joint_attention_dim=32,
        caption_projection_dim=width,
        pooled_projection_dim=32,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
        dual_attention_layers=(0, 1),
    )
    return save_sd3_with(path, transformer, vae(latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609))


def save_dina_lrm(path: Path, base: Path) -> Path:
    """A folder like liuhuohuo/DiNa-LRM-SD35M-12layers; peft saves its LoRA, torch its head."""
    import diffusers
    from peft import LoraConfig, get_peft_model

    settings = {
        "backbone_model_id": str(base),
        "num_transformer_layers": LAYERS,
        "freeze_backbone": False,
        "use_lora": True,
        "use_text_features": True,
        "lora_config": {"r": 4, "lora_alpha": 8, "init_lora_weights": "gaussian"},
        "use_logistic": False,
        "visual_head_idx": VISUAL,
        "text_head_idx": TEXT,
        "use_t_embed": True,
        "reward_head": HEAD,
    }
    checkpoint = path / "checkpoint"
    checkpoint.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model": settings, "training": {"add_noise": True}}))
    transformer = diffusers.SD3Transformer2DModel.from_pretrained(base, subfolder="transformer")
    transformer.transformer_blocks = transformer.transformer_blocks[:LAYERS]
    names = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]
    adapted: Any = get_peft_model(transformer, LoraConfig(r=4, lora_alpha=8, target_modules=names))
    randomize(adapted, "lora_B", 0.3)
    adapted.save_pretrained(checkpoint / "backbone_lora")
    head = RewardHead(WIDTH, len(VISUAL), len(TEXT), **HEAD)  # type: ignore[arg-type]  # its keyword arguments
    randomize(head)
    torch.save(head.state_dict(), checkpoint / "rm_head.pt")
    return path


def save_lrm(path: Path, xl: bool = False) -> Path:
    """A folder of casiatao/LRM, with tokenizers."""
    import diffusers

    torch.manual_seed(0)
    channels = (8, 8, 16) if xl else (8, 8, 16, 16)
    added: dict[str, Any] = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 16,
    }
    cross = ("CrossAttnDownBlock2D",) * (len(channels) - 1)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=channels,
        layers_per_block=2,
        down_block_types=("DownBlock2D", *cross) if xl else (*cross, "DownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D",) * len(channels),
        cross_attention_dim=32 if xl else 16,
        attention_head_dim=2,
        norm_num_groups=4,
        **(added if xl else {}),
    )
    unet.save_pretrained(path / "unet")
    heads: dict[str, Any] = {
        "visual_projection": {"weight": torch.randn(16, sum(channels) + channels[-1])},
        "logit_scale": 2.5,
    }
    for end in ("", "_2") if xl else ("",):
        encoder = clip(projected=bool(end))
        randomize(encoder)
        encoder.save_pretrained(path / f"text_encoder{end}")
        build_tokenizer(TOKENS).save_pretrained(path / f"tokenizer{end}")
    if not xl:
        heads["text_projection"] = {"weight": torch.randn(16, 16)}
        heads["logit_scale"] = torch.tensor(2.5)
    torch.save(heads, path / "state_dict.pt")
    return path


def save_latent_clip(path: Path) -> Path:
    """A folder like wendlerc/latent-clip-b-8-512-34b-80k, with a tokenizer: reads latents of 8x8.

    Its checkpoint is what a training loop saves: numpy's numbers beside the model of a `DataParallel`, which has the
    VAE's encoder too.
    """
    import numpy as np

    width, text_width, layers = 128, 64, 2
    tokenizer = build_tokenizer(TOKENS)
    settings = {
        "embed_dim": 24,
        "vision_cfg": {
            "image_size": 64,
            "layers": layers,
            "width": width,
            "patch_size": 2,
            "latent_encoder_name": "madebyollin/sdxl-vae-fp16-fix",
            "latent_factor": 8,
            "latent_n_channels": 4,
        },
        "text_cfg": {
            "context_length": TOKENS,
            "vocab_size": len(tokenizer),
            "width": text_width,
            "heads": 2,
            "layers": layers,
        },
    }
    shapes: dict[str, tuple[int, ...]] = {
        "visual.vae_quant_conv.weight": (8, 8, 1, 1),
        "visual.latent_vit.class_embedding": (width,),
        "visual.latent_vit.positional_embedding": (17, width),
        "visual.latent_vit.conv1.weight": (width, 4, 2, 2),
        "visual.latent_vit.proj": (width, 24),
        "token_embedding.weight": (len(tokenizer), text_width),
        "positional_embedding": (TOKENS, text_width),
        "text_projection": (text_width, 24),
        "logit_scale": (),
    }
    norms = [("visual.latent_vit.ln_pre", width), ("visual.latent_vit.ln_post", width), ("ln_final", text_width)]
    for tower, size in (("visual.latent_vit.", width), ("", text_width)):
        for layer in range(layers):
            at = f"{tower}transformer.resblocks.{layer}"
            norms += [(f"{at}.ln_1", size), (f"{at}.ln_2", size)]
            shapes |= {f"{at}.attn.in_proj_weight": (3 * size, size), f"{at}.attn.in_proj_bias": (3 * size,)}
            for name, (out, into) in {
                "attn.out_proj": (size, size),
                "mlp.c_fc": (4 * size, size),
                "mlp.c_proj": (size, 4 * size),
            }.items():
                shapes |= {f"{at}.{name}.weight": (out, into), f"{at}.{name}.bias": (out,)}
    for name, size in norms:
        shapes |= {f"{name}.weight": (size,), f"{name}.bias": (size,)}
    torch.manual_seed(1)
    tensors = {name: 0.2 * torch.randn(shape) for name, shape in shapes.items()}
    (path / "checkpoints").mkdir(parents=True)
    (path / "Latent-ViT-B-8-512.json").write_text(json.dumps(settings))
    tokenizer.save_pretrained(path)
    state = {f"module.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"epoch": 34, "loss": np.float64(1.5), "state_dict": state}, path / "checkpoints" / "epoch_34.pt")
    return path


def save_probe_select(path: Path) -> Path:
    """A folder with a head of ProbeSelect, of its real size, and ImageReward's files."""
    save_image_reward(path)
    head = ProbeHead(64)
    randomize(head)
    torch.save(head.state_dict(), path / "SD3M_IR_ema.ckpt")
    return path


def randomize(module: torch.nn.Module, only: str = "", scale: float = 1.0) -> None:
    """Give all parameters random values, or those with `only` in their names, since zeros hide errors."""
    torch.manual_seed(2)
    for name, tensor in module.state_dict().items():
        if only in name and tensor.is_floating_point():
            fan_in = tensor[0].numel() if tensor.ndim > 1 else 1
            values = scale * torch.randn(tensor.shape) / fan_in**0.5
            tensor.copy_(values.abs() + 0.5 if "running_var" in name else values)


def as_safetensors(pickle: Path) -> Path:
    """The file beside a pickle of tensors that docs/scorers.md says how to make."""
    path = pickle.with_suffix(".safetensors")
    save_file({name: value.contiguous() for name, value in torch.load(pickle, weights_only=True).items()}, path)
    pickle.unlink()
    return path
