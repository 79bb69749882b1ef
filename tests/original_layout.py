"""A Stable Diffusion pipeline as one file in the layout of its authors, as published checkpoints are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_BLOCKS = (
    (r"down_blocks\.(\d)\.resnets\.(\d)", "input_blocks.{}.0", 1),
    (r"down_blocks\.(\d)\.attentions\.(\d)", "input_blocks.{}.1", 1),
    (r"down_blocks\.(\d)\.downsamplers\.(\d)\.conv", "input_blocks.{}.0.op", 2),
    (r"up_blocks\.(\d)\.resnets\.(\d)", "output_blocks.{}.0", 0),
    (r"up_blocks\.(\d)\.attentions\.(\d)", "output_blocks.{}.1", 0),
    (r"up_blocks\.(\d)\.upsamplers\.(\d)\.conv", "output_blocks.{}.2.conv", 1),
)


def save_original(pipe: Any, file: Path) -> Path:
    """`file` with all weights of a StableDiffusionPipeline whose blocks have one layer."""
    tensors = {f"model.diffusion_model.{_unet(key)}": value for key, value in pipe.unet.state_dict().items()}
    last = len(pipe.vae.config.block_out_channels) - 1
    tensors |= {f"first_stage_model.{_vae(key, last)}": value for key, value in pipe.vae.state_dict().items()}
    tensors |= {
        f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}": value
        for key, value in pipe.text_encoder.state_dict().items()
    }
    save_file({key: value.contiguous() for key, value in tensors.items()}, file)
    return file


def _numbered(older: str, offset: int, match: re.Match[str]) -> str:
    return older.format(2 * int(match[1]) + int(match[2]) + offset)


def _unet(key: str) -> str:
    for name, older in _UNET.items():
        key = key.replace(name, older, 1) if key.startswith(name) else key
    key = re.sub(r"^down_blocks\.(\d)\.resnets\.0", lambda at: f"input_blocks.{2 * int(at[1]) + 1}.0", key)
    key = re.sub(r"^down_blocks\.(\d)\.attentions\.0", lambda at: f"input_blocks.{2 * int(at[1]) + 1}.1", key)
    key = re.sub(
        r"^down_blocks\.(\d)\.downsamplers\.0\.conv", lambda at: f"input_blocks.{2 * int(at[1]) + 2}.0.op", key
    )
    key = re.sub(r"^up_blocks\.(\d)\.resnets\.(\d)", lambda at: f"output_blocks.{2 * int(at[1]) + int(at[2])}.0", key)
    key = re.sub(
        r"^up_blocks\.(\d)\.attentions\.(\d)", lambda at: f"output_blocks.{2 * int(at[1]) + int(at[2])}.1", key
    )
    key = re.sub(r"^up_blocks\.(\d)\.upsamplers\.0\.conv", lambda at: f"output_blocks.{2 * int(at[1]) + 1}.2.conv", key)
    if re.match(r"(input|output)_blocks\.\d+\.0\.|middle_block\.[02]\.", key):
        for name, older in _RESNET.items():
            key = key.replace(f".{name}.", f".{older}.")
    return key


def _vae(key: str, last: int) -> str:
    key = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda at: f"up.{last - int(at[1])}.block.{at[2]}", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda at: f"up.{last - int(at[1])}.upsample", key)
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda at: f"mid.block_{int(at[1]) + 1}", key)
    return key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
