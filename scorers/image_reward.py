"""ImageReward (Xu et al., arXiv 2304.05977) on transformers, equal to the package image-reward."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from ..pipelines.quiet import quieten_transformers
from .image_processor import to_8_bits
from .placement import CPU, Placement
from .protocols import Reads
from .published import files_fingerprint, published_folder, read_tensors, tensor_file
from .weights import folder_fingerprint, model_folder, read_config, refuse_absent

CONFIG, TOKENIZER = "med_config.json", "bert-base-uncased"
SIDE, MAX_TOKENS = 224, 35
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of images."""
REWARD_MEAN, REWARD_STD = 0.16717362830052426, 1.0333394966054072
"""Of rewards in the authors' data, which make them standard scores."""
RENAMED = {
    r"^blip\.text_encoder\.": "text.",
    r"^blip\.visual_encoder\.": "vision.",
    r"^vision\.cls_token$": "vision.embeddings.class_embedding",
    r"^vision\.pos_embed$": "vision.embeddings.position_embedding",
    r"^vision\.patch_embed\.proj\.": "vision.embeddings.patch_embedding.",
    r"^vision\.norm\.": "vision.post_layernorm.",
    r"^vision\.blocks\.(\d+)\.norm": r"vision.encoder.layers.\1.layer_norm",
    r"^vision\.blocks\.(\d+)\.attn\.proj\.": r"vision.encoder.layers.\1.self_attn.projection.",
    r"^vision\.blocks\.(\d+)\.attn\.": r"vision.encoder.layers.\1.self_attn.",
    r"^vision\.blocks\.": "vision.encoder.layers.",
    r"^mlp\.layers\.": "head.",
}
"""Names of tensors in the package, and in `_Network`; applied in order."""


class NativeImageRewardScorer:
    """A PairScorer: the reward of a BLIP with a small head, as a standard score.

    Args:
        source: folder or Hub id with ImageReward.pt, or the same as safetensors, med_config.json and, if not that of
            bert-base-uncased, the tokenizer.

    Raises:
        NbenchError: no such folder, or a file is missing.
    """

    reads: Reads = "image"

    def __init__(self, source: str | Path, name: str = "imagereward", placement: Placement = CPU) -> None:
        self._folder = folder = published_folder(source, "ImageReward", CONFIG)
        self._file = tensor_file(folder, "ImageReward")
        self._texts = folder if any(folder.glob("vocab.txt")) else model_folder(TOKENIZER, weights=False)
        self.name, self._placement = name, placement
        self.fingerprint = placement.mark(
            files_fingerprint([self._file, folder / CONFIG], "imagereward", folder_fingerprint(self._texts))
        )
        self._network: Any = None

    def load(self) -> None:
        """Load the weights if they are not loaded yet.

        Raises:
            NbenchError: tensors are missing.
        """
        if self._network is not None:
            return
        from transformers import BertTokenizerFast

        quieten_transformers()
        self._tokenizer = BertTokenizerFast.from_pretrained(self._texts)
        tensors = {_renamed(name): value for name, value in read_tensors(self._file).items()}
        network = _Network(tensors, read_config(self._folder, CONFIG))
        absent = network.load_state_dict(tensors, strict=False).missing_keys
        refuse_absent(self._folder, absent)
        self._network = network.to(self._placement.device, self._placement.torch_dtype).eval()

    @property
    def text_width(self) -> int:
        """D of `text_features`; the weights must be loaded."""
        return int(self._network.text.config.hidden_size)

    @torch.inference_mode()
    def text_features(self, prompts: Sequence[str]) -> torch.Tensor:
        """Features [P, D] of prompts alone, without an image."""
        self.load()
        tokens = self._tokens(prompts)
        features: torch.Tensor = self._network.text(
            input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, is_decoder=False
        ).last_hidden_state[:, 0]
        return features

    @torch.inference_mode()
    def score(self, inputs: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """Rewards float32 [B] of RGB images [B, 3, H, W] in 0..1, each with its own prompt."""
        self.load()
        tokens = self._tokens(prompts)
        pixels = preprocessed(inputs).to(self._placement.device, self._placement.torch_dtype)
        rewards: torch.Tensor = self._network(pixels, tokens.input_ids, tokens.attention_mask)
        return (rewards - REWARD_MEAN) / REWARD_STD

    def _tokens(self, prompts: Sequence[str]) -> Any:
        return self._tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        ).to(self._placement.device)


class _Network(nn.Module):
    """BLIP's image and text towers and the head, of the sizes of the tensors."""

    def __init__(self, tensors: dict[str, torch.Tensor], med: dict[str, Any]) -> None:
        super().__init__()
        from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

        width = tensors["vision.embeddings.class_embedding"].shape[-1]
        layers = {name.split(".")[3] for name in tensors if name.startswith("vision.encoder.layers.")}
        self.vision = BlipVisionModel(
            BlipVisionConfig(
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=len(layers),
                num_attention_heads=width // 64,  # in BLIP's base and large towers alike
                image_size=SIDE,
                patch_size=tensors["vision.embeddings.patch_embedding.weight"].shape[-1],
                layer_norm_eps=1e-6,
            )
        )
        names = BlipTextConfig().to_dict().keys() & med.keys() - {"model_type", "architectures"}
        settings = {name: med[name] for name in names}
        self.text = BlipTextModel(
            BlipTextConfig(**settings, encoder_hidden_size=width, is_decoder=True), add_pooling_layer=False
        )
        sizes = {
            int(name.split(".")[1]): value.shape for name, value in tensors.items() if re.match(r"head.*weight", name)
        }
        # between linear layers the package has dropout, which has no tensors
        self.head = nn.Sequential(
            *(nn.Linear(*sizes[at][::-1]) if at in sizes else nn.Identity() for at in range(max(sizes) + 1))
        )

    def forward(self, pixels: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Rewards float32 [B] of pixels [B, 3, 224, 224] and tokens [B, L] with their mask."""
        image = self.vision(pixels).last_hidden_state
        text = self.text(input_ids=tokens, attention_mask=mask, encoder_hidden_states=image, is_decoder=False)
        features = text.last_hidden_state[:, 0]
        rewards: torch.Tensor = self.head(features)[:, 0].float()
        return rewards


def preprocessed(rgb: torch.Tensor) -> torch.Tensor:
    """Pixels float32 [B, 3, 224, 224] of RGB [B, 3, H, W] in 0..1, as torchvision makes them of PIL images."""
    height, width = rgb.shape[-2:]
    short, long = sorted((height, width))
    other = int(SIDE * long / short)
    size = (SIDE, other) if width <= height else (other, SIDE)
    left, top = round((size[0] - SIDE) / 2), round((size[1] - SIDE) / 2)
    images = map(Image.fromarray, to_8_bits(rgb).permute(0, 2, 3, 1).cpu().numpy())
    crops = [
        image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + SIDE, top + SIDE)) for image in images
    ]
    pixels = torch.stack([torch.frombuffer(bytearray(crop.tobytes()), dtype=torch.uint8) for crop in crops])
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (pixels.view(-1, SIDE, SIDE, 3).permute(0, 3, 1, 2).float() / 255 - mean) / std


def _renamed(name: str) -> str:
    for pattern, replacement in RENAMED.items():
        name = re.sub(pattern, replacement, name)
    return name
