"""LRM (Zhang et al., arXiv 2502.01051): down and mid blocks of SD 1.5's or SDXL's U-Net as the image tower of a CLIP.

Rows go through the U-Net twice, with the prompt and with an empty one; the features of its mid block are guided by
7.5, and those of the down blocks are the prompt's alone, as LPO scores with the published weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ...errors import NbenchError, reason_of
from ...pipelines.quiet import quieten_diffusers
from ...pipelines.whole_parts import whole_parts
from ...shards.schema import LatentSpace, PositionInfo
from ..placement import CPU, Placement
from ..protocols import Reads
from ..published import files_fingerprint, published_folder, read_tensors, tensor_file
from ..weights import model_folder
from .prompts import Embedded, EmbeddedPrompts
from .spaces import SD15, SDXL, check_latents

GUIDANCE = 7.5
FIRST_TIMESTEP = 1.0
"""The lowest timestep that the models were trained with, at which finished latents are scored."""
PIXELS_PER_LATENT = 8
TOKENIZERS = ("stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-xl-base-1.0")
"""Where tokenizers come from if a folder has none: of SD 1.5 and of SDXL."""


class LRMScorer:
    """A PairScorer: the cosine of a noisy latent's and a prompt's features, times the model's scale.

    Args:
        source: a folder of casiatao/LRM: unet, text_encoder and state_dict.pt, and text_encoder_2 for SDXL. Tokenizers
            come from its folders tokenizer and tokenizer_2, else from the Hub.

    Raises:
        NbenchError: files are missing, or the latents are not of the model's U-Net.
    """

    reads: Reads = "latent"
    conditioned = True

    def __init__(self, source: str, space: LatentSpace, name: str = "lrm", placement: Placement = CPU) -> None:
        self._folder = folder = published_folder(source, "LRM")
        if (folder / "transformer").is_dir():
            raise NbenchError(
                f"{folder} has a transformer, as LRM of SD3 would: its authors published code for SD 1.5 and SDXL only"
            )
        published_folder(folder, "LRM", "unet", "text_encoder")
        self._xl = (folder / "text_encoder_2").is_dir()
        self._names = ("", "_2") if self._xl else ("",)
        check_latents(space, SDXL if self._xl else SD15, name)
        self._heads = tensor_file(folder, "state_dict")
        self._tokenizers = [_tokenizer_folder(folder, f"tokenizer{end}", self._xl) for end in self._names]
        encoders = [folder / f"text_encoder{end}" for end in self._names]
        files = [self._heads, folder / "unet", *encoders, *self._tokenizers]
        self.name, self._placement = name, placement
        self.fingerprint = placement.mark(files_fingerprint(files, "lrm", str(GUIDANCE)))
        self._unet: Any = None

    def load(self) -> None:
        """Load the weights if they are not loaded yet.

        Raises:
            NbenchError: a part cannot be opened, or tensors are missing.
        """
        if self._unet is not None:
            return
        quieten_diffusers()
        from diffusers import UNet2DConditionModel
        from transformers import AutoTokenizer, CLIPTextModel, CLIPTextModelWithProjection

        placement, folder = self._placement, self._folder
        kinds = (CLIPTextModel, CLIPTextModelWithProjection)
        try:
            with whole_parts():
                unet = UNet2DConditionModel.from_pretrained(folder / "unet", dtype=placement.torch_dtype)
                encoders = [
                    kind.from_pretrained(folder / f"text_encoder{end}", dtype=placement.torch_dtype)
                    for kind, end in zip(kinds, self._names, strict=False)
                ]
            self._tokenize = [AutoTokenizer.from_pretrained(path, trust_remote_code=False) for path in self._tokenizers]
        except Exception as error:  # diffusers and transformers raise many unrelated types
            raise NbenchError(f"{folder} cannot be opened ({reason_of(error)}): get the published files") from None
        self._encoders = [encoder.to(placement.device).eval() for encoder in encoders]
        self._image, self._text, self._scale = (
            tensor.to(placement.device) for tensor in _heads(self._heads, _width(unet), self._xl)
        )
        self._embed = EmbeddedPrompts(self._embedded)
        self._empty = self._embedded([""])
        self._states: list[torch.Tensor] = []
        # without its up blocks the U-Net returns the state after its mid block
        unet.up_blocks, unet.conv_norm_out, unet.conv_out = nn.ModuleList(), None, nn.Identity()
        for block in unet.down_blocks:
            block.register_forward_hook(self._keep)
        self._unet = unet.to(placement.device).eval()

    @torch.inference_mode()
    def score(self, inputs: torch.Tensor, prompts: Sequence[str], at: PositionInfo) -> torch.Tensor:
        """Scaled cosines float32 [B] of latents [B, 4, h, w] at a position, each with its own prompt."""
        self.load()
        context, pooled, text = self._embed(prompts)
        timestep = FIRST_TIMESTEP if at.timestep is None else at.timestep
        image = self._features((inputs * at.input_scale).to(context), timestep, context, pooled)
        image, text = (functional.normalize(features, dim=-1) for features in (image @ self._image.T, text))
        return self._scale.exp() * (image * text).sum(-1)

    def _features(
        self, latents: torch.Tensor, timestep: float, context: torch.Tensor, pooled: torch.Tensor
    ) -> torch.Tensor:
        """Features float32 [B, D] of latents: means over the last state of each down block and the guided mid block."""
        rows = len(latents)
        no_context, no_pooled, _ = (part.expand(rows, *part.shape[1:]) for part in self._empty)
        added = {}
        if self._xl:
            side = self._unet.config.sample_size * PIXELS_PER_LATENT
            sizes = latents.new_tensor([side, side, 0, 0, side, side]).expand(2 * rows, -1)
            added = {"text_embeds": torch.cat([pooled, no_pooled]), "time_ids": sizes}
        self._states.clear()
        mid = self._unet(
            torch.cat([latents, latents]),
            torch.full((2 * rows,), timestep, device=latents.device),
            encoder_hidden_states=torch.cat([context, no_context]),
            added_cond_kwargs=added,
        ).sample
        told, untold = mid.float().mean((2, 3)).chunk(2)
        down = [state[:rows].float().mean((2, 3)) for state in self._states]
        return torch.cat([*down, untold + GUIDANCE * (told - untold)], dim=-1)

    def _keep(self, block: nn.Module, inputs: Any, output: tuple[torch.Tensor, tuple[torch.Tensor, ...]]) -> None:
        """Keep the state after the last layer of a down block, before it is downsampled."""
        self._states.append(output[1][len(block.resnets) - 1])  # type: ignore[arg-type]  # a ModuleList

    @torch.inference_mode()
    def _embedded(self, prompts: list[str]) -> Embedded:
        """Of P prompts: the U-Net's context [P, L, D], its pooled embedding [P, E], and text features [P, F]."""
        outputs = []
        for tokenize, encoder in zip(self._tokenize, self._encoders, strict=True):
            tokens = tokenize(prompts, padding="max_length", truncation=True, return_tensors="pt").input_ids
            outputs.append(encoder(tokens.to(self._placement.device), output_hidden_states=True))
        if self._xl:
            pooled = outputs[1].text_embeds
            return torch.cat([output.hidden_states[-2] for output in outputs], dim=-1), pooled, pooled.float()
        pooled = outputs[0].pooler_output
        return outputs[0].last_hidden_state, pooled, pooled.float() @ self._text.T


def _tokenizer_folder(folder: Path, name: str, xl: bool) -> Path:
    own = folder / name
    return own if own.is_dir() else model_folder(TOKENIZERS[xl], weights=False, config="model_index.json") / name


def _heads(path: Path, width: int, xl: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The projections float32 [P, W] of images and [P, D] of texts, and the log of the scale; SDXL's projects no text.

    Raises:
        NbenchError: one is missing, or does not fit the U-Net.
    """
    tensors = read_tensors(path)
    names = ["visual_projection.weight", *([] if xl else ["text_projection.weight"]), "logit_scale"]
    if absent := [name for name in names if name not in tensors]:
        raise NbenchError(f"{path} lacks {absent[0]}: get the published file")
    if tensors[names[0]].shape[1] != width:
        raise NbenchError(f"{path} is of {tensors[names[0]].shape[1]} features, and this U-Net has {width}")
    image, text = (tensors[name].float() for name in (names[0], names[-2]))
    return image, text, tensors["logit_scale"].float()


def _width(unet: Any) -> int:
    """The width of the features of a U-Net: of each down block, and of the mid block."""
    channels = unet.config.block_out_channels
    return sum(channels) + int(channels[-1])
