"""Latent-CLIP (Becker et al., arXiv 2503.08455) as its authors publish it: a CLIP of open_clip that reads SDXL latents.

It was trained on latents of images, as the VAE encodes them, without noise. Here it also reads noisy ones, scaled as
denoisers see them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from ...errors import NbenchError
from ...pipelines.quiet import quieten_transformers
from ...shards.schema import LatentSpace, PositionInfo
from ..placement import CPU, Placement
from ..protocols import Reads
from ..published import files_fingerprint, load_whole, published_folder, read_tensors, tensor_file
from ..weights import model_folder, read_config
from .spaces import SDXL, check_latents

AUTHORS = "wendlerc/latent-clip-"
TOKENIZER = "openai/clip-vit-base-patch32"
"""For folders without one."""
LAYERS = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
"""Names in a block of open_clip, and of transformers."""
NAMES = {
    "visual.latent_vit.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.latent_vit.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.latent_vit.conv1": "vision_model.embeddings.patch_embedding",
    "visual.latent_vit.ln_pre": "vision_model.pre_layrnorm",
    "visual.latent_vit.ln_post": "vision_model.post_layernorm",
    "visual.latent_vit.proj": "visual_projection.weight",
    "visual.latent_vit.transformer.resblocks": "vision_model.encoder.layers",
    "transformer.resblocks": "text_model.encoder.layers",
    "token_embedding": "text_model.embeddings.token_embedding",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final": "text_model.final_layer_norm",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}
"""Names in open_clip, and in a CLIPModel. Tensors of other names are the VAE's, which latents have been through."""


def published_config(source: str) -> Path | None:
    """The configuration of open_clip in a folder, or in one of the authors' on the Hub, if it is of a CLIP of latents.

    Raises:
        NbenchError: it is one of the authors', and cannot be downloaded.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir() and source.startswith(AUTHORS):
        folder = published_folder(source, "Latent-CLIP")
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            if "latent_encoder_name" in json.loads(path.read_bytes())["vision_cfg"]:
                return path
        except (ValueError, KeyError, TypeError):
            continue
    return None


class PublishedLatentCLIPScorer:
    """A TwinTower: the cosine of a latent and a prompt.

    Args:
        source: a folder like wendlerc/latent-clip-b-8-512-34b-80k: the configuration of open_clip, and the weights
            there or in checkpoints. Its tokenizer is CLIP's.

    Raises:
        NbenchError: files are missing, or the latents are not SDXL's, or of another size than the model's.
    """

    reads: Reads = "latent"
    conditioned = True

    def __init__(self, source: str, space: LatentSpace, name: str = "latentclip", placement: Placement = CPU) -> None:
        config = published_config(source)
        if config is None:
            raise NbenchError(f"{source} has no configuration of a Latent-CLIP: name a folder as published")
        folder = config.parent
        self._settings = settings = read_config(folder, config.name)
        vision = settings["vision_cfg"]
        if vision.get("latent_n_decoding_layers"):
            raise NbenchError(f"{config} wants layers of a VAE's decoder: only Latent-CLIPs without them can be opened")
        check_latents(space, SDXL, name)
        side = vision["image_size"] // vision.get("latent_factor", 8)
        if tuple(space.latent_shape[1:]) != (side, side):
            shape = "x".join(map(str, space.latent_shape[1:]))
            raise NbenchError(
                f"{name} reads latents of {side}x{side}, and these are {shape}: build with --height "
                f"{vision['image_size']} --width {vision['image_size']}"
            )
        self._file = tensor_file(folder / "checkpoints" if (folder / "checkpoints").is_dir() else folder, "*")
        own = any((folder / file).is_file() for file in ("vocab.json", "tokenizer.json"))
        self._texts = folder if own else model_folder(TOKENIZER, weights=False)
        self.name, self._placement = name, placement
        tokenizer = [path for path in sorted(self._texts.glob("*")) if path.suffix in (".json", ".txt")]
        self.fingerprint = placement.mark(files_fingerprint([config, self._file, *tokenizer], "latentclip"))
        self._model: Any = None

    def load(self) -> None:
        """Load the weights if they are not loaded yet.

        Raises:
            NbenchError: tensors are missing.
        """
        if self._model is not None:
            return
        quieten_transformers()
        from transformers import AutoTokenizer, CLIPModel

        self._tokenizer = AutoTokenizer.from_pretrained(self._texts, trust_remote_code=False)
        model = CLIPModel(_clip_config(self._settings))
        load_whole(model, dict(_renamed(read_tensors(self._file))), self._file)
        self._model = model.to(self._placement.device, self._placement.torch_dtype).eval()

    @torch.inference_mode()
    def embed_text(self, prompts: Sequence[str]) -> torch.Tensor:
        """Unit-norm text embeddings float32 [P, D]; longer prompts are truncated."""
        self.load()
        tokens = self._tokenizer(
            list(prompts),
            padding=True,
            truncation=True,
            max_length=self._settings["text_cfg"]["context_length"],
            return_tensors="pt",
        ).to(self._placement.device)
        features = self._model.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output
        return functional.normalize(features.float(), dim=-1)

    @torch.inference_mode()
    def embed_inputs(self, inputs: torch.Tensor, at: PositionInfo) -> torch.Tensor:
        """Unit-norm embeddings float32 [B, D] of latents [B, 4, h, w] at a position."""
        self.load()
        encoded = inputs * (at.input_scale / SDXL.factor)  # it was trained on what the VAE encodes, unscaled
        features = self._model.get_image_features(encoded.to(self._model.device, self._model.dtype)).pooler_output
        return functional.normalize(features.float(), dim=-1)


def _clip_config(settings: dict[str, Any]) -> Any:
    from transformers import CLIPConfig

    vision, text = settings["vision_cfg"], settings["text_cfg"]
    factor = vision.get("latent_factor", 8)
    towers = {
        "vision_config": {
            "num_channels": vision.get("latent_n_channels", 4),
            "image_size": vision["image_size"] // factor,
            "patch_size": vision["patch_size"],
            **_tower(vision, vision["width"] // vision.get("head_width", 64), vision.get("mlp_ratio", 4)),
        },
        "text_config": {
            "vocab_size": text["vocab_size"],
            "max_position_embeddings": text["context_length"],
            "eos_token_id": 2,  # makes transformers take the state of the highest token, the end, as open_clip does
            **_tower(text, text["heads"], 4),
        },
    }
    return CLIPConfig(**towers, projection_dim=settings["embed_dim"])


def _tower(settings: dict[str, Any], heads: int, ratio: float) -> dict[str, Any]:
    return {
        "hidden_size": settings["width"],
        "intermediate_size": int(settings["width"] * ratio),
        "num_hidden_layers": settings["layers"],
        "num_attention_heads": heads,
        "hidden_act": "gelu",
    }


def _renamed(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of a CLIPModel from those of open_clip, whose checkpoints also hold the optimizer."""
    for full, value in tensors.items():
        name = full.removeprefix("state_dict.").removeprefix("module.")
        start = next((start for start in NAMES if name == start or name.startswith(f"{start}.")), None)
        if start is None:
            continue
        renamed = NAMES[start] + name.removeprefix(start)
        block, inside, rest = re.fullmatch(r"(.*\.layers\.\d+\.)?(.*?)(\.(?:weight|bias))?", renamed).groups("")  # type: ignore[union-attr]  # matches all
        if block and inside.startswith("attn.in_proj"):
            end = inside.removeprefix("attn.in_proj_")
            yield from (
                (f"{block}self_attn.{part}_proj.{end}", third)
                for part, third in zip("qkv", value.chunk(3), strict=True)
            )
        elif block:
            yield f"{block}{LAYERS[inside]}{rest}", value
        else:
            yield renamed, value.T.contiguous() if name.endswith("proj") or name == "text_projection" else value
