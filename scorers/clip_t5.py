"""CLIP-T5 (Lin et al., arXiv 2404.01291): a T5 whose text holds the patches of an image, from CLIP by a projector."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, T5Config, T5ForConditionalGeneration

from ..errors import NbenchError
from .weights import model_folder, partial_model, read_config, refuse_absent, whole_model


class CLIPT5(T5ForConditionalGeneration):
    """The model of zhiqiulin/clip-flant5-xl and -xxl; published tensors of the tower are renamed by `open_clip_t5`."""

    # transformers (5.23) also ties lm_head, of which Flan-T5 has its own
    _tied_weights_keys = {  # noqa: RUF012
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
    }

    def __init__(self, config: T5Config, vision_config: CLIPVisionConfig) -> None:
        super().__init__(config)
        self.vision_tower = CLIPVisionModel(vision_config)
        self.mm_projector = _projector(config.mm_projector_type, vision_config.hidden_size, config.d_model)
        self.post_init()

    def answer_logits(
        self,
        pixels: torch.Tensor,
        before: torch.Tensor,
        after: torch.Tensor,
        after_mask: torch.Tensor,
        answer: torch.Tensor,
    ) -> torch.Tensor:
        """Logits float32 [B, A, V] of the tokens of an answer, each given those before it.

        Args:
            pixels: preprocessed images [B, 3, h, w].
            before: tokens [K] of the text before the image.
            after: tokens [B, L] of the text after the image, with `after_mask` [B, L].
            answer: tokens [A].
        """
        image = self._patches(pixels)
        rows = len(image)
        text = self.shared(before).expand(rows, -1, -1)
        start = answer.new_full((1,), self.config.decoder_start_token_id)
        output = self(
            inputs_embeds=torch.cat([text, image, self.shared(after)], dim=1),
            attention_mask=torch.cat([after_mask.new_ones(rows, text.shape[1] + image.shape[1]), after_mask], dim=1),
            decoder_input_ids=torch.cat([start, answer[:-1]]).expand(rows, -1),
            use_cache=False,
        )
        logits: torch.Tensor = output.logits.float()
        return logits

    def _patches(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeddings [B, P, D] of images: a hidden layer of CLIP, by default without its class token."""
        states = self.vision_tower(pixels.to(self.vision_tower.dtype), output_hidden_states=True).hidden_states
        features = states[self.config.mm_vision_select_layer]
        if getattr(self.config, "mm_vision_select_feature", "patch") == "patch":
            features = features[:, 1:]
        patches: torch.Tensor = self.mm_projector(features)
        return patches


def open_clip_t5(folder: Path, tower: str, dtype: torch.dtype) -> CLIPT5:
    """The model of a published folder; its CLIP comes from `tower`, a folder or Hub id, if the folder has none.

    Raises:
        NbenchError: tensors are missing, or the projector is of an unknown type.
    """
    settings = {name: value for name, value in read_config(folder).items() if name != "model_type"}
    vision_config = CLIPVisionConfig.from_pretrained(model_folder(tower, weights=False))
    model, absent = partial_model(
        CLIPT5,
        folder,
        config=T5Config(**settings),
        vision_config=vision_config,
        dtype=dtype,
        key_mapping={r"^vision_tower\.vision_tower\.(vision_model\.)?": "vision_tower."},
    )
    if {f"vision_tower.{name}" for name, _ in model.vision_tower.named_parameters()} <= set(absent):
        model.vision_tower = whole_model(CLIPVisionModel, model_folder(tower), dtype=dtype)
        absent = [name for name in absent if not name.startswith("vision_tower.")]
    refuse_absent(folder, absent)
    opened: CLIPT5 = model.eval()
    return opened


def _projector(kind: str, width: int, d_model: int) -> nn.Module:
    """The map from features of CLIP to embeddings of T5, as LLaVA names its types."""
    if kind == "linear":
        return nn.Linear(width, d_model)
    match = re.fullmatch(r"mlp(\d+)x_gelu", kind)
    if match is None:
        raise NbenchError(f"unknown mm_projector_type {kind}: there are linear and mlp2x_gelu, mlp3x_gelu, ...")
    layers: list[nn.Module] = [nn.Linear(width, d_model)]
    for _ in range(1, int(match[1])):
        layers += [nn.GELU(), nn.Linear(d_model, d_model)]
    return nn.Sequential(*layers)
